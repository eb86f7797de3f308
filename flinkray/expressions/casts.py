"""Conversion between types: what operations do by themselves (`coerce`, `common_type`), and what `cast` does on request.

By themselves, operations only widen: dictionaries are decoded, strings become `string`, integers int64 or uint64, an integer that meets a
float a float64, times microseconds in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import TIMESTAMP
from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, Kernel, Value, apply, binds, constant, over_dictionary
from flinkray.expressions.buffers import reinterpret
from flinkray.expressions.integers import divide_by
from flinkray.expressions.literals import scalar_as
from flinkray.expressions.tree import Call, Expression
from flinkray.expressions.types import family, type_name

_ZONE = r"[T ]\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"
_DAY_US = 86_400_000_000
_TICKS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def coerce(bound: Bound, kind: pa.DataType, within: Expression) -> Bound:
    """The bound expression as `kind`: a literal by value, a column by a widening kernel. Raises PlanError where that cannot be."""
    if bound.is_literal:
        scalar = scalar_as(bound.value, kind)
        if scalar is None:
            raise PlanError(f"{within}: {bound.text} does not fit into {type_name(kind)}; use cast()")
        return constant(bound.expression, scalar)
    if bound.type == kind:
        return bound
    return apply(bound.expression, kind, converter(bound.type, kind), bound, fallible=_may_overflow(bound.type, kind))


def _may_overflow(source: pa.DataType, target: pa.DataType) -> str:
    """What goes wrong when a widening conversion fails; empty where it cannot."""
    narrowing = family(source) == "int" and pa.types.is_uint64(source) and pa.types.is_int64(target)
    coarse_time = family(source) in ("timestamp", "duration", "date") and pa.types.is_temporal(target)
    if narrowing or coarse_time or pa.types.is_decimal(target):
        return f'the value does not fit into {type_name(target)}; use cast() to "float64" or another type first'
    return ""


def converter(source: pa.DataType, target: pa.DataType) -> Kernel:
    """The kernel that widens `source` to `target`."""
    if pa.types.is_dictionary(source):
        inner = source.value_type
        return lambda value: converter(inner, target)(_decoded(value)) if inner != target else _decoded(value)
    if source == target:
        return lambda value: value
    families = (family(source), family(target))
    match families:
        case ("timestamp", "timestamp") | ("duration", "duration"):
            return partial(_retime, target=target)
        case ("date", "timestamp"):
            return lambda value: _retime(pc.cast(value, pa.timestamp("us")), target)
        case ("int", "float"):
            return lambda value: pc.cast(value, target, safe=False)
        case ("int", "decimal") if not pa.types.is_uint64(source):
            return lambda value: pc.cast(pc.cast(pc.cast(value, pa.int64()), pa.decimal128(19, 0)), target)
        case ("int", "decimal"):
            return lambda value: pc.cast(pc.cast(value, pa.decimal128(20, 0)), target)
    return lambda value: pc.cast(value, target)


def _decoded(value: Value) -> Value:
    return value.dictionary_decode() if isinstance(value, pa.DictionaryArray) else value


def _retime(value: Value, target: pa.DataType) -> Value:
    """Times and durations between units and zones; the instant stays (naive is UTC), finer units are floored."""
    source = value.type
    ticks = reinterpret(value, pa.int64())
    have, want = _TICKS_PER_S[source.unit], _TICKS_PER_S[target.unit]
    if have < want:
        ticks = pc.multiply_checked(ticks, pa.scalar(want // have))
    elif have > want:
        ticks = floor_to(ticks, have // want, keep_scale=False)
    return reinterpret(ticks, target)


def floor_to(ticks: Value, size: int, *, keep_scale: bool = True) -> Value:
    """int64 ticks floored to multiples of `size`; without `keep_scale` the number of the multiple."""
    quotient = divide_by("floordiv", ticks, size)
    return pc.multiply_checked(quotient, pa.scalar(size)) if keep_scale else quotient


def to_utc_us(bound: Bound, within: Expression) -> Bound:
    """A timestamp or date as the engine's timestamp[us, UTC]."""
    return coerce(bound, TIMESTAMP, within)


def common_type(bounds: Sequence[Bound], within: Expression) -> pa.DataType:
    """The one type that all of these values have, for values that become one column. Literals fit in with the columns."""
    kind: pa.DataType = pa.null()
    for bound in bounds:
        if not bound.is_literal:
            kind = _unite(kind, bound.type, bound, within)
    for bound in bounds:
        if bound.is_literal and (pa.types.is_null(kind) or scalar_as(bound.value, kind) is None):
            kind = _unite(kind, bound.type, bound, within)
    return kind


def _unite(left: pa.DataType, right: pa.DataType, bound: Bound, within: Expression) -> pa.DataType:
    left, right = plain_type(left), plain_type(right)
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    families = {family(left), family(right)}
    if families == {"int"}:
        return wider_integer(left, right)
    if families in ({"float"}, {"int", "float"}, {"decimal", "float"}):
        return pa.float64()
    if families in ({"decimal"}, {"int", "decimal"}):
        return wider_decimal(left, right)
    if families <= {"timestamp", "date"} and "timestamp" in families:
        return TIMESTAMP
    if families == {"date"}:
        return pa.date32()
    if len(families) == 1 and families <= {"time", "duration"}:
        return pa.duration("us") if families == {"duration"} else pa.time64("us")
    raise PlanError(f"{within}: {bound.text} is {type_name(right)}, the other values are {type_name(left)}; cast() one of them")


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Without a dictionary, and strings as `string`."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if family(kind) == "string" else kind


def wider_integer(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """int64, or uint64 where both are unsigned and one of them is uint64."""
    unsigned = all(pa.types.is_unsigned_integer(kind) for kind in (left, right))
    return pa.uint64() if unsigned and pa.uint64() in (left, right) else pa.int64()


def decimal_digits(kind: pa.DataType) -> tuple[int, int]:
    """Digits before and after the point that hold every value of an integer or decimal type."""
    if pa.types.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    return (20 if pa.types.is_uint64(kind) else 19), 0


def wider_decimal(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """The smallest decimal for the values of both, with 38 digits at most (fewer before the point where that is too many)."""
    (whole, scale), (other_whole, other_scale) = decimal_digits(left), decimal_digits(right)
    scale = max(scale, other_scale)
    return pa.decimal128(min(38, max(whole, other_whole) + scale), scale)


@binds("cast")
def _bind_cast(call: Call, schema: pa.Schema) -> Bound:
    (operand,) = (child.bind(schema) for child in call.operands)
    target: pa.DataType = call.options[0]
    if operand.type == target:
        return Bound(call, target, operand.run, operand.fallible)
    source = operand.type.value_type if pa.types.is_dictionary(operand.type) else operand.type
    kernel = _cast_kernel(source, target, safe=call.keyword("safe", True))
    try:
        kernel(pa.array([], type=source))
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        raise PlanError(f"{call}: {type_name(operand.type)} cannot be cast to {type_name(target)}") from None
    if family(source) == "string":
        kernel = over_dictionary(kernel)
    elif pa.types.is_dictionary(operand.type):
        kernel = _after(_decoded, kernel)
    return apply(call, target, kernel, operand, fallible=f"a value does not fit into {type_name(target)}")


def _after(first: Kernel, second: Kernel) -> Kernel:
    return lambda value: second(first(value))


def _cast_kernel(source: pa.DataType, target: pa.DataType, safe: bool) -> Kernel:
    """Explicit casts: as the widening ones where these exist, else Arrow's, with times counted in microseconds UTC."""
    match (family(source), family(target)):
        case ("timestamp" | "date", "timestamp") | ("int", "float" | "decimal") | ("duration", "duration"):
            return converter(source, target)
        case ("string", "timestamp"):
            to_instant = _after(lambda value: pc.cast(value, pa.string()), _parse_times)
            return _after(to_instant, partial(_retime, target=target))
        case ("timestamp", "date" | "time"):
            naive = pa.timestamp(source.unit)
            return lambda value: pc.cast(reinterpret(value, naive), target, safe=safe)
        case ("timestamp", "int" | "string"):
            return lambda value: pc.cast(_retime(value, TIMESTAMP if family(target) == "string" else pa.timestamp("us")), target)
        case ("int", "timestamp"):
            return lambda value: _retime(reinterpret(pc.cast(value, pa.int64()), TIMESTAMP), target)
        case ("string", "date" | "time"):
            return lambda value: pc.cast(pc.cast(_parse_times(_on_day_zero(value, target)), pa.timestamp("us")), target, safe=safe)
        case ("float" | "decimal", "int") if not safe:
            options = pc.CastOptions(target, allow_decimal_truncate=True)
            return lambda value: pc.cast(pc.trunc(value), options=options) if family(source) == "float" else pc.cast(value, options=options)
    return lambda value: pc.cast(value, target, safe=safe or "int" in (family(source), family(target)))


def _on_day_zero(value: Value, target: pa.DataType) -> Value:
    """Times of day get a date, so that they parse as timestamps."""
    text = pc.cast(value, pa.string())
    return pc.binary_join_element_wise("1970-01-01", text, "T") if family(target) == "time" else text


def _parse_times(text: Value) -> Value:
    """ISO times, with or without a zone (then UTC), as timestamp[us, UTC]."""
    zoned = pc.match_substring_regex(text, _ZONE)
    naive = reinterpret(pc.cast(pc.if_else(zoned, pa.scalar(None, pa.string()), text), pa.timestamp("us")), TIMESTAMP)
    if not pc.any(zoned, min_count=0).as_py():
        return naive
    return pc.coalesce(naive, pc.cast(pc.if_else(zoned, text, pa.scalar(None, pa.string())), TIMESTAMP))
