"""`when(...).then(...).otherwise(...)`, `coalesce` and `fill_null`.

A branch that can fail or that counts (integer division, a checked sum, a cast) is evaluated only in the rows that take it, so that
`when(col("n") != 0).then(col("sum") // col("n"))` neither fails nor counts for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, Counters, Value, apply, as_mask, bind_all, bind_alone, binds, run_where
from flinkray.expressions.casts import coerce, common_type
from flinkray.expressions.tree import Call, Expression, Literal, as_expression
from flinkray.expressions.types import family, type_name

_Branch = Callable[[pa.RecordBatch, pa.BooleanArray, Counters], Value]


class When:
    """A condition that waits for its `.then(value)`."""

    def __init__(self, before: tuple[Expression, ...], condition: Any) -> None:
        self._before = before
        self._condition = as_expression(condition)

    def then(self, value: Any) -> Then:
        """The value of the rows in which this condition is the first that is true."""
        return Then(self._before, self._condition, as_expression(value))

    def __repr__(self) -> str:
        return f"when({self._condition}) without then(...)"


class Then(Call):
    """A complete expression already: null in the rows in which no condition is true."""

    def __init__(self, before: tuple[Expression, ...], condition: Expression, value: Expression) -> None:
        super().__init__("case", (*before, condition, value, Literal(None)))

    def when(self, condition: Any) -> When:
        """A further condition, for the rows in which none before was true (false or null)."""
        return When(self.operands[:-1], condition)

    def otherwise(self, value: Any) -> Expression:
        """The value of the rows in which no condition is true."""
        return Call("case", (*self.operands[:-1], as_expression(value)))


def when(condition: Any) -> When:
    """`when(condition).then(value).otherwise(other)`; the first condition that is true decides, null counts as false."""
    return When((), condition)


@binds("case")
def _bind_case(call: Call, schema: pa.Schema) -> Bound:
    bounds = bind_all(call.operands, schema)
    conditions, values = bounds[:-1:2], [*bounds[1::2], bounds[-1]]
    for condition in conditions:
        if family(condition.type) not in ("bool", "null"):
            raise PlanError(f"{call}: {condition.text} is {type_name(condition.type)}, and when() takes a condition")
    kind = common_type(values, call)
    if not any(bound.fallible for bound in bounds):
        sides = [coerce(condition, pa.bool_(), call) for condition in conditions] + [coerce(value, kind, call) for value in values]
        if not any(side.fallible for side in sides):
            return apply(call, kind, _choose(len(conditions)), *sides)
    tests = [_guarded(operand, pa.bool_(), call, schema) for operand in call.operands[:-1:2]]
    branches = [_guarded(operand, kind, call, schema) for operand in (*call.operands[1::2], call.operands[-1])]
    return Bound(call, kind, lambda batch, counters: _run_case(tests, branches, batch, counters), fallible=True)


def _choose(conditions: int) -> Callable[..., Value]:
    """The kernel over all conditions followed by all values."""

    def kernel(*sides: Value) -> Value:
        result = sides[-1]
        for index in reversed(range(conditions)):
            result = pc.if_else(pc.fill_null(sides[index], False), sides[conditions + index], result)
        return result

    return kernel


def _guarded(operand: Expression, kind: pa.DataType, call: Call, schema: pa.Schema) -> _Branch:
    """An operand that sees only the rows of a mask."""
    alone, names = bind_alone(operand, schema)
    bound = coerce(alone, kind, call)
    return lambda batch, mask, counters: run_where(bound, names, batch, mask, counters)


def _run_case(tests: list[_Branch], branches: list[_Branch], batch: pa.RecordBatch, counters: Counters) -> Value:
    rest = pa.repeat(pa.scalar(True), batch.num_rows)
    chosen = []
    for test in tests:
        taken = pc.and_(as_mask(test(batch, rest, counters), batch.num_rows), rest)
        rest = pc.and_not(rest, taken)
        chosen.append(taken)
    result = branches[-1](batch, rest, counters)
    for mask, branch in zip(reversed(chosen), reversed(branches[:-1]), strict=True):
        result = pc.if_else(mask, branch(batch, mask, counters), result)
    return result


@binds("coalesce", "fill_null")
def _bind_coalesce(call: Call, schema: pa.Schema) -> Bound:
    bounds = bind_all(call.operands, schema)
    kind = common_type(bounds, call)
    return apply(call, kind, lambda *values: pc.coalesce(*values), *[coerce(bound, kind, call) for bound in bounds])
