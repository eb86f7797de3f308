"""Accumulators per pane of event time: one keyed table for each pane, dropped as a whole when its last window is over.

A pane is the part of event time that all its windows share (gcd of size and slide), so that a row is kept once however many windows it
is in. A window's answer is merged from its panes when it fires.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa

from flinkray.columns import MAX_WATERMARK
from flinkray.graph.aggregates import PANE
from flinkray.graph.windows import SlidingWindow, TumblingWindow
from flinkray.state.key_encoding import KeyCodec, Keys
from flinkray.state.layout import AggregateLayout, Program
from flinkray.state.memory import current
from flinkray.state.table import Copy, KeyedTable
from flinkray.state.windows import WindowMerger

_SPARE_BYTES = 1 << 22
"""A dropped pane's table of at most that size becomes the next pane's: making one takes longer than clearing it."""

_NEWEST = 8

PANE_FIELD = pa.field(PANE, pa.int64(), False)


class PaneRows:
    """Rows of a batch as they are folded, pane by pane."""

    def __init__(self, keys: Keys, program: Program) -> None:
        self.keys, self.program = keys, program
        self.slots, self.touched = np.empty(len(keys), np.int32), np.empty(len(keys), np.int32)


class PaneTables:
    """Panes by their start, and which windows and panes become due when event time goes on."""

    def __init__(
        self,
        window: TumblingWindow | SlidingWindow,
        lateness_us: int,
        layout: AggregateLayout,
        codec: KeyCodec,
        seed: int,
        watermark_us: int,
    ) -> None:
        self._size_us, self._pane_us, self._offset_us = window.size_us, window.pane_us, window.offset_us
        self._slide_us = window.slide_us if isinstance(window, SlidingWindow) else window.size_us
        self._lateness_us, self._layout, self._codec, self._seed = lateness_us, layout, codec, seed
        self.merger = WindowMerger(layout, codec, seed)
        self.watermark_us = watermark_us
        self._tables: dict[int, KeyedTable] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        """Of each table when it was changed last: rows, bytes."""
        self._rows = self.memory_bytes = 0
        self._spare: KeyedTable | None = None
        self._due_windows: list[int] = []
        self._due_drops: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self._rows

    def ends_of(self, pane: int) -> range:
        """Ends of the windows that hold the pane, the last first."""
        newest_start = (pane - self._offset_us) // self._slide_us * self._slide_us + self._offset_us
        return range(newest_start + self._size_us, pane, -self._slide_us)

    def is_late(self, pane: int) -> bool:
        """Whether all its windows are over for good."""
        return self._is_over(self.ends_of(pane)[0])

    def _is_over(self, end: int) -> bool:
        return end - 1 + self._lateness_us <= self.watermark_us

    def table(self, pane: int) -> KeyedTable:
        """The pane's table, made when it is the first time."""
        table = self._tables.get(pane)
        if table is None:
            table = self._tables[pane] = self._scratch(self._expected()) if self._spare is None else self._spare
            self._spare = None
            ends = self.ends_of(pane)
            heapq.heappush(self._due_drops, (ends[0] - 1 + self._lateness_us, pane))
            for end in ends:
                if end - 1 > self.watermark_us:
                    heapq.heappush(self._due_windows, end)
        return table

    def _expected(self) -> int:
        """A new pane will probably hold as many keys as the largest of the newest ones does, or a few more."""
        return max(map(len, islice(reversed(self._tables.values()), _NEWEST)), default=0) * 9 // 8

    def fold(self, pane: int, rows: PaneRows, start: int, stop: int, generation: int) -> np.ndarray:
        """Folds the rows from `start` to `stop` into a pane. Returns the slots of the touched keys (those that this generation had not
        touched yet), valid until the next call."""
        table = self.table(pane)
        table.find_slots(rows.keys, start, stop, rows.slots)
        segments = np.array(((start, stop, 0),), np.int64)
        self._measure(pane, (len(table), table.memory_bytes))
        count = self._layout.run(rows.program, table.rows, rows.slots, generation, rows.touched, segments)
        return rows.touched[:count]

    def load(self, pane: int, keys: Sequence[pa.Array], words: Sequence[pa.Array]) -> None:
        """Rows of a snapshot; see `KeyedTable.load`."""
        table = self.table(pane)
        table.load(keys, words)
        self._measure(pane, (len(table), table.memory_bytes))

    def _measure(self, pane: int, size: tuple[int, int]) -> None:
        rows, size_bytes = self._sizes.get(pane, (0, 0))
        self._sizes[pane] = size
        self._rows += size[0] - rows
        self.memory_bytes += size[1] - size_bytes

    def advance(self, watermark_us: int) -> list[int]:
        """Event time goes on. Returns the ends of the windows that fire now, in order."""
        self.watermark_us = watermark_us
        ends: list[int] = []
        while self._due_windows and self._due_windows[0] - 1 <= watermark_us:
            end = heapq.heappop(self._due_windows)
            if not ends or ends[-1] != end:
                ends.append(end)
        return ends

    def drop_over(self) -> None:
        """Forgets the panes whose windows are all over for good."""
        while self._due_drops and (self._due_drops[0][0] <= self.watermark_us or self.watermark_us == MAX_WATERMARK):
            pane = heapq.heappop(self._due_drops)[1]
            table = self._tables.pop(pane)
            self._measure(pane, (0, 0))
            del self._sizes[pane]
            if self._spare is None and table.memory_bytes <= _SPARE_BYTES and current() is None:  # a snapshot may read files still
                table.clear()
                self._spare = table

    def refined(self, touched: dict[int, np.ndarray]) -> list[tuple[int, list[tuple[int, np.ndarray]]]]:
        """(end, [(pane, touched slots)]) of the windows that have fired and are not over, and whose panes were touched."""
        parts: dict[int, list[tuple[int, np.ndarray]]] = {}
        for pane, slots in touched.items():
            for end in self.ends_of(pane):
                if end - 1 <= self.watermark_us and not self._is_over(end):
                    parts.setdefault(end, []).append((pane, slots))
        return sorted(parts.items())

    def windows(self, ends: Sequence[int], rows: int) -> Iterator[tuple[list[int], np.ndarray | KeyedTable]]:
        """The accumulators of whole windows, in order, as (ends, how many rows each has in `merger`), several windows at a time while
        their panes have at most `rows` rows. A larger window of one pane is that pane's own table, not to be changed."""
        group, panes, spans, total = list[int](), dict[int, int](), list[tuple[int, int]](), 0
        for end in ends:
            starts = self._starts_of(end)
            size = sum(len(self._tables[start]) for start in starts)
            if group and total + size > rows:
                yield group, self._merged(panes, spans)
                group, panes, spans, total = [], {}, [], 0
            if size > rows and len(starts) == 1:
                yield [end], self._tables[starts[0]]
                continue
            for start in starts:
                panes.setdefault(start, len(panes))
            group.append(end)
            spans.append((panes[starts[0]], panes[starts[-1]] + 1) if starts else (0, 0))
            total += size
        if group:
            yield group, self._merged(panes, spans)

    def _merged(self, panes: Iterable[int], spans: Sequence[tuple[int, int]]) -> np.ndarray:
        return self.merger.merge([self._tables[pane] for pane in panes], spans)

    def window_of(self, end: int, touched: Sequence[tuple[int, np.ndarray]]) -> KeyedTable:
        """The accumulators of a window for the touched keys only."""
        merged = self._scratch(0)
        for pane, slots in touched:
            merged.slots(self._tables[pane].index.copy_keys(slots).as_keys())
        keys = merged.index.all_keys()
        for table in (self._tables[start] for start in self._starts_of(end)):
            slots = table.index.lookup(keys)
            found = np.flatnonzero(slots >= 0).astype(np.int32)
            rows = table.rows[slots[found]]
            self._layout.run(self._layout.merge_rows(rows), merged.rows, found)
        return merged

    def copies(self, after: int | None) -> list[tuple[Copy, list[tuple[pa.Field, int]]]]:
        """Copies of the rows changed after a generation (None: of all), pane by pane."""
        copies = []
        for pane, table in self._tables.items():
            slots = None if after is None else table.changed_after(after)
            if len(table) and (slots is None or len(slots)):
                copies.append((table.copy(slots), [(PANE_FIELD, pane)]))
        return copies

    def _starts_of(self, end: int) -> list[int]:
        """Panes of a window, in order."""
        starts: Iterable[int] = range(end - self._size_us, end, self._pane_us)
        if len(self._tables) < self._size_us // self._pane_us:
            starts = (pane for pane in sorted(self._tables) if end - self._size_us <= pane < end)
        return [start for start in starts if start in self._tables]

    def _scratch(self, expected: int) -> KeyedTable:
        return KeyedTable(self._codec, self._layout.initial, self._seed, expected)
