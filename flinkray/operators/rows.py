"""Between record batches and the dicts that a user's per-row function takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from flinkray.columns import EVENT_TIME, HIDDEN
from flinkray.errors import OperatorError
from flinkray.operators.base import OperatorContext

EVENT_TIME_FIELD = pa.field(EVENT_TIME, pa.int64(), nullable=False)


def visible_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without hidden columns."""
    names = batch.schema.names
    if HIDDEN.isdisjoint(names):
        return batch
    return batch.select([name for name in names if name not in HIDDEN])


def to_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """A dict per row without hidden columns; times are int microseconds, which Python builds ten times faster than datetimes."""
    shown = visible_batch(batch)
    types = [_int_times(field.type) for field in shown.schema]
    if types != shown.schema.types:
        columns = [column.cast(_in_micros(column.type)).cast(kind) for column, kind in zip(shown.columns, types, strict=True)]
        shown = pa.RecordBatch.from_arrays(columns, names=shown.schema.names)
    rows: list[dict[str, Any]] = shown.to_pylist() if shown.num_columns else [{} for _ in range(batch.num_rows)]
    return rows


def with_event_times(shown: pa.RecordBatch, times: pa.Array | None) -> pa.RecordBatch:
    """The batch with the hidden event times added, if there are any."""
    return shown if times is None else shown.append_column(EVENT_TIME_FIELD, times)


class BatchBuilder:
    """Makes batches of what user code gives: of a declared schema, or of that of the first batch.

    Raises OperatorError naming the column when something does not fit.
    """

    def __init__(self, declared: pa.Schema | None, context: OperatorContext) -> None:
        self._schema = declared
        self._declared = declared is not None
        self._context = context

    def from_rows(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """At least one row. A key that a row lacks is null; a key that the schema lacks is an error."""
        if self._schema is None:
            names = list(dict.fromkeys(name for row in rows for name in row))
            return self.from_columns({name: self._array(name, rows, None) for name in names})
        known = frozenset(self._schema.names)
        for row in rows:
            if not row.keys() <= known:
                extra = sorted(row.keys() - known, key=str)
                raise self._misfit(f"a row has {extra}, which {self._source} does not have; that has {self._schema.names}")
        columns = [self._array(field.name, rows, field.type) for field in self._schema]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def from_columns(self, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
        """Whole columns, of any schema that the first or the declared one can be made of."""
        if self._schema is None:
            self._schema = pa.schema([pa.field(name, self._engine_type(name, array.type)) for name, array in columns.items()])
        if sorted(columns) != sorted(self._schema.names):
            raise self._misfit(f"a batch has the columns {sorted(columns)}, but {self._source} {sorted(self._schema.names)}")
        arrays = [self._fitted(field, columns[field.name]) for field in self._schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _array(self, name: str, rows: Iterable[Mapping[str, Any]], kind: pa.DataType | None) -> pa.Array:
        try:
            return pa.array([row.get(name) for row in rows], kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            wanted = f"is no {kind}" if kind is not None else "has no one type"
            raise self._misfit(f"column {name!r} {wanted}: {error}") from error

    def _fitted(self, field: pa.Field, array: pa.Array) -> pa.Array:
        if array.type == field.type:
            return array
        if not self._declared and self._engine_type(field.name, array.type) != field.type:
            raise self._misfit(f"column {field.name!r} is {array.type}, but {self._source} has {field.type}")
        try:
            return array.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._misfit(f"column {field.name!r} is {array.type} and not {field.type}: {error}") from error

    def _engine_type(self, name: str, kind: pa.DataType) -> pa.DataType:
        """Types inside the engine: plain strings, times in microseconds UTC."""
        if name in HIDDEN:
            raise self._misfit(f"column {name!r} is flinkray's own; use another name")
        if pa.types.is_timestamp(kind):
            return pa.timestamp("us", "UTC")
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return pa.string()
        return kind

    @property
    def _source(self) -> str:
        return "output_schema" if self._declared else "the first batch"

    def _misfit(self, what: str) -> OperatorError:
        advice = "" if self._declared else "; declare output_schema="
        return OperatorError(f"what the function gave does not fit: {what}{advice}", self._context.uid, self._context.subtask)


def _int_times(kind: pa.DataType) -> pa.DataType:
    return _replaced(kind, pa.int64())


def _in_micros(kind: pa.DataType) -> pa.DataType:
    return _replaced(kind, pa.timestamp("us", "UTC"))


def _replaced(kind: pa.DataType, time: pa.DataType) -> pa.DataType:
    """The type with every timestamp in it, at any depth, replaced."""
    if pa.types.is_timestamp(kind):
        return time
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_replaced(kind.value_type, time)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_replaced(field.type, time)) for field in kind])
    return kind
