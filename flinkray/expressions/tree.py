"""The expression tree: what `col("price") * 0.908` is. Four kinds of node: column, literal, alias, and a call of a named function.

A tree is frozen and pickles. It is bound to a schema once (`binding.py`): types are resolved, literals take their column's type and
kernels are chosen, so that evaluating a batch is a chain of Arrow or numpy kernels and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, Counters, bind_call, bind_column, bind_root, broadcast
from flinkray.expressions.binding import NullDivisions as _NullDivisions
from flinkray.expressions.describing import describe
from flinkray.expressions.literals import bind_literal, literal_value
from flinkray.expressions.operators import Operators


class Expression(Operators):
    """A value per row, computed from columns. Operators and methods build larger expressions; nothing is computed before a job runs.

    `==` builds an expression too: compare two trees with `same_as`.
    """

    def evaluate(self, batch: pa.RecordBatch, counters: Counters | None = None) -> pa.Array:
        """The value of each row of the batch. `counters.null_divisions` grows by the integer divisions by zero, which are null.

        Raises ExpressionError when a value does not fit (overflow, a cast), PlanError when the batch lacks a column.
        """
        value = self._bound(batch.schema).run(batch, counters if counters is not None else _NullDivisions())
        return broadcast(value, batch.num_rows)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        """The type of the result on rows of this schema. Raises PlanError naming the expression, the column and the columns there are."""
        return self._bound(schema).type

    def columns(self) -> frozenset[str]:
        """Names of the columns that the expression reads."""
        return frozenset().union(*(child.columns() for child in self._children()))

    @property
    def name(self) -> str | None:
        """The name of the result where the expression gives one: a column's own name or the alias."""
        return None

    @property
    def plain_column(self) -> str | None:
        """The column that is passed on unchanged, under its own name or an alias; None when something is computed."""
        return None

    def same_as(self, other: Expression) -> bool:
        """Whether both trees are written alike (`==` would build a comparison)."""
        return self._key() == other._key()

    def describe(self) -> str:
        """The expression as a user would type it."""
        return describe(self)

    def __repr__(self) -> str:
        return describe(self)

    def bind(self, schema: pa.Schema) -> Bound:
        """Resolve types and choose kernels for rows of this schema."""
        raise NotImplementedError

    def _children(self) -> tuple[Expression, ...]:
        return ()

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def _bound(self, schema: pa.Schema) -> Bound:
        """Bound to `schema`; the last binding is kept, since all batches of an operator's input have the same schema."""
        known = self.__dict__.get("_last_binding")
        if known is not None and known[0].equals(schema):
            bound: Bound = known[1]
            return bound
        bound = bind_root(self, schema)
        self.__dict__["_last_binding"] = (schema, bound)
        return bound

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_last_binding"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False, repr=False)
class Column(Expression):
    """A column of the input, by name."""

    column: str

    def __post_init__(self) -> None:
        if not isinstance(self.column, str):
            raise PlanError(f"col({self.column!r}): a column's name is a string")

    def bind(self, schema: pa.Schema) -> Bound:
        return bind_column(self, schema)

    def columns(self) -> frozenset[str]:
        return frozenset((self.column,))

    @property
    def name(self) -> str:
        return self.column

    @property
    def plain_column(self) -> str:
        return self.column

    def _key(self) -> tuple[Any, ...]:
        return ("col", self.column)


@dataclass(frozen=True, eq=False, repr=False)
class Literal(Expression):
    """One value for all rows: None, bool, int, float, str, bytes, Decimal, datetime, date, time or timedelta."""

    value: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", literal_value(self.value))

    def bind(self, schema: pa.Schema) -> Bound:
        return bind_literal(self)

    def _key(self) -> tuple[Any, ...]:
        return ("lit", type(self.value), repr(self.value))


@dataclass(frozen=True, eq=False, repr=False)
class Alias(Expression):
    """An expression under another name."""

    expression: Expression
    alias_name: str

    def __post_init__(self) -> None:
        if not isinstance(self.alias_name, str) or not self.alias_name:
            raise PlanError(f"{self.expression}.alias({self.alias_name!r}): a name is a string that is not empty")

    def bind(self, schema: pa.Schema) -> Bound:
        return self.expression.bind(schema)

    @property
    def name(self) -> str:
        return self.alias_name

    @property
    def plain_column(self) -> str | None:
        return self.expression.plain_column

    def _children(self) -> tuple[Expression, ...]:
        return (self.expression,)

    def _key(self) -> tuple[Any, ...]:
        return ("alias", self.alias_name, self.expression._key())


@dataclass(frozen=True, eq=False, repr=False)
class Call(Expression):
    """A function of operands; `options` and `keywords` are its constant arguments, as written."""

    function: str
    operands: tuple[Expression, ...]
    options: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def bind(self, schema: pa.Schema) -> Bound:
        return bind_call(self, schema)

    def keyword(self, name: str, default: Any) -> Any:
        return dict(self.keywords).get(name, default)

    def _children(self) -> tuple[Expression, ...]:
        return self.operands

    def _key(self) -> tuple[Any, ...]:
        # repr, since 1, 1.0 and True are equal and NaN is not equal to itself
        return (self.function, repr(self.options), self.keywords, *(operand._key() for operand in self.operands))


def as_expression(value: Any) -> Expression:
    """An expression from anything a user may give for one: an expression, a Ray Data `Expr`, or a literal.

    Raises PlanError for a Ray node without a translation, and for a value that has no type here.
    """
    if isinstance(value, Expression):
        return value
    from flinkray.expressions.from_ray import is_ray_expression, translate

    return translate(value) if is_ray_expression(value) else Literal(value)


def call(function: str, *operands: Any, options: tuple[Any, ...] = (), keywords: tuple[tuple[str, Any], ...] = ()) -> Call:
    """A call node; operands that are no expressions become literals."""
    return Call(function, tuple(as_expression(operand) for operand in operands), options, keywords)


def col(name: str) -> Column:
    """The column of this name."""
    return Column(name)


def lit(value: Any) -> Expression:
    """A literal: the same value for every row."""
    return as_expression(value)


def coalesce(*values: Any) -> Expression:
    """The first of the values that is not null."""
    if not values:
        raise PlanError("coalesce() needs at least one value")
    return call("coalesce", *values)
