"""State taken from one place to another, sealed anew under the other's key: into a savepoint, and out of one.

Every chunk is proved on the way (digest, seal, place), so that what arrives is what was written; nothing that arrives refers to where it came
from. Only as much is in memory as one chunk and one object need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.chunk_writer import ObjectBuilder, read_chunk
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.sealing import Compression
from flinkray.checkpoint.state_source import StateSource
from flinkray.core.messages import StateRef
from flinkray.ids import KeyGroupRange

OBJECT_BYTES = 64 << 20
"""An object is put when it has grown to this."""

_SINK, _TRANSACTIONS = "sink", "transactions"
"""State of sinks that a savepoint carries none of (rule 21)."""


@dataclass(frozen=True)
class Target:
    """Where state goes, and what it is sealed with."""

    store: ObjectStore
    data_key: DataKey
    origin: str
    checkpoint: int
    object_name: Callable[[int], str]
    """Of the n-th object, counted from 0."""
    compress: Compression = "lz4"


def repack(source: StateSource, target: Target) -> tuple[StateRef, ...]:
    """The states of a manifest as they stand in `target` afterwards; transactions of sinks stay behind. Raises DamagedObjectError,
    KeyUnavailableError, StorageError."""
    packer = _Packer(target)
    keys = source.ring.get_all(source.manifest.data_keys)
    states = []
    for state in source.manifest.states:
        without_rows = carries_transactions(source.manifest, state)
        chunks = []
        for chunk in state.chunks:
            table = read_chunk(source.store, chunk, keys)
            groups = KeyGroupRange(chunk.key_group_start, chunk.key_group_stop)
            kept = table.slice(0, 0) if without_rows else table
            builder = packer.builder()
            chunks.append(builder.add(state.uid, state.name, state.kind, chunk.full, target.checkpoint, groups, kept))
        states.append(replace(state, chunks=tuple(chunks)))
    packer.flush()
    return tuple(states)


def carries_transactions(manifest: Manifest, state: StateRef) -> bool:
    return manifest.operators.get(state.uid) == _SINK and state.name == _TRANSACTIONS


def sealed_bytes(states: tuple[StateRef, ...]) -> int:
    chunks: list[ChunkRef] = [chunk for state in states for chunk in state.chunks]
    return sum(chunk.sealed_bytes for chunk in chunks)


class _Packer:
    """Puts an object whenever it is large enough."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._count = 0
        self._open: ObjectBuilder | None = None

    def builder(self) -> ObjectBuilder:
        if self._open is not None and self._open.size_bytes >= OBJECT_BYTES:
            self.flush()
        if self._open is None:
            self._open = ObjectBuilder(
                self._target.object_name(self._count), self._target.origin, self._target.data_key, self._target.compress
            )
            self._count += 1
        return self._open

    def flush(self) -> None:
        if self._open is not None and not self._open.empty:
            self._target.store.put(self._open.object_name, self._open.data())
        self._open = None
