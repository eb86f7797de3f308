"""`async_map`: coroutines for rows or batches, many at once; results in the order of the rows, or as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.operators.async_function import AsyncFunction
from flinkray.operators.base import OperatorContext, Output
from flinkray.operators.calls import CallSpec
from flinkray.operators.error_policy import FAIL
from flinkray.operators.functions import BatchFormat, batch_columns, formatted, user_errors
from flinkray.operators.in_flight import Unit, UnitSize
from flinkray.operators.in_flight_operator import InFlightOperator
from flinkray.operators.rows import to_rows, visible_batch, with_event_times
from flinkray.operators.stage import times_of


class AsyncMapOperator(InFlightOperator):
    """`batch_size` None: the function gets a dict and gives one, several (an iterable), or None; else it gets and gives batches."""

    def __init__(
        self,
        *,
        function: Callable[..., Any] | type,
        output_schema: pa.Schema | None,
        ordered: bool,
        capacity: int,
        batch_size: int | None = None,
        batch_format: BatchFormat = "pyarrow",
        max_latency_s: float | None = None,
        timeout_s: float | None = None,
        retries: int = 0,
        pause_s: float = 0.1,
        on_error: str = FAIL,
    ) -> None:
        super().__init__(
            size=UnitSize(batch_size or 1, max_latency_s),
            ordered=ordered,
            most_units=2 * capacity,
            most_waiting=capacity * (batch_size or 1),
            output_schema=output_schema,
            on_error=on_error,
        )
        self._function = AsyncFunction(function, timeout_s, retries, pause_s)
        self._format: BatchFormat | None = None if batch_size is None else batch_format
        self._capacity = capacity
        self._made: list[Mapping[str, Any]] = []
        self._made_at: list[int] = []

    def _spec(self, context: OperatorContext) -> CallSpec:
        return CallSpec(context.uid, context.subtask, self._function, "async", capacity=self._capacity)

    def _payloads(self, units: Sequence[Unit]) -> list[Any]:
        if self._format is not None:
            return [formatted(visible_batch(unit.batch), self._format) for unit in units]
        return to_rows(pa.concat_batches([unit.batch for unit in units]))

    def _give_on(self, unit: Unit, out: Output) -> None:
        with user_errors(self.context):
            if self._format is None:
                self._gather(unit)
                return
            columns = batch_columns(unit.answer)
        rows = len(next(iter(columns.values()))) if columns else 0
        if rows:
            out.emit(with_event_times(self._builder.from_columns(columns), times_of(unit.batch, rows)))

    def _gather(self, unit: Unit) -> None:
        if unit.answer is None:
            return
        rows = [unit.answer] if isinstance(unit.answer, Mapping) else list(unit.answer)
        for row in rows:
            if not isinstance(row, Mapping):
                raise TypeError(f"async_map: the function gave {row!r:.80} among its rows, not a dict")
        self._made += rows
        if EVENT_TIME in unit.batch.schema.names:
            self._made_at += unit.batch.column(EVENT_TIME).to_pylist() * len(rows)

    def _emit_rest(self, out: Output) -> None:
        if self._made:
            times = pa.array(self._made_at, pa.int64()) if self._made_at else None
            out.emit(with_event_times(self._builder.from_rows(self._made), times))
            self._made, self._made_at = [], []
