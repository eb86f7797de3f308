"""Functions of numbers: `abs sign round floor ceil trunc sqrt exp ln log10 log2 is_nan`, and the trigonometric ones of Ray Data."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, Kernel, apply, binds
from flinkray.expressions.casts import coerce, plain_type
from flinkray.expressions.tree import Call
from flinkray.expressions.types import family, type_name

_TO_FLOAT: dict[str, Kernel] = {
    "sqrt": pc.sqrt,
    "exp": pc.exp,
    "ln": pc.ln,
    "log10": pc.log10,
    "log2": pc.log2,
    "sin": pc.sin,
    "cos": pc.cos,
    "tan": pc.tan,
    "asin": pc.asin,
    "acos": pc.acos,
    "atan": pc.atan,
}
_ROUNDING: dict[str, Kernel] = {"floor": pc.floor, "ceil": pc.ceil, "trunc": pc.trunc}


def _number(call: Call, schema: pa.Schema) -> Bound:
    operand = call.operands[0].bind(schema)
    if family(operand.type) not in ("int", "float", "decimal"):
        raise PlanError(f"{call}: {operand.text} is {type_name(operand.type)}, and {call.function}() takes a number")
    return operand


def _widened(operand: Bound, call: Call) -> Bound:
    """int64 or uint64, float64, or the decimal as it is."""
    kind = plain_type(operand.type)
    if family(kind) == "int":
        kind = pa.uint64() if pa.types.is_uint64(kind) else pa.int64()
    elif family(kind) == "float":
        kind = pa.float64()
    return coerce(operand, kind, call)


@binds(*_TO_FLOAT)
def _bind_to_float(call: Call, schema: pa.Schema) -> Bound:
    return apply(call, pa.float64(), _TO_FLOAT[call.function], coerce(_number(call, schema), pa.float64(), call))


@binds("abs")
def _bind_abs(call: Call, schema: pa.Schema) -> Bound:
    operand = _widened(_number(call, schema), call)
    if pa.types.is_int64(operand.type):
        return apply(call, operand.type, pc.abs_checked, operand, fallible="integer overflow: the least int64 has no absolute value")
    return apply(call, operand.type, pc.abs, operand)


@binds("sign")
def _bind_sign(call: Call, schema: pa.Schema) -> Bound:
    operand = _widened(_number(call, schema), call)
    if family(operand.type) == "float":
        return apply(call, pa.float64(), pc.sign, operand)
    return apply(call, pa.int64(), lambda value: pc.cast(pc.sign(value), pa.int64()), operand)


@binds("floor", "ceil", "trunc")
def _bind_rounding(call: Call, schema: pa.Schema) -> Bound:
    operand = _widened(_number(call, schema), call)
    if family(operand.type) == "int":
        return Bound(call, operand.type, operand.run, operand.fallible)
    return _same_type(call, _ROUNDING[call.function], operand)


@binds("round")
def _bind_round(call: Call, schema: pa.Schema) -> Bound:
    operand = _widened(_number(call, schema), call)
    digits = call.options[0] if call.options else 0
    if not isinstance(digits, int) or isinstance(digits, bool):
        raise PlanError(f"{call}: the number of digits is an int")
    if family(operand.type) == "int" and digits >= 0:
        return Bound(call, operand.type, operand.run, operand.fallible)
    if family(operand.type) == "decimal" and digits >= operand.type.scale:
        return Bound(call, operand.type, operand.run, operand.fallible)
    return _same_type(call, partial(pc.round, ndigits=digits, round_mode="half_to_even"), operand)


def _same_type(call: Call, kernel: Kernel, operand: Bound) -> Bound:
    """Rounding up may need a digit more than the type has: that is an error of the value."""
    fallible = "" if family(operand.type) == "float" else f"the result does not fit into {type_name(operand.type)}"
    return apply(call, operand.type, kernel, operand, fallible=fallible)


@binds("is_nan")
def _bind_is_nan(call: Call, schema: pa.Schema) -> Bound:
    return apply(call, pa.bool_(), pc.is_nan, coerce(_number(call, schema), pa.float64(), call))
