"""Literals: which Python values may stand in an expression, and what they are in a column's type and units.

A literal takes the type of the column it meets: a datetime or an ISO string becomes ticks of the column's unit, an integer the column's
integer type. A time without a zone is UTC.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flinkray.columns import TIMESTAMP
from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound
from flinkray.expressions.types import family

if TYPE_CHECKING:
    from flinkray.expressions.tree import Literal

_KINDS = (bool, int, float, str, bytes, Decimal, datetime, date, time, timedelta)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TICKS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_TOO_FINE = re.compile(r"\.\d{7,}")


def literal_value(value: Any) -> Any:
    """The plain Python value of a literal; numpy, Arrow and pandas scalars are unwrapped. Raises PlanError for what is no literal."""
    if value is None or type(value) in _KINDS:
        return value
    if isinstance(value, np.datetime64 | np.timedelta64):
        unit = "datetime64[us]" if isinstance(value, np.datetime64) else "timedelta64[us]"
        return value.astype(unit).item()
    if isinstance(value, np.generic):
        return literal_value(value.item())
    if isinstance(value, pa.Scalar):
        return literal_value(value.as_py())
    if hasattr(value, "to_pydatetime"):  # pandas.Timestamp
        return value.to_pydatetime(warn=False)
    if isinstance(value, Enum):
        return literal_value(value.value)
    if isinstance(value, _KINDS):
        return value
    raise PlanError(
        f"{value!r} ({type(value).__name__}) is no literal: an expression takes None, bool, int, float, str, bytes, Decimal, datetime, "
        "date, time and timedelta"
    )


def literal_type(value: Any) -> pa.DataType:
    """The type of a literal that meets no column: int64, float64, string, timestamp[us, UTC] and so on."""
    match value:
        case None:
            return pa.null()
        case bool():
            return pa.bool_()
        case int():
            return _integer_type(value)
        case float():
            return pa.float64()
        case str():
            return pa.string()
        case bytes():
            return pa.binary()
        case Decimal():
            return _decimal_type(value)
        case datetime():
            return TIMESTAMP
        case date():
            return pa.date32()
        case time():
            return pa.time64("us")
    return pa.duration("us")


def bind_literal(literal: Literal) -> Bound:
    kind = literal_type(literal.value)
    scalar = scalar_as(literal.value, kind)
    return Bound(literal, kind, lambda batch, counters: scalar, is_literal=True)


def _integer_type(value: int) -> pa.DataType:
    if -(2**63) <= value < 2**63:
        return pa.int64()
    return pa.uint64() if 0 <= value < 2**64 else _decimal_type(Decimal(value))


def _decimal_type(value: Decimal) -> pa.DataType:
    if not value.is_finite():
        raise PlanError(f"{value!r}: a decimal is a finite number; write float('nan') or float('inf') for others")
    _, digits, exponent = value.as_tuple()
    scale = max(0, -int(exponent))
    precision = max(len(digits) + max(0, int(exponent)), scale, 1)
    if precision > 38:
        raise PlanError(f"{value} has {precision} digits; decimals have at most 38")
    return pa.decimal128(precision, scale)


def scalar_as(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    """The literal as a scalar of exactly this type, or None where it is of another family or cannot be told exactly in it.

    A float column takes any number, rounded to the nearest. Raises PlanError for a string that is no time where a time is needed.
    """
    if value is None:
        return pa.scalar(None, type=kind)
    match family(kind):
        case "bool":
            fits = isinstance(value, bool)
        case "string":
            fits = isinstance(value, str)
        case "binary":
            fits = isinstance(value, bytes)
        case "float":
            return pa.scalar(float(value), type=kind) if is_number(value) else None
        case "decimal":
            return _decimal_scalar(value, kind)
        case _:
            ticks = ticks_of(value, kind)
            lowest, highest = tick_range(kind)
            if ticks is None or isinstance(ticks, float) or ticks.denominator != 1 or not lowest <= ticks <= highest:
                return None
            return pa.scalar(int(ticks), type=kind)
    return pa.scalar(value, type=kind) if fits else None


def _decimal_scalar(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    if not is_number(value) or isinstance(value, float):
        return None
    try:
        return pa.scalar(Decimal(value), type=kind)
    except pa.ArrowInvalid:  # more digits than the type has
        return None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def tick_range(kind: pa.DataType) -> tuple[int, int]:
    """The least and the largest value of a type that is integers inside."""
    bits = kind.bit_width
    return (0, 2**bits - 1) if pa.types.is_unsigned_integer(kind) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def ticks_of(value: Any, kind: pa.DataType) -> Fraction | float | None:
    """The literal's exact place on the axis of a type that is integers inside (integers and times), in the type's units.

    A float only where it is NaN or infinite; None where the literal is of another family.
    """
    match family(kind):
        case "int":
            if not is_number(value):
                return None
            return Fraction(value) if not isinstance(value, float) or math.isfinite(value) else value
        case "timestamp":
            micros = _timestamp_us(value)
            return None if micros is None else Fraction(micros * _TICKS_PER_S[kind.unit], 1_000_000)
        case "date":
            micros = _timestamp_us(value)
            return None if micros is None else Fraction(micros, 86_400_000_000 if pa.types.is_date32(kind) else 1_000)
        case "time":
            micros = _time_us(value)
            return None if micros is None else Fraction(micros * _TICKS_PER_S[kind.unit], 1_000_000)
        case "duration":
            fits = isinstance(value, timedelta)
            return Fraction(value // _MICROSECOND * _TICKS_PER_S[kind.unit], 1_000_000) if fits else None
    return None


def _timestamp_us(value: Any) -> int | None:
    """Microseconds since the epoch of a datetime, a date (its midnight) or an ISO string."""
    if isinstance(value, str):
        value = _parsed(value, datetime, "2015-07-15T00:00:10Z")
    if isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    if isinstance(value, date):
        return (datetime(value.year, value.month, value.day, tzinfo=UTC) - _EPOCH) // _MICROSECOND
    return None


def _time_us(value: Any) -> int | None:
    """Microseconds since midnight."""
    if isinstance(value, str):
        value = _parsed(value, time, "12:30:00")
    if not isinstance(value, time):
        return None
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond


def _parsed(text: str, kind: Any, example: str) -> Any:
    if _TOO_FINE.search(text):
        raise PlanError(f'"{text}": times have microseconds, at most six digits after the point')
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise PlanError(f'"{text}" is no ISO time; write it like "{example}"') from None
