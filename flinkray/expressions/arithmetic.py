"""`+ - * / // % **` and unary minus: exact and checked on integers, IEEE on floats, exact on decimals, microseconds on times.

Integers compute as int64 (uint64 where both sides are unsigned and one is uint64); with a float on either side as float64. `/` is float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import TIMESTAMP
from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, Counters, Run, Value, apply, bind_all, binds, failure
from flinkray.expressions.buffers import arrow_of, numpy_of, reinterpret, validity
from flinkray.expressions.casts import coerce, plain_type, wider_integer
from flinkray.expressions.integers import divide, divide_by, divide_by_zero, result_type
from flinkray.expressions.literals import scalar_as
from flinkray.expressions.tree import Call
from flinkray.expressions.types import family, type_name

_OVERFLOW = 'integer overflow: the result does not fit into {}; cast() an operand to "float64" or "decimal(38,0)"'
_CHECKED = {"add": pc.add_checked, "sub": pc.subtract_checked, "mul": pc.multiply_checked}
_PLAIN = {"add": pc.add, "sub": pc.subtract, "mul": pc.multiply}
_FLOATING: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
}
_DIVISIONS = ("truediv", "floordiv", "mod")
_DURATION = pa.duration("us")
_NUMBERS = ("int", "float", "decimal")


@binds("add", "sub", "mul", "truediv", "floordiv", "mod")
def _bind_arithmetic(call: Call, schema: pa.Schema) -> Bound:
    left, right = bind_all(call.operands, schema)
    families = (family(left.type), family(right.type))
    if "null" in families:
        known = right if families[0] == "null" else left
        left, right = (_typed_null(side, known, call) if family(side.type) == "null" else side for side in (left, right))
        families = (family(known.type), family(known.type))
    if all(name in _NUMBERS for name in families):
        return _bind_numbers(call, left, right)
    if families == ("string", "string") and call.function == "add":
        return _bind_concat(call, left, right)
    if {"timestamp", "duration"} & set(families):
        return _bind_times(call, left, right)
    raise _mismatch(call, left, right)


def _typed_null(side: Bound, known: Bound, call: Call) -> Bound:
    """A null takes the type of what it meets."""
    return replace(side, type=plain_type(known.type)) if side.is_literal else coerce(side, plain_type(known.type), call)


def _mismatch(call: Call, left: Bound, right: Bound) -> PlanError:
    hint = ""
    families = {family(left.type), family(right.type)}
    if "date" in families:
        hint = '; cast("timestamp") a date first'
    elif families <= {"string", "bool", *_NUMBERS}:
        hint = "; cast() one of them"
    return PlanError(f"{call}: {left.text} is {type_name(left.type)} and {right.text} is {type_name(right.type)}{hint}")


def _bind_numbers(call: Call, left: Bound, right: Bound) -> Bound:
    families = {family(left.type), family(right.type)}
    if "float" in families or (call.function == "truediv" and "decimal" in families):
        return _bind_floats(call, left, right)
    if "decimal" in families:
        return _bind_decimals(call, left, right)
    kind = integer_type(left, right)
    return _bind_integers(call, coerce(left, kind, call), coerce(right, kind, call), kind)


def integer_type(left: Bound, right: Bound) -> pa.DataType:
    """The type in which two integers meet; a literal that is not negative counts as unsigned next to a uint64 column."""
    for side, other in ((left, right), (right, left)):
        if side.is_literal and pa.types.is_uint64(other.type) and scalar_as(side.value, other.type) is not None:
            return pa.uint64()
    return wider_integer(plain_type(left.type), plain_type(right.type))


def _bind_integers(call: Call, left: Bound, right: Bound, kind: pa.DataType) -> Bound:
    meaning = _OVERFLOW.format(type_name(kind))
    if call.function not in _DIVISIONS:
        return apply(call, kind, _CHECKED[call.function], left, right, fallible=meaning)
    return _bind_division(call, left, right, meaning)


def _bind_division(call: Call, left: Bound, right: Bound, meaning: str) -> Bound:
    """Division has kernels of its own: by a constant it is cheap and cannot fail, else zero divisors are counted."""
    function, kind = call.function, result_type(call.function, left.type)
    divisor = None if right.scalar is None else right.scalar.as_py()
    if divisor:
        meaning = meaning if divisor == -1 and function == "floordiv" else ""
        return apply(call, kind, lambda value: divide_by(function, value, divisor), left, fallible=meaning)
    if divisor == 0:
        return Bound(call, kind, lambda batch, counters: divide_by_zero(function, left.run(batch, counters), counters), fallible=True)

    def run(batch: pa.RecordBatch, counters: Counters) -> Value:
        try:
            return divide(function, left.run(batch, counters), right.run(batch, counters), counters)
        except OverflowError as error:
            raise failure(call, meaning, error) from None

    return Bound(call, kind, run, fallible=True)


@dataclass(frozen=True)
class _Floating:
    """A numpy function on floats; integers are converted on the way. Null where an operand is."""

    compute: np.ufunc

    def __call__(self, left: Value, right: Value) -> Value:
        if isinstance(left, pa.Scalar) and isinstance(right, pa.Scalar):
            return self(pa.array([left]), right)[0]
        for value, other in ((left, right), (right, left)):
            if isinstance(value, pa.Scalar) and not value.is_valid:
                return pa.nulls(len(other), pa.float64())
        with np.errstate(all="ignore"):
            result = self.compute(numpy_of(left), numpy_of(right), dtype=np.float64)
        return arrow_of(result, pa.float64(), *validity(left, right))


def _bind_floats(call: Call, left: Bound, right: Bound) -> Bound:
    sides = []
    for side in (left, right):
        convertible = not side.is_literal and family(side.type) in ("int", "float") and not pa.types.is_dictionary(side.type)
        sides.append(side if convertible else coerce(side, pa.float64(), call))
    return apply(call, pa.float64(), _Floating(_FLOATING[call.function]), *sides)


def _bind_decimals(call: Call, left: Bound, right: Bound) -> Bound:
    """+ - * are exact. A result that needs more than 38 digits is an error of the value, not of the type."""
    if call.function in _DIVISIONS:
        raise PlanError(f'{call}: decimals have no // and %; cast("float64") or cast("int64") first')
    sides = [_as_decimal(side, call) for side in (left, right)]
    compute = _PLAIN[call.function]
    try:
        kind = compute(pa.array([], sides[0].type), pa.array([], sides[1].type)).type
    except pa.ArrowInvalid:
        return _bind_wide_decimals(call, sides)
    return apply(call, kind, compute, *sides)


def _as_decimal(side: Bound, call: Call) -> Bound:
    kind = plain_type(side.type)
    if family(kind) == "decimal":
        return coerce(side, kind, call)
    if side.is_literal and side.value is not None:
        return coerce(side, pa.decimal128(max(1, len(str(abs(side.value)))), 0), call)
    return coerce(side, pa.decimal128(20 if pa.types.is_uint64(kind) else 19, 0), call)


def _bind_wide_decimals(call: Call, sides: list[Bound]) -> Bound:
    compute = _PLAIN[call.function]
    wide = [pa.decimal256(side.type.precision, side.type.scale) for side in sides]
    scales = [kind.scale for kind in wide]
    scale = sum(scales) if call.function == "mul" else max(scales)
    if scale > 38 or (call.function == "mul" and wide[0].precision + wide[1].precision >= 76):
        raise PlanError(f"{call}: the result has too many digits for decimal(38,s); cast() an operand to a smaller decimal")
    kind = pa.decimal128(38, scale)

    def kernel(left: Value, right: Value) -> Value:
        return pc.cast(compute(pc.cast(left, wide[0]), pc.cast(right, wide[1])), kind)

    return apply(call, kind, kernel, *sides, fallible=f"the result does not fit into {type_name(kind)}; cast() to a smaller scale first")


def _bind_concat(call: Call, left: Bound, right: Bound) -> Bound:
    sides = [coerce(side, pa.string(), call) for side in (left, right)]
    return apply(call, pa.string(), lambda a, b: pc.binary_join_element_wise(a, b, ""), *sides)


def _bind_times(call: Call, left: Bound, right: Bound) -> Bound:
    """Times are int64 microseconds here: an operation is that of the integers, and says what the result counts."""
    function = call.function
    sides = [_as_time(side, other) for side, other in ((left, right), (right, left))]
    match (function, family(sides[0]), family(sides[1])):
        case ("add", "timestamp", "duration") | ("add", "duration", "timestamp") | ("sub", "timestamp", "duration"):
            kind = TIMESTAMP
        case ("sub", "timestamp", "timestamp") | ("add" | "sub" | "mod", "duration", "duration"):
            kind = _DURATION
        case ("mul", "duration", "int") | ("mul", "int", "duration") | ("floordiv", "duration", "int"):
            kind = _DURATION
        case ("truediv", "duration", "duration"):
            kind = pa.float64()
        case ("floordiv", "duration", "duration"):
            kind = pa.int64()
        case _:
            raise _mismatch(call, left, right)
    ticks = [_ticks(coerce(side, to, call)) for side, to in zip((left, right), sides, strict=True)]
    result = _bind_integers(call, ticks[0], ticks[1], pa.int64())
    return apply(call, kind, lambda value: reinterpret(value, kind), result)


def _as_time(side: Bound, other: Bound) -> pa.DataType:
    """The type in which an operand takes part; an ISO string next to a timestamp is one."""
    kind = family(side.type)
    if kind == "timestamp" or (kind == "string" and side.is_literal and family(other.type) == "timestamp"):
        return TIMESTAMP
    return {"duration": _DURATION, "int": pa.int64()}.get(kind, side.type)


def _ticks(bound: Bound) -> Bound:
    """A timestamp or duration in microseconds as its int64."""
    scalar = None if bound.scalar is None else reinterpret(bound.scalar, pa.int64())
    return replace(bound, type=pa.int64(), run=_as_int64(bound.run), scalar=scalar)


def _as_int64(run: Run) -> Run:
    return lambda batch, counters: reinterpret(run(batch, counters), pa.int64())


@binds("neg")
def _bind_negation(call: Call, schema: pa.Schema) -> Bound:
    (operand,) = bind_all(call.operands, schema)
    match family(operand.type):
        case "int":
            kind = pa.int64()
            meaning = _OVERFLOW.format("int64")
            return apply(call, kind, pc.negate_checked, coerce(operand, kind, call), fallible=meaning)
        case "float":
            return apply(call, pa.float64(), pc.negate, coerce(operand, pa.float64(), call))
        case "decimal":
            kind = plain_type(operand.type)
            return apply(call, kind, pc.negate, coerce(operand, kind, call))
        case "duration":
            ticks = _ticks(coerce(operand, _DURATION, call))
            return apply(call, _DURATION, lambda value: reinterpret(pc.negate_checked(value), _DURATION), ticks, fallible="overflow")
    raise PlanError(f"{call}: {operand.text} is {type_name(operand.type)}, which has no negative")


@binds("pow")
def _bind_power(call: Call, schema: pa.Schema) -> Bound:
    left, right = bind_all(call.operands, schema)
    for side in (left, right):
        if family(side.type) not in (*_NUMBERS, "null"):
            raise _mismatch(call, left, right)
    if family(left.type) == "int" and isinstance(exponent := getattr(call.operands[1], "value", None), int) and exponent >= 0:
        sides = [coerce(left, pa.int64(), call), coerce(right, pa.int64(), call)]
        return apply(call, pa.int64(), pc.power_checked, *sides, fallible=_OVERFLOW.format("int64"))
    return _bind_floats(call, left, right)
