"""Rows that are somewhere else: handed out in units, answered in any order, given on in theirs. Pure: times are arguments.

Rows get positions as they come. A watermark is held until every row before it was given on, so that no row becomes late by
being answered late.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flinkray.columns import MIN_WATERMARK

GROWTH = 1.1
"""How fast a batch size that was cut comes back, a call."""
SHRINK = 0.9


@dataclass
class Unit:
    """Rows that are handed out together."""

    number: int
    batch: pa.RecordBatch
    start: int
    """Position of its first row."""
    answered: bool = False
    answer: Any = None


@dataclass
class UnitSize:
    """How many rows a unit has: `largest` at most, fewer where a call of so many takes longer than `latency_s`.

    `latency_s`: rows should be answered within it; None: they wait for nothing, a unit is what is there.
    """

    largest: int
    latency_s: float | None
    _limit: float = field(init=False)
    _took_s: float = 0.0

    def __post_init__(self) -> None:
        self._limit = float(self.largest)

    @property
    def rows(self) -> int:
        return int(self._limit)

    @property
    def wait_s(self) -> float:
        """How long a row may wait for others to come."""
        return 0.0 if self.latency_s is None else max(self.latency_s - self._took_s, 0.0)

    def answered(self, rows: int, took_s: float) -> None:
        """A call with so many rows took so long."""
        if self.latency_s is None:
            return
        self._took_s = took_s if not self._took_s else 0.8 * self._took_s + 0.2 * took_s
        if took_s > self.latency_s:
            self._limit = max(1.0, min(self._limit, rows * self.latency_s / took_s * SHRINK))
        elif rows >= self.rows:
            self._limit = min(float(self.largest), self._limit * GROWTH + 0.1)


class InFlight:
    """`ordered`: units are given on in the order of their rows, else as they are answered."""

    def __init__(self, size: UnitSize, ordered: bool) -> None:
        self.size = size
        self._ordered = ordered
        self._waiting: deque[tuple[pa.RecordBatch, float]] = deque()
        """Rows that are in no unit yet, and when they came."""
        self._units: OrderedDict[int, Unit] = OrderedDict()
        self._answered: deque[int] = deque()
        """Numbers of units to give on, where order does not matter."""
        self._marks: deque[tuple[int, int]] = deque()
        """(Position before which all rows must be given on, watermark), both growing."""
        self._came = 0
        self._cut = 0
        self._numbers = 0
        self.watermark_us = MIN_WATERMARK
        """What may be said downstream by now."""

    # -- in -------------------------------------------------------------------------------------------------------

    def add(self, batch: pa.RecordBatch, now_s: float) -> None:
        self._waiting.append((batch, now_s))
        self._came += batch.num_rows

    def mark(self, watermark_us: int) -> None:
        """Event time reached this after the rows that have come."""
        if self._marks and self._marks[-1][0] == self._came:
            self._marks.pop()
        self._marks.append((self._came, watermark_us))
        self._pass_marks()

    # -- out and back ---------------------------------------------------------------------------------------------

    def cut(self, now_s: float, flush: bool = False) -> Unit | None:
        """The next unit to hand out: as soon as it is full, or its oldest row has waited long enough, or at once with `flush`."""
        if not self._waiting:
            return None
        rows = min(self.waiting_rows, self.size.rows)
        if rows < self.size.rows and not flush and now_s < self.due_s:
            return None
        unit = Unit(self._numbers, self._take(rows), self._cut)
        self._numbers += 1
        self._cut += rows
        self._units[unit.number] = unit
        return unit

    def answer(self, number: int, answer: Any) -> Unit | None:
        """None: the unit is not known, or was answered before."""
        unit = self._units.get(number)
        if unit is None or unit.answered:
            return None
        unit.answered, unit.answer = True, answer
        if not self._ordered:
            self._answered.append(number)
        return unit

    def finished(self) -> Iterator[Unit]:
        """Units to give on now; each is forgotten when the next one is asked for, or the iteration ends."""
        if self._ordered:
            while self._units and (unit := next(iter(self._units.values()))).answered:
                yield unit
                del self._units[unit.number]
        while self._answered:
            yield self._units[self._answered[0]]
            del self._units[self._answered.popleft()]
        self._pass_marks()

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def waiting_rows(self) -> int:
        return self._came - self._cut

    @property
    def due_s(self) -> float:
        """When the oldest row that waits has waited long enough; infinity when none does."""
        return self._waiting[0][1] + self.size.wait_s if self._waiting else float("inf")

    @property
    def units(self) -> int:
        """Handed out, or answered and not given on."""
        return len(self._units)

    @property
    def empty(self) -> bool:
        return not self._units and not self._waiting

    def batches(self) -> list[pa.RecordBatch]:
        """All rows that were not given on, in order: what a checkpoint must hold."""
        return [unit.batch for unit in self._units.values()] + [batch for batch, _ in self._waiting]

    # -- inside ---------------------------------------------------------------------------------------------------

    def _take(self, rows: int) -> pa.RecordBatch:
        parts: list[pa.RecordBatch] = []
        while rows:
            batch, came_s = self._waiting.popleft()
            if batch.num_rows > rows:
                self._waiting.appendleft((batch.slice(rows), came_s))
                batch = batch.slice(0, rows)
            rows -= batch.num_rows
            parts.append(batch)
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)

    def _pass_marks(self) -> None:
        first = next(iter(self._units.values())).start if self._units else self._cut
        while self._marks and self._marks[0][0] <= first:
            self.watermark_us = self._marks.popleft()[1]
