"""Makes the logical nodes of windows of the general kind, and of running aggregates that keep more than words."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from flinkray.config import Duration
from flinkray.errors import PlanError
from flinkray.graph.aggregates import Aggregate, keeps_words, result_type
from flinkray.graph.general_windows import CountWindow, DynamicSessionWindow, GlobalWindow, Trigger, Windows
from flinkray.graph.logical import AggregateNode, GeneralWindowNode, LogicalNode, RowType
from flinkray.graph.resolve import check_column, check_names, require_append_only
from flinkray.graph.resolve_aggregates import changelog_aggregates, distinct_aggregates
from flinkray.graph.resolve_keyed import (
    WINDOW_FIELDS,
    AggregateCall,
    aggregate_node,
    check_emit,
    check_outputs,
    named_aggregates,
    require_event_time,
    require_schema,
)
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow


def windowed_aggregates(
    stream: LogicalNode,
    keys: tuple[str, ...],
    calls: Mapping[str, AggregateCall],
    windows: Windows,
    lateness_us: int = 0,
    late_tag: str | None = None,
) -> AggregateNode | GeneralWindowNode:
    """Aggregates per window: by the fast operators where they can, else by the general one."""
    schema = require_schema(stream, "aggregate")
    plain = isinstance(windows.window, TumblingWindow | SlidingWindow | SessionWindow) and not (windows.trigger or windows.evictor)
    if plain and (not calls or not _needs_arrays(schema, calls)):
        assert isinstance(windows.window, TumblingWindow | SlidingWindow | SessionWindow)
        return aggregate_node(stream, keys, calls, window=windows.window, lateness_us=lateness_us, late_tag=late_tag)
    if not calls:
        raise PlanError("aggregate: give at least one aggregate, like aggregate(bids=fr.agg.count())")
    return _general(stream, keys, calls, windows, lateness_us, late_tag)


def running_aggregates(
    stream: LogicalNode, keys: tuple[str, ...], calls: Mapping[str, AggregateCall], emit: str | Duration
) -> AggregateNode | GeneralWindowNode:
    """Aggregates of all rows so far: of a changelog, of rows that are there now."""
    schema = require_schema(stream, "aggregate")
    if stream.rows.changelog and calls:
        return changelog_aggregates(stream, keys, calls, emit)
    if not calls or not _needs_arrays(schema, calls):
        return aggregate_node(stream, keys, calls, emit=emit)
    require_append_only(stream, "aggregate")
    when = check_emit(emit)
    if when != "row" and not _needs_arrays(schema, {name: call for name, call in calls.items() if call.function != "count_distinct"}):
        return distinct_aggregates(stream, keys, calls, when)
    if when == "row":
        raise PlanError("aggregate: emit='row' answers each row only where an aggregate is a number; use emit='batch'")
    trigger = Trigger(every=when) if not isinstance(when, str) else None
    return _general(stream, keys, calls, Windows(GlobalWindow(), trigger, per_batch=when == "batch"), 0, None)


def reduced(
    stream: LogicalNode, function: Callable[..., Any], aggregated: Callable[[dict[str, AggregateCall]], LogicalNode]
) -> LogicalNode:
    """The rows of each group made one by a function of two; `aggregated` makes the node that forms groups. Raises PlanError."""
    if not callable(function):
        raise PlanError(f"reduce: {function!r} cannot be called; give function(first, second), which makes one row (a dict) of two")
    schema = require_schema(stream, "reduce")
    return aggregated({"row": AggregateCall("reduce", schema.names[0], more=tuple(schema.names[1:]), parameter=function)})


def window_function(
    stream: LogicalNode,
    keys: tuple[str, ...],
    function: Callable[..., Any],
    output_schema: pa.Schema | None,
    windows: Windows,
    lateness_us: int = 0,
    late_tag: str | None = None,
) -> GeneralWindowNode:
    """A function over the rows of each window."""
    if not callable(function):
        raise PlanError(f"window process: {function!r} cannot be called; give function(rows, window)")
    _check(stream, windows, lateness_us)
    if output_schema is not None:
        check_names(output_schema.names, "window process: output_schema")
    return GeneralWindowNode(
        inputs=(stream,),
        rows=RowType(output_schema, event_time=stream.rows.event_time),
        keys=keys,
        windows=windows,
        function=function,
        lateness_us=lateness_us,
        late_tag=late_tag,
    )


def _general(
    stream: LogicalNode, keys: tuple[str, ...], calls: Mapping[str, AggregateCall], windows: Windows, lateness_us: int, late_tag: str | None
) -> GeneralWindowNode:
    schema = _check(stream, windows, lateness_us)
    fields = list(WINDOW_FIELDS) if windows.bounded else []
    aggregates, arguments = named_aggregates(schema, calls)
    reduces = any(aggregate.function == "reduce" for aggregate in aggregates)  # the only one then; its columns are those of the rows
    outputs = {name: calls["row"] for name in schema.names if name not in keys} if reduces else calls
    check_outputs(outputs, keys, [field.name for field in fields])
    typed = pa.schema([*schema, *(pa.field(name, expression.result_type(schema)) for name, expression in arguments)])
    results = [pa.field(aggregate.output, result_type(aggregate, typed)) for aggregate in aggregates]
    if reduces:
        results = [field for field in results[0].type if field.name not in keys]
    _check_library(aggregates)
    key_fields = [pa.field(key, _plain(schema.field(key).type)) for key in keys]
    change_key = (*keys, *(field.name for field in fields)) if windows.refines and not windows.takes_back else None
    if change_key == ():
        raise PlanError("window_all: answers of one global window replace each other, and no column names them; give purge=True, or key_by")
    timed = stream.rows.event_time
    rows = RowType(pa.schema([*key_fields, *fields, *results]), event_time=timed, change_key=change_key, retracts=windows.takes_back)
    return GeneralWindowNode(
        inputs=(stream,),
        rows=rows,
        keys=keys,
        windows=windows,
        aggregates=aggregates,
        arguments=arguments,
        lateness_us=lateness_us,
        late_tag=late_tag,
    )


def _check(stream: LogicalNode, windows: Windows, lateness_us: int) -> pa.Schema:
    require_append_only(stream, "window")
    schema = require_schema(stream, "window")
    window = windows.assigner
    if windows.bounded and not windows.by_clock:
        require_event_time(stream, "window")
    if windows.takes_back and windows.evictor is not None:
        raise PlanError("trigger: early answers of sessions that forget rows could not be taken back; leave out evict, or give purge=True")
    if isinstance(window, CountWindow) and (windows.trigger is not None or windows.evictor is not None):
        raise PlanError("Count: such windows answer when they are full; for other rules use Global() with trigger and evict")
    if lateness_us and (windows.by_clock or not windows.bounded):
        raise PlanError("allowed_lateness: no row is late for windows of processing time, for Count and for Global")
    if isinstance(window, DynamicSessionWindow):
        kind = check_column(stream.rows, window.gap_column, "Session gap_column")
        if kind is not None and not (pa.types.is_integer(kind) or pa.types.is_duration(kind)):
            raise PlanError(f"Session: gap_column {window.gap_column!r} is {kind}; integer microseconds, or a duration")
    return schema


def _needs_arrays(schema: pa.Schema, calls: Mapping[str, AggregateCall]) -> bool:
    """Whether some aggregate keeps more than a fixed number of words. Mistakes are left to be found later."""
    aggregates, arguments = named_aggregates(schema, calls)
    typed = pa.schema([*schema, *(pa.field(name, expression.result_type(schema)) for name, expression in arguments)])
    return not all(keeps_words(aggregate, typed) for aggregate in aggregates)


def _check_library(aggregates: tuple[Aggregate, ...]) -> None:
    for aggregate in aggregates:
        if aggregate.function in ("approx_distinct", "quantile") and importlib.util.find_spec("datasketches") is None:
            raise PlanError(f"{aggregate.describe()}: sketches need a library that is not installed: pip install 'flinkray[sketches]'")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
