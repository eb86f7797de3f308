"""When the cells of general windows are to be looked at: known from their rows, so that nothing of it is in a snapshot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from flinkray.columns import MAX_WATERMARK
from flinkray.graph.general_windows import Windows
from flinkray.operators.window_cells import WindowCells
from flinkray.state.growth import grown
from flinkray.state.keyed_rows import Slots

Int64Array = npt.NDArray[np.int64]

_STEP = 1 << 12


class WindowSchedule:
    """By slot of a cell: when a window of its may end, or be over for good; when the trigger's clock answers; how many of its rows no
    answer has told. Times in microseconds. `clock_us`: the time now."""

    def __init__(self, windows: Windows, cells: WindowCells, clock_us: Callable[[], int]) -> None:
        self._windows, self._cells, self._clock_us = windows, cells, clock_us
        trigger = windows.trigger
        self._every_us = trigger.every_us if trigger is not None and trigger.every is not None else None
        self._due, self._next, self._fresh = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)

    def recall(self) -> None:
        """What is known of cells that were restored."""
        slots, fresh, ends, high = self._cells.fresh_and_due()
        self._make_room()
        np.add.at(self._fresh, slots, fresh)
        self._note_due(slots, ends, high)
        self._start_clocks(slots[fresh > 0])

    def note(self, slots: Slots, ends: Int64Array, high: Int64Array, rows: Int64Array) -> None:
        """So many rows have come to each of these cells, for a window with that end; they reach to `high`."""
        self._make_room()
        np.add.at(self._fresh, slots, rows)
        self._note_due(slots, ends, high)
        self._start_clocks(slots)

    def _make_room(self) -> None:
        high, known = self._cells.high, len(self._due)
        if high > known:
            self._due, self._fresh, self._next = (grown(array, high, _STEP) for array in (self._due, self._fresh, self._next))
            self._due[known:] = MAX_WATERMARK
            self._next[known:] = MAX_WATERMARK

    def _note_due(self, slots: Slots, ends: Int64Array, high: Int64Array) -> None:
        if self._windows.bounded:
            np.minimum.at(self._due, slots, (high if self._windows.sessions else ends) - 1)

    def _start_clocks(self, slots: Slots) -> None:
        if self._every_us is not None:
            self._next[slots] = np.minimum(self._next[slots], self._clock_us() + self._every_us)

    # --- which

    def due(self, now_us: int, slots: Slots | None = None) -> Slots:
        """Cells, of these or of all, with windows that may have ended or be over."""
        if slots is None:
            return np.flatnonzero(self._due[: self._cells.high] <= now_us).astype(np.int32)
        return slots[self._due[slots] <= now_us]

    def rung(self) -> Slots:
        """Cells for which the trigger's clock has come to its time."""
        return np.flatnonzero(self._next[: self._cells.high] <= self._clock_us()).astype(np.int32)

    def untold(self, slots: Slots, rows: int = 1) -> Slots:
        """Those of the cells with so many rows that no answer has told."""
        return slots[self._fresh[slots] >= rows]

    # --- what was done

    def looked(self, slots: Slots, again: Slots, when_us: Int64Array) -> None:
        """Windows of the cells `slots` that ended were answered; those of `again` are to be looked at then."""
        self._due[slots] = MAX_WATERMARK
        np.minimum.at(self._due, again, when_us)

    def told(self, slots: Slots, left: Slots, rows: Int64Array) -> None:
        """Windows of the cells `slots` have answered; others, of the cells `left`, have so many rows that no answer has told."""
        self._fresh[slots] = 0
        self._fresh[left] = 0
        np.add.at(self._fresh, left, rows)

    def stop_clocks(self, slots: Slots) -> None:
        self._next[slots] = MAX_WATERMARK
