"""Which rows of two sides meet: those of one key in one window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flinkray.operators.join_rows import Int64Array, JoinSides
from flinkray.state.arrow_buffers import contiguous
from flinkray.state.key_encoding import KeyCodec, Keys
from flinkray.state.key_index import KeyIndex
from flinkray.state.slot_groups import group_rows


@dataclass(frozen=True)
class WindowRows:
    """What one side has in some windows, window by window; `ends[i]`: of row i's window."""

    rows: pa.RecordBatch
    ends: Int64Array

    def take(self, positions: Int64Array) -> pa.RecordBatch:
        return self.rows.take(pa.array(positions))


class Matcher:
    """Matches the sides of a join, with memory that is used again. Of one window keys alone are looked up, of several (window's end, key)."""

    def __init__(self, sides: JoinSides, seed: int) -> None:
        self._sides = sides
        self._one = KeyIndex(sides.codec, seed)
        self._several = KeyIndex(KeyCodec([pa.int64(), *sides.codec.kinds]), seed)

    @property
    def memory_bytes(self) -> int:
        return self._one.memory_bytes + self._several.memory_bytes

    def __call__(self, left: WindowRows, right: WindowRows) -> Match:
        several = left.ends[0] != left.ends[-1] or right.ends[0] != right.ends[-1] or left.ends[0] != right.ends[0]
        index = self._several if several else self._one
        index.clear()
        rights = index.lookup_or_insert(self._keys(1, right, index))
        lefts = index.lookup(self._keys(0, left, index))
        for side, rows, slots in ((0, left.rows, lefts), (1, right.rows, rights)):
            has_key = self._sides.has_key(side, rows)
            if has_key is not None:
                slots[~has_key] = -1
        return Match(lefts, rights, index.high)

    def _keys(self, side: int, part: WindowRows, index: KeyIndex) -> Keys:
        arrays: Sequence[pa.Array] = [contiguous(part.rows.column(name)) for name in self._sides.keys[side]]
        if index is self._several:
            arrays = [pa.array(part.ends), *arrays]
        return index.codec.encode(arrays, part.rows.num_rows, index.seed)


class Match:
    """Which rows of two sides have equal slots; -1 is nobody's."""

    def __init__(self, lefts: np.ndarray, rights: np.ndarray, slots: int) -> None:
        self._lefts, self._rights = lefts, rights
        self._starts, self._order = np.zeros(slots + 1, np.int64), np.empty(len(rights), np.int64)
        group_rows(rights, self._starts, self._order)
        self._counts = np.where(lefts >= 0, np.diff(self._starts)[lefts], 0)

    def pairs(self, at_most: int) -> Iterator[tuple[Int64Array, Int64Array]]:
        """Positions (left, right) that meet, in the order of the left rows, at most so many at once."""
        ends = np.cumsum(self._counts)
        total = int(ends[-1])
        for start in range(0, total, at_most):
            pair = np.arange(start, min(start + at_most, total))
            left = np.searchsorted(ends, pair, side="right")
            among = pair - (ends[left] - self._counts[left])
            yield left, self._order[self._starts[self._lefts[left]] + among]

    def left_alone(self) -> Int64Array:
        return np.flatnonzero(self._counts == 0)

    def right_alone(self) -> Int64Array:
        met = np.zeros(len(self._starts), np.bool_)
        met[self._lefts[self._lefts >= 0]] = True
        return np.flatnonzero((self._rights < 0) | ~met[self._rights])
