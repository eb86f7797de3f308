"""Abstract sources, tables that are asked by key, and sinks. Frozen and picklable: what a user constructs is a description; readers and writers do the work.

A source is split by an enumerator (one, in subtask 0, part of the checkpoint) into splits that readers take; a reader's position
in each of its splits is part of the checkpoint too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Split:
    """A part of an input that one reader reads in order. Small and JSON-able: it travels and is checkpointed."""

    id: str
    """Unique within the source, stable across restores."""
    payload: Mapping[str, Any]
    """JSON-able: path and row groups, byte range, event numbers."""
    min_event_time_us: int | None = None
    """No row of this split has a smaller event time (from statistics); None: unknown."""
    size: int = 0
    """A weight for balancing, rows or bytes; the same unit throughout a source."""


@dataclass
class Rejected:
    """Rows that a reader put aside since the last call."""

    skipped_rows: int = 0
    dead_letters: pa.RecordBatch | None = None
    """Schema DEAD_LETTER."""


FAILED_ROW = pa.schema(
    [
        ("row", pa.string()),
        ("error", pa.string()),
        ("operator", pa.string()),
        ("subtask", pa.int32()),
        ("time", pa.timestamp("us", "UTC")),
    ]
)
"""A row that user code raised on: as JSON, what was raised, where and when."""

DEAD_LETTER = pa.schema([("source", pa.string()), ("line", pa.int64()), ("row", pa.string()), ("error", pa.string())])


class SplitReader(ABC):
    """Reads one split, from an offset."""

    @abstractmethod
    def read(self, max_rows: int) -> pa.RecordBatch | None:
        """The next rows, at most `max_rows`, with exactly the schema of the source's chosen columns. None at the end of the split; an
        empty batch: nothing at present (unbounded splits). Raises SourceError naming file and line."""

    @abstractmethod
    def offset(self) -> Any:
        """JSON-able position after the rows that `read` has returned; `open_split(split, offset)` goes on exactly there."""

    def take_rejected(self) -> Rejected:
        return Rejected()

    def close(self) -> None: ...


class SplitEnumerator(ABC):
    """Finds splits. Runs in one place; its state is checkpointed."""

    @abstractmethod
    def discover(self) -> list[Split]:
        """Splits not returned before, in the order in which they should be read (smallest event time first)."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """No further split will ever come."""

    @property
    def poll_interval_s(self) -> float:
        """How long to wait between two calls of `discover` (watched directories)."""
        return 1.0

    @abstractmethod
    def state(self) -> Any:
        """JSON-able: what has been returned so far."""


class Source(ABC):
    """A description of an input. Frozen dataclass; picklable without Ray."""

    rate: float | None
    """Rows/s at most, over all subtasks; None: as fast as it goes."""
    max_skew_us: int | None
    """A split further ahead of the watermark than this is paused; None: never."""

    @property
    @abstractmethod
    def bounded(self) -> bool: ...

    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns that are read, engine types (timestamps as timestamp[us, UTC] where the input has timestamps). May read footers;
        cached; called at plan time."""

    @abstractmethod
    def with_columns(self, columns: tuple[str, ...]) -> Source:
        """A copy that reads only these columns (projection pushdown); order as given."""

    @abstractmethod
    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        """`state` as given by `SplitEnumerator.state` on restore. `event_time_column` lets statistics bound a split's event times."""

    @abstractmethod
    def open_split(self, split: Split, offset: Any | None) -> SplitReader: ...

    def describe(self) -> str:
        """One line for `explain()` and errors."""
        return type(self).__name__


class Lookups(ABC):
    """An open connection, used from one thread."""

    @abstractmethod
    def find(self, keys: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        """All rows whose columns `names` are equal to one of the keys, which are distinct and not null, in any order. SourceError where the
        table cannot be asked so; one that is not `permanent` where it does not answer."""

    def close(self) -> None: ...


class LookupTable(ABC):
    """A description of a table. Frozen dataclass; picklable."""

    cached_keys: int
    """How many keys a subtask remembers at most."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Its columns, engine types. Called at plan time."""

    def check_keys(self, keys: pa.Schema) -> None:
        """PlanError unless it can be asked for keys of these types, without dictionaries. Called at plan time."""

    @abstractmethod
    def with_columns(self, columns: tuple[str, ...]) -> LookupTable:
        """A copy that gives only these columns."""

    @abstractmethod
    def open(self) -> Lookups: ...

    def describe(self) -> str:
        """One line for `explain()` and errors."""
        return type(self).__name__


@dataclass(frozen=True)
class SinkContext:
    uid: str
    subtask: int
    parallelism: int
    claim: int
    attempt: int
    instance: str
    schema: pa.Schema


class SinkWriter(ABC):
    """Writes in two phases. One per subtask, used from one thread."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None: ...

    @abstractmethod
    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        """Everything written since the last call becomes one or more transactions (JSON-able) that survive a crash and are not visible
        yet."""

    @abstractmethod
    def commit(self, transactions: list[dict[str, Any]]) -> None:
        """Make them visible. Idempotent; also called by another writer, after a restore, in another process."""

    def discard_older(self) -> None:
        """Delete pending output of this sink's uid whose (claim, attempt) is older than this writer's (rule 15). Called after the first
        commits of a restored attempt are known done, or on a fresh start."""

    def close(self) -> None: ...


class Sink(ABC):
    """A description of an output."""

    accepts_changelog: bool = False

    @property
    def accepts(self) -> frozenset[str]:
        """How the rows that come may change what was written before: of "append", "upsert" (a row replaces that of its key) and "retract"
        (a row is taken back as a whole). Checked at plan time."""
        return frozenset({"append", "upsert", "retract"} if self.accepts_changelog else {"append"})

    @property
    def transactional(self) -> bool:
        """Rows become visible only at a commit."""
        return False

    def check_schema(self, schema: pa.Schema) -> None:
        """Plan time: raise PlanError when these columns cannot be written."""

    def check_fresh_start(self, uid: str) -> None:
        """Before a job that restores nothing: raise UsageError when the place holds output of another run (or clear it, mode overwrite)."""

    def newest_checkpoint(self, uid: str) -> int:
        """The highest id of a checkpoint whose rows the place shows of this sink, 0 when none or when it cannot tell: restoring an older point
        would repeat them (rule 20)."""
        return 0

    @abstractmethod
    def writer(self, context: SinkContext) -> SinkWriter: ...

    def finish(self, schema: pa.Schema) -> None:
        """Once, after FINISHED and all commits: leave an empty file with the schema where nothing was written. Idempotent."""

    def describe(self) -> str:
        return type(self).__name__
