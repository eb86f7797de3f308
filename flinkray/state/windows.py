"""Windows merged from their panes, and given out as columns: many small windows in one go, or one large one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.state.growth import grown
from flinkray.state.index_kernels import hashes_to_words
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_hash import spread
from flinkray.state.layout import AggregateLayout
from flinkray.state.table import KeyedTable
from flinkray.state.window_kernels import (
    COUNT,
    EPOCH,
    PANE,
    PANE_FIELDS,
    STATE_FIELDS,
    WINDOW,
    gather_places,
    place_panes,
    refill,
)

_SMALLEST = 1 << 10
_KEPT_ROWS = 1 << 20
"""Memory of more rows than that is given back before the next use."""
_LAST_EPOCH = 1 << 30


class WindowMerger:
    """`merge` makes rows of accumulators, `counts` of them for each window; `keys` and `words` give them out. They stay until the
    next `merge`."""

    def __init__(self, layout: AggregateLayout, codec: KeyCodec, seed: int) -> None:
        self._layout, self._codec, self._seed = layout, codec, np.uint64(spread(seed))
        self._program = layout.merge_lines()
        self._state = np.zeros(STATE_FIELDS, np.int64)
        self._begin_small()

    def _begin_small(self) -> None:
        self._buckets = np.zeros((2 * _SMALLEST, 2), np.int64)
        self._hashes = np.empty(_SMALLEST, np.uint64)
        self._rows = np.empty((_SMALLEST, self._layout.width), np.int64)
        self._places = np.empty((0 if self._codec.by_words else _SMALLEST, 2), np.int64)
        self._slots = np.empty(_SMALLEST, np.int32)
        self._state[EPOCH] = 0

    def merge(self, panes: Sequence[KeyedTable], windows: Sequence[tuple[int, int]]) -> np.ndarray:
        """Merges windows of `panes[first:stop]` each. Returns int64[windows]: the rows of each, one behind the other."""
        if len(self._hashes) > _KEPT_ROWS or self._state[EPOCH] > _LAST_EPOCH:
            self._begin_small()
        places = np.array([_place(table) for table in panes], np.int64).reshape(-1, PANE_FIELDS)
        spans = np.array(windows, np.int64).reshape(-1, 2)
        bounds, self._nulls = np.zeros(len(spans) + 1, np.int64), np.empty(len(spans), np.int64)
        sizes = [sum(map(len, panes[first:stop])) for first, stop in windows]
        slots = self._slots = grown(self._slots, sum(sizes), 1)
        segments = np.empty((int(np.diff(spans).sum()), 3), np.int64)
        state, layout = self._state, self._layout
        state[:EPOCH] = 0
        state[PANE] = -1
        while not place_panes(
            places, spans, self._codec.by_words, layout.initial, self._buckets, self._hashes, self._places, self._rows, slots,
            segments, bounds, self._nulls, state,
        ):  # fmt: skip
            self._make_room(bounds)
        layout.run(self._program, self._rows, slots, segments=segments)
        return np.diff(bounds)

    def keys(self, start: int, stop: int) -> list[pa.Array]:
        """The key columns of some rows."""
        nulls = self._nulls[(self._nulls >= start) & (self._nulls < stop)] - start
        if self._codec.by_words:
            words = np.empty(stop - start, np.int64)
            hashes_to_words(self._hashes[start:stop], self._seed, words)
            return self._codec.decode_words(words, nulls)
        places = self._places[start:stop]
        offsets = np.zeros(stop - start + 1, np.int64)
        np.cumsum(places[:, 1], out=offsets[1:])
        data = np.empty(int(offsets[-1]), np.uint8)
        gather_places(places, offsets, data)
        return self._codec.decode_bytes(offsets, data, nulls)

    def words(self, start: int, stop: int) -> np.ndarray:
        """The accumulators' words of some rows, int64[words, n]."""
        return self._layout.gather(self._rows, np.arange(start, stop, dtype=np.int32))

    def _make_room(self, bounds: np.ndarray) -> None:
        """The kernel stopped before a block for which rows or buckets may not be enough: both double."""
        window, count, rows = int(self._state[WINDOW]), int(self._state[COUNT]), 2 * len(self._hashes)
        self._hashes = grown(self._hashes, rows, 1)
        self._rows = grown(self._rows, rows, 1)
        if not self._codec.by_words:
            self._places = grown(self._places, rows, 1)
        self._buckets = np.zeros((2 * len(self._buckets), 2), np.int64)
        refill(self._buckets, self._hashes, int(bounds[window]), count, int(self._nulls[window]), int(self._state[EPOCH]))


def _place(table: KeyedTable) -> tuple[int, ...]:
    index = table.index
    return (*index.addresses(), int(table.rows.ctypes.data), index.high, index.null_slot)
