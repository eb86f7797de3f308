"""The manifest: everything a complete checkpoint is, by reference. It stands, sealed, as the body of a record of the storage log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flinkray.checkpoint.base import ChunkRef
from flinkray.checkpoint.names import origin_of
from flinkray.core.job_events import CheckpointContent
from flinkray.core.messages import Counters, StateRef
from flinkray.errors import DamagedObjectError, StorageError
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.state_layout import StateLayout

FORMAT = 1


@dataclass(frozen=True)
class CheckpointStats:
    """How a checkpoint went."""

    written_bytes: int
    """Sealed bytes that this checkpoint wrote itself."""
    referenced_bytes: int
    """Sealed bytes of older checkpoints that it refers to."""
    rows: int
    duration_ms: float
    sync_ms: float
    """The longest stop of a task."""
    full: bool
    """Refers to no older checkpoint."""

    @classmethod
    def of(cls, content: CheckpointContent, duration_ms: float, sync_ms: float) -> CheckpointStats:
        chunks = [chunk for state in content.states for chunk in state.chunks]
        own = [chunk for chunk in chunks if chunk.checkpoint == content.checkpoint]
        written = sum(chunk.sealed_bytes for chunk in own)
        total = sum(chunk.sealed_bytes for chunk in chunks)
        return cls(written, total - written, sum(chunk.rows for chunk in chunks), duration_ms, sync_ms, len(own) == len(chunks))


@dataclass(frozen=True)
class RunFacts:
    """What is the same in all manifests of a run."""

    application: str
    claim: int
    graph: JobGraph
    hash_seed: int
    hash_version: int


@dataclass(frozen=True)
class Manifest:
    """A complete checkpoint. Holds no state, only where the state's chunks lie, their digests and the ids of their data keys."""

    application: str
    origin: str
    """`application/claim` that wrote it; stays as it is when a copy is restored under another name (rule 18)."""
    claim: int
    checkpoint: int
    attempt: int
    created_at_us: int
    fingerprint: str
    operators: Mapping[str, str]
    """Kind by operator uid."""
    parallelism: Mapping[str, int]
    """By operator uid."""
    max_parallelism: int
    hash_seed: int
    hash_version: int
    states: tuple[StateRef, ...]
    """Of every (uid, subtask): the chain of `ChunkRef`s of each named state."""
    transactions: Mapping[str, tuple[Mapping[str, Any], ...]]
    """By sink uid, all that are prepared and not known to be committed (rule 14)."""
    counters: Counters
    stats: CheckpointStats
    layouts: Mapping[str, StateLayout] = field(default_factory=dict)
    """By operator uid, where the graph tells it: what its keyed state means (`read_state`)."""
    state_digests: Mapping[str, str] = field(default_factory=dict)
    """As of `JobGraph`."""

    @classmethod
    def of(cls, content: CheckpointContent, run: RunFacts, created_at_us: int, stats: CheckpointStats) -> Manifest:
        operators = [(operator, vertex.parallelism) for vertex in run.graph.vertices for operator in vertex.operators]
        return cls(
            run.application,
            origin_of(run.application, run.claim),
            run.claim,
            content.checkpoint,
            content.attempt,
            created_at_us,
            run.graph.fingerprint,
            {operator.uid: operator.kind for operator, _ in operators},
            {operator.uid: parallelism for operator, parallelism in operators},
            run.graph.max_parallelism,
            run.hash_seed,
            run.hash_version,
            content.states,
            content.transactions,
            content.counters,
            stats,
            {operator.uid: layout for operator, _ in operators if (layout := StateLayout.of(operator)) is not None},
            run.graph.state_digests,
        )

    def content(self) -> CheckpointContent:
        """What the cores need of it."""
        return CheckpointContent(self.checkpoint, self.attempt, self.states, self.transactions, self.counters)

    @property
    def chunks(self) -> tuple[ChunkRef, ...]:
        return tuple(chunk for state in self.states for chunk in state.chunks)

    @property
    def data_keys(self) -> frozenset[str]:
        """Ids of all data keys that are needed to read it."""
        return frozenset(chunk.data_key for chunk in self.chunks)

    @property
    def object_names(self) -> frozenset[str]:
        """All data objects that it refers to."""
        return frozenset(chunk.object_name for chunk in self.chunks)


def encode_manifest(manifest: Manifest) -> bytes:
    """JSON; not sealed yet. Raises TypeError when a transaction is not made of JSON values."""
    values = {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}
    values["format"] = FORMAT
    values["states"] = [_state_to_json(state) for state in manifest.states]
    values["counters"] = asdict(manifest.counters)
    values["stats"] = asdict(manifest.stats)
    values["operators"] = dict(manifest.operators)
    values["state_digests"] = dict(manifest.state_digests)
    values["parallelism"] = dict(manifest.parallelism)
    values["layouts"] = {uid: layout.to_json() for uid, layout in manifest.layouts.items()}
    values["transactions"] = {uid: [dict(one) for one in prepared] for uid, prepared in manifest.transactions.items()}
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def decode_manifest(data: bytes, object_name: str) -> Manifest:
    """Raises StorageError when a newer flinkray wrote it, DamagedObjectError when it is no manifest."""
    try:
        values: dict[str, Any] = json.loads(data)
        version = values.pop("format")
        if version != FORMAT:
            raise StorageError(
                f"{object_name} is a manifest of format {version}, this flinkray reads format {FORMAT}: use the version that wrote it"
            )
        values["states"] = tuple(_state_from_json(state) for state in values["states"])
        values["counters"] = Counters(**values["counters"])
        values["stats"] = CheckpointStats(**values["stats"])
        values["layouts"] = {uid: StateLayout.from_json(layout) for uid, layout in values.get("layouts", {}).items()}
        values["transactions"] = {uid: tuple(prepared) for uid, prepared in values["transactions"].items()}
        return Manifest(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedObjectError(object_name, f"it is no manifest: {error}") from error


def chunk_to_json(chunk: ChunkRef) -> dict[str, Any]:
    return dict(vars(chunk))


def chunk_from_json(values: Mapping[str, Any]) -> ChunkRef:
    """Raises TypeError when a field is missing or unknown."""
    return ChunkRef(**values)


def _state_to_json(state: StateRef) -> dict[str, Any]:
    values = {name: getattr(state, name) for name in StateRef.__dataclass_fields__}
    return {**values, "chunks": [chunk_to_json(chunk) for chunk in state.chunks]}


def _state_from_json(values: Mapping[str, Any]) -> StateRef:
    return StateRef(**{**values, "chunks": tuple(chunk_from_json(chunk) for chunk in values["chunks"])})
