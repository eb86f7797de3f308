"""Runs a function of two connected streams without keys: `CoProcessFunction`, `BroadcastProcessFunction`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from flinkray.columns import MIN_WATERMARK
from flinkray.graph.row_process import ProcessFunction
from flinkray.operators.base import OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.broadcast_state import Broadcasts
from flinkray.operators.functions import user_errors
from flinkray.operators.row_process import RowProcessOperator


class RowCoProcessOperator(RowProcessOperator):
    """`broadcast`: the second input goes to every subtask."""

    def __init__(
        self, *, function: ProcessFunction, output_schema: pa.Schema | None, side_schemas: Mapping[str, pa.Schema], broadcast: bool
    ) -> None:
        super().__init__(function=function, output_schema=output_schema, side_schemas=side_schemas)
        self._broadcast = broadcast
        self._watermark = MIN_WATERMARK

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        self._broadcasts = Broadcasts(self._given, restored)
        super().open(context, restored, restored_checkpoint)

    def _bind(self) -> None:
        self._broadcasts.bind(self._function)

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if not self._broadcast:
            self._rows(batch, self._function.process2 if input_index else self._function.process1, out)
        elif not input_index:
            self._rows(batch, self._function.process, out)
        else:
            with user_errors(self.context):
                self._broadcasts.take(self._function, batch, self._ctx, self._watermark)
            self._output_of(batch).sides(self._ctx.side, out)

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        super().on_watermark(watermark_us, out)
        self._watermark = watermark_us

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        captures: list[StateCapture] = self._broadcasts.captures(self.context.subtask)
        return captures

    def _rows(self, batch: pa.RecordBatch, call: Any, out: Output) -> None:
        output = self._output_of(batch)
        with user_errors(self.context):
            self._each_row(self._seen(batch), self._times(batch), call, output, out)
        output.sides(self._ctx.side, out)
