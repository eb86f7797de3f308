"""`fr.sources.Nexmark`: the bids, auctions or people of the Nexmark benchmark, made on the fly and the same in every run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from flinkray.config import Duration, duration_us
from flinkray.connectors.base import Source, Split, SplitEnumerator, SplitReader
from flinkray.connectors.nexmark_events import BASE_TIME_US, LAYOUTS, make_rows, stream_schema
from flinkray.errors import PlanError

_MOST_ROWS_PER_SPLIT = 262_144
_LEAST_ROWS_PER_SPLIT = 8_192
_SPLITS_PER_READER = 4
_SPLITS_AT_ONCE = 1024


@dataclass(frozen=True)
class NexmarkSource(Source):
    """The `stream` ("bid", "auction" or "person") among the first `events` events, or exactly `rows` rows of it.

    Event n happens at 2015-07-15T00:00:00Z + n * `interval` (in event time; 10,000 events/s by default). A row depends on (`seed`, event
    number) only: the rows are the same at any parallelism and after any restore. `rate` is in rows/s over all subtasks.
    Raises PlanError for an unknown stream or when not exactly one of `events` and `rows` is given.
    """

    stream: str = "bid"
    events: int | None = None
    rows: int | None = None
    rate: float | None = None
    seed: int = 0
    interval: Duration = "100us"
    columns: tuple[str, ...] | None = None
    max_skew_us: int | None = None

    def __post_init__(self) -> None:
        if self.stream not in LAYOUTS:
            raise PlanError(f"Nexmark: no stream {self.stream!r}; there are: {', '.join(LAYOUTS)}")
        if (self.events is None) == (self.rows is None):
            raise PlanError("Nexmark: give either events= (of all kinds) or rows= (of this stream)")
        if min(self.events or 0, self.rows or 0) < 0:
            raise PlanError("Nexmark: events and rows cannot be negative")
        if self.rate is not None and self.rate <= 0:
            raise PlanError(f"Nexmark: rate {self.rate} is not above zero")
        if self.interval_us <= 0:
            raise PlanError(f"Nexmark: interval {self.interval!r} is under a microsecond")

    @property
    def interval_us(self) -> int:
        return duration_us(self.interval, "Nexmark interval")

    @property
    def event_count(self) -> int:
        """Events of all kinds; the last row asked for by `rows` is the last of them."""
        if self.events is not None:
            return self.events
        return LAYOUTS[self.stream].event_of(self.rows - 1) + 1 if self.rows else 0

    @property
    def bounded(self) -> bool:
        return True

    def schema(self) -> pa.Schema:
        schema = stream_schema(self.stream)
        return schema if self.columns is None else pa.schema([schema.field(name) for name in self.columns])

    def with_columns(self, columns: tuple[str, ...]) -> NexmarkSource:
        return replace(self, columns=columns)

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> NexmarkEnumerator:
        return NexmarkEnumerator(self, state or 0, event_time_column, parallelism)

    def open_split(self, split: Split, offset: Any | None) -> NexmarkReader:
        return NexmarkReader(self, split.payload["first"] if offset is None else offset, split.payload["end"])

    def describe(self) -> str:
        size = f"{self.events} events" if self.events is not None else f"{self.rows} rows"
        return f"Nexmark({self.stream}, {size}, seed {self.seed})"


class NexmarkEnumerator(SplitEnumerator):
    """Cuts the events into contiguous ranges. Its state is the first event not given away, so parallelism may change in between."""

    def __init__(self, source: NexmarkSource, next_event: int, event_time_column: str | None, parallelism: int) -> None:
        self._source = source
        self._next = next_event
        self._timed = event_time_column == "date_time"
        layout = LAYOUTS[source.stream]
        rows = layout.rows_before(source.event_count) // (_SPLITS_PER_READER * parallelism)
        self._split_events = layout.event_of(min(max(rows, _LEAST_ROWS_PER_SPLIT), _MOST_ROWS_PER_SPLIT))

    def discover(self) -> list[Split]:
        splits: list[Split] = []
        layout, end = LAYOUTS[self._source.stream], self._source.event_count
        while self._next < end and len(splits) < _SPLITS_AT_ONCE:
            first, self._next = self._next, min(self._next + self._split_events, end)
            rows = layout.rows_before(self._next) - layout.rows_before(first)
            time_us = BASE_TIME_US + first * self._source.interval_us if self._timed else None
            splits.append(Split(f"events-{first}-{self._next}", {"first": first, "end": self._next}, time_us, rows))
        return splits

    @property
    def finished(self) -> bool:
        return self._next >= self._source.event_count

    @property
    def poll_interval_s(self) -> float:
        return 0.1

    def state(self) -> int:
        return self._next


class NexmarkReader(SplitReader):
    """Makes the rows of events `first` to `end` - 1. Its offset is the number of the next event."""

    def __init__(self, source: NexmarkSource, first: int, end: int) -> None:
        self._source = source
        self._layout = LAYOUTS[source.stream]
        self._columns = tuple(source.schema().names)
        self._row = self._layout.rows_before(first)
        self._end_row = self._layout.rows_before(end)
        self._end = end

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self._row >= self._end_row:
            return None
        first, self._row = self._row, min(self._row + max_rows, self._end_row)
        return make_rows(self._source.stream, first, self._row, self._source.seed, self._source.interval_us, self._columns)

    def offset(self) -> int:
        return self._layout.event_of(self._row) if self._row < self._end_row else self._end


def nexmark_table(stream: str, rows: int, seed: int = 0, columns: tuple[str, ...] | None = None) -> pa.Table:
    """The rows that `NexmarkSource(stream, rows=rows, seed=seed)` gives, as one table, for oracles and data files."""
    source = NexmarkSource(stream, rows=rows, seed=seed, columns=columns)
    reader = NexmarkReader(source, 0, source.event_count)
    batches = iter(lambda: reader.read(65_536), None)
    return pa.Table.from_batches(batches, schema=source.schema())
