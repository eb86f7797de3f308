"""The lookup join: each row with the rows of a table that have its key. The table is a bounded source, read whole into each subtask, and
again when it is older than the cache allows. Nothing is in checkpoints: after a restore the table is read anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME, HIDDEN
from flinkray.connectors.base import Source
from flinkray.graph.joins import JoinColumn
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState
from flinkray.operators.join_rows import plain_columns
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.row_buffer import plain_schema
from flinkray.state.slot_groups import group_rows

Int64Array = npt.NDArray[np.int64]
READ_ROWS = 1 << 16


class Table:
    """The rows of a table, found by key."""

    def __init__(self, rows: pa.RecordBatch, keys: Sequence[str], seed: int) -> None:
        self.rows = rows
        self._index = KeyIndex(KeyCodec([rows.schema.field(key).type for key in keys]), seed, rows.num_rows)
        slots = self._index.lookup_or_insert(self._index.keys(rows, keys))
        slots[~has_key(rows, keys)] = -1
        self._starts, self._order = np.zeros(self._index.high + 1, np.int64), np.empty(rows.num_rows, np.int64)
        group_rows(slots, self._starts, self._order)

    def find(self, rows: pa.RecordBatch, keys: Sequence[str]) -> tuple[Int64Array, Int64Array]:
        """(row, row of the table) for all that have the same key, in order of the rows."""
        if not self.rows.num_rows:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        slots = self._index.lookup(self._index.keys(rows, keys))
        slots[~has_key(rows, keys)] = -1
        counts = np.where(slots >= 0, np.diff(self._starts)[slots], 0)
        own = np.repeat(np.arange(len(slots)), counts)
        among = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
        return own, self._order[self._starts[slots[own]] + among]


class LookupJoinOperator(Operator):
    """Emits `columns`, with the row's own hidden columns. `cache_us`: how old the table may be (None: as old as the subtask)."""

    def __init__(
        self,
        *,
        table: Source,
        keys: Sequence[str],
        table_keys: Sequence[str],
        how: str,
        columns: Sequence[JoinColumn],
        cache_us: int | None = None,
    ) -> None:
        self._source, self._keys, self._table_keys, self._how = table, tuple(keys), tuple(table_keys), how
        self._columns, self._cache_us = tuple(columns), cache_us

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schema()
        self._input = plain_schema(schema)
        self._read()

    def _read(self) -> None:
        self._table = Table(read_all(self._source), self._table_keys, self.context.hash_seed)
        self._read_s = self.context.clock()
        self.context.metrics.state_rows, self.context.metrics.state_bytes = self._table.rows.num_rows, self._table.rows.nbytes

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        rows = plain_columns(batch, self._input)
        self._find_table(rows)
        own, found = self._table.find(rows, self._keys)
        if self._how == "left":
            alone = np.setdiff1d(np.arange(rows.num_rows), own)
            order = np.argsort(np.concatenate([own, alone]), kind="stable")
            own, found = np.concatenate([own, alone])[order], np.concatenate([found, np.full(len(alone), -1)])[order]
        for start in range(0, len(own), self.context.batch_rows):
            part = slice(start, start + self.context.batch_rows)
            self._emit(rows.take(pa.array(own[part])), found[part], out)

    def _find_table(self, rows: pa.RecordBatch) -> None:
        """The one to be joined with these rows."""
        if self._cache_us is not None and self.context.clock() >= self._read_s + self._cache_us / 1e6:
            self._read()

    def _emit(self, rows: pa.RecordBatch, found: Int64Array, out: Output) -> None:
        places = pa.array(found, mask=found < 0)
        table = self._table.rows
        columns: dict[str, pa.Array] = {name: rows.column(name) for name in rows.schema.names if name in HIDDEN}
        for column in self._columns:
            if column.left is not None:
                columns[column.name] = rows.column(column.left)
            else:
                columns[column.name] = table.column(column.right).take(places)
        schema = self.context.output_schema or pa.schema([(name, array.type) for name, array in columns.items()])
        out.emit(pa.RecordBatch.from_arrays([_fitted(columns[field.name], field) for field in schema], schema=schema))


def _fitted(array: pa.Array, field: pa.Field) -> pa.Array:
    return array if array.type == field.type or field.name == EVENT_TIME else array.cast(field.type)


def has_key(rows: pa.RecordBatch, keys: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Rows without a null in their key: a null equals nothing."""
    mask = np.ones(rows.num_rows, np.bool_)
    for key in keys:
        column = rows.column(key)
        if column.null_count:
            mask &= column.is_valid().to_numpy(zero_copy_only=False)
    return mask


def read_all(source: Source) -> pa.RecordBatch:
    """Every row of a bounded source. Raises SourceError."""
    enumerator, parts = source.enumerator(None, None, 1), []
    while splits := enumerator.discover():
        for split in splits:
            reader = source.open_split(split, None)
            try:
                while (batch := reader.read(READ_ROWS)) is not None:
                    parts.append(batch)
            finally:
                reader.close()
        if enumerator.finished:
            break
    schema = plain_schema(source.schema())
    return pa.concat_batches([plain_columns(part, schema) for part in parts]) if parts else pa.RecordBatch.from_pylist([], schema)
