"""A `ray.data.Dataset` as a bounded source: its blocks are splits, a position is a row of a block, and blocks are known by what is in them,
so that a checkpoint is restored onto the same rows or not at all."""

from __future__ import annotations

import copy
import hashlib
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import ray

from flinkray.columns import TIMESTAMP
from flinkray.connectors.base import Source, Split, SplitEnumerator, SplitReader
from flinkray.connectors.enumerators import OnceEnumerator
from flinkray.connectors.schemas import choose, conform, engine_schema, widens
from flinkray.errors import PlanError, SourceError
from flinkray.runtime.ray.blocks import Blocks, BlocksLostError, Ref, blocks_actor

_AT_ONCE = 8
"""Blocks that are looked at, at a time."""


@dataclass(frozen=True)
class Block:
    id: str
    """Of its rows: a digest, and its number among those that are equal."""
    rows: int
    min_us: int | None
    """The smallest event time; None: unknown."""


@dataclass(frozen=True)
class DatasetSource(Source):
    """Names an actor that has the blocks: nothing of them travels with the job."""

    actor: str
    dataset: str
    columns: pa.Schema
    blocks: tuple[Block, ...]
    rate: float | None = None
    max_skew_us: int | None = None

    @property
    def bounded(self) -> bool:
        return True

    def schema(self) -> pa.Schema:
        return self.columns

    def with_columns(self, columns: tuple[str, ...]) -> Self:
        projected = copy.copy(self)
        object.__setattr__(projected, "columns", choose(self.columns, columns))
        return projected

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        digest = hashlib.sha256(" ".join(sorted(block.id for block in self.blocks)).encode()).hexdigest()[:16]
        if state and state["digest"] != digest:
            raise SourceError(
                f"{self.describe()} does not hold the rows of the one that the checkpoint was made with; give the same rows in the same "
                "blocks (materialize() it, or write it to Parquet, before it is used), or start with --restore none"
            )
        return _Enumerator([] if state and state["given"] else self._splits(), digest)

    def _splits(self) -> list[Split]:
        return [Split(block.id, {"block": block.id}, block.min_us, block.rows) for block in self.blocks if block.rows]

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        number = next((number for number, block in enumerate(self.blocks) if block.id == split.payload["block"]), None)
        if number is None:
            raise SourceError(f"{self.describe()} has no block {split.payload['block']}, which the checkpoint was to read on")
        try:
            rows = as_arrow(Blocks(self.actor).block(self.dataset, number))
        except BlocksLostError as error:
            raise SourceError(
                f"{self.describe()}: block {number} of {len(self.blocks)} is lost ({error}). Blocks live in Ray's object store, for as long as the "
                "process that made the job and the nodes that they lie on; start the job again with the same Dataset, and it goes on from its checkpoint"
            ) from error
        return _BlockReader(rows, self.columns, 0 if offset is None else offset["row"], f"{self.describe()}, block {number}")

    def describe(self) -> str:
        return f"Dataset({len(self.blocks)} blocks, {sum(block.rows for block in self.blocks)} rows)"


class _Enumerator(OnceEnumerator):
    def __init__(self, splits: list[Split], digest: str) -> None:
        super().__init__(splits)
        self._digest = digest

    def state(self) -> Any:
        return {"digest": self._digest, "given": self.finished}


class _BlockReader(SplitReader):
    def __init__(self, rows: pa.Table, wanted: pa.Schema, row: int, where: str) -> None:
        batches = rows.select(wanted.names).combine_chunks().to_batches()
        self._rows = batches[0] if batches else None
        self._wanted, self._row, self._where = wanted, row, where

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self._rows is None or self._row >= self._rows.num_rows:
            return None
        batch = self._rows.slice(self._row, max_rows)
        self._row += batch.num_rows
        return conform(batch, self._wanted, self._where)

    def offset(self) -> Any:
        return {"row": self._row}


def as_arrow(block: Any) -> pa.Table:
    """Blocks are Arrow tables, or pandas frames."""
    return block if isinstance(block, pa.Table) else pa.Table.from_pandas(block, preserve_index=False)


@dataclass(frozen=True)
class Summary:
    """What is to be known of a block before it is read."""

    schema: pa.Schema
    rows: int
    digest: str
    min_us: int | None


def summary(block: Any, time_column: str | None) -> Summary:
    table = as_arrow(block).combine_chunks()
    digest = hashlib.sha256()
    for batch in table.replace_schema_metadata(None).to_batches():
        digest.update(batch.serialize())
    min_us = None
    if time_column in table.column_names and table.num_rows:
        times = table.column(time_column)
        if pa.types.is_timestamp(times.type):
            times = pc.cast(times, TIMESTAMP, safe=False).cast(pa.int64())
        min_us = pc.min(times).as_py() if times.type == pa.int64() else None
    return Summary(table.schema.remove_metadata(), table.num_rows, digest.hexdigest()[:24], min_us)


_summary = ray.remote(num_cpus=0, max_retries=3)(summary)


def dataset_source(dataset: Any, time_column: str | None, rate: float | None, job: str) -> DatasetSource:
    """Computes the Dataset, if it is not yet. `job`: the name of one that outlives this process, else empty. Raises PlanError."""
    refs = [ref for bundle in dataset.materialize().iter_internal_ref_bundles() for ref in bundle.block_refs]
    found = _summaries(refs, time_column)
    schema = _schema_of(found, f"Dataset of {len(refs)} blocks")
    seen: Counter[str] = Counter()
    blocks = []
    for one in found:
        blocks.append(Block(f"{one.digest}-{seen[one.digest]}", one.rows, one.min_us))
        seen[one.digest] += 1
    actor, name = blocks_actor(job), secrets.token_hex(8)
    Blocks(actor).call("give", name, refs, bool(job))
    return DatasetSource(actor, name, schema, tuple(blocks), rate)


def _summaries(refs: Sequence[Ref], time_column: str | None) -> list[Summary]:
    """Where the blocks are, without CPUs, which may all be a job's."""
    asked: list[Any] = []
    for ref in refs:
        if len(asked) >= _AT_ONCE:
            ray.wait([asked[-_AT_ONCE]], timeout=None)
        asked.append(_summary.remote(ref, time_column))
    found: list[Summary] = ray.get(asked)
    return found


def _schema_of(found: Sequence[Summary], what: str) -> pa.Schema:
    """That of the first block with rows, into which those of all others go."""
    first = next((one for one in found if one.rows), found[0] if found else None)
    if first is None or not len(first.schema):
        raise PlanError(f"{what}: it has no columns; give one that has, it may be without rows")
    schema = engine_schema(first.schema, what)
    for number, one in enumerate(found):
        for field in schema if one.rows else ():
            kind = one.schema.field(field.name).type if field.name in one.schema.names else None
            if kind is None or not (widens(kind, field.type) or pa.types.is_timestamp(kind)):
                raise PlanError(
                    f"{what}: column {field.name!r} is {'missing' if kind is None else kind} in block {number}, and {field.type} before; cast it"
                )
    return schema
