"""What a lookup join remembers of a table that is asked by key: rows by key, also that a key has none, for a while and of so many keys at most.

Two generations: keys come into the newer one; when it is full, or its first answer is too old, it becomes the older one, and the one before
is forgotten as a whole. So keys leave in the order in which they were asked for, answers that are too old do not pile up, and nothing is moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.state.growth import grown
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.row_buffer import RowBuffer

Int64Array = npt.NDArray[np.int64]
_STEP = 1 << 10


class LookupCache:
    """`keys`: the table's names of them; times in seconds of one clock."""

    def __init__(self, schema: pa.Schema, keys: Sequence[str], seed: int, most_keys: int, lives_s: float) -> None:
        self._known = schema, tuple(keys), seed
        self._each, self._lives_s = max(1, most_keys // 2), lives_s
        self._generations = [_Generation(*self._known)]

    def __len__(self) -> int:
        return sum(len(each.index) for each in self._generations)

    @property
    def memory_bytes(self) -> int:
        return sum(each.memory_bytes for each in self._generations)

    def look(self, keys: pa.RecordBatch, now_s: float) -> tuple[list[pa.RecordBatch], npt.NDArray[np.bool_]]:
        """The rows of those keys that are known, and which are not."""
        missing, found = np.ones(keys.num_rows, np.bool_), []
        for generation in self._generations:
            slots, known = generation.look(keys, now_s - self._lives_s)
            known &= missing
            missing &= ~known
            if known.any():
                found.append(generation.rows_of(slots[known]))
        return found, missing

    def put(self, keys: pa.RecordBatch, rows: pa.RecordBatch, now_s: float) -> None:
        """All rows of these keys, as they are now."""
        for start in range(0, keys.num_rows, self._each):
            some, newer = keys.slice(start, self._each), self._generations[0]
            if len(newer.index) + some.num_rows > self._each or now_s >= newer.born_s + self._lives_s:
                self._generations = [_Generation(*self._known), newer]
            self._generations[0].put(some, rows, now_s)


class _Generation:
    def __init__(self, schema: pa.Schema, keys: tuple[str, ...], seed: int) -> None:
        self.index = KeyIndex(KeyCodec([schema.field(key).type for key in keys]), seed)
        self._keys, self._rows = keys, RowBuffer(schema)
        self._firsts, self._counts, self._at_s = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float64)
        self.born_s = math.inf
        """Of its first answer."""

    @property
    def memory_bytes(self) -> int:
        return self.index.memory_bytes + self._rows.memory_bytes + 3 * self._firsts.nbytes

    def look(self, keys: pa.RecordBatch, after_s: float) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        slots = self.index.lookup(self.index.keys(keys, keys.schema.names))
        known = slots >= 0
        known[known] = self._at_s[slots[known]] > after_s
        return slots, known

    def rows_of(self, slots: npt.NDArray[np.int32]) -> pa.RecordBatch:
        counts = self._counts[slots]
        among = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._rows.view().take(np.repeat(self._firsts[slots], counts) + among)

    def put(self, keys: pa.RecordBatch, rows: pa.RecordBatch, now_s: float) -> None:
        self.born_s = min(self.born_s, now_s)
        slots = self.index.lookup_or_insert(self.index.keys(keys, keys.schema.names))
        for name in ("_firsts", "_counts", "_at_s"):
            setattr(self, name, grown(getattr(self, name), self.index.high, _STEP))
        wanted = np.zeros(self.index.high, np.bool_)
        wanted[slots] = True
        of_row = self.index.lookup(self.index.keys(rows, self._keys))
        mine = np.flatnonzero((of_row >= 0) & wanted[of_row])
        order = mine[np.argsort(of_row[mine], kind="stable")]
        counts = np.bincount(of_row[order], minlength=self.index.high)
        firsts = len(self._rows) + np.cumsum(counts) - counts
        if len(order):
            self._rows.append(rows, order)
        self._firsts[slots], self._counts[slots], self._at_s[slots] = firsts[slots], counts[slots], now_s
