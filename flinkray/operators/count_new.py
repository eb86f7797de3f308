"""Which values of a key are seen for the first time: what exact counts of distinct values are made of.

For each key and value a bit for each condition under which the value has counted. Rows come by the hash of key and value, some already
grouped; what goes out are sums to be added up by key, so that one key with many values is no burden for one subtask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.restore import TableCapture
from flinkray.state.arrow_buffers import words_of
from flinkray.state.first_seen import mark_seen
from flinkray.state.memory import touch
from flinkray.state.table import KeyedTable, Snapshots, encode_parts, encode_rows, is_as_now, read_rows

STATE, SEEN = "values", "_seen"


class CountNewOperator(Operator):
    """Emits the keys and `outputs`, int64: 1 where a row is the first whose word in `counts` is above 0 for its value, else 0. A value that
    was never there before, null too, gives a row in any case: so every key gives one. A null never counts."""

    def __init__(self, *, keys: Sequence[str], value: str, counts: Sequence[str], outputs: Sequence[str]) -> None:
        self._keys, self._value = tuple(keys), value
        self._counts, self._outputs = tuple(counts), tuple(outputs)
        self._snapshots = Snapshots()

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schema()
        names = (*self._keys, self._value)
        self._fields = [_plain(schema.field(name)) for name in names]
        made = pa.schema([*(schema.field(key) for key in self._keys), *(pa.field(name, pa.int64()) for name in self._outputs)])
        if EVENT_TIME in schema.names:
            made = made.append(pa.field(EVENT_TIME, pa.int64(), False))
        self._schema = context.output_schema or made
        self._table = KeyedTable([field.type for field in self._fields], np.zeros(2, np.int64), context.hash_seed)
        for state in restored:
            if state.name == STATE:
                self._restore(state, restored_checkpoint)
        self._measure()

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        slots = self._table.slots(self._table.index.keys(batch, (*self._keys, self._value)))
        rows, generation = self._table.rows, self._snapshots.generation
        touch(rows, slots, generation)
        first, new = np.empty(len(slots), np.int32), np.empty(len(slots), np.int64)
        count = mark_seen(slots, self._bits(batch), rows, generation, first, new)
        if count:
            self._emit(batch.take(pa.array(first[:count])), new[:count], out)
        self._measure()

    def _bits(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        bits = np.zeros(batch.num_rows, np.int64)
        for place, name in enumerate(self._counts):
            bits |= (words_of(batch.column(name)) > 0).astype(np.int64) << place
        value = batch.column(self._value)
        if value.null_count:
            bits[value.is_null().to_numpy(zero_copy_only=False)] = 0
        return bits

    def _emit(self, rows: pa.RecordBatch, new: npt.NDArray[np.int64], out: Output) -> None:
        columns = {name: pa.array((new >> place) & 1) for place, name in enumerate(self._outputs)}
        arrays = [columns[field.name] if field.name in columns else rows.column(field.name) for field in self._schema]
        out.emit(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        since = self._snapshots.base_generation(base_id)
        slots = None if since is None else self._table.changed_after(since)
        if slots is not None and base_id is not None and not self._snapshots.worth_a_delta(base_id, len(slots), len(self._table)):
            slots = None
        copy, full = self._table.copy(slots), slots is None
        self._snapshots.taken(checkpoint_id, base_id, not full, len(copy))
        fields, groups = self._fields, self.context.max_parallelism

        def encode() -> pa.Table | None:
            return encode_rows([(copy, ())], fields, [SEEN], groups) if full or len(copy) else None

        def parts() -> Iterator[pa.Table]:
            if full or len(copy):
                yield from encode_parts([(copy, ())], fields, [SEEN], groups)

        return [TableCapture(STATE, "keyed", full, encode, parts)]

    def _restore(self, state: RestoredState, checkpoint_id: int | None) -> None:
        names, kinds = [field.name for field in self._fields], [field.type for field in self._fields]
        as_now = True
        for chain in state.chains:
            for chunk in chain:
                self._table.load(*read_rows(chunk, names, [SEEN], self.context.name, kinds))
                as_now = as_now and is_as_now(chunk, self._fields, [SEEN])
        if state.continues and checkpoint_id is not None and as_now:
            self._snapshots.restored(checkpoint_id, state.chains[0], len(self._table))

    def _measure(self) -> None:
        self.context.metrics.state_rows = len(self._table)
        self.context.metrics.state_bytes = self._table.memory_bytes


def _plain(field: pa.Field) -> pa.Field:
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
