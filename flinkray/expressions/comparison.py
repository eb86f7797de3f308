"""Comparisons, `is_in`, `between`, and the logic of `& | ~` with nulls as in SQL.

Comparing integers or times with a literal is exact and never converts the column: `x > 2.5` on integers is `x > 2`, and a time that is
finer than the column's unit is rounded to the side that gives the same answer.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import TIMESTAMP
from flinkray.errors import PlanError
from flinkray.expressions.binding import (
    Bound,
    Counters,
    Kernel,
    Value,
    apply,
    as_mask,
    bind_all,
    bind_alone,
    binds,
    over_dictionary,
    run_where,
)
from flinkray.expressions.casts import coerce, common_type, plain_type
from flinkray.expressions.literals import is_number, literal_type, scalar_as, tick_range, ticks_of
from flinkray.expressions.tree import Call
from flinkray.expressions.types import family, type_name

_KERNELS: dict[str, Kernel] = {
    "eq": pc.equal,
    "ne": pc.not_equal,
    "lt": pc.less,
    "le": pc.less_equal,
    "gt": pc.greater,
    "ge": pc.greater_equal,
}
_MIRRORED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_DISCRETE = ("int", "timestamp", "date", "time", "duration")
_ORDERED = (*_DISCRETE, "float", "decimal", "string", "binary", "bool")


@binds("eq", "ne", "lt", "le", "gt", "ge")
def _bind_comparison(call: Call, schema: pa.Schema) -> Bound:
    left, right = bind_all(call.operands, schema)
    if left.is_literal and not right.is_literal:
        kernel, operand = _against_literal(call, _MIRRORED[call.function], right, left)
        return apply(call, pa.bool_(), kernel, operand)
    if right.is_literal and not left.is_literal:
        kernel, operand = _against_literal(call, call.function, left, right)
        return apply(call, pa.bool_(), kernel, operand)
    return apply(call, pa.bool_(), _KERNELS[call.function], *_comparable(call, left, right))


@binds("between")
def _bind_between(call: Call, schema: pa.Schema) -> Bound:
    value, low, high = bind_all(call.operands, schema)
    if value.is_literal or not (low.is_literal and high.is_literal):
        tested = call.operands[0]
        return ((tested >= call.operands[1]) & (tested <= call.operands[2])).bind(schema)
    above, operand = _against_literal(call, "ge", value, low)
    below, _ = _against_literal(call, "le", value, high)
    return apply(call, pa.bool_(), lambda array: pc.and_kleene(above(array), below(array)), operand)


def _against_literal(call: Call, function: str, column: Bound, literal: Bound) -> tuple[Kernel, Bound]:
    """The kernel of `column function literal`, and what it is applied to."""
    value, kind = literal.value, plain_type(column.type)
    if value is None:
        raise PlanError(f"{call}: a comparison with None is null in every row; use is_null() or is_not_null()")
    name = family(kind)
    if name in _DISCRETE:
        place = ticks_of(value, kind)
        if place is None:
            raise _mismatch(call, column, literal)
        return over_dictionary(_at_place(function, place, kind)), column
    if name in ("float", "decimal"):
        target = pa.float64() if name == "float" or isinstance(value, float) else kind
        if not is_number(value):
            raise _mismatch(call, column, literal)
        # a decimal literal with more digits than the column compares by its own type
        scalar = scalar_as(value, target)
        scalar = scalar if scalar is not None else pa.scalar(value, type=literal.type)
        return partial(_against_scalar, _KERNELS[function], scalar), coerce(column, target, call)
    scalar = scalar_as(value, kind)
    if scalar is None:
        raise _mismatch(call, column, literal)
    operand = column if pa.types.is_dictionary(column.type) and column.type.value_type == kind else coerce(column, kind, call)
    return over_dictionary(partial(_against_scalar, _KERNELS[function], scalar)), operand


def _against_scalar(kernel: Kernel, scalar: pa.Scalar, value: Value) -> Value:
    return kernel(value, scalar)


def _at_place(function: str, place: Fraction | float, kind: pa.DataType) -> Kernel:
    """Compare integers or times with an exact place on their axis, which may lie between two values or beyond all of them."""
    lowest, highest = tick_range(kind)
    if isinstance(place, float):  # NaN compares false with everything, infinities lie beyond all values
        if math.isnan(place):
            return partial(_same_for_all, function == "ne")
        place = Fraction(highest + 1 if place > 0 else lowest - 1)
    if place.denominator != 1:
        if function in ("eq", "ne"):
            return partial(_same_for_all, function == "ne")
        function = {"lt": "le", "ge": "gt"}.get(function, function)
    tick = math.floor(place)
    if tick > highest:
        return partial(_same_for_all, function in ("ne", "lt", "le"))
    if tick < lowest:
        return partial(_same_for_all, function in ("ne", "gt", "ge"))
    return partial(_against_scalar, _KERNELS[function], pa.scalar(tick, type=kind))


def _same_for_all(answer: bool, value: Value) -> Value:
    """One answer for all values; null stays null."""
    return pc.if_else(pc.is_valid(value), pa.scalar(answer), pa.scalar(None, pa.bool_()))


def _comparable(call: Call, left: Bound, right: Bound) -> list[Bound]:
    """Both sides in one type that compares exactly. Raises PlanError for two kinds that do not compare."""
    families = {family(left.type), family(right.type)} - {"null"}
    if len(families) == 2 and not (families <= {"int", "float", "decimal"} or families <= {"timestamp", "date"}):
        raise _mismatch(call, left, right)
    if not families <= set(_ORDERED):
        raise PlanError(f"{call}: values of type {type_name(left.type)} do not compare")
    kinds = {plain_type(left.type), plain_type(right.type)}
    if families == {"int"} and pa.uint64() in kinds and any(pa.types.is_signed_integer(kind) for kind in kinds):
        target = pa.decimal128(20, 0)  # no integer type holds both
    elif families == {"timestamp"} and len(kinds) == 2:
        target = TIMESTAMP
    else:
        target = common_type([left, right], call)
    return [coerce(side, target, call) for side in (left, right)]


def _mismatch(call: Call, left: Bound, right: Bound) -> PlanError:
    families = {family(left.type), family(right.type)}
    hint = "cast() one of them"
    if "timestamp" in families and families & {"int", "float"}:
        hint = "write the time as a datetime or an ISO string, or compare .dt.epoch_us()"
    return PlanError(f"{call}: {left.text} is {type_name(left.type)} and {right.text} is {type_name(right.type)}; {hint}")


@binds("is_in")
def _bind_is_in(call: Call, schema: pa.Schema) -> Bound:
    (operand,) = bind_all(call.operands, schema)
    listed = call.options[0]
    values = [value for value in listed if value is not None]
    kind = _listed_type(plain_type(operand.type), values)
    scalars = [_listed_scalar(call, value, kind, operand) for value in values]
    found = pa.array([scalar for scalar in scalars if scalar is not None], type=kind)
    source = operand if pa.types.is_dictionary(operand.type) and operand.type.value_type == kind else coerce(operand, kind, call)
    test = over_dictionary(lambda array: _keep_nulls(pc.is_in(array, value_set=found), array))
    if len(values) == len(listed):
        return apply(call, pa.bool_(), test, source)
    return apply(call, pa.bool_(), lambda array: pc.fill_null(test(array), True), source)


def _listed_type(kind: pa.DataType, values: list[Any]) -> pa.DataType:
    """The type in which a column of type `kind` is looked up."""
    if family(kind) == "null":
        return literal_type(values[0]) if values else pa.bool_()
    of_floats = family(kind) == "decimal" and any(isinstance(value, float) for value in values)
    return pa.float64() if of_floats or family(kind) == "float" else kind


def _listed_scalar(call: Call, value: Any, kind: pa.DataType, operand: Bound) -> pa.Scalar | None:
    """A listed value in the column's type; None for one of the same family that no row can have (2.5 among integers)."""
    scalar = scalar_as(value, kind)
    if scalar is not None:
        return scalar
    of_numbers = is_number(value) and family(kind) in ("int", "float", "decimal")
    if of_numbers or (family(kind) in _DISCRETE and ticks_of(value, kind) is not None):
        return None
    raise PlanError(f"{call}: {operand.text} is {type_name(operand.type)}, and {value!r} is {type_name(literal_type(value))}")


def _keep_nulls(answer: Value, value: Value) -> Value:
    if isinstance(value, pa.Array) and not value.null_count:
        return answer
    return pc.if_else(pc.is_valid(value), answer, pa.scalar(None, pa.bool_()))


@binds("and", "or")
def _bind_logic(call: Call, schema: pa.Schema) -> Bound:
    """Kleene's logic. A right side that can fail is evaluated only in the rows in which the left side does not decide."""
    left, right = (_condition(call, side) for side in bind_all(call.operands, schema))
    kernel = pc.and_kleene if call.function == "and" else pc.or_kleene
    if not right.fallible:
        return apply(call, pa.bool_(), kernel, left, right)
    undecided = (lambda first: first) if call.function == "and" else pc.invert
    alone, names = bind_alone(call.operands[1], schema)
    guarded = _condition(call, alone)

    def run(batch: pa.RecordBatch, counters: Counters) -> Value:
        first = left.run(batch, counters)
        mask = as_mask(pc.fill_null(undecided(first), True), batch.num_rows)
        return kernel(first, run_where(guarded, names, batch, mask, counters))

    return Bound(call, pa.bool_(), run, fallible=True)


def _condition(call: Call, side: Bound) -> Bound:
    if side.is_literal and (side.value is None or isinstance(side.value, bool)):
        return coerce(side, pa.bool_(), call)
    if family(side.type) == "null":
        return coerce(side, pa.bool_(), call)
    if not pa.types.is_boolean(side.type):
        raise PlanError(
            f"{call}: {side.text} is {type_name(side.type)}, and & | ~ take conditions; "
            "put each comparison in parentheses: (x > 1) & (y == 2)"
        )
    return side


@binds("not")
def _bind_not(call: Call, schema: pa.Schema) -> Bound:
    (operand,) = bind_all(call.operands, schema)
    return apply(call, pa.bool_(), pc.invert, _condition(call, operand))


@binds("is_null", "is_not_null")
def _bind_null_test(call: Call, schema: pa.Schema) -> Bound:
    (operand,) = bind_all(call.operands, schema)
    test = pc.is_null if call.function == "is_null" else pc.is_valid

    def kernel(value: Value) -> Value:
        if isinstance(value, pa.DictionaryArray) and value.dictionary.null_count:
            value = value.dictionary_decode()  # a null may also stand in the dictionary
        return test(value)

    return apply(call, pa.bool_(), kernel, operand)
