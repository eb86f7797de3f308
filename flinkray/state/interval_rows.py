"""Rows of both sides of an interval join: found by key through one hash index, ordered by time in each key, expired by the watermark.

A side is a matrix of words by position (`join_kernels`), and beside it the rows' columns. Positions go up with arrival, so that what a
snapshot has seen of a side is known by its generation. Rows that are over stay where they are until most are; then the rest moves up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.state.growth import grown
from flinkray.state.join_kernels import (
    BLOCK,
    CURSOR,
    ENTRY_WORDS,
    GENERATION,
    HEAD_WORDS,
    NAME,
    NEXT,
    TIME,
    USED,
    expire,
    link,
    probe,
)
from flinkray.state.key_encoding import Keys
from flinkray.state.key_index import KeyIndex
from flinkray.state.row_buffer import RowBuffer, RowView

Int64Array = npt.NDArray[np.int64]

STEP = 1 << 14
_FEW_DEAD = 1 << 15


@dataclass(frozen=True)
class SideCopy:
    """Some rows of a side, for an upload thread."""

    view: RowView
    positions: Int64Array
    times: Int64Array
    names: Int64Array
    """Twice the number of the row, plus one when it has found a partner."""

    def __len__(self) -> int:
        return len(self.positions)


class Side:
    """The kept rows of one side. `cutoff`: rows at or before this event time are over."""

    def __init__(self, schema: pa.Schema, keeps: bool) -> None:
        self.rows = RowBuffer(schema)
        self.keeps = keeps
        self.cutoff = MIN_WATERMARK
        self.entries = np.zeros((STEP, ENTRY_WORDS), np.int64)
        self.floors = np.full(4, MAX_WATERMARK, np.int64)
        self.next_name = 0
        self.dead = 0

    def __len__(self) -> int:
        return len(self.rows) - self.dead

    @property
    def memory_bytes(self) -> int:
        return self.entries.nbytes + self.rows.memory_bytes

    def copy(self, since: int | None) -> SideCopy:
        """Rows that are not over and changed after a generation (None: all)."""
        entries = self.entries[: len(self.rows)]
        chosen = entries[:, TIME] > self.cutoff
        if since is not None:
            chosen &= entries[:, GENERATION] > since
        positions = np.flatnonzero(chosen)
        return SideCopy(self.rows.view(), positions, entries[positions, TIME], entries[positions, NAME])

    def make_room(self, more: int) -> None:
        needed = len(self.rows) + more
        self.entries = grown(self.entries, needed, STEP)
        blocks, known = -(-needed // BLOCK), len(self.floors)
        if blocks > known:
            self.floors = grown(self.floors, blocks, 64)
            self.floors[known:] = MAX_WATERMARK

    def expire(self, until: int) -> Int64Array:
        """Rows at or before `until` are over. Returns those that found no partner, where they are kept for that."""
        if until <= self.cutoff:
            return np.empty(0, np.int64)
        told = np.zeros(1, np.int64)
        lonely = np.empty(len(self.rows) if self.keeps else 0, np.int64)
        count = expire(self.entries, len(self.rows), self.floors, self.cutoff, until, lonely, told)
        self.cutoff = until
        self.dead += int(told[0])
        return lonely[:count]


class IntervalRows:
    """`sides[0]` and `sides[1]`, over one index of keys."""

    def __init__(self, index: KeyIndex, schemas: Sequence[pa.Schema], keeps: Sequence[bool]) -> None:
        self.index = index
        self.sides = tuple(Side(schema, kept) for schema, kept in zip(schemas, keeps, strict=True))
        self._heads = np.zeros((STEP, HEAD_WORDS), np.int64)

    def __len__(self) -> int:
        return sum(len(side) for side in self.sides)

    @property
    def memory_bytes(self) -> int:
        return self._heads.nbytes + self.index.memory_bytes + sum(side.memory_bytes for side in self.sides)

    def slots(self, keys: Keys) -> npt.NDArray[np.int32]:
        slots = self.index.lookup_or_insert(keys)
        self._heads = grown(self._heads, self.index.high, STEP)
        return slots

    def pairs(
        self,
        number: int,
        slots: npt.NDArray[np.int32],
        times: Int64Array,
        bounds: tuple[int, int],
        generation: int,
        hits: npt.NDArray[np.uint8],
        at_most: int,
    ) -> Iterator[tuple[Int64Array, Int64Array]]:
        """(rows of the batch, positions of the other side that they meet), at most so many at once. `bounds`: from when to when the
        other side's row may be, seen from the row's own time. `hits` tells afterwards which rows met any."""
        other = self.sides[1 - number]
        state = np.zeros(2, np.int64)
        state[CURSOR] = -1
        while True:
            own, found = np.empty(at_most, np.int64), np.empty(at_most, np.int64)
            count = probe(slots, times, *bounds, 1 - number, generation, other.keeps, self._heads, other.entries, hits, state, own, found)
            if count:
                yield own[:count], found[:count]
            if count < at_most:
                return

    def add(
        self,
        number: int,
        rows: pa.RecordBatch,
        chosen: Int64Array,
        slots: npt.NDArray[np.int32],
        times: Int64Array,
        hits: npt.NDArray[np.uint8],
        generation: int,
    ) -> Int64Array:
        """Keeps the chosen rows of a batch (in order of time: then it is quick); `slots`, `times`, `hits` are theirs, `times` after the
        cutoff. Returns their positions."""
        side = self.sides[number]
        first = len(side.rows)
        side.make_room(len(chosen))
        side.rows.append(rows, chosen)
        link(slots, times, hits, number, first, side.next_name, generation, self._heads, side.entries, side.floors)
        side.next_name += len(chosen)
        return np.arange(first, first + len(chosen))

    def expire(self, number: int, until: int) -> Int64Array:
        """See `Side.expire`. The positions are good until `tidy`."""
        return self.sides[number].expire(until)

    def tidy(self) -> None:
        """Gives back what rows that are over hold, when they are most."""
        keys = len(self.index) > 2 * len(self) + _FEW_DEAD  # rows that came too late to be kept leave their keys
        crowded = [number for number, side in enumerate(self.sides) if keys or side.dead > len(side) + _FEW_DEAD]
        for number in crowded:
            self._move_up(number)
        if crowded:
            heads = self._heads[: self.index.high]
            empty = np.flatnonzero((heads[:, USED] != 0) & (heads[:, 0] == 0) & (heads[:, 1] == 0))
            heads[empty, USED] = 0
            self.index.remove(empty.astype(np.int32))

    def _move_up(self, number: int) -> None:
        """Chains are ordered by time: what follows a row that is over is over too."""
        side = self.sides[number]
        entries = side.entries[: len(side.rows)]
        alive = entries[:, TIME] > side.cutoff
        place = np.zeros(len(entries) + 1, np.int64)  # by position + 1: the new position + 1, 0 when it is over
        place[1:] = np.where(alive, np.cumsum(alive), 0)
        kept = entries[alive]
        kept[:, NEXT] = place[kept[:, NEXT]]
        heads = self._heads[: self.index.high]
        heads[:, number] = place[heads[:, number]]
        side.rows.keep(alive)
        side.entries = np.zeros((max(STEP, len(kept)), ENTRY_WORDS), np.int64)
        side.entries[: len(kept)] = kept
        blocks = -(-len(kept) // BLOCK)
        side.floors = np.full(max(4, blocks), MAX_WATERMARK, np.int64)
        if blocks:
            side.floors[:blocks] = np.minimum.reduceat(kept[:, TIME], np.arange(0, len(kept), BLOCK))
        side.dead = 0
