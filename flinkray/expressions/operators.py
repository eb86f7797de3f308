"""What Python's operators and the methods of an expression build. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.expressions.literals import literal_value
from flinkray.expressions.types import TypeLike, parse_type

if TYPE_CHECKING:
    from flinkray.expressions.strings import StringMethods
    from flinkray.expressions.structs import StructMethods
    from flinkray.expressions.times import TimeMethods
    from flinkray.expressions.tree import Expression

Text = str
"""`str`, inside a class where that name is the namespace of string functions."""

_NO_TRUTH = (
    "{text} has no truth value: it stands for a column. Write & | ~ (with parentheses round each comparison) instead of "
    "`and` `or` `not`, .between(low, high) instead of `low < x < high`, and .is_in([...]) instead of `in`"
)


def _call(function: str, *operands: Any, options: tuple[Any, ...] = (), keywords: tuple[tuple[str, Any], ...] = ()) -> Expression:
    from flinkray.expressions.tree import call

    return call(function, *operands, options=options, keywords=keywords)


class Operators:
    """The operators and methods of every expression. `==` builds an expression too, so an expression hashes by identity."""

    __hash__ = object.__hash__

    @property
    def _itself(self) -> Expression:
        return self  # type: ignore[return-value]  # Expression is the one subclass

    # -- what Python would get wrong silently -------------------------------------------------------------------------------

    def __bool__(self) -> NoReturn:
        raise TypeError(_NO_TRUTH.format(text=self))

    def __contains__(self, value: object) -> NoReturn:
        raise TypeError(_NO_TRUTH.format(text=self))

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{self} cannot be iterated: it stands for a column")

    # -- operators ----------------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Expression:
        return _call("add", self, other)

    def __radd__(self, other: Any) -> Expression:
        return _call("add", other, self)

    def __sub__(self, other: Any) -> Expression:
        return _call("sub", self, other)

    def __rsub__(self, other: Any) -> Expression:
        return _call("sub", other, self)

    def __mul__(self, other: Any) -> Expression:
        return _call("mul", self, other)

    def __rmul__(self, other: Any) -> Expression:
        return _call("mul", other, self)

    def __truediv__(self, other: Any) -> Expression:
        """Quotient as float64 (of integers too; integers above 2^53 are rounded first). An integer divided by zero is null."""
        return _call("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return _call("truediv", other, self)

    def __floordiv__(self, other: Any) -> Expression:
        """Quotient rounded down, as in Python; exact for integers, null where the divisor is zero."""
        return _call("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Expression:
        return _call("floordiv", other, self)

    def __mod__(self, other: Any) -> Expression:
        """Remainder with the divisor's sign, as in Python; exact for integers, null where the divisor is zero."""
        return _call("mod", self, other)

    def __rmod__(self, other: Any) -> Expression:
        return _call("mod", other, self)

    def __pow__(self, other: Any) -> Expression:
        """Power: int64 for an integer and a literal exponent that is not negative, else float64."""
        return _call("pow", self, other)

    def __rpow__(self, other: Any) -> Expression:
        return _call("pow", other, self)

    def __neg__(self) -> Expression:
        return _call("neg", self)

    def __pos__(self) -> Expression:
        return self._itself

    def __abs__(self) -> Expression:
        return self.abs()

    def __eq__(self, other: Any) -> Expression:  # type: ignore[override]
        return _call("eq", self, other)

    def __ne__(self, other: Any) -> Expression:  # type: ignore[override]
        return _call("ne", self, other)

    def __lt__(self, other: Any) -> Expression:
        return _call("lt", self, other)

    def __le__(self, other: Any) -> Expression:
        return _call("le", self, other)

    def __gt__(self, other: Any) -> Expression:
        return _call("gt", self, other)

    def __ge__(self, other: Any) -> Expression:
        return _call("ge", self, other)

    def __and__(self, other: Any) -> Expression:
        return _call("and", self, other)

    def __rand__(self, other: Any) -> Expression:
        return _call("and", other, self)

    def __or__(self, other: Any) -> Expression:
        return _call("or", self, other)

    def __ror__(self, other: Any) -> Expression:
        return _call("or", other, self)

    def __invert__(self) -> Expression:
        return _call("not", self)

    # -- methods ------------------------------------------------------------------------------------------------------------

    def alias(self, name: Text) -> Expression:
        """The same value under another name."""
        from flinkray.expressions.tree import Alias

        return Alias(self._itself, name)

    def cast(self, type: TypeLike, *, safe: bool = True) -> Expression:
        """Convert to a pyarrow type or its name. A value that does not fit fails the job.

        `safe=False` cuts fractions off (2.7 becomes 2) instead of failing; a value out of range fails in either case.
        """
        return _call("cast", self, options=(parse_type(type),), keywords=() if safe else (("safe", False),))

    def is_null(self) -> Expression:
        return _call("is_null", self)

    def is_not_null(self) -> Expression:
        return _call("is_not_null", self)

    def is_nan(self) -> Expression:
        return _call("is_nan", self)

    def is_in(self, values: Iterable[Any]) -> Expression:
        """Whether the value is one of `values`. Null is null, as with ==, unless None is among them; NaN is in a list that has NaN."""
        if isinstance(values, str | bytes | Operators) or not isinstance(values, Iterable):
            raise PlanError(f"{self}.is_in({values!r}): give a list of values")
        listed = values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else list(values)
        return _call("is_in", self, options=(tuple(literal_value(value) for value in listed),))

    def between(self, low: Any, high: Any) -> Expression:
        """low <= value <= high, both ends included."""
        return _call("between", self, low, high)

    def fill_null(self, value: Any) -> Expression:
        """The value, or where it is null `value` (a literal or an expression)."""
        return _call("fill_null", self, value)

    def abs(self) -> Expression:
        return _call("abs", self)

    def sign(self) -> Expression:
        """-1, 0 or 1."""
        return _call("sign", self)

    def round(self, digits: int = 0) -> Expression:
        """Rounded to `digits` decimal digits, halves to even as in Python."""
        return _call("round", self, options=(digits,) if digits else ())

    def floor(self) -> Expression:
        return _call("floor", self)

    def ceil(self) -> Expression:
        return _call("ceil", self)

    def trunc(self) -> Expression:
        return _call("trunc", self)

    def sqrt(self) -> Expression:
        """Square root as float64; NaN below zero."""
        return _call("sqrt", self)

    def exp(self) -> Expression:
        return _call("exp", self)

    def ln(self) -> Expression:
        """Natural logarithm as float64; -inf of zero, NaN below."""
        return _call("ln", self)

    def log10(self) -> Expression:
        return _call("log10", self)

    def log2(self) -> Expression:
        return _call("log2", self)

    @property
    def str(self) -> StringMethods:
        """String functions: `col("url").str.upper()`."""
        from flinkray.expressions.strings import StringMethods

        return StringMethods(self._itself)

    @property
    def dt(self) -> TimeMethods:
        """Functions of timestamps and dates: `col("date_time").dt.truncate("1h")`."""
        from flinkray.expressions.times import TimeMethods

        return TimeMethods(self._itself)

    @property
    def struct(self) -> StructMethods:
        """Fields of structs: `col("place").struct.field("city")`."""
        from flinkray.expressions.structs import StructMethods

        return StructMethods(self._itself)
