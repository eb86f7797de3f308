"""The expression tree: what `col("price") * 0.908` is. Four kinds of node: column, literal, alias, and a call of a named function.

A tree is frozen and pickles. It is bound to a schema once (`binding.py`): types are resolved, literals take their column's type and
kernels are chosen, so that evaluating a batch is a chain of Arrow or numpy kernels and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, Counters, bind_call, bind_column, bind_root, broadcast
from flinkray.expressions.binding import NullDivisions as _NullDivisions
from flinkray.expressions.describing import describe
from flinkray.expressions.literals import bind_literal, literal_value
from flinkray.expressions.types import TypeLike, parse_type

if TYPE_CHECKING:
    from flinkray.expressions.strings import StringMethods
    from flinkray.expressions.times import TimeMethods

Text = str
"""`str`, inside a class where that name is the namespace of string functions."""

_NO_TRUTH = (
    "{text} has no truth value: it stands for a column. Write & | ~ (with parentheses round each comparison) instead of "
    "`and` `or` `not`, .between(low, high) instead of `low < x < high`, and .is_in([...]) instead of `in`"
)


class Expression:
    """A value per row, computed from columns. Operators and methods build larger expressions; nothing is computed before a job runs.

    `==` builds an expression too: compare two trees with `same_as`.
    """

    __hash__ = object.__hash__

    def evaluate(self, batch: pa.RecordBatch, counters: Counters | None = None) -> pa.Array:
        """The value of each row of the batch. `counters.null_divisions` grows by the integer divisions by zero, which are null.

        Raises ExpressionError when a value does not fit (overflow, a cast), PlanError when the batch lacks a column.
        """
        value = self._bound(batch.schema).run(batch, counters if counters is not None else _NullDivisions())
        return broadcast(value, batch.num_rows)

    def result_type(self, schema: pa.Schema) -> pa.DataType:
        """The type of the result on rows of this schema. Raises PlanError naming the expression, the column and the columns there are."""
        return self._bound(schema).type

    def columns(self) -> frozenset[Text]:
        """Names of the columns that the expression reads."""
        return frozenset().union(*(child.columns() for child in self._children()))

    @property
    def name(self) -> Text | None:
        """The name of the result where the expression gives one: a column's own name or the alias."""
        return None

    @property
    def plain_column(self) -> Text | None:
        """The column that is passed on unchanged, under its own name or an alias; None when something is computed."""
        return None

    def same_as(self, other: Expression) -> bool:
        """Whether both trees are written alike (`==` would build a comparison)."""
        return self._key() == other._key()

    def describe(self) -> Text:
        """The expression as a user would type it."""
        return describe(self)

    def __repr__(self) -> Text:
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

    def __getstate__(self) -> dict[Text, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_last_binding"}

    def __setstate__(self, state: dict[Text, Any]) -> None:
        self.__dict__.update(state)

    # -- what Python would get wrong silently -------------------------------------------------------------------------------

    def __bool__(self) -> NoReturn:
        raise TypeError(_NO_TRUTH.format(text=self))

    def __contains__(self, value: object) -> NoReturn:
        raise TypeError(_NO_TRUTH.format(text=self))

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{self} cannot be iterated: it stands for a column")

    # -- operators ----------------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Expression:
        return call("add", self, other)

    def __radd__(self, other: Any) -> Expression:
        return call("add", other, self)

    def __sub__(self, other: Any) -> Expression:
        return call("sub", self, other)

    def __rsub__(self, other: Any) -> Expression:
        return call("sub", other, self)

    def __mul__(self, other: Any) -> Expression:
        return call("mul", self, other)

    def __rmul__(self, other: Any) -> Expression:
        return call("mul", other, self)

    def __truediv__(self, other: Any) -> Expression:
        """Quotient as float64 (of integers too; integers above 2^53 are rounded first). An integer divided by zero is null."""
        return call("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return call("truediv", other, self)

    def __floordiv__(self, other: Any) -> Expression:
        """Quotient rounded down, as in Python; exact for integers, null where the divisor is zero."""
        return call("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Expression:
        return call("floordiv", other, self)

    def __mod__(self, other: Any) -> Expression:
        """Remainder with the divisor's sign, as in Python; exact for integers, null where the divisor is zero."""
        return call("mod", self, other)

    def __rmod__(self, other: Any) -> Expression:
        return call("mod", other, self)

    def __pow__(self, other: Any) -> Expression:
        """Power: int64 for an integer and a literal exponent that is not negative, else float64."""
        return call("pow", self, other)

    def __rpow__(self, other: Any) -> Expression:
        return call("pow", other, self)

    def __neg__(self) -> Expression:
        return call("neg", self)

    def __pos__(self) -> Expression:
        return self

    def __abs__(self) -> Expression:
        return self.abs()

    def __eq__(self, other: Any) -> Expression:  # type: ignore[override]
        return call("eq", self, other)

    def __ne__(self, other: Any) -> Expression:  # type: ignore[override]
        return call("ne", self, other)

    def __lt__(self, other: Any) -> Expression:
        return call("lt", self, other)

    def __le__(self, other: Any) -> Expression:
        return call("le", self, other)

    def __gt__(self, other: Any) -> Expression:
        return call("gt", self, other)

    def __ge__(self, other: Any) -> Expression:
        return call("ge", self, other)

    def __and__(self, other: Any) -> Expression:
        return call("and", self, other)

    def __rand__(self, other: Any) -> Expression:
        return call("and", other, self)

    def __or__(self, other: Any) -> Expression:
        return call("or", self, other)

    def __ror__(self, other: Any) -> Expression:
        return call("or", other, self)

    def __invert__(self) -> Expression:
        return call("not", self)

    # -- methods ------------------------------------------------------------------------------------------------------------

    def alias(self, name: Text) -> Expression:
        """The same value under another name."""
        return Alias(self, name)

    def cast(self, type: TypeLike, *, safe: bool = True) -> Expression:
        """Convert to a pyarrow type or its name. A value that does not fit fails the job.

        `safe=False` cuts fractions off (2.7 becomes 2) instead of failing; a value out of range fails in either case.
        """
        return call("cast", self, options=(parse_type(type),), keywords=() if safe else (("safe", False),))

    def is_null(self) -> Expression:
        return call("is_null", self)

    def is_not_null(self) -> Expression:
        return call("is_not_null", self)

    def is_nan(self) -> Expression:
        return call("is_nan", self)

    def is_in(self, values: Iterable[Any]) -> Expression:
        """Whether the value is one of `values`. Null is null, as with ==, unless None is among them; NaN is in a list that has NaN."""
        if isinstance(values, str | bytes | Expression) or not isinstance(values, Iterable):
            raise PlanError(f"{self}.is_in({values!r}): give a list of values")
        listed = values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else list(values)
        return call("is_in", self, options=(tuple(literal_value(value) for value in listed),))

    def between(self, low: Any, high: Any) -> Expression:
        """low <= value <= high, both ends included."""
        return call("between", self, low, high)

    def fill_null(self, value: Any) -> Expression:
        """The value, or where it is null `value` (a literal or an expression)."""
        return call("fill_null", self, value)

    def abs(self) -> Expression:
        return call("abs", self)

    def sign(self) -> Expression:
        """-1, 0 or 1."""
        return call("sign", self)

    def round(self, digits: int = 0) -> Expression:
        """Rounded to `digits` decimal digits, halves to even as in Python."""
        return call("round", self, options=(digits,) if digits else ())

    def floor(self) -> Expression:
        return call("floor", self)

    def ceil(self) -> Expression:
        return call("ceil", self)

    def trunc(self) -> Expression:
        return call("trunc", self)

    def sqrt(self) -> Expression:
        """Square root as float64; NaN below zero."""
        return call("sqrt", self)

    def exp(self) -> Expression:
        return call("exp", self)

    def ln(self) -> Expression:
        """Natural logarithm as float64; -inf of zero, NaN below."""
        return call("ln", self)

    def log10(self) -> Expression:
        return call("log10", self)

    def log2(self) -> Expression:
        return call("log2", self)

    @property
    def str(self) -> StringMethods:
        """String functions: `col("url").str.upper()`."""
        from flinkray.expressions.strings import StringMethods

        return StringMethods(self)

    @property
    def dt(self) -> TimeMethods:
        """Functions of timestamps and dates: `col("date_time").dt.truncate("1h")`."""
        from flinkray.expressions.times import TimeMethods

        return TimeMethods(self)


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
