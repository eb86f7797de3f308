"""Windows of every kind, with triggers, evictors, and functions over their rows: what the fast operators for tumbling, sliding and session
windows of event time cannot do.

Here is which windows rows go to, which rows are too late, and when windows answer. What is kept of them is in `window_cells`, when they
are looked at in `window_schedule`, what they answer in `window_answers`. A row is late when all its windows are over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.general_windows import CountWindow, DynamicSessionWindow, GlobalWindow, Windows
from flinkray.graph.windows import SessionWindow
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.join_rows import plain_columns
from flinkray.operators.restore import capture_watermark, restored_watermark
from flinkray.operators.window_answers import AggregateAnswers, FunctionAnswers, WindowAnswers
from flinkray.operators.window_assign import session_gaps, sessions, window_ends
from flinkray.operators.window_cells import WindowCells, WindowParts
from flinkray.operators.window_contents import PartialAggregates
from flinkray.operators.window_parts import SPANS
from flinkray.operators.window_schedule import WindowSchedule
from flinkray.state.arrow_buffers import words_of
from flinkray.state.keyed_rows import Slots
from flinkray.state.row_buffer import plain_schema

Int64Array = npt.NDArray[np.int64]


class GeneralWindowOperator(Operator):
    """Emits keys, `window_start` and `window_end` where there are such, and the aggregates; or what `function(rows, window)` gives. The
    change where answers replace each other. Event time: the window's end - 1 us, where it has one, else that of its newest row."""

    def __init__(
        self,
        *,
        keys: Sequence[str],
        windows: Windows,
        aggregates: Sequence[Aggregate] = (),
        function: Callable[..., Any] | None = None,
        function_schema: pa.Schema | None = None,
        lateness_us: int = 0,
        late_tag: str | None = None,
        parts_of: pa.Schema | None = None,
    ) -> None:
        """`parts_of`: what comes are parts of rows with this schema (`window_parts`)."""
        self._keys, self._windows, self._aggregates = tuple(keys), windows, tuple(aggregates)
        self._function, self._function_schema = function, function_schema
        self._lateness_us, self._late_tag, self._parts_of = lateness_us, late_tag, parts_of
        self._watermark = self._now = MIN_WATERMARK

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schema() if self._parts_of is None else self._parts_of
        self._has_time, self._input = EVENT_TIME in schema.names, plain_schema(schema)
        partial = PartialAggregates(self._keys, self._aggregates, self._input) if self._function is None else None
        folds = partial if self._windows.evictor is None else None
        self._cells = WindowCells(context, self._windows, self._keys, self._input, folds)
        self._schedule = WindowSchedule(self._windows, self._cells, self._clock_us)
        self._watermark = restored_watermark(restored)
        self._now = MIN_WATERMARK if self._windows.by_clock else self._watermark
        self._cells.restore(restored, restored_checkpoint)
        self._schedule.recall()
        known = (context, self._windows, self._keys, self._input, self._cells)
        self._answers: WindowAnswers
        if self._function is not None:
            self._answers = FunctionAnswers(*known, self._function, self._function_schema)
        else:
            assert partial is not None
            self._answers = AggregateAnswers(*known, partial, kept_rows=folds is None)
        self._cells.measure()

    def _clock_us(self) -> int:
        return int(self.context.clock() * 1e6)

    # --- rows

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if self._parts_of is not None:
            low, high, times, counts = (words_of(batch.column(name)) for name in SPANS)
            if self._windows.bounded and not self._windows.sessions:
                row, ends, low, high = self._assign(batch, low)
            else:
                row, ends = np.arange(batch.num_rows), np.zeros(batch.num_rows, np.int64)
            self._place(batch, batch, row, ends, low, high, times, counts, out)
            return
        rows = plain_columns(batch, self._input)
        times = words_of(rows.column(EVENT_TIME)) if self._has_time else np.zeros(rows.num_rows, np.int64)
        moments = np.full(rows.num_rows, self._clock_us()) if self._windows.by_clock else times
        self._place(batch, rows, *self._assign(rows, moments), times, np.ones(rows.num_rows, np.int64), out)

    def _place(
        self, batch: pa.RecordBatch, rows: pa.RecordBatch, row: Int64Array, ends: Int64Array, low: Int64Array, high: Int64Array,
        times: Int64Array, counts: Int64Array, out: Output,
    ) -> None:  # fmt: skip
        """`row`: of `rows`, once for each window; `counts`: for how many each of `rows` stands."""
        slots = self._cells.slots(rows, row, ends)
        group = sessions(slots, low, high) if self._windows.sessions else np.unique(slots, return_inverse=True)[1]
        on_time = self._on_time(group, slots, ends, low, high)
        if not on_time.all():
            self._late(batch, np.setdiff1d(row, row[on_time]), counts, out)
            row, ends, low, high, group = (array[on_time] for array in (row, ends, low, high, group))
            slots = slots[on_time]
        if len(row):
            self._schedule.note(slots, ends, high, counts[row])
            self._cells.add(rows.take(pa.array(row)), group, slots, ends, low, high, times[row], counts[row], self._parts_of is not None)
            self._answer_at_once(np.unique(slots), out)
        self._cells.compact()
        self._cells.tidy()

    def _assign(self, rows: pa.RecordBatch, moments: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """(row, end of its window, from when, to when it reaches), once for each window of a row."""
        window, everything = self._windows.assigner, np.arange(len(moments))
        zeros = np.zeros(len(moments), np.int64)
        if isinstance(window, GlobalWindow):
            return everything, zeros, moments, moments
        if isinstance(window, SessionWindow | DynamicSessionWindow):
            return everything, zeros, moments, moments + session_gaps(window, rows, self.context.name)
        if isinstance(window, CountWindow):
            moments = self._cells.numbers(rows)
        row, ends = window_ends(window, moments)
        return row, ends, moments[row], moments[row]

    # --- rows that are too late

    def _on_time(self, group: Int64Array, slots: Slots, ends: Int64Array, low: Int64Array, high: Int64Array) -> npt.NDArray[np.bool_]:
        """Whether a window still takes each of its rows."""
        if isinstance(self._windows.assigner, CountWindow | GlobalWindow) or self._now == MIN_WATERMARK:
            return np.ones(len(group), np.bool_)
        if not self._windows.sessions:
            return ~self._is_over(ends)
        count = int(group.max(initial=-1)) + 1
        begin, end, slot = np.full(count, MAX_WATERMARK), np.full(count, MIN_WATERMARK), np.zeros(count, np.int32)
        np.minimum.at(begin, group, low)
        np.maximum.at(end, group, high)
        slot[group] = slots
        over = self._is_over(end)
        over[over] = ~self._cells.touching(slot[over], begin[over], end[over])  # it may belong to a session that is not over
        return ~over[group]

    def _is_over(self, ends: Int64Array) -> npt.NDArray[np.bool_]:
        if self._now == MAX_WATERMARK:
            return np.ones(len(ends), np.bool_)
        return ends - 1 <= self._now - self._lateness_us if self._now > MIN_WATERMARK + self._lateness_us else np.zeros(len(ends), np.bool_)

    def _late(self, batch: pa.RecordBatch, rows: Int64Array, counts: Int64Array, out: Output) -> None:
        if not len(rows):
            return
        if self._late_tag is not None:
            out.emit(batch.take(pa.array(rows)), self._late_tag)
        else:
            self.context.metrics.late_rows += int(counts[rows].sum())

    # --- answers by what came

    def _answer_at_once(self, slots: Slots, out: Output) -> None:
        """What has become due by rows that came, of the cells that they went into."""
        trigger, window = self._windows.trigger, self._windows.assigner
        if self._windows.bounded and self._now > MIN_WATERMARK:
            due = self._schedule.due(self._now, slots)
            if len(due):
                self._ends_of(due, out)
        if isinstance(window, CountWindow):
            full = self._cells.full(self._cells.look(slots))
            self._give(full, out)
            self._cells.remove(full)
        elif self._windows.per_batch:
            self._early(slots, out)
        elif trigger is not None and trigger.rows is not None:
            self._early(slots, out, trigger.rows)

    def _early(self, slots: Slots, out: Output, rows: int = 1) -> None:
        """Windows with so many rows that no answer has told."""
        slots = self._schedule.untold(slots, rows)
        if not len(slots):
            return
        windows, trigger = self._cells.look(slots), self._windows.trigger
        fresh = self._cells.fresh(windows)
        enough = fresh >= rows
        left, windows = windows.choose(~enough), windows.choose(enough)  # of sessions a cell has several
        self._give(windows, out)
        if trigger is not None and trigger.purge:
            self._cells.remove(windows)
        else:
            self._cells.told(windows)
        self._schedule.told(slots, left.slots, fresh[~enough])
        self._schedule.stop_clocks(slots)

    def _give(self, windows: WindowParts, out: Output) -> None:
        self._answers.give(windows, self._watermark, out)

    # --- answers by time

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._watermark:
            return
        if not self._windows.by_clock:
            self._advance(watermark_us, out)
        self._watermark = watermark_us

    def on_processing_time(self, now_s: float, out: Output) -> None:
        if self._windows.by_clock and self._now != MAX_WATERMARK:
            self._advance(int(now_s * 1e6), out)
        trigger = self._windows.trigger
        if trigger is not None and trigger.every is not None:
            self._early(self._schedule.rung(), out)
            self._cells.measure()

    def on_end(self, out: Output) -> None:
        if self._windows.by_clock:  # no clock will bring them to their end
            self._advance(MAX_WATERMARK, out)

    def _advance(self, now: int, out: Output) -> None:
        """Time has come to `now`: windows end."""
        self._now = now
        if self._windows.bounded:
            due = self._cells.live() if now == MAX_WATERMARK else self._schedule.due(now)
            if len(due):
                self._ends_of(due, out)
        elif now == MAX_WATERMARK and isinstance(self._windows.assigner, GlobalWindow):
            self._early(self._cells.live(), out)
        self._cells.tidy()

    def _ends_of(self, slots: Slots, out: Output) -> None:
        """Windows of these cells that have ended answer, where they have rows that no answer has told; those that are over go."""
        windows = self._cells.look(slots)
        ended = windows.ends - 1 <= self._now
        over = ended & self._is_over(windows.ends)
        untold = ended & (self._cells.fresh(windows) > 0)
        self._give(windows.choose(untold).by_end(), out)
        self._cells.remove(windows.choose(over))
        self._cells.told(windows.choose(untold & ~over))
        left = windows.choose(~over)
        last_us = left.ends - 1
        self._schedule.looked(slots, left.slots, np.where(last_us <= self._now, last_us + self._lateness_us, last_us))
        fresh = self._cells.fresh(windows)
        self._schedule.told(windows.slots[ended], windows.slots[~ended], fresh[~ended])
        self._schedule.stop_clocks(np.setdiff1d(windows.slots[over], windows.slots[~over]))

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [*self._cells.snapshot(checkpoint_id, base_id), capture_watermark(self._watermark)]
