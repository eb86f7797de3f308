"""Exact division of int64 and uint64 columns, floored as in Python. numpy, since Arrow's integer division truncates.

A zero divisor gives null and is counted. The only overflow is the least int64 divided by -1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.expressions.binding import Counters, Value
from flinkray.expressions.buffers import arrow_of, numpy_of, present, validity

_LEAST = np.iinfo(np.int64).min


def result_type(function: str, operands: pa.DataType) -> pa.DataType:
    return pa.float64() if function == "truediv" else operands


def divide_by(function: str, value: Value, divisor: int) -> Value:
    """`floordiv`, `mod` or `truediv` of integers by a constant that is not zero."""
    if isinstance(value, pa.Scalar):
        return divide_by(function, pa.array([value]), divisor)[0]
    kind = value.type
    if divisor == -1 and function == "floordiv":
        return pc.negate_checked(value)
    dividend = numpy_of(value)
    if function == "truediv":
        quotient = np.true_divide(dividend, np.float64(divisor))
    elif divisor == -1:
        quotient = np.zeros(len(dividend), dividend.dtype)
    else:
        constant = dividend.dtype.type(divisor)
        quotient = np.floor_divide(dividend, constant)
        if function == "mod":  # numpy floors by a constant with multiplications, but takes remainders with divisions
            np.multiply(quotient, constant, out=quotient)
            np.subtract(dividend, quotient, out=quotient)
    return arrow_of(quotient, result_type(function, kind), *validity(value))


def divide_by_zero(function: str, value: Value, counters: Counters) -> Value:
    """All null; every value that is there counts."""
    kind = result_type(function, value.type)
    if isinstance(value, pa.Scalar):
        counters.null_divisions += value.is_valid
        return pa.scalar(None, type=kind)
    counters.null_divisions += len(value) - value.null_count
    return pa.nulls(len(value), kind)


def divide(function: str, left: Value, right: Value, counters: Counters) -> Value:
    """`floordiv`, `mod` or `truediv` of two values of one integer type. Raises OverflowError."""
    if isinstance(left, pa.Scalar) and isinstance(right, pa.Scalar):
        return divide(function, pa.array([left]), pa.array([right]), counters)[0]
    kind = result_type(function, left.type)
    if not _usable(left) or not _usable(right):
        return pa.nulls(len(left if isinstance(left, pa.Array) else right), kind)
    dividend, divisor = np.atleast_1d(numpy_of(left)), np.atleast_1d(numpy_of(right))
    bitmap, nulls = validity(left, right)
    if np.count_nonzero(divisor) < len(divisor):
        zero = divisor == 0
        there = present(left, right)
        valid = np.broadcast_to(~zero if there is None else there & ~zero, np.broadcast(dividend, divisor).shape)
        absent = int(np.count_nonzero(~valid))
        counters.null_divisions += absent - nulls
        bitmap, nulls = pa.py_buffer(np.packbits(valid, bitorder="little")), absent
        divisor = np.where(zero, divisor.dtype.type(1), divisor)
    if function == "truediv":
        return arrow_of(np.true_divide(dividend, divisor, dtype=np.float64), kind, bitmap, nulls)
    if dividend.dtype == np.int64 and len(dividend) and dividend.min() == _LEAST:
        divisor = _without_overflow(function, dividend, divisor, present(left, right))
    compute = np.floor_divide if function == "floordiv" else np.remainder
    return arrow_of(compute(dividend, divisor), kind, bitmap, nulls)


def _usable(value: Value) -> bool:
    return isinstance(value, pa.Array) or value.is_valid


def _without_overflow(function: str, dividend: np.ndarray, divisor: np.ndarray, there: np.ndarray | None) -> np.ndarray:
    """The divisors with 1 where the least int64 meets -1: its remainder is 0 all the same, its quotient does not fit."""
    beyond = (dividend == _LEAST) & (divisor == -1)
    if function == "floordiv" and np.any(beyond if there is None else beyond & there):
        raise OverflowError(f"{_LEAST} // -1")
    return np.where(beyond, np.int64(1), divisor)
