"""`fr.agg`: aggregates for `aggregate(name=fr.agg.sum("price"), ...)`. An argument is a column's name or an expression.

Nulls are skipped; the sum, mean, min or max of no values is null. Sums of ints are int64 (overflow fails the job), of decimals
decimal128(38, s); a mean is a double.
"""

from __future__ import annotations

from flinkray.expressions import Expression
from flinkray.graph.resolve_keyed import AggregateCall

Argument = str | Expression


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


def stddev(column: Argument) -> AggregateCall:
    """The sample standard deviation (n - 1); null for fewer than two values."""
    return AggregateCall("stddev", column)
