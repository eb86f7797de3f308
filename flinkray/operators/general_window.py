"""Windows of every kind, with triggers, evictors, and functions over their rows: what the fast operators for tumbling, sliding and session
windows of event time cannot do.

A cell is a key with, where windows are aligned, the window's end; it holds parts of aggregates or rows (`window_contents`) with words:
the time from which to which they reach, their largest event time, how many rows they are, and how many of these no answer has told yet.
So a cell's whole state is its rows; when it is due is known from them. A row is late when all its windows are over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import CHANGE, EVENT_TIME, INSERT, MAX_WATERMARK, MIN_WATERMARK, TIMESTAMP, UPDATE_AFTER
from flinkray.errors import PlanError
from flinkray.graph.aggregates import WINDOW_END, WINDOW_START, Aggregate
from flinkray.graph.general_windows import CountWindow, DynamicSessionWindow, GlobalWindow, Windows
from flinkray.graph.windows import SessionWindow
from flinkray.operators.array_aggregates import RowGroups
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.functions import user_errors
from flinkray.operators.join_rows import plain_columns
from flinkray.operators.process_output import ProcessOutput
from flinkray.operators.process_rows import key_values
from flinkray.operators.restore import capture_watermark, restored_watermark
from flinkray.operators.row_states import RowStates
from flinkray.operators.rows import visible_batch
from flinkray.operators.window_assign import sessions, window_ends, window_starts
from flinkray.operators.window_contents import END, PartialAggregates
from flinkray.state.arrow_buffers import words_of
from flinkray.state.growth import grown
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows, Slots
from flinkray.state.row_buffer import plain_schema

Int64Array = npt.NDArray[np.int64]

CELLS, COUNTS = "cells", "counts"
LOW, HIGH, TOP, ROWS, FRESH = "low", "high", "top", "rows", "fresh"
_STEP, _MANY = 1 << 12, 1 << 14


@dataclass(frozen=True)
class WindowContext:
    """What a function over a window's rows is told. `start`, `end` (int microseconds): None where windows have none."""

    key: Any
    start: int | None
    end: int | None
    watermark: int


@dataclass(frozen=True)
class _Answer:
    """Windows that are looked at together: their parts, in order of the windows and of arrival."""

    slots: Slots
    ends: Int64Array
    positions: Int64Array
    groups: RowGroups

    def choose(self, mask: npt.NDArray[np.bool_]) -> _Answer:
        lengths = np.diff(self.groups.starts)[mask]
        rows = mask[self.groups.of_row]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return _Answer(self.slots[mask], self.ends[mask], self.positions[rows], RowGroups(starts))

    def by_end(self) -> _Answer:
        """The same in order of the windows' ends."""
        order = np.argsort(self.ends, kind="stable")
        if np.array_equal(order, np.arange(len(order))):
            return self
        begin, lengths = self.groups.starts[:-1][order], np.diff(self.groups.starts)[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], lengths)
        return _Answer(self.slots[order], self.ends[order], self.positions[rows], RowGroups(starts))


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
    ) -> None:
        self._keys, self._windows, self._aggregates = tuple(keys), windows, tuple(aggregates)
        self._function, self._function_schema = function, function_schema
        self._lateness_us, self._late_tag = lateness_us, late_tag
        self._keeps_rows = function is not None or windows.evictor is not None
        self._watermark = self._now = MIN_WATERMARK
        self._kept_by_compact = 0

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schemas[0]
        if schema is None:
            raise PlanError(f"{context.name}: windows need to know their input's columns; declare output_schema upstream")
        self._has_time, self._input = EVENT_TIME in schema.names, plain_schema(schema)
        self._partial = PartialAggregates(self._keys, self._aggregates, self._input) if self._aggregates else None
        if self._keeps_rows or self._partial is None:
            self._kept = pa.schema([pa.field(END, pa.int64()), *self._input])
        else:
            self._kept = self._partial.schema
        codec = KeyCodec([pa.int64(), *(self._input.field(key).type for key in self._keys)])
        index = KeyIndex(codec, context.hash_seed)
        self._cells = KeyedRows(index, self._kept, (LOW, HIGH, TOP, ROWS, FRESH))
        self._counts = KeyedRows(index, pa.schema([self._kept.field(name) for name in (END, *self._keys)]), (ROWS,))
        both = {CELLS: self._cells, COUNTS: self._counts}
        self._states = RowStates(context, index, both, dict.fromkeys(both, (END, *self._keys)), self._keys)
        self._watermark = restored_watermark(restored)
        self._now = MIN_WATERMARK if self._windows.by_clock else self._watermark
        self._due, self._fresh, self._next = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._states.restore(restored, restored_checkpoint)
        self._recall()
        self._output = ProcessOutput(context, self._function_schema, {}, self._has_time, "the window's function")
        self._states.measure()

    def _recall(self) -> None:
        """What is known of cells by slot, from their rows."""
        self._make_room()
        live = self._cells.live()
        slots, fresh = self._cells.slots_of(live), self._cells.word(FRESH, live)
        np.add.at(self._fresh, slots, fresh)
        self._note_due(slots, words_of(self._cells.take(live).column(END)), self._cells.word(HIGH, live))
        self._start_clocks(slots[fresh > 0])

    def _make_room(self) -> None:
        high, known = self._states.index.high, len(self._due)
        if high > known:
            self._due, self._fresh, self._next = (grown(array, high, _STEP) for array in (self._due, self._fresh, self._next))
            self._due[known:] = MAX_WATERMARK
            self._next[known:] = MAX_WATERMARK

    # --- rows

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        rows = plain_columns(batch, self._input)
        times = words_of(rows.column(EVENT_TIME)) if self._has_time else np.zeros(rows.num_rows, np.int64)
        moments = np.full(rows.num_rows, self._clock_us) if self._windows.by_clock else times
        row, ends, low, high = self._assign(rows, moments)
        slots = self._slots(rows, row, ends)
        group = sessions(slots, low, high) if self._windows.sessions else np.unique(slots, return_inverse=True)[1]
        on_time = self._on_time(group, slots, ends, low, high)
        if not on_time.all():
            self._late(batch, np.setdiff1d(row, row[on_time]), out)
            row, ends, low, high, group = (array[on_time] for array in (row, ends, low, high, group))
            slots = slots[on_time]
        if len(row):
            self._keep(rows.take(pa.array(row)), group, slots, ends, low, high, times[row])
            self._answer_at_once(np.unique(slots), out)
        self._compact()
        self._states.tidy()
        self._states.measure()

    def _assign(self, rows: pa.RecordBatch, moments: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """(row, end of its window, from when, to when it reaches), once for each window of a row."""
        window, everything = self._windows.assigner, np.arange(len(moments))
        zeros = np.zeros(len(moments), np.int64)
        if isinstance(window, GlobalWindow):
            return everything, zeros, moments, moments
        if isinstance(window, SessionWindow):
            return everything, zeros, moments, moments + window.gap_us
        if isinstance(window, DynamicSessionWindow):
            return everything, zeros, moments, moments + self._gaps(rows, window.gap_column)
        if isinstance(window, CountWindow):
            moments = self._numbers(rows)
        row, ends = window_ends(window, moments)
        return row, ends, moments[row], moments[row]

    def _gaps(self, rows: pa.RecordBatch, name: str) -> Int64Array:
        column = rows.column(name)
        column = column.cast(pa.duration("us")) if pa.types.is_duration(column.type) else column.cast(pa.int64())
        gaps = words_of(pc.fill_null(column.cast(pa.int64()), 0))
        if np.any(gaps <= 0):
            raise PlanError(f"{self.context.name}: a session's gap in column {name!r} is null, zero or less; give microseconds above zero")
        return gaps

    def _numbers(self, rows: pa.RecordBatch) -> Int64Array:
        """How many rows of its key came before each."""
        slots = self._slots(rows, np.arange(rows.num_rows), np.zeros(rows.num_rows, np.int64))
        unique, first, number = np.unique(slots, return_index=True, return_inverse=True)
        own, known = self._counts.of(unique)
        before = np.zeros(len(unique), np.int64)
        before[own] = self._counts.word(ROWS, known)
        order = np.argsort(number, kind="stable")
        times = np.bincount(number)
        result = np.empty(len(slots), np.int64)
        result[order] = np.arange(len(slots)) - np.repeat(np.cumsum(times) - times, times) + np.repeat(before, times)
        generation = self._states.history.generation
        self._counts.set_word(ROWS, known, (before + times)[own], generation)
        new = np.setdiff1d(np.arange(len(unique)), own)
        keys = rows.select(list(self._keys)).take(pa.array(first[new]))
        kept = pa.RecordBatch.from_arrays([pa.array(np.zeros(len(new), np.int64)), *keys.columns], schema=self._counts.schema)
        self._counts.add(kept, np.arange(len(new)), unique[new], generation, **{ROWS: times[new]})
        return result

    def _slots(self, rows: pa.RecordBatch, row: Int64Array, ends: Int64Array) -> Slots:
        keys = [rows.column(key).take(pa.array(row)) for key in self._keys]
        slots = self._states.slots(pa.RecordBatch.from_arrays([pa.array(ends), *keys], names=[END, *self._keys]), CELLS)
        self._make_room()
        return slots

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
        alive = ~self._is_over(end)
        asked = np.flatnonzero(~alive)  # it may belong to a session that is not over
        for own, kept in self._cells.pairs(slot[asked], self.context.batch_rows):
            late = asked[own]
            touch = (begin[late] <= self._cells.word(HIGH, kept)) & (self._cells.word(LOW, kept) <= end[late])
            alive[late[touch]] = True
        return alive[group]

    def _is_over(self, ends: Int64Array) -> npt.NDArray[np.bool_]:
        if self._now == MAX_WATERMARK:
            return np.ones(len(ends), np.bool_)
        return ends - 1 <= self._now - self._lateness_us if self._now > MIN_WATERMARK + self._lateness_us else np.zeros(len(ends), np.bool_)

    def _late(self, batch: pa.RecordBatch, rows: Int64Array, out: Output) -> None:
        if not len(rows):
            return
        if self._late_tag is not None:
            out.emit(batch.take(pa.array(rows)), self._late_tag)
        else:
            self.context.metrics.late_rows += len(rows)

    def _keep(
        self, rows: pa.RecordBatch, group: Int64Array, slots: Slots, ends: Int64Array, low: Int64Array, high: Int64Array, top: Int64Array
    ) -> None:
        np.add.at(self._fresh, slots, 1)
        self._note_due(slots, ends, high)
        self._start_clocks(slots)
        count = np.ones(len(group), np.int64)
        if self._keeps_rows or self._partial is None:
            kept = pa.RecordBatch.from_arrays([pa.array(ends), *rows.columns], schema=self._kept)
        else:
            order = np.argsort(group, kind="stable")
            firsts = np.flatnonzero(np.diff(group[order], prepend=-1))
            groups = RowGroups(np.append(firsts, len(order)))
            slots, ends = slots[order][firsts], ends[order][firsts]
            kept = self._partial.parts(rows.take(pa.array(order)), ends, groups)
            low, high = np.minimum.reduceat(low[order], firsts), np.maximum.reduceat(high[order], firsts)
            top, count = np.maximum.reduceat(top[order], firsts), np.diff(groups.starts)
        words = {LOW: low, HIGH: high, TOP: top, ROWS: count, FRESH: count}
        self._cells.add(kept, np.arange(len(slots)), slots, self._states.history.generation, **words)

    # --- when

    def _note_due(self, slots: Slots, ends: Int64Array, high: Int64Array) -> None:
        """When the cells are to be looked at next: when a window of theirs may end, or be over for good."""
        if not self._windows.bounded:
            return
        np.minimum.at(self._due, slots, (high if self._windows.sessions else ends) - 1)

    def _start_clocks(self, slots: Slots) -> None:
        trigger = self._windows.trigger
        if trigger is not None and trigger.every is not None:
            self._next[slots] = np.minimum(self._next[slots], self._clock_us + trigger.every_us)

    def _answer_at_once(self, slots: Slots, out: Output) -> None:
        """What has become due by rows that came, of the cells that they went into."""
        trigger, window = self._windows.trigger, self._windows.assigner
        if self._windows.bounded and self._now > MIN_WATERMARK:
            due = slots[self._due[slots] <= self._now]
            if len(due):
                self._ends_of(due, out)
        if isinstance(window, CountWindow):
            self._full(slots, out)
        elif self._windows.per_batch:
            self._early(slots, out)
        elif trigger is not None and trigger.rows is not None:
            self._early(slots[self._fresh[slots] >= trigger.rows], out)

    def _full(self, slots: Slots, out: Output) -> None:
        """Count windows to which the last row has come."""
        answer = self._look(slots)
        keys = answer.positions[answer.groups.starts[:-1]]
        counts = self._slots(self._cells.take(keys), np.arange(len(keys)), np.zeros(len(keys), np.int64))
        own, known = self._counts.of(counts)
        totals = np.zeros(len(keys), np.int64)
        totals[own] = self._counts.word(ROWS, known)
        full = answer.choose(answer.ends <= totals)
        self._give(full, out)
        self._remove(full)

    def _early(self, slots: Slots, out: Output) -> None:
        slots = slots[self._fresh[slots] > 0]
        if not len(slots):
            return
        answer = self._look(slots)
        self._give(answer, out)
        trigger = self._windows.trigger
        if trigger is not None and trigger.purge:
            self._remove(answer)
        else:
            self._told(answer)
        self._fresh[slots] = 0
        self._next[slots] = MAX_WATERMARK

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
            self._early(np.flatnonzero(self._next[: self._states.index.high] <= self._clock_us).astype(np.int32), out)
            self._states.measure()

    def on_end(self, out: Output) -> None:
        if self._windows.by_clock:  # no clock will bring them to their end
            self._advance(MAX_WATERMARK, out)

    def _advance(self, now: int, out: Output) -> None:
        """Time has come to `now`: windows end."""
        self._now = now
        if self._windows.bounded:
            due = np.flatnonzero(self._due[: self._states.index.high] <= now).astype(np.int32)
            if now == MAX_WATERMARK:
                due = np.unique(self._cells.slots_of(self._cells.live()))
            if len(due):
                self._ends_of(due, out)
        elif now == MAX_WATERMARK and isinstance(self._windows.assigner, GlobalWindow):
            self._early(np.unique(self._cells.slots_of(self._cells.live())), out)
        self._states.tidy()
        self._states.measure()

    def _ends_of(self, slots: Slots, out: Output) -> None:
        """Windows of these cells that have ended answer, where they have rows that no answer has told; those that are over go."""
        answer = self._look(slots)
        self._due[slots] = MAX_WATERMARK
        if not len(answer.groups):
            return
        ended = answer.ends - 1 <= self._now
        over = ended & self._is_over(answer.ends)
        fresh = np.add.reduceat(self._cells.word(FRESH, answer.positions), answer.groups.starts[:-1])
        telling = answer.choose(ended & (fresh > 0))
        if len(telling.groups):
            self._give(telling.by_end(), out)
        self._remove(answer.choose(over))
        self._told(answer.choose(ended & ~over & (fresh > 0)))
        left = answer.choose(~over)
        when = np.where(left.ends - 1 <= self._now, left.ends - 1 + self._lateness_us, left.ends - 1)
        np.minimum.at(self._due, left.slots, when)
        self._fresh[answer.slots[ended]] = 0
        if self._windows.trigger is not None:
            self._next[answer.slots[over]] = MAX_WATERMARK

    # --- answers

    def _look(self, slots: Slots) -> _Answer:
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
            ends = words_of(self._cells.take(positions[firsts]).column(END))
        return _Answer(slots[own[firsts]], ends, positions, RowGroups(np.append(firsts, len(positions))))

    def _told(self, answer: _Answer) -> None:
        """Every row of these windows has been told; several parts of a window become one."""
        cells, generation = self._cells, self._states.history.generation
        many = self._merge(answer, told=True)
        answer = answer.choose(~many)
        untold = answer.positions[(cells.word(FRESH, answer.positions) > 0) & cells.is_live(answer.positions)]
        cells.set_word(FRESH, untold, 0, generation)

    def _merge(self, answer: _Answer, told: bool) -> npt.NDArray[np.bool_]:
        """Several parts of a window become one. Returns of which windows."""
        many = np.diff(answer.groups.starts) > 1
        if self._keeps_rows or self._partial is None or not many.any():
            return np.zeros(len(many), np.bool_)
        cells, generation, whole = self._cells, self._states.history.generation, answer.choose(many)
        firsts = whole.groups.starts[:-1]
        part = self._partial.merged(cells.take(whole.positions), whole.groups)
        words = {name: np.add.reduceat(cells.word(name, whole.positions), firsts) for name in (ROWS, FRESH)}
        words |= {name: np.maximum.reduceat(cells.word(name, whole.positions), firsts) for name in (HIGH, TOP)}
        words[LOW] = np.minimum.reduceat(cells.word(LOW, whole.positions), firsts)
        if told:
            words[FRESH] = np.zeros(len(firsts), np.int64)
        cells.remove(whole.positions, generation)
        cells.add(part, np.arange(len(firsts)), whole.slots, generation, **words)
        return many

    def _compact(self) -> None:
        """Parts of windows that do not answer for long become one when there are twice as many."""
        if len(self._cells) > 2 * self._kept_by_compact + _MANY:
            self._merge(self._look(np.unique(self._cells.slots_of(self._cells.live()))), told=False)
            self._kept_by_compact = len(self._cells)

    def _remove(self, answer: _Answer) -> None:
        live = answer.positions[self._cells.is_live(answer.positions)]
        self._cells.remove(live, self._states.history.generation)

    def _give(self, answer: _Answer, out: Output) -> None:
        if not len(answer.groups):
            return
        if self._windows.evictor is not None:
            answer = self._evicted(answer)
        ends = answer.ends
        cells, firsts = self._cells, answer.groups.starts[:-1]
        top = np.maximum.reduceat(cells.word(TOP, answer.positions), firsts)
        starts = self._starts(answer)
        times = ends - 1 if self._windows.bounded and not self._windows.by_clock else self._after_watermark(top)
        if self._function is not None:
            self._call(answer, starts, ends, times, out)
            return
        assert self._partial is not None
        told = np.add.reduceat(cells.word(ROWS, answer.positions) - cells.word(FRESH, answer.positions), firsts) > 0
        for begin in range(0, len(firsts), self.context.batch_rows):
            part = np.zeros(len(firsts), np.bool_)
            part[begin : begin + self.context.batch_rows] = True
            self._emit(answer.choose(part), starts[part], ends[part], times[part], told[part], out)

    def _emit(
        self, answer: _Answer, starts: Int64Array, ends: Int64Array, times: Int64Array, told: npt.NDArray[np.bool_], out: Output
    ) -> None:
        assert self._partial is not None
        kept = self._cells.take(answer.positions)
        if self._keeps_rows:
            whole = self._partial.parts(kept.select(self._input.names), ends, answer.groups)
        else:
            whole = self._partial.merged(kept, answer.groups)
        columns: dict[str, Any] = {key: whole.column(key) for key in self._keys} | self._partial.results(whole)
        columns[WINDOW_START], columns[WINDOW_END] = pa.array(starts, TIMESTAMP), pa.array(ends, TIMESTAMP)
        columns[EVENT_TIME] = pa.array(times)
        columns[CHANGE] = pa.array(np.where(told, UPDATE_AFTER, INSERT).astype(np.int8))
        schema = self.context.output_schema or self._made_schema(columns)
        arrays = [columns[field.name].cast(field.type) for field in schema]
        out.emit(pa.RecordBatch.from_arrays(arrays, schema=schema))

    def _made_schema(self, columns: dict[str, pa.Array]) -> pa.Schema:
        left_out = set() if self._windows.bounded else {WINDOW_START, WINDOW_END}
        left_out |= set() if self._has_time else {EVENT_TIME}
        left_out |= set() if self._windows.refines else {CHANGE}
        return pa.schema([(name, array.type) for name, array in columns.items() if name not in left_out])

    def _call(self, answer: _Answer, starts: Int64Array, ends: Int64Array, times: Int64Array, out: Output) -> None:
        """The user's function, once for each window."""
        assert self._function is not None
        rows = self._cells.take(answer.positions)
        keys = key_values([rows.column(key).take(pa.array(answer.groups.starts[:-1])) for key in self._keys])
        shown = visible_batch(rows.select(self._input.names))
        bounds, bounded = answer.groups.starts.tolist(), self._windows.bounded
        for number, key in enumerate(keys):
            start, stop = bounds[number], bounds[number + 1]
            window = WindowContext(key, int(starts[number]) if bounded else None, int(ends[number]) if bounded else None, self._watermark)
            with user_errors(self.context):
                given = self._function(shown.slice(start, stop - start), window)
            self._output.result(given, np.full(1, times[number]) if self._has_time else None, out)

    def _evicted(self, answer: _Answer) -> _Answer:
        """The windows without the rows that they forget."""
        evictor = self._windows.evictor
        assert evictor is not None
        of_row, stops = answer.groups.of_row, answer.groups.starts[1:]
        if evictor.rows is not None:
            stays = np.arange(len(of_row)) >= stops[of_row] - evictor.rows
        else:
            assert evictor.within_us is not None
            times = self._cells.word(HIGH, answer.positions)
            newest = np.maximum.reduceat(times, answer.groups.starts[:-1])
            stays = times >= newest[of_row] - evictor.within_us
        self._cells.remove(answer.positions[~stays], self._states.history.generation)
        starts = np.concatenate([[0], np.cumsum(stays)])[answer.groups.starts]
        return _Answer(answer.slots, answer.ends, answer.positions[stays], RowGroups(starts))

    def _starts(self, answer: _Answer) -> Int64Array:
        if self._windows.sessions:
            return np.minimum.reduceat(self._cells.word(LOW, answer.positions), answer.groups.starts[:-1])
        window = self._windows.assigner
        if isinstance(window, GlobalWindow | CountWindow | SessionWindow | DynamicSessionWindow):
            return np.zeros(len(answer.ends), np.int64)
        return window_starts(window, answer.ends)

    def _after_watermark(self, times: Int64Array) -> Int64Array:
        """No row goes out behind the watermark."""
        return times if self._watermark in (MIN_WATERMARK, MAX_WATERMARK) else np.maximum(times, self._watermark + 1)

    @property
    def _clock_us(self) -> int:
        return int(self.context.clock() * 1e6)

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [*self._states.snapshot(checkpoint_id, base_id), capture_watermark(self._watermark)]
