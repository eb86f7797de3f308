"""An upsert stream as a retract stream: the row that another one replaces is taken back, with all its columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.columns import CHANGE, DELETE, HIDDEN, INSERT
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.join_rows import plain_columns
from flinkray.operators.regular_join import last_of_each
from flinkray.operators.row_states import RowStates
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows
from flinkray.state.row_buffer import plain_schema

ROWS = "rows"


class RetractOperator(Operator):
    """Keeps the newest row of each key. Of a batch the last change of each key counts. Emits the visible columns and the change."""

    def __init__(self, *, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = pa.schema([field for field in context.input_schema() if field.name not in HIDDEN])
        self._schema = context.output_schema or schema.append(pa.field(CHANGE, pa.int8(), nullable=False))
        index = KeyIndex(KeyCodec([schema.field(key).type for key in self._keys]), context.hash_seed)
        self._rows = KeyedRows(index, plain_schema(schema))
        self._states = RowStates(context, index, {ROWS: self._rows}, {ROWS: self._keys})
        self._states.restore(restored, restored_checkpoint)
        self._states.measure()

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        rows, added = plain_columns(batch, self._rows.schema), batch.column(CHANGE).to_numpy() > 0
        slots, generation = self._states.slots(rows, ROWS), self._states.history.generation
        last = last_of_each(slots)
        _, replaced = self._rows.of(slots[last])
        old = self._rows.take(replaced)
        self._rows.remove(replaced, generation)
        came = last[added[last]]
        self._rows.add(rows, came, slots[came], generation)
        self._emit(pa.concat_batches([old, rows.take(pa.array(came))]), np.repeat([DELETE, INSERT], [len(replaced), len(came)]), out)
        self._states.tidy()
        self._states.measure()

    def _emit(self, rows: pa.RecordBatch, changes: np.ndarray, out: Output) -> None:
        columns = [*rows.columns, pa.array(changes.astype(np.int8))]
        arrays = [array.cast(field.type) for array, field in zip(columns, self._schema, strict=True)]
        for start in range(0, rows.num_rows, self.context.batch_rows):
            out.emit(pa.RecordBatch.from_arrays(arrays, schema=self._schema).slice(start, self.context.batch_rows))

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return self._states.snapshot(checkpoint_id, base_id)
