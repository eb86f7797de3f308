"""Binding: what becomes of an expression once the schema of its input is known. A result type, and a function from batch to value.

A value is an Arrow array with one element per row, or a scalar that stands for all rows; scalars are only spread out at the very end.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import HIDDEN
from flinkray.errors import ExpressionError, PlanError
from flinkray.expressions.types import engine_type

if TYPE_CHECKING:
    from flinkray.expressions.tree import Call, Column, Expression


class Counters(Protocol):
    """Where an evaluation counts (an operator's OperatorMetrics will do)."""

    null_divisions: int


@dataclass
class NullDivisions:
    """Counts integer divisions by zero."""

    null_divisions: int = 0


Value: TypeAlias = Any
"""A pyarrow Array or Scalar (pyarrow is untyped)."""

Run = Callable[[pa.RecordBatch, Counters], Value]
Kernel = Callable[..., Value]


@dataclass(frozen=True, slots=True)
class Bound:
    """An expression bound to a schema. `fallible`: evaluating it can raise or count, so a row that is not asked for must not reach it."""

    expression: Expression
    type: pa.DataType
    run: Run
    fallible: bool = False
    is_literal: bool = False
    """The type is not settled: the value takes the type of what it meets."""
    scalar: pa.Scalar | None = None
    """The value where it is the same for all rows and its type is settled."""

    @property
    def value(self) -> Any:
        """The Python value of a literal."""
        return self.expression.value  # type: ignore[attr-defined]

    @property
    def text(self) -> str:
        return self.expression.describe()


Binder = Callable[["Call", pa.Schema], Bound]
_BINDERS: dict[str, Binder] = {}


def binds(*functions: str) -> Callable[[Binder], Binder]:
    """Registers what binds calls of these functions."""

    def register(binder: Binder) -> Binder:
        _BINDERS.update(dict.fromkeys(functions, binder))
        return binder

    return register


def bind_call(call: Call, schema: pa.Schema) -> Bound:
    return _BINDERS[call.function](call, schema)


def bind_root(expression: Expression, schema: pa.Schema) -> Bound:
    """Bind a whole tree; a PlanError from somewhere inside names the whole expression first."""
    try:
        return expression.bind(schema)
    except PlanError as error:
        text = expression.describe()
        raise PlanError(str(error) if str(error).startswith(f"{text}: ") else f"{text}: {error}") from None


def bind_column(column: Column, schema: pa.Schema) -> Bound:
    """Raises PlanError with the nearest name when there is no such column."""
    name = column.column
    places = schema.get_all_field_indices(name)
    if len(places) != 1:
        there = [known for known in schema.names if known not in HIDDEN]
        if places:
            raise PlanError(f"there are {len(places)} columns {name!r}; rename all but one of them")
        near = difflib.get_close_matches(name, there, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PlanError(f"no column {name!r}; {hint}The columns are: {', '.join(there) or 'none'}")
    index, kind = places[0], schema.field(places[0]).type
    try:
        engine_type(kind)
    except PlanError as error:
        raise PlanError(f"column {name!r}: {error}") from None
    return Bound(column, kind, lambda batch, counters: batch.column(index))


def bind_all(expressions: Sequence[Expression], schema: pa.Schema) -> list[Bound]:
    return [expression.bind(schema) for expression in expressions]


def constant(expression: Expression, scalar: pa.Scalar) -> Bound:
    """A literal whose type is settled."""
    return Bound(expression, scalar.type, lambda batch, counters: scalar, scalar=scalar)


def apply(call: Expression, kind: pa.DataType, kernel: Kernel, *operands: Bound, fallible: str = "") -> Bound:
    """Bind a kernel over the operands' values. `fallible` says what an error of the kernel means; empty: it has none."""
    run = _chain(_reporting(kernel, call, fallible) if fallible else kernel, [operand.run for operand in operands])
    return Bound(call, kind, run, fallible=bool(fallible) or any(operand.fallible for operand in operands))


def _chain(kernel: Kernel, runs: list[Run]) -> Run:
    if len(runs) == 1:
        (only,) = runs
        return lambda batch, counters: kernel(only(batch, counters))
    if len(runs) == 2:
        left, right = runs
        return lambda batch, counters: kernel(left(batch, counters), right(batch, counters))
    return lambda batch, counters: kernel(*[run(batch, counters) for run in runs])


def _reporting(kernel: Kernel, call: Expression, meaning: str) -> Kernel:
    """The kernel with Arrow's errors told in terms of the expression."""

    def reporting(*values: Value) -> Value:
        try:
            return kernel(*values)
        except (pa.ArrowInvalid, OverflowError) as error:
            raise failure(call, meaning, error) from None

    return reporting


def failure(call: Expression, meaning: str, cause: Exception | None = None) -> ExpressionError:
    """The error of a value that an expression cannot take; `meaning` also says what to do."""
    text = call.describe()
    detail = f" ({cause})" if cause is not None else ""
    return ExpressionError(f"{text}: {meaning}{detail}", text)


def broadcast(value: Value, rows: int) -> pa.Array:
    """One element per row."""
    if isinstance(value, pa.Scalar):
        return pa.repeat(value, rows) if value.is_valid else pa.nulls(rows, value.type)
    return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value


def over_dictionary(kernel: Kernel) -> Kernel:
    """A kernel of one array that, given a dictionary array, looks at each distinct value once.

    The kernel must give null for null. A dictionary with more values than there are rows is decoded instead.
    """

    def over(array: Value) -> Value:
        if not isinstance(array, pa.DictionaryArray):
            return kernel(array)
        if len(array.dictionary) > len(array):
            return kernel(array.dictionary_decode())
        return kernel(array.dictionary).take(array.indices)

    return over


def bind_alone(expression: Expression, schema: pa.Schema) -> tuple[Bound, list[str]]:
    """Bind to a schema of only the columns that the expression reads, so that batches cut for it are small. Gives these columns, too."""
    names = sorted(expression.columns())
    for name in names:
        if len(schema.get_all_field_indices(name)) != 1:
            expression.bind(schema)  # raises the error that names the column
    return expression.bind(pa.schema([schema.field(name) for name in names])), names


def run_where(bound: Bound, names: list[str], batch: pa.RecordBatch, mask: pa.BooleanArray, counters: Counters) -> Value:
    """Evaluate only the rows of the mask (which has no nulls); null in the others. `bound` and `names` are from `bind_alone`."""
    chosen = mask.true_count
    if chosen == 0:
        return pa.scalar(None, type=bound.type)
    cut = batch.select(names)
    if chosen == batch.num_rows or not names:
        return bound.run(cut, counters)
    values = bound.run(cut.filter(mask), counters)
    if isinstance(values, pa.Scalar):
        return values
    flags = mask.to_numpy(zero_copy_only=False)
    return values.take(pa.array(np.cumsum(flags) - 1, mask=~flags))


def as_mask(condition: Value, rows: int) -> pa.BooleanArray:
    """True where the condition is true; null counts as false."""
    values = broadcast(condition, rows)
    return pc.fill_null(values, False) if values.null_count else values
