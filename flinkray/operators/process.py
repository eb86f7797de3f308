"""Runs a user's `KeyedProcessFunction`: when its rows and timers have their turn. How it is called is in `process_runner`.

State of a key lies in a dense slot (`state.key_index`). Event timers fire when the watermark reaches their time, before it goes on, in
order of time; processing timers when the clock does. At the end of input all event timers fire, those registered meanwhile up to the
largest event time that was seen; processing timers are dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import PlanError
from flinkray.graph.process import KeyedProcessFunction, State, mode_of, states_of
from flinkray.operators.base import OperatorContext, Output, RestoredState, StateCapture, SteppingOperator
from flinkray.operators.functions import user_errors
from flinkray.operators.process_context import EVENT, PROCESSING, Context
from flinkray.operators.process_expiry import Expiry
from flinkray.operators.process_loans import loans_of
from flinkray.operators.process_output import ProcessOutput
from flinkray.operators.process_runner import FunctionRunner
from flinkray.operators.process_state import Cursor, bind
from flinkray.operators.process_store import ProcessStore
from flinkray.operators.rows import visible_batch

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
        schema = context.input_schema()
        self._has_time = EVENT_TIME in schema.names
        self._ctx = Context(self._cursor, context.clock, self._side_schemas, context.name)
        self._ctx.has_event_time = self._has_time
        self._function: Any = copy.deepcopy(self._given)
        loans = loans_of(context)
        self._states = {
            attribute: bind(state, self._cursor, lambda: self._store.history.generation, self._expiry(state), loans)
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
        self._runner = FunctionRunner(context, self._function, self._mode, self._store, self._ctx, self._cursor, self._output, loans)
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
        self._runner.rows(batch, rows, getattr(self._function, self._mode), out)

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
                self._runner.timers(
                    EVENT, times, slots, times, out, at_most=self._store.largest_us if watermark_us == MAX_WATERMARK else None
                )
            except Exception:  # whatever user code raises
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
            try:
                self._runner.timers(PROCESSING, times, slots, stamps, out)
            except Exception:  # as above
                timers.register_many(times, slots)
                raise
        timers.forget_deleted(now_us)
        self._store.measure()

    def on_end(self, out: Output) -> None:
        """Called when no row will come, and again when all is done."""
        self.on_watermark(MAX_WATERMARK, out)
        if self.drained:
            self._ctx.processing_timers.clear()

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return self._store.snapshot(checkpoint_id, base_id)
