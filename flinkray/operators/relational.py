"""Filter, project and pass on: whole batches through expressions, columns that do not change by reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from flinkray.columns import CHANGE, CHANGE_NAMES, HIDDEN
from flinkray.expressions import Expression
from flinkray.operators.base import Operator, Output


class FilterOperator(Operator):
    """Keeps the rows for which the predicate is true; null is not true."""

    def __init__(self, predicate: Expression) -> None:
        self._predicate = predicate

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        mask = self._predicate.evaluate(batch, self.context.metrics)
        kept = mask.true_count
        if kept == batch.num_rows:
            out.emit(batch)
        elif kept:
            out.emit(batch.filter(mask))


class ProjectOperator(Operator):
    """Computes columns. The output is the declared schema, hidden columns of the input where it has them; undeclared: all hidden ones."""

    def __init__(self, columns: tuple[tuple[str, Expression], ...]) -> None:
        self._columns: Mapping[str, Expression] = dict(columns)

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        schema = self.context.output_schema
        if schema is not None:
            names = schema.names
        else:
            names = [*self._columns, *(name for name in batch.schema.names if name in HIDDEN)]
        arrays = [self._column(name, batch) for name in names]
        if schema is None:
            schema = pa.schema([_field(name, array, batch) for name, array in zip(names, arrays, strict=True)])
        out.emit(pa.RecordBatch.from_arrays(arrays, schema=schema))

    def _column(self, name: str, batch: pa.RecordBatch) -> pa.Array:
        expression = self._columns.get(name)
        return batch.column(name) if expression is None else expression.evaluate(batch, self.context.metrics)


def _field(name: str, array: pa.Array, batch: pa.RecordBatch) -> pa.Field:
    return batch.schema.field(name) if name in HIDDEN else pa.field(name, array.type)


class ChangesOperator(Operator):
    """A changelog as rows that are only added: the name of the change becomes a column."""

    def __init__(self, *, column: str) -> None:
        self._column = column

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        kinds = batch.column(CHANGE).to_numpy()
        names = np.array([CHANGE_NAMES.get(kind, "") for kind in range(-2, 3)], object)[kinds + 2]
        columns = {name: batch.column(name) for name in batch.schema.names} | {self._column: pa.array(names, pa.string())}
        schema = self.context.output_schema
        assert schema is not None
        out.emit(pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema))


class PassthroughOperator(Operator):
    """Passes batches on: the head of a union. Columns are put into the declared order, since the streams may name them in any."""

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        schema = self.context.output_schema
        if schema is None or batch.schema.equals(schema):
            out.emit(batch)
        else:
            out.emit(pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema))
