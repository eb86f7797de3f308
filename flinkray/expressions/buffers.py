"""Arrow arrays of fixed width as numpy arrays and back, without copying. Values under nulls are whatever lies there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Operand = Any
"""A numpy array, or a numpy scalar that stands for all rows."""


def numpy_of(value: pa.Array | pa.Scalar) -> Operand:
    """The values of integers or floats; of a scalar its value as a numpy scalar."""
    dtype = np.dtype(value.type.to_pandas_dtype())
    if isinstance(value, pa.Scalar):
        return dtype.type(value.as_py())
    buffer = value.buffers()[1]
    if buffer is None or not len(value):
        return np.zeros(len(value), dtype)
    return np.frombuffer(buffer, dtype, len(value), value.offset * dtype.itemsize)


def validity(*values: pa.Array | pa.Scalar) -> tuple[Any, int]:
    """The bitmap of the rows in which all the values are there, and the number of nulls. Scalars must be valid."""
    holed = [value for value in values if isinstance(value, pa.Array) and value.null_count]
    if not holed:
        return None, 0
    if len(holed) == 1 and holed[0].offset == 0:
        return holed[0].buffers()[0], holed[0].null_count
    valid = pc.is_valid(holed[0])
    for value in holed[1:]:
        valid = pc.and_(valid, pc.is_valid(value))
    return valid.buffers()[1], len(valid) - valid.true_count


def present(*values: pa.Array | pa.Scalar) -> np.ndarray | None:
    """Which rows have all the values, as a bool array; None where all have."""
    bitmap, nulls = validity(*values)
    if not nulls:
        return None
    rows = next(len(value) for value in values if isinstance(value, pa.Array))
    bits: np.ndarray = np.frombuffer(memoryview(bitmap), np.uint8)
    return np.unpackbits(bits, count=rows, bitorder="little").view(bool)


def arrow_of(values: np.ndarray, kind: pa.DataType, bitmap: pa.Buffer | None = None, nulls: int = 0) -> pa.Array:
    """An Arrow array over the numpy array's memory."""
    return pa.Array.from_buffers(kind, len(values), [bitmap if nulls else None, pa.py_buffer(values)], nulls)


def reinterpret(value: pa.Array | pa.Scalar, kind: pa.DataType) -> pa.Array | pa.Scalar:
    """The same 64 bits as another type of 64 bits: a timestamp as its int64 ticks, or back."""
    if value.type == kind:
        return value
    if isinstance(value, pa.Scalar):
        return pa.array([value]).view(kind)[0]
    return value.view(kind)
