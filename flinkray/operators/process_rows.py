"""Columns as Python values, quickly: process functions get a dict for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from flinkray.operators.rows import to_rows
from flinkray.state.arrow_buffers import contiguous


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """A dict for each row, times as int microseconds."""
    names = batch.schema.names
    if not names:
        return [{} for _ in range(batch.num_rows)]
    columns = [column_values(column) for column in batch.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def column_values(column: pa.Array) -> list[Any]:
    """What `to_rows` gives for the column; numpy makes Python numbers and strings several times as fast as Arrow does."""
    array, is_a = contiguous(column), pa.types
    if array.null_count == 0:
        if is_a.is_timestamp(array.type) and array.type.unit == "us":
            array = array.cast(pa.int64())
        if is_a.is_integer(array.type) or is_a.is_float64(array.type) or is_a.is_float32(array.type):
            return list(array.to_numpy().tolist())
        if is_a.is_string(array.type):
            return list(array.to_numpy(zero_copy_only=False))
    return [row["value"] for row in to_rows(pa.RecordBatch.from_arrays([array], names=["value"]))]


def key_values(keys: Sequence[pa.Array]) -> list[Any]:
    """`ctx.key` of each: the value, or a tuple of several."""
    columns = [column_values(key) for key in keys]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
