"""`fr.agg`: aggregates for `aggregate(name=fr.agg.sum("price"), ...)`. An argument is a column's name or an expression.

Nulls are skipped; the sum, mean, min or max of no values is null. Sums of ints are int64 (overflow fails the job), of decimals
decimal128(38, s); a mean is a double. `fr.agg.count().filter(col("price") > 100)` looks only at rows for which that is true.
"""

from __future__ import annotations

from flinkray.errors import PlanError
from flinkray.expressions import Expression
from flinkray.graph.resolve_keyed import AggregateCall
from flinkray.graph.udaf import Udaf

Argument = str | Expression

__all__ = [
    "approx_distinct", "collect_list", "count", "count_distinct", "first", "last", "max", "max_by", "mean",
    "min", "min_by", "quantile", "stddev", "sum", "top_k", "udaf",
]  # fmt: skip


def count(column: Argument | None = None) -> AggregateCall:
    """Number of rows, or of non-null values of `column`."""
    return AggregateCall("count", column)


def sum(column: Argument) -> AggregateCall:
    return AggregateCall("sum", column)


def min(column: Argument) -> AggregateCall:
    return AggregateCall("min", column)


def max(column: Argument) -> AggregateCall:
    return AggregateCall("max", column)


def mean(column: Argument) -> AggregateCall:
    return AggregateCall("mean", column)


def first(column: Argument) -> AggregateCall:
    """The value of the row with the smallest event time; of those the one that arrived first."""
    return AggregateCall("first", column)


def last(column: Argument) -> AggregateCall:
    """The value of the row with the largest event time; of those the one that arrived last."""
    return AggregateCall("last", column)


def min_by(value: Argument, by: Argument) -> AggregateCall:
    """`value` of the row whose `by` is smallest."""
    return AggregateCall("min_by", value, by)


def max_by(value: Argument, by: Argument) -> AggregateCall:
    """`value` of the row whose `by` is largest."""
    return AggregateCall("max_by", value, by)


def collect_list(column: Argument) -> AggregateCall:
    """All values, in the order in which they came (in sessions rows of one batch may be in order of time)."""
    return AggregateCall("collect_list", column)


def count_distinct(column: Argument) -> AggregateCall:
    """How many different values, exactly: every value is kept (in state, or until the window's end)."""
    return AggregateCall("count_distinct", column)


def approx_distinct(column: Argument) -> AggregateCall:
    """About how many different values: a HyperLogLog sketch, 1.6 % off as a rule. Needs `pip install 'flinkray[sketches]'`."""
    return AggregateCall("approx_distinct", column)


def quantile(column: Argument, share: float) -> AggregateCall:
    """About the smallest value at or below which `share` (0 to 1) of the values lie (0: the smallest, 1: the largest; SQL's percentile_disc): a
    KLL sketch, 1.3 % of the ranks off as a rule. Needs `pip install 'flinkray[sketches]'`."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise PlanError(f"quantile: share {share!r}; from 0 to 1, 0.5 is the median")
    return AggregateCall("quantile", column, parameter=float(share))


def top_k(column: Argument, k: int) -> AggregateCall:
    """The `k` largest values as a list, largest first; fewer where there are fewer."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise PlanError(f"top_k: k is {k!r}; a whole number, 1 or more")
    return AggregateCall("top_k", column, parameter=k)


def udaf(function: Udaf, *columns: Argument) -> AggregateCall:
    """An aggregate of your own over these columns: an instance of a class that extends `fr.Udaf`."""
    if not isinstance(function, Udaf):
        raise PlanError(f"udaf: {function!r} is no fr.Udaf")
    if not columns:
        raise PlanError("udaf: give the columns that it takes, like fr.agg.udaf(Spread(), 'price')")
    return AggregateCall("udaf", columns[0], more=columns[1:], parameter=function)


def stddev(column: Argument) -> AggregateCall:
    """The sample standard deviation (n - 1); null for fewer than two values."""
    return AggregateCall("stddev", column)


def __dir__() -> list[str]:
    return __all__
