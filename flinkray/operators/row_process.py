"""Runs a user's `ProcessFunction`: over rows as they come, without keys, state or timers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.errors import UsageError
from flinkray.graph.process import mode_of
from flinkray.graph.row_process import ProcessFunction
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState
from flinkray.operators.functions import user_errors
from flinkray.operators.process_context import Context
from flinkray.operators.process_output import ProcessOutput
from flinkray.operators.process_rows import rows_of
from flinkray.operators.process_state import Cursor
from flinkray.operators.process_timers import Int64Array
from flinkray.operators.rows import visible_batch
from flinkray.state.arrow_buffers import words_of


class RowProcessOperator(Operator):
    """`output_schema`, `side_schemas`, `columns`: as for `process.ProcessOperator`."""

    def __init__(
        self,
        *,
        function: ProcessFunction,
        output_schema: pa.Schema | None,
        side_schemas: Mapping[str, pa.Schema],
        columns: Sequence[str] | None = None,
    ) -> None:
        self._given, self._declared, self._side_schemas, self._columns = function, output_schema, dict(side_schemas), columns
        self._by_row = mode_of(function) == "process"

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._function: Any = copy.deepcopy(self._given)
        self._ctx = _RowContext(Cursor(), context.clock, self._side_schemas, context.name)
        self._output: ProcessOutput | None = None
        self._bind()
        with user_errors(context):
            self._function.open(self._ctx)

    def close(self) -> None:
        if hasattr(self, "_function"):
            with user_errors(self.context):
                self._function.close()

    def _bind(self) -> None:
        """Gives the function what its declarations stand for."""

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        times, output, rows = self._times(batch), self._output_of(batch), self._seen(batch)
        with user_errors(self.context):
            if self._by_row:
                self._each_row(rows, times, self._function.process, output, out)
            else:
                self._ctx.timestamps, self._ctx.timestamp = times, None if times is None else int(times.max())
                output.result(self._function.process_batch(rows, self._ctx), times, out)
        output.sides(self._ctx.side, out)

    @staticmethod
    def _times(batch: pa.RecordBatch) -> Int64Array | None:
        return words_of(batch.column(EVENT_TIME)) if EVENT_TIME in batch.schema.names else None

    def _seen(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = visible_batch(batch)
        return rows if self._columns is None else rows.select(list(self._columns))

    def _output_of(self, batch: pa.RecordBatch) -> ProcessOutput:
        if self._output is None:
            timed = EVENT_TIME in batch.schema.names
            self._output = ProcessOutput(self.context, self._declared, self._side_schemas, timed, type(self._function).__name__)
        return self._output

    def _each_row(self, rows: pa.RecordBatch, times: Int64Array | None, call: Any, output: ProcessOutput, out: Output) -> None:
        ctx = self._ctx
        given: list[Mapping[str, Any]] = []
        given_at: list[Any] = []
        stamps = times.tolist() if times is not None else [None] * rows.num_rows
        for row, ctx.timestamp in zip(rows_of(rows), stamps, strict=True):
            for made in call(row, ctx) or ():
                given.append(made)
                given_at.append(ctx.timestamp)
        output.rows(given, given_at, out)

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        self._ctx.watermark = watermark_us


class _RowContext(Context):
    """What belongs to a key is refused."""

    def _refused(self) -> NoReturn:
        raise UsageError(f"{self._who}: timers belong to a key; extend KeyedProcessFunction, and key_by(...) before process")

    def register_event_timer(self, time: int) -> None:
        self._refused()

    def register_processing_timer(self, time: int) -> None:
        self._refused()

    def delete_event_timer(self, time: int) -> None:
        self._refused()

    def delete_processing_timer(self, time: int) -> None:
        self._refused()

    def register_event_timers(self, keys: Any, times: np.ndarray, valid: np.ndarray | None = None) -> None:
        self._refused()

    def register_processing_timers(self, keys: Any, times: np.ndarray, valid: np.ndarray | None = None) -> None:
        self._refused()
