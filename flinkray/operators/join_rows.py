"""What both kinds of joins do with rows: which have a key at all, and how two sides become one row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME, TIMESTAMP
from flinkray.errors import PlanError
from flinkray.graph.aggregates import WINDOW_END, WINDOW_START
from flinkray.graph.joins import Join, check_join_keys, join_schema
from flinkray.operators.base import OperatorContext
from flinkray.state.key_encoding import KeyCodec

Int64Array = npt.NDArray[np.int64]


class JoinSides:
    """The inputs of a join, checked against what it wants of them. Raises PlanError."""

    def __init__(self, join: Join, context: OperatorContext) -> None:
        self.schemas = (context.input_schema(0), context.input_schema(1))
        self.keys = (join.left_keys, join.right_keys)
        for schema, keys, side in zip(self.schemas, self.keys, ("left", "right"), strict=True):
            missing = sorted({EVENT_TIME, *keys, *(c for x in join.columns if (c := getattr(x, side)) is not None)} - set(schema.names))
            if missing:
                raise PlanError(f"{context.name}: the {side} input has no {', '.join(missing)}; it has {', '.join(schema.names)}")
        check_join_keys(*self.schemas, *self.keys, join.how)
        self.codec = KeyCodec([self.schemas[0].field(key).type for key in self.keys[0]])
        made = join_schema(*self.schemas, join.columns).append(pa.field(EVENT_TIME, pa.int64(), nullable=False))
        self.output_schema = context.output_schema or made

    def kept_schema(self, side: int) -> pa.Schema:
        """What is kept of a side: its columns without the hidden event time."""
        return pa.schema([field for field in self.schemas[side] if field.name != EVENT_TIME])

    def has_key(self, side: int, rows: pa.RecordBatch) -> npt.NDArray[np.bool_] | None:
        """Rows without a null in their key; None: all. A null equals nothing."""
        columns = [rows.column(key) for key in self.keys[side]]
        if not any(column.null_count for column in columns):
            return None
        mask = np.ones(rows.num_rows, np.bool_)
        for column in columns:
            mask &= column.is_valid().to_numpy(zero_copy_only=False)
        return mask


class JoinResult:
    """Makes result batches of rows of the left and of the right side; of one side only, the other's columns are null."""

    def __init__(self, join: Join, schema: pa.Schema) -> None:
        self._columns = {column.name: column for column in join.columns}
        self._schema = schema

    def batch(
        self,
        left: pa.RecordBatch | None,
        right: pa.RecordBatch | None,
        times: Int64Array,
        window: tuple[Int64Array | int, Int64Array | int] | None = None,
    ) -> pa.RecordBatch:
        """Row i of one side with row i of the other, `times[i]` their event time."""
        columns = [self._column(field, left, right, times, window) for field in self._schema]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _column(self, field: pa.Field, left: Any, right: Any, times: Int64Array, window: Any) -> pa.Array:
        if field.name == EVENT_TIME:
            return pa.array(times)
        column = self._columns[field.name]
        if field.name in (WINDOW_START, WINDOW_END) and column.left is None and column.right is None:
            at = window[0] if field.name == WINDOW_START else window[1]
            return pa.array(np.full(len(times), at, np.int64), TIMESTAMP)
        if left is not None and column.left is not None:
            array = left.column(column.left)
        elif right is not None and column.right is not None:
            array = right.column(column.right)
        else:
            return pa.nulls(len(times), field.type)
        return array if array.type == field.type else array.cast(field.type)


def plain_columns(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema` (see `state.row_buffer.plain_schema`), dictionaries decoded, without a copy where none is needed."""
    arrays = [rows.column(name) for name in schema.names]
    arrays = [array.dictionary_decode() if pa.types.is_dictionary(array.type) else array for array in arrays]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def all_rows(count: int, mask: npt.NDArray[np.bool_] | None) -> Int64Array:
    """Positions where the mask is true; all without one."""
    return np.arange(count) if mask is None else np.flatnonzero(mask)
