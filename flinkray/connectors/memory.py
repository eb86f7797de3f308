"""Sources and sinks that need no outside: rows in memory, printed rows, rows thrown away, rows brought back to the driver."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, ClassVar, Self, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import CHANGE, EVENT_TIME, TIMESTAMP
from flinkray.config import Duration, duration_us
from flinkray.connectors.base import Sink, SinkContext, SinkWriter, Source, Split, SplitEnumerator, SplitReader
from flinkray.connectors.enumerators import SPLITS_PER_READER, OnceEnumerator
from flinkray.connectors.json_text import json_lines
from flinkray.connectors.schemas import choose, conform, engine_schema
from flinkray.errors import ConfigError, SinkError, UsageError

_MIN_SPLIT_ROWS = 8192

Batches: TypeAlias = pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch]


@dataclass(frozen=True, init=False)
class MemorySource(Source):
    """Rows given as a table or as record batches; they travel with the job, so keep them small (some MB)."""

    table: pa.Table = field(compare=False, repr=False)
    rate: float | None
    max_skew_us: int | None

    def __init__(self, batches: Batches, max_skew: Duration | None = "10s", rate: float | None = None) -> None:
        if isinstance(batches, pa.Table):
            table = batches
        else:
            listed = [batches] if isinstance(batches, pa.RecordBatch) else list(batches)
            if not listed:
                raise UsageError("Memory: no batch, and so no columns; give at least one, it may have no rows")
            table = pa.Table.from_batches(listed)
        if rate is not None and rate <= 0:
            raise ConfigError(f"rate={rate!r}: rows per second, above 0, or None")
        wanted = engine_schema(table.schema, "Memory")
        batches = [conform(batch, wanted, "Memory") for batch in table.combine_chunks().to_batches()]
        self._set(pa.Table.from_batches(batches, wanted), rate, None if max_skew is None else duration_us(max_skew, "max_skew"))

    def _set(self, table: pa.Table, rate: float | None, max_skew_us: int | None) -> None:
        for name, value in (("table", table), ("rate", rate), ("max_skew_us", max_skew_us)):
            object.__setattr__(self, name, value)

    @property
    def bounded(self) -> bool:
        return True

    def schema(self) -> pa.Schema:
        return self.table.schema

    def with_columns(self, columns: tuple[str, ...]) -> Self:
        projected = copy.copy(self)
        projected._set(self.table.select(choose(self.table.schema, columns).names), self.rate, self.max_skew_us)
        return projected

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        return OnceEnumerator([] if state else self._splits(event_time_column, parallelism))

    def _splits(self, event_time_column: str | None, parallelism: int) -> list[Split]:
        rows = self.table.num_rows
        number = min(SPLITS_PER_READER * parallelism, -(-rows // _MIN_SPLIT_ROWS))
        bounds = [rows * i // number for i in range(number + 1)] if number else []
        splits = []
        for start, stop in pairwise(bounds):
            bound = _min_us(self.table.slice(start, stop - start), event_time_column)
            splits.append(Split(f"rows-{start}-{stop}", {"start": start, "stop": stop}, bound, stop - start))
        return splits

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _MemoryReader(self.table, split.payload["start"] if offset is None else offset["row"], split.payload["stop"])


def _min_us(rows: pa.Table, column: str | None) -> int | None:
    if column is None or column not in rows.column_names:
        return None
    values = rows.column(column)
    if values.type == TIMESTAMP:
        values = values.cast(pa.int64())
    return pc.min(values).as_py() if values.type == pa.int64() else None


class _MemoryReader(SplitReader):
    def __init__(self, table: pa.Table, row: int, stop: int) -> None:
        batches = table.slice(0, stop).combine_chunks().to_batches()
        self._rows = batches[0] if batches else None
        self._row = row
        self._stop = stop

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self._rows is None or self._row >= self._stop:
            return None
        batch = self._rows.slice(self._row, max_rows)
        self._row += batch.num_rows
        return batch

    def offset(self) -> Any:
        return {"row": self._row}


def _without_event_time(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.drop_columns([EVENT_TIME]) if EVENT_TIME in batch.schema.names else batch


@dataclass(frozen=True)
class MemorySink(Sink):
    """Keeps committed rows in this process under a name: `MemorySink.rows(name)`. For the local runtime and for tests."""

    name: str
    accepts_changelog: bool = field(default=True, init=False, repr=False)

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _committed: ClassVar[dict[str, dict[str, list[pa.RecordBatch]]]] = {}
    _prepared: ClassVar[dict[str, dict[str, list[pa.RecordBatch]]]] = {}
    _schemas: ClassVar[dict[str, pa.Schema]] = {}

    @classmethod
    def rows(cls, name: str) -> pa.Table:
        """The committed rows, with `_change` where results are refined. UsageError for a name that no job has written to."""
        with cls._lock:
            if name not in cls._schemas:
                known = ", ".join(cls._schemas) or "none"
                raise UsageError(f"MemorySink: no job of this process has written to {name!r}; there are {known}")
            batches = [batch for part in cls._committed.get(name, {}).values() for batch in part]
            return pa.Table.from_batches(batches, batches[0].schema if batches else cls._schemas[name])

    @property
    def transactional(self) -> bool:
        return True

    def check_fresh_start(self, uid: str) -> None:
        """A new run starts with nothing under the name."""
        with self._lock:
            for registry in (self._committed, self._prepared, self._schemas):
                registry.pop(self.name, None)

    def writer(self, context: SinkContext) -> MemorySinkWriter:
        self.finish(context.schema)
        return MemorySinkWriter(self, context)

    def finish(self, schema: pa.Schema) -> None:
        with self._lock:
            kept = pa.schema([field for field in schema if field.name != EVENT_TIME])
            if not self._schemas.get(self.name):
                self._schemas[self.name] = kept  # none, or no columns: a writer that only the first batch will tell

    def describe(self) -> str:
        return f"Memory {self.name}"


class MemorySinkWriter(SinkWriter):
    """Prepared rows lie in the process, too, so that another writer can commit them after a restart."""

    def __init__(self, sink: MemorySink, context: SinkContext) -> None:
        self._name = sink.name
        self._context = context
        self._open: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self._open.append(_without_event_time(batch))

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        if not self._open:
            return []
        c = self._context
        name = f"{c.uid}-c{c.claim}-k{checkpoint_id}-a{c.attempt}-{c.instance}-{c.subtask}"
        with MemorySink._lock:
            MemorySink._prepared.setdefault(self._name, {})[name] = self._open
        self._open = []
        return [{"id": name}]

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        with MemorySink._lock:
            committed = MemorySink._committed.setdefault(self._name, {})
            prepared = MemorySink._prepared.setdefault(self._name, {})
            for transaction in transactions:
                name = transaction["id"]
                if name in committed:
                    continue
                if name not in prepared:
                    raise SinkError(
                        f"MemorySink {self._name!r}: {name} was prepared by a process that is gone, and its rows with it; use a file sink",
                        permanent=True,
                    )
                committed[name] = prepared.pop(name)

    def discard_older(self) -> None:
        c = self._context
        with MemorySink._lock:
            prepared = MemorySink._prepared.get(self._name, {})
            for name in [name for name in prepared if _is_older(name, c)]:
                del prepared[name]


def _is_older(name: str, context: SinkContext) -> bool:
    """Whether a transaction of this uid is of an older claim or attempt."""
    uid, claim, _checkpoint, attempt, _instance, _subtask = name.rsplit("-", 5)
    return uid == context.uid and (int(claim[1:]), int(attempt[1:])) < (context.claim, context.attempt)


@dataclass(frozen=True)
class CollectSink(Sink):
    """Brings rows back to the driver: the runtime ships each writer's `committed`. For jobs without checkpoints.

    Each subtask keeps at most `limit` rows (never of refined results, whose last rows count) and `max_bytes` bytes.
    """

    limit: int | None = None
    max_bytes: int = 1 << 30
    accepts_changelog: bool = field(default=True, init=False, repr=False)

    @property
    def transactional(self) -> bool:
        return True

    def writer(self, context: SinkContext) -> CollectWriter:
        return CollectWriter(self)

    def describe(self) -> str:
        return "Collect"


class CollectWriter(SinkWriter):
    """`committed`: the rows whose transactions are committed. `full`: the limit is reached, further rows are not kept."""

    def __init__(self, sink: CollectSink) -> None:
        self.committed: list[pa.RecordBatch] = []
        self.full = False
        self._sink = sink
        self._rows = self._bytes = 0
        self._numbers = count()
        self._open: list[pa.RecordBatch] = []
        self._prepared: dict[int, list[pa.RecordBatch]] = {}
        self._done: set[int] = set()

    def write(self, batch: pa.RecordBatch) -> None:
        if self.full:
            return
        limit = self._sink.limit
        if limit is not None and CHANGE not in batch.schema.names:
            batch = batch.slice(0, limit - self._rows)
            self.full = self._rows + batch.num_rows >= limit
        kept = _without_event_time(batch)
        self._rows += kept.num_rows
        self._bytes += kept.nbytes
        if self._bytes > self._sink.max_bytes:
            raise SinkError(
                f"collect: over {self._sink.max_bytes} bytes of rows. Write them with sink_to(fr.sinks.Parquet(dir)), take fewer with "
                "collect(limit=), or aggregate first",
                permanent=True,
            )
        if kept.num_rows:
            self._open.append(kept)

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        if not self._open:
            return []
        number = next(self._numbers)
        self._prepared[number], self._open = self._open, []
        return [{"collect": number}]

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        for transaction in transactions:
            number = transaction["collect"]
            if number in self._done:
                continue
            if number not in self._prepared:
                raise SinkError(
                    "collect: rows that another process kept are gone with it; run it again, or write with a file sink", permanent=True
                )
            self.committed += self._prepared.pop(number)
            self._done.add(number)


@dataclass(frozen=True)
class PrintSink(Sink):
    """Prints each row as a line of JSON after a prefix, as soon as it comes: after a failure rows are printed again."""

    prefix: str = ""
    accepts_changelog: bool = field(default=True, init=False, repr=False)

    def writer(self, context: SinkContext) -> SinkWriter:
        label = self.prefix or f"{context.uid}[{context.subtask}]"
        return _PrintWriter(f"{label}> ")


class _PrintWriter(SinkWriter):
    def __init__(self, label: str) -> None:
        self._label = label

    def write(self, batch: pa.RecordBatch) -> None:
        rows = _without_event_time(batch)
        try:
            lines = json_lines(rows).to_pybytes().decode().splitlines()
        except TypeError:
            lines = [str(row) for row in rows.to_pylist()]
        sys.stdout.write("".join(f"{self._label}{line}\n" for line in lines))
        sys.stdout.flush()

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        return []

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        """Printed rows are out already."""


@dataclass(frozen=True)
class BlackholeSink(Sink):
    """Throws rows away and counts them (`writer.rows`): for measuring what comes before."""

    accepts_changelog: bool = field(default=True, init=False, repr=False)

    def writer(self, context: SinkContext) -> BlackholeWriter:
        return BlackholeWriter()


class BlackholeWriter(SinkWriter):
    """Counts."""

    def __init__(self) -> None:
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        return []

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        """Nothing was kept."""
