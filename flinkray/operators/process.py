"""Runs a user's `KeyedProcessFunction`: rows or timers of a batch together, so that state is gathered and put back once for each key.

State of a key lies in a dense slot (`state.key_index`). Event timers fire when the watermark reaches their time, before it goes on, in
order of time; processing timers when the clock does. At the end of input all event timers fire, those registered meanwhile up to the
largest event time that was seen; processing timers are dropped.
"""

from __future__ import annotations

import copy
import gc
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import PlanError
from flinkray.graph.process import KeyedProcessFunction, State, mode_of, states_of
from flinkray.operators.base import OperatorContext, Output, RestoredState, StateCapture, SteppingOperator
from flinkray.operators.functions import user_errors
from flinkray.operators.process_context import EVENT, PROCESSING, BatchKeys, Context
from flinkray.operators.process_expiry import Expiry
from flinkray.operators.process_output import ProcessOutput
from flinkray.operators.process_rows import key_values, rows_of
from flinkray.operators.process_state import Cursor, bind
from flinkray.operators.process_store import ProcessStore
from flinkray.operators.process_timers import Int64Array, Timers
from flinkray.operators.rows import visible_batch
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.slot_groups import group_rows, number_slots

SLICE_S = 0.02
"""Timers fire for about so long before others have their turn."""
MOST_CHUNKS = 16
"""Of processing timers in a turn: one that registers another for a time that has passed does not go on for ever."""


class ProcessOperator(SteppingOperator):
    """`output_schema`: what the function gives (None: what its first batch has); `side_schemas`: by tag; `columns`: what of the input
    the function sees (None: all)."""

    def __init__(
        self,
        *,
        keys: Sequence[str],
        function: KeyedProcessFunction,
        output_schema: pa.Schema | None,
        side_schemas: Mapping[str, pa.Schema],
        columns: Sequence[str] | None = None,
    ) -> None:
        self._keys, self._given = tuple(keys), function
        self._declared, self._side_schemas, self._columns = output_schema, dict(side_schemas), columns
        self._mode = mode_of(function)
        self._cursor = Cursor()

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schemas[0]
        if schema is None:
            raise PlanError(f"{context.name}: process needs to know its input's columns; declare output_schema upstream")
        self._has_time = EVENT_TIME in schema.names
        self._ctx = Context(self._cursor, context.clock, self._side_schemas, context.name)
        self._ctx.has_event_time = self._has_time
        self._function: Any = copy.deepcopy(self._given)
        self._states = {
            attribute: bind(state, self._cursor, lambda: self._store.history.generation, self._expiry(state))
            for attribute, state in states_of(self._function).items()
        }
        self._bind()
        kinds = [schema.field(key).type for key in self._keys]
        timers = {EVENT: self._ctx.event_timers, PROCESSING: self._ctx.processing_timers}
        self._store = ProcessStore(context, self._keys, kinds, list(self._states.values()), timers, schema)
        self._store.restore(restored, restored_checkpoint)
        self._ctx.watermark = self._store.watermark
        self._backlog = self._store.backlog
        due = self._ctx.event_timers.peek_us()
        self._firing = due is not None and due <= self._store.watermark
        self._fired_us = MIN_WATERMARK if self._firing else self._store.watermark
        who = type(self._function).__name__
        self._output = ProcessOutput(context, self._declared, self._side_schemas, self._has_time, who)
        self._marks, self._epoch = np.zeros(1 << 14, np.int64), 0
        with user_errors(context):
            self._function.open(self._ctx)
        self._store.measure()

    def _bind(self) -> None:
        for attribute, state in self._states.items():
            setattr(self._function, attribute, state)

    def _expiry(self, state: State) -> Expiry | None:
        ttl = state.ttl
        if ttl is None:
            return None
        by_event_time = self._has_time if ttl.time is None else ttl.time == EVENT
        if by_event_time and not self._has_time:
            raise PlanError(
                f"{self.context.name}: state {state.name!r} lives by event time, but the rows have none; StateTtl(time='processing')"
            )
        if not by_event_time:
            return Expiry(ttl.after_us, ttl.refresh == "read", self._ctx.processing_time, None)
        return Expiry(ttl.after_us, ttl.refresh == "read", lambda: self._store.watermark, self._event_time)

    def _event_time(self) -> int:
        """Of the row or timer at work; after `on_timer` of the clock the time that its rows have."""
        return self._ctx.timestamp if self._ctx.timestamp is not None else self._ctx.watermark

    def close(self) -> None:
        if hasattr(self, "_function"):
            with user_errors(self.context):
                self._function.close()

    # --- rows

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if self.drained:
            self._process(batch, out)
            self._store.measure()
        else:
            self._backlog.add(batch)

    def _process(self, batch: pa.RecordBatch, out: Output) -> None:
        rows = visible_batch(batch)
        if self._columns is not None:
            rows = rows.select(list(self._columns))
        self._work(batch, rows, getattr(self._function, self._mode), out)

    def _work(self, keyed: pa.RecordBatch, rows: pa.RecordBatch, call: Callable[..., Any], out: Output) -> None:
        """`call` with the rows, whose keys and event times are those of `keyed`."""
        slots = self._store.slots(keyed)
        times = words_of(keyed.column(EVENT_TIME)) if self._has_time else None
        if times is not None:
            self._store.largest_us = max(self._store.largest_us, int(times.max()))
        index, firsts = self._numbered(slots)
        keys = [contiguous(keyed.column(name).take(pa.array(firsts))) for name in self._keys]
        with self._at_work(slots[firsts].astype(np.int64), out):
            if self._mode == "process":
                self._each_row(call, rows, index, key_values(keys), times, out)
            elif self._mode == "process_batch":
                self._each_key(rows, index, key_values(keys), times, out)
            else:
                self._all_keys(call, rows, BatchKeys(index, _one_array(keys, self._keys)), times, out)

    def _each_row(
        self,
        process: Callable[..., Any],
        rows: pa.RecordBatch,
        index: np.ndarray,
        keys: list[Any],
        times: Int64Array | None,
        out: Output,
    ) -> None:
        ctx, cursor = self._ctx, self._cursor
        given: list[Mapping[str, Any]] = []
        given_at: list[Any] = []
        stamps = times.tolist() if times is not None else [None] * rows.num_rows
        for place, row, ctx.timestamp in zip(index.tolist(), rows_of(rows), stamps, strict=True):
            cursor.at = place
            ctx.key = keys[place]
            result = process(row, ctx)
            if result is not None:
                for made in result:
                    given.append(made)
                    given_at.append(ctx.timestamp)
        self._output.rows(given, given_at, out)

    def _each_key(self, rows: pa.RecordBatch, index: np.ndarray, keys: list[Any], times: Int64Array | None, out: Output) -> None:
        starts, order = np.zeros(len(keys) + 1, np.int64), np.empty(rows.num_rows, np.int64)
        group_rows(index, starts, order)
        rows, times = rows.take(pa.array(order)), None if times is None else times[order]
        for place, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
            self._cursor.at, self._ctx.key = place, keys[place]
            mine = None if times is None else times[start:stop]
            self._set_times(mine)
            self._output.result(self._function.process_batch(rows.slice(start, stop - start), self._ctx), mine, out)

    def _all_keys(
        self,
        call: Callable[..., Any],
        rows: pa.RecordBatch | None,
        keys: BatchKeys,
        times: Int64Array | None,
        out: Output,
        stamps: Int64Array | None = None,
    ) -> None:
        """`process_keys(rows, keys, ctx)`, or without rows `on_timers(keys, times, ctx)`, whose rows have the event times `stamps`."""
        self._cursor.times = self._latest(keys, times if rows is not None else stamps)
        if rows is not None:
            self._set_times(times)
            self._output.result(call(rows, keys, self._ctx), times, out)
        else:
            self._set_times(stamps)
            self._output.result(call(keys, times, self._ctx), stamps, out)

    def _latest(self, keys: BatchKeys, times: Int64Array | None) -> Int64Array | None:
        """Of each key the largest event time among its rows, where some state lives by it."""
        if times is None or not any(state.cells.expiry for state in self._states.values()):
            return None
        latest = np.full(len(keys), MIN_WATERMARK, np.int64)
        np.maximum.at(latest, keys.index, times)
        return latest

    def _set_times(self, times: Int64Array | None) -> None:
        self._ctx.timestamps = times
        self._ctx.timestamp = None if times is None else int(times.max())

    # --- time

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us > self._backlog.latest_us:
            self._backlog.latest_us = watermark_us
            self.advance(out)

    @property
    def accepts(self) -> bool:
        return not self._backlog.full

    @property
    def drained(self) -> bool:
        return not self._firing and self._backlog.empty and self._backlog.latest_us <= self._store.watermark

    @property
    def wait_s(self) -> float | None:
        return None

    def output_watermark_us(self, input_us: int) -> int:
        """Event time goes on when the timers that are due have fired."""
        return self._fired_us

    def advance(self, out: Output) -> bool:
        """Fires timers, and takes rows that wait, for at most a slice of time; more in the next turn, so that a barrier may pass."""
        if self.drained:
            return False
        until_s = self.context.clock() + SLICE_S
        while not self.drained and self._step(out, until_s):
            pass
        self._store.measure()
        return True

    def _step(self, out: Output, until_s: float) -> bool:
        """One thing after the other. False: the time is over."""
        store = self._store
        if self._firing:
            self._firing = not self._fire_due(out, until_s)
            return not self._firing
        if self._backlog.first_after_us() > store.watermark:
            store.watermark = self._ctx.watermark = self._backlog.first_after_us()
            self._firing = True
        elif not self._backlog.empty:
            self._process(self._backlog.take(), out)
        return self.context.clock() < until_s

    def _fire_due(self, out: Output, until_s: float) -> bool:
        """Timers up to the watermark. False: not all of them, the time was over."""
        timers, watermark_us = self._ctx.event_timers, self._store.watermark
        while True:
            times, slots = timers.pop(watermark_us)
            if not len(times):
                break
            try:
                self._fire(EVENT, times, slots, times, out, at_most=self._store.largest_us if watermark_us == MAX_WATERMARK else None)
            except Exception:
                timers.register_many(times, slots)  # an incident holds them, and fires them again
                raise
            due = timers.peek_us()
            if due is not None and due <= watermark_us and self.context.clock() >= until_s:
                return False
        self._fired_us = watermark_us
        timers.forget_deleted(watermark_us)
        self._store.expire()
        self._store.sweep()
        return True

    def on_processing_time(self, now_s: float, out: Output) -> None:
        self._store.expire()
        timers, now_us = self._ctx.processing_timers, int(now_s * 1e6)
        due = timers.peek_us()
        if due is None or due > now_us:
            return
        until_s, chunks = self.context.clock() + SLICE_S, 0
        while chunks < MOST_CHUNKS and (chunks == 0 or self.context.clock() < until_s):
            chunks += 1
            times, slots = timers.pop(now_us)
            if not len(times):
                break
            after = max(self._store.largest_us, min(self._store.watermark, MAX_WATERMARK - 1) + 1)
            stamps = np.full(len(times), after, np.int64) if self._has_time else None
            self._fire(PROCESSING, times, slots, stamps, out)
        timers.forget_deleted(now_us)
        self._store.measure()

    def on_end(self, out: Output) -> None:
        """Called when no row will come, and again when all is done."""
        self.on_watermark(MAX_WATERMARK, out)
        if self.drained:
            self._ctx.processing_timers.clear()

    def _fire(
        self, domain: str, times: Int64Array, slots: Int64Array, stamps: Int64Array | None, out: Output, at_most: int | None = None
    ) -> None:
        """Timers of one slice. `stamps`: the event times of the rows that they give. `on_timers` is called with one timer of each key
        at a time."""
        index, firsts = self._numbered(slots.astype(np.int32))
        while self._mode == "process_keys" and len(firsts) < len(slots):
            again = np.ones(len(slots), np.bool_)
            again[firsts] = False
            self._fire(domain, times[~again], slots[~again], None if stamps is None else stamps[~again], out, at_most)
            times, slots, stamps = times[again], slots[again], None if stamps is None else stamps[again]
            index, firsts = self._numbered(slots.astype(np.int32))
        unique = slots[firsts]
        keys = self._store.index.copy_keys(unique).columns()
        ctx = self._ctx
        ctx.time_domain = domain
        with self._at_work(unique, out, at_most):
            if self._mode == "process_keys":
                self._all_keys(self._timer_call("on_timers"), None, BatchKeys(index, _one_array(keys, self._keys)), times, out, stamps)
                return
            until = int(times[-1]) if at_most is None else min(int(times[-1]), at_most)
            self._each_timer(self._timers_of(domain), times, index, key_values(keys), stamps, until, out)

    def _each_timer(
        self,
        timers: Timers,
        times: Int64Array,
        index: np.ndarray,
        keys: list[Any],
        stamps: Int64Array | None,
        until_us: int,
        out: Output,
    ) -> None:
        """Key by key, each in order of time: with those that its timers register up to `until_us`, without those that they delete."""
        on_timer, ctx = self._timer_call("on_timer"), self._ctx
        order = np.lexsort((times, index))
        bounds = np.searchsorted(index[order], np.arange(len(keys) + 1)).tolist()
        in_order = times[order].tolist()
        stamp = None if stamps is None or ctx.time_domain == EVENT else int(stamps[0])
        given: list[Mapping[str, Any]] = []
        given_at: list[Any] = []
        for place, key in enumerate(keys):
            self._cursor.at, ctx.key = place, key
            due, at, slot = in_order[bounds[place] : bounds[place + 1]], 0, ctx.slot_list[place]
            while at < len(due):
                time = due[at]
                at += 1
                if timers.is_deleted(time, slot):
                    continue
                fresh = timers.fresh
                ctx.timestamp = time if stamp is None else stamp
                for made in on_timer(time, ctx) or ():
                    given.append(made)
                    given_at.append(ctx.timestamp)
                if timers.fresh > fresh:
                    for soon in timers.take_fresh(fresh, until_us):
                        if soon not in due[at:]:
                            insort(due, soon, at)
        self._output.rows(given, given_at, out)

    def _timers_of(self, domain: str) -> Timers:
        return self._ctx.event_timers if domain == EVENT else self._ctx.processing_timers

    def _timer_call(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] | None = getattr(self._function, name, None)
        if call is None:
            raise TypeError(f"{type(self._function).__name__} has registered timers, but has no {name}(...)")
        return call

    # --- inside

    def _numbered(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(The number of each row's slot, the first row of each.)"""
        if self._store.index.high > len(self._marks):
            self._marks = np.zeros(2 * self._store.index.high, np.int64)
            self._epoch = 0
        self._epoch += 1
        index, firsts = np.empty(len(slots), np.int32), np.empty(len(slots), np.int32)
        count = number_slots(np.ascontiguousarray(slots), self._marks, self._epoch, index, firsts)
        return index, firsts[:count]

    @contextmanager
    def _at_work(self, slots: Int64Array, out: Output, at_most: int | None = None) -> Iterator[None]:
        """State of these slots is at hand; what was changed is put back, timers are registered, side outputs leave."""
        generation, ctx = self._store.history.generation, self._ctx
        self._cursor.slots, ctx.slot_list = slots, slots.tolist() if self._mode != "process_keys" else []
        cells = [state.cells for state in self._states.values()] if self._mode != "process_keys" else []
        collecting = gc.isenabled()
        gc.disable()  # millions of objects live in state: looking through them between rows finds nothing
        try:
            for each in cells:
                each.begin(slots, generation)
            with user_errors(self.context):
                yield
                for each in cells:
                    each.end(slots, generation)
                ctx.event_timers.settle(at_most)
                ctx.processing_timers.settle()
        finally:
            self._cursor.slots = None
            if collecting:
                gc.enable()
        self._output.sides(ctx.side, out)

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return self._store.snapshot(checkpoint_id, base_id)


def _one_array(keys: Sequence[pa.Array], names: Sequence[str]) -> pa.Array:
    return keys[0] if len(keys) == 1 else pa.StructArray.from_arrays(list(keys), names=list(names))
