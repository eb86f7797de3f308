"""Aggregate functions as frozen values: what they are called, what types they take and give, and what they keep.

An aggregate's accumulator is a fixed number of 64-bit words per key, named columns `_a<i>_<word>` wherever they are shipped or stored:
int64, doubles by their bits. Where an accumulator can be empty, bit i of the word `_flags` says that aggregate i has a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flinkray.columns import CHANGE, EVENT_TIME, HIDDEN, TIMESTAMP
from flinkray.errors import PlanError
from flinkray.graph.windows import SessionWindow, Window


@dataclass(frozen=True)
class Aggregate:
    """`function` over `column` (None: count of rows), ordered or chosen by `by` (min_by, max_by; of count_distinct: whether a row counts), under
    the name `output`. `more`: further columns and `parameter` the function itself of a udaf; `parameter` of a quantile the share, of
    top_k how many, of reduce the function."""

    output: str
    function: str
    column: str | None = None
    by: str | None = None
    more: tuple[str, ...] = ()
    parameter: Any = None

    def inputs(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return tuple(name for name in (self.column, self.by, *self.more) if name is not None)

    def describe(self) -> str:
        arguments = ", ".join(self.inputs())
        return f"{self.output}={self.function}({arguments})"


PANE = "_pane"
"""int64 column of pre-aggregated rows: start of the pane (tumbling, sliding) or of the session, in microseconds."""

PANE_END = "_pane_end"
"""int64 column of pre-aggregated session rows: event time of the session's last row."""

FLAGS = "_flags"
"""int64 column of accumulators: bit i is set when aggregate i has a value."""

ROWS = "_rows"
"""int64 column of pre-aggregated window rows: how many rows one stands for, so that late ones are counted as rows. Left out where a
count() says the same (see `rows_column`)."""

WINDOW_START, WINDOW_END = "window_start", "window_end"

MAX_AGGREGATES = 62
"""In one operator: bits of the flags word."""

FUNCTIONS = ("count", "sum", "min", "max", "mean", "first", "last", "min_by", "max_by", "stddev")
ARRAY_FUNCTIONS = ("collect_list", "count_distinct", "approx_distinct", "quantile", "top_k", "reduce", "udaf")
"""What they keep of a key is an Arrow value and no fixed number of words."""

_ORDERED = ("min", "max", "first", "last", "min_by", "max_by")


def mergeable(aggregate: Aggregate) -> bool:
    """Whether parts can be aggregated on their own and merged, as pre-aggregation and panes do."""
    return aggregate.function in FUNCTIONS


def result_type(aggregate: Aggregate, input_schema: pa.Schema) -> pa.DataType:
    """The type of the aggregate's result. Raises PlanError for an unknown function or column, or a type that does not fit."""
    if aggregate.function in ARRAY_FUNCTIONS:
        return _array_type(aggregate, input_schema)
    if aggregate.function not in FUNCTIONS:
        known = ", ".join((*FUNCTIONS, *ARRAY_FUNCTIONS))
        raise PlanError(f"{aggregate.describe()}: there is no aggregate {aggregate.function!r}; known are {known}")
    if aggregate.function in ("min_by", "max_by"):
        if aggregate.by is None:
            raise PlanError(f"{aggregate.describe()}: {aggregate.function} needs the column to choose by")
        if pa.types.is_nested(by := _type_of(aggregate, aggregate.by, input_schema)):
            raise PlanError(f"{aggregate.describe()}: {aggregate.by!r} is {by}, which has no order")
    if aggregate.function == "count" and aggregate.column is None:
        return pa.int64()
    if aggregate.column is None:
        raise PlanError(f"{aggregate.describe()}: {aggregate.function} needs a column")
    kind = _type_of(aggregate, aggregate.column, input_schema)
    if aggregate.function == "count":
        return pa.int64()
    if aggregate.function in _ORDERED:
        _check_ordered(aggregate, kind)
        return kind.value_type if pa.types.is_dictionary(kind) else kind
    if aggregate.function == "sum" and pa.types.is_decimal(kind) and kind.bit_width <= 128:
        return pa.decimal128(38, kind.scale)
    if not (is_integer(kind) or pa.types.is_floating(kind)):
        raise PlanError(f"{aggregate.describe()}: {aggregate.function} takes numbers, but {aggregate.column!r} is {kind}")
    return pa.int64() if aggregate.function == "sum" and is_integer(kind) else pa.float64()


def _array_type(aggregate: Aggregate, input_schema: pa.Schema) -> pa.DataType:
    kinds = [_type_of(aggregate, name, input_schema) for name in aggregate.inputs()]
    if not kinds:
        raise PlanError(f"{aggregate.describe()}: {aggregate.function} needs a column")
    kind = kinds[0].value_type if pa.types.is_dictionary(kinds[0]) else kinds[0]
    if aggregate.function == "collect_list":
        return pa.list_(kind)
    if aggregate.function == "top_k":
        if pa.types.is_nested(kind):
            raise PlanError(f"{aggregate.describe()}: {kind} has no order")
        return pa.list_(kind)
    if aggregate.function == "reduce":
        plain = (each.value_type if pa.types.is_dictionary(each) else each for each in kinds)
        return pa.struct(list(zip(aggregate.inputs(), plain, strict=True)))
    if aggregate.function in ("approx_distinct", "count_distinct"):
        check_key_type(str(aggregate.column), kind)
        return pa.int64()
    if aggregate.function == "quantile":
        if not (is_integer(kind) or pa.types.is_floating(kind)):
            raise PlanError(f"{aggregate.describe()}: a quantile is of numbers, but {aggregate.column!r} is {kind}")
        return pa.float64()
    result: pa.DataType = aggregate.parameter.types()[1]
    return result


def keeps_words(aggregate: Aggregate, input_schema: pa.Schema) -> bool:
    """Whether its accumulator is a fixed number of words, which the fast operators need."""
    if aggregate.function in ARRAY_FUNCTIONS:
        return False
    if aggregate.function not in _ORDERED:
        return True
    return all(_fits_word(_type_of(aggregate, name, input_schema)) for name in aggregate.inputs())


def is_integer(kind: pa.DataType) -> bool:
    """Integers of any width, and booleans, which count as 0 and 1."""
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def has_flag(aggregate: Aggregate) -> bool:
    """Whether the accumulator can be empty and so needs its bit in the flags word."""
    return aggregate.function not in ("count", "mean", "stddev")


def word_count(aggregate: Aggregate, input_schema: pa.Schema) -> int:
    """How many 64-bit words the accumulator has."""
    if aggregate.function in ("count", "min", "max"):
        return 1
    if aggregate.function in ("first", "last", "min_by", "max_by"):
        return 2  # time or `by`, and value
    kind = _type_of(aggregate, aggregate.column, input_schema)
    if aggregate.function == "sum":
        return 2 if pa.types.is_decimal(kind) else 1  # decimals: lower and upper half
    if aggregate.function == "mean":
        return 3 if is_integer(kind) else 2  # count, and the exact sum in two halves or a double
    return 3  # stddev: count, mean, sum of squared differences


def accumulator_fields(index: int, aggregate: Aggregate, input_schema: pa.Schema) -> list[pa.Field]:
    """The columns of the accumulator of the aggregate at position `index`."""
    result_type(aggregate, input_schema)
    return [pa.field(f"_a{index}_{word}", pa.int64(), False) for word in range(word_count(aggregate, input_schema))]


def word_names(aggregates: Sequence[Aggregate], input_schema: pa.Schema, *extra: str) -> list[str]:
    """Names of all words that are kept per key: the flags where needed, the accumulators, then `extra` ones."""
    names = [FLAGS] if any(has_flag(aggregate) for aggregate in aggregates) else []
    for index, aggregate in enumerate(aggregates):
        names += [field.name for field in accumulator_fields(index, aggregate, input_schema)]
    return [*names, *extra]


def rows_column(aggregates: Sequence[Aggregate]) -> str:
    """The column of pre-aggregated rows that says how many rows one stands for."""
    counts = (i for i, aggregate in enumerate(aggregates) if aggregate.function == "count" and aggregate.column is None)
    first = next(counts, None)
    return ROWS if first is None else f"_a{first}_0"


def partial_schema(keys: Sequence[str], aggregates: Sequence[Aggregate], window: Window | None, input_schema: pa.Schema) -> pa.Schema:
    """What pre-aggregation emits: key columns, then for windows the pane, then words of the accumulators. Rows of panes need no event
    time of their own; without a window it is the largest of the group."""
    check(keys, aggregates, window, input_schema)
    fields = [input_schema.field(key) for key in keys]
    extra: list[str] = []
    if window is not None:
        fields.append(pa.field(PANE, pa.int64(), False))
        extra += [ROWS] if rows_column(aggregates) == ROWS else []
    if isinstance(window, SessionWindow):
        fields.append(pa.field(PANE_END, pa.int64(), False))
    elif window is None and EVENT_TIME in input_schema.names:
        extra.append(EVENT_TIME)
    return pa.schema(fields + [pa.field(name, pa.int64(), False) for name in word_names(aggregates, input_schema, *extra)])


def result_schema(keys: Sequence[str], aggregates: Sequence[Aggregate], window: Window | None, input_schema: pa.Schema) -> pa.Schema:
    """What the aggregating operator emits. Windows: keys, window_start, window_end, aggregates, event time (window_end - 1 us).
    Running aggregates: keys, aggregates, event time where the input has one, change. `input_schema` is that of the raw rows."""
    check(keys, aggregates, window, input_schema)
    fields = [_decoded(input_schema.field(key)) for key in keys]
    if window is not None:
        fields += [pa.field(WINDOW_START, TIMESTAMP, False), pa.field(WINDOW_END, TIMESTAMP, False)]
    fields += [pa.field(aggregate.output, result_type(aggregate, input_schema)) for aggregate in aggregates]
    if EVENT_TIME in input_schema.names:
        fields.append(pa.field(EVENT_TIME, pa.int64(), False))
    if window is None:
        fields.append(pa.field(CHANGE, pa.int8(), False))
    return pa.schema(fields)


def check(keys: Sequence[str], aggregates: Sequence[Aggregate], window: Window | None, input_schema: pa.Schema) -> None:
    """Raises PlanError where columns are unknown or of a wrong type, or where two outputs would have one name."""
    for key in keys:
        if key not in input_schema.names:
            raise PlanError(f"key column {key!r} is not there; the columns are {_listed(input_schema.names)}")
        check_key_type(key, input_schema.field(key).type)
    if window is not None and EVENT_TIME not in input_schema.names:
        raise PlanError("windows need event time: give the source a watermark, or call assign_watermarks before")
    if len(aggregates) > MAX_AGGREGATES:
        raise PlanError(f"{len(aggregates)} aggregates in one operator; at most {MAX_AGGREGATES} are possible")
    taken = set(keys) | HIDDEN | ({WINDOW_START, WINDOW_END} if window is not None else set())
    for aggregate in aggregates:
        result_type(aggregate, input_schema)
        if aggregate.output in taken:
            raise PlanError(f"output {aggregate.output!r} has the name of a key, a window column or another output; rename it")
        taken.add(aggregate.output)


def check_key_type(name: str, kind: pa.DataType) -> None:
    """Raises PlanError when rows cannot be keyed by a column of this type."""
    if not is_key_type(kind):
        raise PlanError(f"key column {name!r} is {kind}; keys are numbers, strings, dates or timestamps")


def is_key_type(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (pa.types.is_nested(kind) or pa.types.is_interval(kind) or pa.types.is_decimal256(kind))


def _decoded(field: pa.Field) -> pa.Field:
    """State keeps keys as plain values, whatever dictionary they came in."""
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _type_of(aggregate: Aggregate, column: str | None, input_schema: pa.Schema) -> pa.DataType:
    if column not in input_schema.names:
        raise PlanError(f"{aggregate.describe()}: there is no column {column!r}; the columns are {_listed(input_schema.names)}")
    return input_schema.field(column).type


def _check_ordered(aggregate: Aggregate, kind: pa.DataType) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(kind) and aggregate.function in ("min", "max"):
        raise PlanError(f"{aggregate.describe()}: {kind} has no order; first, last, min_by and max_by take any type")


def _fits_word(kind: pa.DataType) -> bool:
    return is_integer(kind) or pa.types.is_floating(kind) or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name for name in names if name not in HIDDEN)
