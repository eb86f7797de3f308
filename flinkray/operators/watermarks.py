"""Event time: from a column to the hidden `_event_time`, and watermarks made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import OperatorError, PlanError
from flinkray.graph.windows import WatermarkStrategy
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.rows import EVENT_TIME_FIELD

_MICROS_PER = {"s": 1_000_000, "ms": 1_000}
_WATERMARK_STATE = "watermark"
_STATE_SCHEMA = pa.schema([("max_event_us", pa.int64())])


def event_time_array(array: pa.Array, on_null: Literal["error", "drop"], what: str = "the event time") -> pa.Array:
    """Event times in int64 microseconds of timestamps of any unit (floored; naive is UTC) or integers (microseconds already).

    Nulls stay with `on_null="drop"` (the caller drops the rows); with "error" they raise OperatorError naming `what`.
    PlanError for other types.
    """
    if array.null_count and on_null == "error":
        raise OperatorError(f"{what} is null in {array.null_count} of {len(array)} rows; fix the input, or use on_null='drop'")
    kind = array.type
    if kind == pa.int64():
        return array
    if pa.types.is_integer(kind):
        return array.cast(pa.int64())
    if not pa.types.is_timestamp(kind):
        raise PlanError(f"{what} is {kind}; it has to be a timestamp or int64 microseconds")
    ticks = array.view(pa.int64())
    if kind.unit == "us":
        return ticks
    if kind.unit == "ns":
        return _floored(ticks)
    return pc.multiply_checked(ticks, _MICROS_PER[kind.unit])


def _floored(nanoseconds: pa.Array) -> pa.Array:
    """Arrow's own division truncates towards zero, which is up for times before 1970."""
    micros = nanoseconds.fill_null(0).to_numpy() // 1000
    mask = nanoseconds.is_null().to_numpy(zero_copy_only=False) if nanoseconds.null_count else None
    return pa.array(micros, mask=mask)


def with_event_time(batch: pa.RecordBatch, strategy: WatermarkStrategy, context: OperatorContext) -> tuple[pa.RecordBatch, int | None]:
    """The batch with `_event_time` added or replaced, and the largest of it (None without rows).

    Rows whose event time is null are dropped and counted as skipped with `on_null="drop"`; else OperatorError with uid and subtask.
    """
    try:
        times = event_time_array(batch.column(strategy.column), strategy.on_null, f"event time column {strategy.column!r}")
    except OperatorError as error:
        raise OperatorError(str(error), context.uid, context.subtask) from None
    if times.null_count:
        context.metrics.skipped_rows += times.null_count
        valid = times.is_valid()
        batch, times = batch.filter(valid), times.filter(valid)
    at = batch.schema.get_field_index(EVENT_TIME)
    batch = batch.append_column(EVENT_TIME_FIELD, times) if at < 0 else batch.set_column(at, EVENT_TIME_FIELD, times)
    if not len(times):
        return batch, None
    return batch, int(times.to_numpy().max())


def watermark_after(max_event_us: int, delay_us: int) -> int:
    """No row at or before it will come when `max_event_us` is the largest event time seen."""
    return max(max_event_us - delay_us - 1, MIN_WATERMARK)


class AssignWatermarksOperator(Operator):
    """Gives rows their event time from a column, and watermarks of its own in place of those that came in."""

    generates_watermarks = True

    def __init__(self, watermark: WatermarkStrategy) -> None:
        self._strategy = watermark
        self._max_event_us: int | None = None

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._last_row_s = context.clock()
        seen = [table.column(0)[0].as_py() for table in origin_tables(restored, _WATERMARK_STATE)]
        if len(seen) == context.parallelism:
            self._max_event_us = seen[context.subtask]
        elif seen and None not in seen:
            self._max_event_us = min(seen)

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        timed, largest_us = with_event_time(batch, self._strategy, self.context)
        if largest_us is None:
            return
        if self._strategy.idle_us is not None:
            self.idle, self._last_row_s = False, self.context.clock()
        if self._max_event_us is None or largest_us > self._max_event_us:
            self._max_event_us = largest_us
        out.emit(timed)

    def output_watermark_us(self, input_us: int) -> int:
        if input_us == MAX_WATERMARK:
            return MAX_WATERMARK
        if self._max_event_us is None:
            return MIN_WATERMARK
        return watermark_after(self._max_event_us, self._strategy.delay_us)

    def on_processing_time(self, now_s: float, out: Output) -> None:
        idle_us = self._strategy.idle_us
        self.idle = idle_us is not None and (now_s - self._last_row_s) * 1e6 >= idle_us

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [ListCapture(_WATERMARK_STATE, pa.table({"max_event_us": [self._max_event_us]}, schema=_STATE_SCHEMA))]
