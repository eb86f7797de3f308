"""Makes the logical nodes of keyed and windowed operators, checked against the rows that arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from flinkray.columns import TIMESTAMP, visible
from flinkray.config import Duration, duration_s
from flinkray.errors import ConfigError, PlanError
from flinkray.expressions import Expression, as_expression, col, lit, when
from flinkray.graph.aggregates import WINDOW_END, WINDOW_START, Aggregate, check_key_type, result_schema
from flinkray.graph.logical import AggregateNode, Emit, FunctionNode, LogicalNode, RowType, TopNNode
from flinkray.graph.resolve import check_column, check_names, require_append_only
from flinkray.graph.windows import SessionWindow, Window

WINDOW_FIELDS = (pa.field(WINDOW_START, TIMESTAMP, nullable=False), pa.field(WINDOW_END, TIMESTAMP, nullable=False))


@dataclass(frozen=True)
class AggregateCall:
    """What `fr.agg.sum("price")` gives; it gets its name in `aggregate(name=...)`."""

    function: str
    argument: str | Expression | None = None
    by: str | Expression | None = None
    more: tuple[str | Expression, ...] = ()
    parameter: Any = None

    def filter(self, condition: Expression) -> AggregateCall:
        """Only of rows for which the condition is true (SQL's FILTER), like `fr.agg.count().filter(col("price") > 100)`."""
        if self.function == "udaf":
            raise PlanError("filter: a udaf decides itself which rows count; give it the condition as one more column")
        condition = as_expression(condition)
        if self.function == "count_distinct":
            return replace(self, by=condition if self.by is None else as_expression(self.by) & condition)
        if self.by is not None:
            return replace(self, by=when(condition).then(_expression(self.by)))
        return replace(self, argument=when(condition).then(lit(True) if self.argument is None else _expression(self.argument)))


def _expression(argument: str | Expression) -> Expression:
    return col(argument) if isinstance(argument, str) else argument


def check_keys(stream: LogicalNode, keys: Sequence[str]) -> tuple[str, ...]:
    if not keys:
        raise PlanError("key_by: name at least one column; for windows over all rows there is window_all(...)")
    for name in keys:
        kind = check_column(stream.rows, name, "key_by")
        if kind is not None:
            check_key_type(name, kind)
    check_names(keys, "key_by")
    return tuple(keys)


def aggregate_node(
    stream: LogicalNode,
    keys: tuple[str, ...],
    calls: Mapping[str, AggregateCall],
    *,
    window: Window | None = None,
    lateness_us: int = 0,
    late_tag: str | None = None,
    emit: str | Duration = "final",
) -> AggregateNode:
    """Rows of keys, `window_start` and `window_end` if there is a window, and the aggregates."""
    require_append_only(stream, "aggregate")
    schema = require_schema(stream, "aggregate")
    if window is not None:
        require_event_time(stream, "window")
    if not calls:
        raise PlanError("aggregate: give at least one aggregate, like aggregate(bids=fr.agg.count())")
    aggregates, arguments = named_aggregates(schema, calls)
    check_outputs(calls, keys, [f.name for f in WINDOW_FIELDS] if window is not None else [])
    typed = pa.schema([*schema, *(pa.field(n, e.result_type(schema)) for n, e in arguments)])
    result = visible(result_schema(keys, aggregates, window, RowType(typed, stream.rows.event_time).physical()))
    when = "final" if window is not None else check_emit(emit)
    changes = window is None and when != "final"
    rows = RowType(result, event_time=window is not None, change_key=keys if changes else None)
    return AggregateNode(
        inputs=(stream,),
        rows=rows,
        keys=keys,
        window=window,
        lateness_us=lateness_us,
        late_tag=late_tag,
        aggregates=aggregates,
        arguments=arguments,
        emit=when,
    )


def named_aggregates(
    schema: pa.Schema, calls: Mapping[str, AggregateCall]
) -> tuple[tuple[Aggregate, ...], tuple[tuple[str, Expression], ...]]:
    """Aggregates over columns, and the columns that have to be computed for them (the same expression once)."""
    arguments: dict[str, Expression] = {}
    names: dict[str, str] = {}

    def name_of(argument: str | Expression | None, output: str) -> str | None:
        if argument is None or isinstance(argument, str):
            if argument is not None:
                check_column(RowType(schema), argument, f"aggregate {output!r}")
            return argument
        expression = as_expression(argument)
        if expression.plain_column is not None:
            return name_of(expression.plain_column, output)
        name = names.setdefault(repr(expression), f"_arg{len(names)}")
        arguments[name] = expression
        return name

    aggregates = []
    for output, call in calls.items():
        if not isinstance(call, AggregateCall):
            raise PlanError(f"aggregate: {output}={call!r} is no aggregate; write {output}=fr.agg.sum('column') or the like")
        more = tuple(str(name_of(each, output)) for each in call.more)
        made = Aggregate(output, call.function, name_of(call.argument, output), name_of(call.by, output), more, call.parameter)
        aggregates.append(made)
    return tuple(aggregates), tuple(arguments.items())


def check_outputs(calls: Mapping[str, AggregateCall], keys: Sequence[str], window_columns: Sequence[str]) -> None:
    check_names(list(calls), "aggregate")
    for name in (*keys, *calls):
        if name in window_columns:
            raise PlanError(f"aggregate: {name!r} is the name of a window column of the result; choose another name")
    for name in calls:
        if name in keys:
            raise PlanError(f"aggregate: {name!r} is a key and cannot be the name of an aggregate; choose another name")


def top_n_node(
    stream: LogicalNode,
    keys: tuple[str, ...],
    n: int,
    by: Sequence[tuple[str, str]],
    *,
    window: Window,
    lateness_us: int = 0,
    late_tag: str | None = None,
) -> TopNNode:
    """The rows themselves; with `window_start` and `window_end` unless they have such columns from the window that made them."""
    schema = require_schema(stream, "top_n")
    require_event_time(stream, "window")
    if isinstance(window, SessionWindow):
        raise PlanError("top_n: give it tumbling or sliding windows; sessions have no common end")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise PlanError(f"top_n: n is {n!r}, and must be 1 or more")
    for name, direction in by:
        check_column(stream.rows, name, "top_n")
        if direction not in ("asc", "desc"):
            raise PlanError(f"top_n: order {direction!r} of {name!r}; 'asc' or 'desc'")
    if not by:
        raise PlanError("top_n: name at least one column in by=")
    there = [f.name for f in WINDOW_FIELDS if f.name in schema.names]
    for name, _ in by:
        kind = schema.field(name).type
        if pa.types.is_nested(kind):
            raise PlanError(f"top_n: column {name!r} is {kind}, which has no order")
    if len(there) == 1:
        raise PlanError(f"top_n: the rows have a column {there[0]!r}, which is a window column of the result; rename it")
    fields = [*schema, *(() if there else WINDOW_FIELDS)]
    return TopNNode(
        inputs=(stream,),
        rows=RowType(pa.schema(fields), event_time=True),
        keys=keys,
        window=window,
        lateness_us=lateness_us,
        late_tag=late_tag,
        by=tuple(by),
        n=n,
    )


def require_event_time(stream: LogicalNode, what: str) -> None:
    require_append_only(stream, what)
    if not stream.rows.event_time:
        raise PlanError(
            f"{what}: the rows have no event time; give from_source(..., watermark=fr.Watermarks.bounded(column, delay)), or "
            "assign_watermarks(...)"
        )


def check_emit(emit: str | Duration) -> Emit:
    """The emission mode; a duration as seconds."""
    if emit in ("batch", "row", "final"):
        return emit  # type: ignore[return-value]
    try:
        seconds = duration_s(emit, "emit")
    except ConfigError as error:
        raise PlanError(f"aggregate: emit={emit!r}: 'batch', 'row', 'final' or a duration like '1s'") from error
    if seconds <= 0:
        raise PlanError(f"aggregate: emit={emit!r} is not above zero; emit='row' answers for every row")
    return seconds


def require_schema(stream: LogicalNode, what: str) -> pa.Schema:
    """State needs types: a function before that does not say what it gives is named."""
    if stream.rows.schema is not None:
        return stream.rows.schema
    unknown: LogicalNode = stream
    while not (isinstance(unknown, FunctionNode) and unknown.function_kind != "filter_fn"):
        unknown = next(node for node in unknown.inputs if node.rows.schema is None)
    raise PlanError(
        f"{what}: the columns that {unknown.kind} {getattr(unknown.function, '__qualname__', unknown.display_name)!r} gives are not "
        "known; declare them with output_schema={'name': 'type', ...} or a return annotation"
    )
