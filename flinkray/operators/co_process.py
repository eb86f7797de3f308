"""Runs a function of two connected streams: `KeyedCoProcessFunction`, `KeyedBroadcastProcessFunction`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.graph.process import KeyedProcessFunction
from flinkray.operators.base import OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.broadcast_state import Broadcasts
from flinkray.operators.functions import user_errors
from flinkray.operators.process import ProcessOperator
from flinkray.operators.rows import visible_batch


class CoProcessOperator(ProcessOperator):
    """`right_keys` None: the second input is broadcast."""

    def __init__(
        self,
        *,
        keys: Sequence[str],
        right_keys: Sequence[str] | None,
        function: KeyedProcessFunction,
        output_schema: pa.Schema | None,
        side_schemas: Mapping[str, pa.Schema],
    ) -> None:
        super().__init__(keys=keys, function=function, output_schema=output_schema, side_schemas=side_schemas)
        self._mode = "process"
        self._right_keys = right_keys

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        self._broadcasts = Broadcasts(self._given, restored)
        super().open(context, restored, restored_checkpoint)

    def _bind(self) -> None:
        super()._bind()
        self._broadcasts.bind(self._function)

    @property
    def accepts(self) -> bool:
        """Rows of either stream come when the timers that are due before them have fired."""
        return self.drained

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        while not self.drained:
            self.advance(out)
        self._process_of(batch, input_index, out)
        self._store.measure()

    def _process_of(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if self._right_keys is None:
            if input_index:
                self._broadcast(batch, out)
            else:
                self._runner.rows(batch, visible_batch(batch), self._function.process, out)
        elif input_index:
            self._runner.rows(self._as_left(batch), visible_batch(batch), self._function.process2, out)
        else:
            self._runner.rows(batch, visible_batch(batch), self._function.process1, out)

    def _as_left(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The right rows' keys under the names and types of the left ones, and their event times."""
        assert self._right_keys is not None
        schema = self.context.input_schema()
        columns = {key: batch.column(its).cast(schema.field(key).type) for key, its in zip(self._keys, self._right_keys, strict=True)}
        if self._has_time:
            columns[EVENT_TIME] = batch.column(EVENT_TIME)
        return pa.RecordBatch.from_pydict(columns)

    def _broadcast(self, batch: pa.RecordBatch, out: Output) -> None:
        with user_errors(self.context):
            self._broadcasts.take(self._function, batch, self._ctx, self._store.watermark)
        self._output.sides(self._ctx.side, out)

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [*super().snapshot(checkpoint_id, base_id), *self._broadcasts.captures(self.context.subtask)]
