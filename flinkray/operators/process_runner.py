"""Calls a user's process function: rows or timers of a batch together, so that state is gathered and put back once for each key."""

from __future__ import annotations

import gc
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MIN_WATERMARK
from flinkray.operators.base import OperatorContext, Output
from flinkray.operators.functions import user_errors
from flinkray.operators.process_context import EVENT, BatchKeys, Context
from flinkray.operators.process_loans import Loans
from flinkray.operators.process_output import ProcessOutput
from flinkray.operators.process_rows import key_values, rows_of
from flinkray.operators.process_state import Cursor
from flinkray.operators.process_store import ProcessStore
from flinkray.operators.process_timers import Int64Array, Timers
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.memory import touch, zeros
from flinkray.state.slot_groups import group_rows, number_slots


class FunctionRunner:
    """`mode`: by which of its methods the function takes rows (`graph.process.mode_of`). `ctx` and `cursor` are what the function and its
    states see."""

    def __init__(
        self, context: OperatorContext, function: Any, mode: str, store: ProcessStore, ctx: Context, cursor: Cursor, output: ProcessOutput,
        loans: Loans | None = None,
    ) -> None:  # fmt: skip
        self._context, self._function, self._mode = context, function, mode
        self._store, self._ctx, self._cursor, self._output = store, ctx, cursor, output
        self._marks, self._epoch = np.zeros(1 << 14, np.int64), 0
        self._loans = loans

    # --- rows

    def rows(self, keyed: pa.RecordBatch, rows: pa.RecordBatch, call: Callable[..., Any], out: Output) -> None:
        """`call` with the rows, whose keys and event times are those of `keyed`."""
        slots = self._store.slots(keyed)
        times = words_of(keyed.column(EVENT_TIME)) if self._ctx.has_event_time else None
        if times is not None:
            self._store.largest_us = max(self._store.largest_us, int(times.max()))
        index, firsts = self._numbered(slots)
        keys = [contiguous(keyed.column(name).take(pa.array(firsts))) for name in self._store.keys]
        with self._at_work(slots[firsts].astype(np.int64), out):
            if self._mode == "process":
                self._each_row(call, rows, index, key_values(keys), times, out)
            elif self._mode == "process_batch":
                self._each_key(rows, index, key_values(keys), times, out)
            else:
                all_keys = BatchKeys(index, _one_array(keys, self._store.keys))
                self._all_keys(lambda: call(rows, all_keys, self._ctx), all_keys, times, out)

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

    def _all_keys(self, call: Callable[[], Any], keys: BatchKeys, times: Int64Array | None, out: Output) -> None:
        """`call` with all keys at once; `times`: the event times of the rows or timers, and of what it gives."""
        self._cursor.times = self._latest(keys, times)
        self._set_times(times)
        self._output.result(call(), times, out)

    def _latest(self, keys: BatchKeys, times: Int64Array | None) -> Int64Array | None:
        """Of each key the largest event time among its rows, where some state lives by it."""
        if times is None or not any(state.cells.expiry for state in self._store.states):
            return None
        latest = np.full(len(keys), MIN_WATERMARK, np.int64)
        np.maximum.at(latest, keys.index, times)
        return latest

    def _set_times(self, times: Int64Array | None) -> None:
        self._ctx.timestamps = times
        self._ctx.timestamp = None if times is None else int(times.max())

    # --- timers

    def timers(
        self, domain: str, times: Int64Array, slots: Int64Array, stamps: Int64Array | None, out: Output, at_most: int | None = None
    ) -> None:
        """Timers of one slice. `stamps`: the event times of the rows that they give. `on_timers` is called with one timer of each key
        at a time."""
        index, firsts = self._numbered(slots.astype(np.int32))
        while self._mode == "process_keys" and len(firsts) < len(slots):
            again = np.ones(len(slots), np.bool_)
            again[firsts] = False
            self.timers(domain, times[~again], slots[~again], None if stamps is None else stamps[~again], out, at_most)
            times, slots, stamps = times[again], slots[again], None if stamps is None else stamps[again]
            index, firsts = self._numbered(slots.astype(np.int32))
        unique = slots[firsts]
        keys = self._store.index.copy_keys(unique).columns()
        ctx = self._ctx
        ctx.time_domain = domain
        with self._at_work(unique, out, at_most):
            if self._mode == "process_keys":
                call, all_keys = self._timer_call("on_timers"), BatchKeys(index, _one_array(keys, self._store.keys))
                self._all_keys(lambda: call(all_keys, times, ctx), all_keys, stamps, out)
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
            self._marks = zeros(2 * self._store.index.high, np.int64)
            self._epoch = 0
        self._epoch += 1
        touch(self._marks, slots)
        index, firsts = np.empty(len(slots), np.int32), np.empty(len(slots), np.int32)
        count = number_slots(np.ascontiguousarray(slots), self._marks, self._epoch, index, firsts)
        return index, firsts[:count]

    @contextmanager
    def _at_work(self, slots: Int64Array, out: Output, at_most: int | None = None) -> Iterator[None]:
        """State of these slots is at hand; what was changed is put back, timers are registered, side outputs leave."""
        generation, ctx = self._store.history.generation, self._ctx
        self._cursor.slots, ctx.slot_list = slots, slots.tolist() if self._mode != "process_keys" else []
        cells = [state.cells for state in self._store.states] if self._mode != "process_keys" else []
        collecting = gc.isenabled()
        gc.disable()  # millions of objects live in state: looking through them between rows finds nothing
        try:
            for each in cells:
                each.begin(slots, generation)
            if self._loans is not None:
                self._loans.forget()
            with user_errors(self._context):
                yield
                if self._loans is not None:
                    self._loans.settle()
                for each in cells:
                    each.end(slots, generation)
                ctx.event_timers.settle(at_most)
                ctx.processing_timers.settle()
        finally:
            self._cursor.slots = None
            if collecting:
                gc.enable()
        self._output.sides(ctx.side, out)


def _one_array(keys: Sequence[pa.Array], names: Sequence[str]) -> pa.Array:
    return keys[0] if len(keys) == 1 else pa.StructArray.from_arrays(list(keys), names=list(names))
