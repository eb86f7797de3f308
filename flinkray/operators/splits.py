"""The splits that one reader has: which to open, which to read next, and the watermark they allow. Pure: no file, no clock.

The order of reading never makes rows late: what has not been read yet holds the watermark, by its smallest event time where that is
known and altogether where it is not.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flinkray.columns import MIN_WATERMARK
from flinkray.connectors.base import Split, SplitReader
from flinkray.graph.windows import WatermarkStrategy
from flinkray.operators.watermarks import watermark_after

MAX_OPEN_SPLITS = 4
"""Splits whose event times overlap and which one reader reads side by side, the furthest behind first."""

STATE_SCHEMA = pa.schema([("split", pa.string()), ("offset", pa.string()), ("place", pa.int64()), ("max_event_us", pa.int64())])


@dataclass
class SplitWork:
    """A split and how far it has been read."""

    text: str
    """The split as JSON: how it came, and how it is checkpointed."""
    split: Split
    place: int
    """Order of discovery: who comes first among equals."""
    offset: Any | None = None
    """Where an earlier run stopped reading; None: nothing was read."""
    max_event_us: int | None = None
    """Largest event time read."""
    reader: SplitReader | None = None
    last_row_s: float = 0.0
    retry_s: float = 0.0
    """There was nothing at present: do not ask before."""
    idle: bool = False

    @property
    def position_us(self) -> int:
        """How far its event time has come, at the least."""
        if self.max_event_us is not None:
            return self.max_event_us
        known = self.split.min_event_time_us
        return MIN_WATERMARK if known is None else known

    def bound_us(self, delay_us: int) -> int:
        """The watermark that it allows. Before its first row: `min_event_time - delay - 1`; what is unknown holds altogether."""
        return MIN_WATERMARK if self.position_us == MIN_WATERMARK else watermark_after(self.position_us, delay_us)

    def order(self) -> tuple[int, int, str]:
        return (self.position_us, self.place, self.split.id)


@dataclass
class SplitSet:
    """All unfinished splits of a reader. Without a watermark strategy splits are read one after the other."""

    strategy: WatermarkStrategy | None
    max_skew_us: int | None = None
    open: list[SplitWork] = field(default_factory=list)
    seen_us: int | None = None
    """Largest event time of all that was read."""
    _pending: list[tuple[tuple[int, int, str], SplitWork]] = field(default_factory=list)
    _places: int = 0

    def __bool__(self) -> bool:
        return bool(self.open or self._pending)

    def add(self, texts: Iterable[str]) -> None:
        """Newly discovered ones as JSON, in the order in which they should be read."""
        for text in texts:
            self.put_back(SplitWork(text, split_from_json(text), self._places))

    def put_back(self, work: SplitWork) -> None:
        """One that is to be opened: new, or of an earlier run."""
        self._places = max(self._places, work.place + 1)
        heapq.heappush(self._pending, (work.order(), work))

    def next_to_open(self) -> SplitWork | None:
        """Moves a split to the open ones: when none is open, or when its rows may be as early as what an open one has come to."""
        if not self._pending or len(self.open) >= MAX_OPEN_SPLITS:
            return None
        first = self._pending[0][1]
        if self.open:
            ahead_us = max(work.position_us for work in self.open)
            if self.strategy is None or first.position_us > ahead_us:
                return None
        heapq.heappop(self._pending)
        self.open.append(first)
        return first

    def readable(self, now_s: float) -> list[SplitWork]:
        """Open splits that may have rows now, the furthest behind first, without those that are too far ahead of one that is waited for."""
        ready = sorted((work for work in self.open if work.retry_s <= now_s), key=SplitWork.order)
        if self.max_skew_us is None:
            return ready
        behind = [work.position_us for work in self.open if not work.idle]
        if not behind or min(behind) == MIN_WATERMARK:
            return ready
        limit_us = min(behind) + self.max_skew_us
        return [work for work in ready if work.position_us <= limit_us]

    def more(self, now_s: float) -> bool:
        """Something can be read or opened at once."""
        return bool(self.readable(now_s)) or (not self.open and bool(self._pending))

    def finish(self, work: SplitWork) -> None:
        self.open.remove(work)

    def read(self, work: SplitWork, max_event_us: int) -> None:
        """Rows up to `max_event_us` were read of an open split."""
        work.max_event_us = max_event_us if work.max_event_us is None else max(work.max_event_us, max_event_us)
        self.seen_us = max_event_us if self.seen_us is None else max(self.seen_us, max_event_us)

    @property
    def all_idle(self) -> bool:
        return not self._pending and bool(self.open) and all(work.idle for work in self.open)

    def watermark_us(self) -> int:
        """The smallest bound of those that are not idle (of all, when all are); when all has been read, what has been seen allows."""
        if self.strategy is None:
            return MIN_WATERMARK
        delay_us = self.strategy.delay_us
        bounds = [work.bound_us(delay_us) for work in self.open if not work.idle]
        if self._pending:
            bounds.append(self._pending[0][1].bound_us(delay_us))
        if not bounds:
            bounds = [work.bound_us(delay_us) for work in self.open]
        if bounds:
            return min(bounds)
        return MIN_WATERMARK if self.seen_us is None else watermark_after(self.seen_us, delay_us)

    def table(self) -> pa.Table:
        """A row per unfinished split, for a checkpoint."""
        works = [*self.open, *(work for _, work in self._pending)]
        columns = {
            "split": [work.text for work in works],
            "offset": [_offset_json(work) for work in works],
            "place": [work.place for work in works],
            "max_event_us": [work.max_event_us for work in works],
        }
        return pa.Table.from_pydict(columns, STATE_SCHEMA)


def restored_works(tables: Iterable[pa.Table]) -> list[SplitWork]:
    """The unfinished splits of all origin subtasks, in an order that is the same wherever it is asked: started ones first."""
    works = []
    for row in (row for table in tables for row in table.to_pylist()):
        offset = None if row["offset"] is None else json.loads(row["offset"])
        works.append(SplitWork(row["split"], split_from_json(row["split"]), row["place"], offset, row["max_event_us"]))
    return sorted(works, key=lambda work: (work.offset is None, work.place, work.split.id))


def split_to_json(split: Split) -> str:
    return json.dumps(
        {
            "id": split.id,
            "payload": dict(split.payload),
            "min_event_time_us": split.min_event_time_us,
            "size": split.size,
        }
    )


def split_from_json(text: str) -> Split:
    return Split(**json.loads(text))


def _offset_json(work: SplitWork) -> str | None:
    """The reader's own position; a split that waits to be opened again keeps that of the earlier run."""
    offset = work.offset if work.reader is None else work.reader.offset()
    return None if offset is None else json.dumps(offset)
