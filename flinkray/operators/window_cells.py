"""The cells of general windows: what is kept of each window, and how its parts are found and put together.

A cell is a key with, where windows are aligned, the window's end; it holds parts of aggregates or rows (`window_contents`) with words:
the time from which to which they reach, their largest event time, how many rows they are, and how many of these no answer has told yet.
So a cell's whole state is its rows. Of sessions a cell holds all that the key has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.graph.general_windows import CountWindow, DynamicSessionWindow, GlobalWindow, Windows
from flinkray.graph.windows import SessionWindow
from flinkray.operators.array_aggregates import RowGroups
from flinkray.operators.base import OperatorContext, RestoredState, StateCapture
from flinkray.operators.row_states import RowStates
from flinkray.operators.window_assign import sessions, window_starts
from flinkray.operators.window_contents import END, PartialAggregates
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows, Slots

Int64Array = npt.NDArray[np.int64]

CELLS, COUNTS = "cells", "counts"
LOW, HIGH, TOP, ROWS, FRESH = "low", "high", "top", "rows", "fresh"
_MANY = 1 << 14


@dataclass(frozen=True)
class WindowParts:
    """Windows that are looked at together: their parts, in order of the windows and of arrival."""

    slots: Slots
    ends: Int64Array
    positions: Int64Array
    groups: RowGroups

    def choose(self, mask: npt.NDArray[np.bool_]) -> WindowParts:
        lengths = np.diff(self.groups.starts)[mask]
        rows = mask[self.groups.of_row]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return WindowParts(self.slots[mask], self.ends[mask], self.positions[rows], RowGroups(starts))

    def by_end(self) -> WindowParts:
        """The same in order of the windows' ends."""
        order = np.argsort(self.ends, kind="stable")
        if np.array_equal(order, np.arange(len(order))):
            return self
        begin, lengths = self.groups.starts[:-1][order], np.diff(self.groups.starts)[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], lengths)
        return WindowParts(self.slots[order], self.ends[order], self.positions[rows], RowGroups(starts))


class WindowCells:
    """`rows`: columns of the input; `folds`: makes parts of them, None where the rows themselves are kept."""

    def __init__(
        self, context: OperatorContext, windows: Windows, keys: Sequence[str], rows: pa.Schema, folds: PartialAggregates | None
    ) -> None:
        self._context, self._windows, self._keys, self._folds = context, windows, tuple(keys), folds
        self._kept = folds.schema if folds is not None else pa.schema([pa.field(END, pa.int64()), *rows])
        index = KeyIndex(KeyCodec([pa.int64(), *(rows.field(key).type for key in keys)]), context.hash_seed)
        self._cells = KeyedRows(index, self._kept, (LOW, HIGH, TOP, ROWS, FRESH))
        self._counts = KeyedRows(index, pa.schema([self._kept.field(name) for name in (END, *keys)]), (ROWS,))
        both = {CELLS: self._cells, COUNTS: self._counts}
        self._states = RowStates(context, index, both, dict.fromkeys(both, (END, *keys)), keys)
        self._kept_by_compact = 0

    @property
    def high(self) -> int:
        """Slots are below."""
        return self._states.index.high

    @property
    def _generation(self) -> int:
        return self._states.history.generation

    # --- rows that come

    def slots(self, rows: pa.RecordBatch, row: Int64Array, ends: Int64Array) -> Slots:
        """Of the cell of each row and end, which is known from now on."""
        keys = [rows.column(key).take(pa.array(row)) for key in self._keys]
        return self._states.slots(pa.RecordBatch.from_arrays([pa.array(ends), *keys], names=[END, *self._keys]), CELLS)

    def numbers(self, rows: pa.RecordBatch) -> Int64Array:
        """How many rows of its key came before each; they are counted."""
        slots = self.slots(rows, np.arange(rows.num_rows), np.zeros(rows.num_rows, np.int64))
        unique, first, number = np.unique(slots, return_index=True, return_inverse=True)
        own, known = self._counts.of(unique)
        before = np.zeros(len(unique), np.int64)
        before[own] = self._counts.word(ROWS, known)
        order = np.argsort(number, kind="stable")
        times = np.bincount(number)
        result = np.empty(len(slots), np.int64)
        result[order] = np.arange(len(slots)) - np.repeat(np.cumsum(times) - times, times) + np.repeat(before, times)
        self._counts.set_word(ROWS, known, (before + times)[own], self._generation)
        new = np.setdiff1d(np.arange(len(unique)), own)
        keys = rows.select(list(self._keys)).take(pa.array(first[new]))
        kept = pa.RecordBatch.from_arrays([pa.array(np.zeros(len(new), np.int64)), *keys.columns], schema=self._counts.schema)
        self._counts.add(kept, np.arange(len(new)), unique[new], self._generation, **{ROWS: times[new]})
        return result

    def touching(self, slots: Slots, begin: Int64Array, end: Int64Array) -> npt.NDArray[np.bool_]:
        """Whether a part of each cell meets the interval given for it."""
        touched = np.zeros(len(slots), np.bool_)
        for own, kept in self._cells.pairs(slots, self._context.batch_rows):
            touch = (begin[own] <= self._cells.word(HIGH, kept)) & (self._cells.word(LOW, kept) <= end[own])
            touched[own[touch]] = True
        return touched

    def add(
        self, rows: pa.RecordBatch, group: Int64Array, slots: Slots, ends: Int64Array, low: Int64Array, high: Int64Array,
        top: Int64Array, count: Int64Array, are_parts: bool,
    ) -> None:  # fmt: skip
        """`group`: which rows make one part. `low`, `high`: from when to when a row reaches; `top`: its event time; `count`: for how many
        rows it stands, being a part itself."""
        if self._folds is None:
            kept = pa.RecordBatch.from_arrays([pa.array(ends), *rows.columns], schema=self._kept)
        else:
            order = np.argsort(group, kind="stable")
            firsts = np.flatnonzero(np.diff(group[order], prepend=-1))
            groups = RowGroups(np.append(firsts, len(order)))
            slots, ends = slots[order][firsts], ends[order][firsts]
            rows = rows.take(pa.array(order))
            kept = self._folds.merged(rows, groups, ends) if are_parts else self._folds.parts(rows, ends, groups)
            low, high = np.minimum.reduceat(low[order], firsts), np.maximum.reduceat(high[order], firsts)
            top, count = np.maximum.reduceat(top[order], firsts), np.add.reduceat(count[order], firsts)
        words = {LOW: low, HIGH: high, TOP: top, ROWS: count, FRESH: count}
        self._cells.add(kept, np.arange(len(slots)), slots, self._generation, **words)

    # --- windows that are looked at

    def live(self) -> Slots:
        """The cells that hold something."""
        return np.unique(self._cells.slots_of(self._cells.live()))

    def fresh_and_due(self) -> tuple[Slots, Int64Array, Int64Array, Int64Array]:
        """Of each part: its cell, how many of its rows are not told, the end of its window, to when it reaches."""
        live = self._cells.live()
        return self._cells.slots_of(live), self._cells.word(FRESH, live), self._ends(live), self._cells.word(HIGH, live)

    def look(self, slots: Slots) -> WindowParts:
        """The windows of these cells."""
        own, positions = self._cells.of(slots)
        high = self._cells.word(HIGH, positions)
        if self._windows.sessions:
            group = sessions(own, self._cells.word(LOW, positions), high)
        else:
            group = np.unique(own, return_inverse=True)[1]
        order = np.lexsort((positions, group))
        positions, group, own = positions[order], group[order], own[order]
        firsts = np.flatnonzero(np.diff(group, prepend=-1))
        if self._windows.sessions:
            ends = np.maximum.reduceat(high[order], firsts) if len(firsts) else high
        else:
            ends = self._ends(positions[firsts])
        return WindowParts(slots[own[firsts]], ends, positions, RowGroups(np.append(firsts, len(positions))))

    def take(self, windows: WindowParts) -> pa.RecordBatch:
        """The columns that are kept of their parts."""
        return self._cells.take(windows.positions)

    def starts(self, windows: WindowParts) -> Int64Array:
        """0 where windows have none."""
        if self._windows.sessions:
            return np.minimum.reduceat(self._cells.word(LOW, windows.positions), windows.groups.starts[:-1])
        window = self._windows.assigner
        if isinstance(window, GlobalWindow | CountWindow | SessionWindow | DynamicSessionWindow):
            return np.zeros(len(windows.ends), np.int64)
        return window_starts(window, windows.ends)

    def newest(self, windows: WindowParts) -> Int64Array:
        """The largest event time in each."""
        return np.maximum.reduceat(self._cells.word(TOP, windows.positions), windows.groups.starts[:-1])

    def fresh(self, windows: WindowParts) -> Int64Array:
        """How many rows of each no answer has told."""
        return np.add.reduceat(self._cells.word(FRESH, windows.positions), windows.groups.starts[:-1])

    def told_before(self, windows: WindowParts) -> npt.NDArray[np.bool_]:
        """Of which an answer has gone out."""
        told = self._cells.word(ROWS, windows.positions) - self._cells.word(FRESH, windows.positions)
        return np.add.reduceat(told, windows.groups.starts[:-1]) > 0

    def answered(self, windows: WindowParts) -> tuple[WindowParts, Int64Array]:
        """The parts that are as an answer has told them, each as a window by itself; and which of the windows they are in now."""
        told = self._cells.word(FRESH, windows.positions) == 0
        positions, inside = windows.positions[told], windows.groups.of_row[told]
        parts = WindowParts(windows.slots[inside], self._cells.word(HIGH, positions), positions, RowGroups(np.arange(len(positions) + 1)))
        return parts, inside

    def full(self, windows: WindowParts) -> WindowParts:
        """The count windows to which the last row has come."""
        keys = windows.positions[windows.groups.starts[:-1]]
        counts = self.slots(self._cells.take(keys), np.arange(len(keys)), np.zeros(len(keys), np.int64))
        own, known = self._counts.of(counts)
        totals = np.zeros(len(keys), np.int64)
        totals[own] = self._counts.word(ROWS, known)
        return windows.choose(windows.ends <= totals)

    def _ends(self, positions: Int64Array) -> Int64Array:
        return words_of(self._cells.take(positions).column(END))

    # --- what becomes of them

    def told(self, windows: WindowParts) -> None:
        """Every row of these windows has been told; several parts of a window become one."""
        many = self._merge(windows, told=True)
        left = windows.choose(~many).positions
        untold = left[(self._cells.word(FRESH, left) > 0) & self._cells.is_live(left)]
        self._cells.set_word(FRESH, untold, 0, self._generation)

    def remove(self, windows: WindowParts) -> None:
        live = windows.positions[self._cells.is_live(windows.positions)]
        self._cells.remove(live, self._generation)

    def evict(self, windows: WindowParts) -> WindowParts:
        """The windows without the rows that they forget."""
        evictor = self._windows.evictor
        assert evictor is not None
        of_row, stops = windows.groups.of_row, windows.groups.starts[1:]
        if evictor.rows is not None:
            stays = np.arange(len(of_row)) >= stops[of_row] - evictor.rows
        else:
            assert evictor.within_us is not None
            times = self._cells.word(HIGH, windows.positions)
            newest = np.maximum.reduceat(times, windows.groups.starts[:-1])
            stays = times >= newest[of_row] - evictor.within_us
        self._cells.remove(windows.positions[~stays], self._generation)
        starts = np.concatenate([[0], np.cumsum(stays)])[windows.groups.starts]
        return WindowParts(windows.slots, windows.ends, windows.positions[stays], RowGroups(starts))

    def compact(self) -> None:
        """Parts of windows that do not answer for long become one when there are twice as many."""
        if len(self._cells) > 2 * self._kept_by_compact + _MANY:
            windows = self.look(self.live())
            self._merge(self._untold(windows) if self._windows.takes_back else windows, told=False)
            self._kept_by_compact = len(self._cells)

    def _untold(self, windows: WindowParts) -> WindowParts:
        """The windows without the parts that an answer has told, which may have to be taken back."""
        stays = self._cells.word(FRESH, windows.positions) > 0
        starts = np.concatenate([[0], np.cumsum(stays)])[windows.groups.starts]
        left = WindowParts(windows.slots, windows.ends, windows.positions[stays], RowGroups(starts))
        return left.choose(np.diff(starts) > 0)

    def _merge(self, windows: WindowParts, told: bool) -> npt.NDArray[np.bool_]:
        """Several parts of a window become one. Returns of which windows."""
        many = np.diff(windows.groups.starts) > 1
        if self._folds is None or not many.any():
            return np.zeros(len(many), np.bool_)
        cells, whole = self._cells, windows.choose(many)
        firsts = whole.groups.starts[:-1]
        part = self._folds.merged(cells.take(whole.positions), whole.groups)
        words = {name: np.add.reduceat(cells.word(name, whole.positions), firsts) for name in (ROWS, FRESH)}
        words |= {name: np.maximum.reduceat(cells.word(name, whole.positions), firsts) for name in (HIGH, TOP)}
        words[LOW] = np.minimum.reduceat(cells.word(LOW, whole.positions), firsts)
        if told:
            words[FRESH] = np.zeros(len(firsts), np.int64)
        cells.remove(whole.positions, self._generation)
        cells.add(part, np.arange(len(firsts)), whole.slots, self._generation, **words)
        return many

    def tidy(self) -> None:
        """Gives back memory, and says how much is used."""
        self._states.tidy()
        self._states.measure()

    def measure(self) -> None:
        self._states.measure()

    # --- snapshot

    def restore(self, restored: Sequence[RestoredState], checkpoint_id: int | None) -> None:
        self._states.restore(restored, checkpoint_id)

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return self._states.snapshot(checkpoint_id, base_id)
