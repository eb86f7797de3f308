"""Makes logical nodes: checks what the user asked for against the rows that arrive, and says what leaves."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from flinkray.columns import CHANGE, HIDDEN, visible
from flinkray.connectors.base import Sink, Source
from flinkray.errors import PlanError
from flinkray.expressions import Expression
from flinkray.graph.logical import (
    FilterNode,
    FunctionNode,
    LogicalNode,
    ProjectNode,
    RebalanceNode,
    RowType,
    SideOutputNode,
    SinkNode,
    SourceNode,
    UnionNode,
    WatermarkNode,
)
from flinkray.graph.windows import WatermarkStrategy


def source_node(source: Source, watermark: WatermarkStrategy | None) -> SourceNode:
    """Reads the source's schema (files' footers), so that everything after it can be checked."""
    schema = source.schema()
    check_names(schema.names, source.describe())
    if watermark is not None:
        check_watermark(schema, watermark)
    return SourceNode(inputs=(), rows=RowType(schema, event_time=watermark is not None), source=source, watermark=watermark)


def filter_node(stream: LogicalNode, predicate: Expression) -> FilterNode:
    if stream.rows.changes == "upsert":  # a row that does not pass would leave its predecessor in place
        require_append_only(stream, "filter")
    schema = stream.rows.schema
    if schema is not None:
        kind = predicate.result_type(schema)
        if not pa.types.is_boolean(kind):
            raise PlanError(f"filter: {predicate} is {kind}, and must be bool")
    return FilterNode(inputs=(stream,), rows=stream.rows, predicate=predicate)


def project_node(stream: LogicalNode, columns: Sequence[tuple[str, Expression]], what: str = "select") -> ProjectNode:
    """Rows of exactly these columns."""
    columns = tuple(columns)
    if not columns:
        raise PlanError(f"{what}: no column is left")
    check_names([name for name, _ in columns], what)
    schema = stream.rows.schema
    resolved = None
    if schema is not None:
        resolved = pa.schema([pa.field(name, expression.result_type(schema)) for name, expression in columns])
    rows = RowType(resolved, stream.rows.event_time, _renamed_key(stream, columns, what), stream.rows.retracts)
    return ProjectNode(inputs=(stream,), rows=rows, columns=columns)


def _renamed_key(stream: LogicalNode, columns: Sequence[tuple[str, Expression]], what: str) -> tuple[str, ...] | None:
    """A changelog's key under its new names; a changelog that loses its key could not be read any more."""
    key = stream.rows.change_key
    if key is None:
        return None
    new_names = {}
    for name, expression in reversed(columns):
        if expression.plain_column is not None:
            new_names[expression.plain_column] = name
    for name in key:
        if name not in new_names:
            raise PlanError(
                f"{what}: the rows of a running aggregate are told apart by {name!r}, which is not kept; keep it, or "
                "aggregate with emit='final'"
            )
    return tuple(new_names[name] for name in key)


def function_node(
    stream: LogicalNode,
    kind: str,
    function: Callable[..., Any],
    output_schema: pa.Schema | None,
    **parameters: Any,
) -> FunctionNode:
    """`kind`: filter_fn (rows stay as they are), map, flat_map or map_batches (rows are `output_schema`; None: unknown)."""
    require_append_only(stream, kind.removesuffix("_fn"))
    if kind == "filter_fn":
        rows = stream.rows
    else:
        if output_schema is not None:
            check_names(output_schema.names, f"{kind}: output_schema")
        rows = RowType(output_schema, stream.rows.event_time)
    return FunctionNode(inputs=(stream,), rows=rows, function_kind=kind, function=function, parameters=parameters)


def watermark_node(stream: LogicalNode, watermark: WatermarkStrategy) -> WatermarkNode:
    require_append_only(stream, "assign_watermarks")
    if stream.rows.schema is not None:
        check_watermark(stream.rows.schema, watermark)
    return WatermarkNode(inputs=(stream,), rows=RowType(stream.rows.schema, event_time=True), watermark=watermark)


def union_node(streams: Sequence[LogicalNode]) -> UnionNode:
    """Rows of all streams: the same columns in any order. Event time is kept when all of them have it."""
    first = streams[0]
    for number, stream in enumerate(streams[1:], start=2):
        require_append_only(stream, "union")
        _check_same_columns(first.rows, stream.rows, number)
    require_append_only(first, "union")
    known = all(stream.rows.schema is not None for stream in streams)
    schema = pa.schema([pa.field(f.name, f.type) for f in first.rows.schema]) if known else None  # type: ignore[union-attr]
    return UnionNode(inputs=tuple(streams), rows=RowType(schema, all(s.rows.event_time for s in streams)))


def _check_same_columns(first: RowType, other: RowType, number: int) -> None:
    if first.schema is None or other.schema is None:
        return
    missing = [name for name in first.names() if name not in other.names()]
    extra = [name for name in other.names() if name not in first.names()]
    if missing or extra:
        raise PlanError(
            f"union: stream {number} has other columns than the first: "
            f"missing {missing or 'none'}, more {extra or 'none'}; bring them together with select()"
        )
    for name in first.names():
        mine, its = first.schema.field(name).type, other.schema.field(name).type
        if mine != its:
            raise PlanError(f"union: column {name!r} is {mine} in the first stream and {its} in stream {number}; cast one")


def rebalance_node(stream: LogicalNode) -> RebalanceNode:
    require_append_only(stream, "rebalance")
    return RebalanceNode(inputs=(stream,), rows=stream.rows)


def side_output_node(stream: LogicalNode, tag: str) -> SideOutputNode:
    outputs = stream.side_outputs()
    if tag not in outputs:
        there = ", ".join(map(repr, outputs)) or "none"
        raise PlanError(
            f"get_side_output({tag!r}): {stream.display_name!r} has no such side output (it has: {there}); ask the stream "
            "that comes right from the window (side_output_late), source (on_error='dead_letter') or process function (side_outputs)"
        )
    return SideOutputNode(inputs=(stream,), rows=outputs[tag], tag=tag)


def sink_node(stream: LogicalNode, sink: Sink) -> SinkNode:
    changes = stream.rows.changes
    if changes not in sink.accepts:
        if changes == "upsert" and sink.accepts == {"append"}:
            raise PlanError(
                f"{sink.describe()} only appends rows, but a running aggregate changes its answers: give aggregate(..., emit='final'), "
                "or a sink that takes changes (changelog=True)"
            )
        raise PlanError(
            f"{sink.describe()} takes {' and '.join(sorted(sink.accepts))} streams, but {stream.display_name!r} gives a {changes} stream: "
            "give a sink that takes changes (changelog=True), or .changes('change'), which makes the change kind a column like others"
        )
    if stream.rows.schema is not None:
        sink.check_schema(written_schema(stream.rows))
    return SinkNode(inputs=(stream,), rows=stream.rows, sink=sink)


def written_schema(rows: RowType) -> pa.Schema:
    """What a sink writes: visible columns, and the change where there is one."""
    assert rows.schema is not None
    return rows.schema.append(pa.field(CHANGE, pa.int8(), nullable=False)) if rows.changelog else rows.schema


def require_append_only(stream: LogicalNode, what: str) -> None:
    if stream.rows.retracts:
        raise PlanError(
            f"{what}: {stream.display_name!r} gives a retract stream, which takes rows back, so {what} would give wrong answers; do it "
            "before, or see .changes('change'), which makes the change kind a column like others"
        )
    if stream.rows.changelog:
        raise PlanError(
            f"{what}: rows of a running aggregate replace each other, so {what} would give wrong answers; do it before the "
            "aggregate, or aggregate with emit='final'"
        )


def check_column(rows: RowType, name: str, what: str) -> pa.DataType | None:
    """The column's type (None: not known yet); raises PlanError with the nearest name."""
    if not isinstance(name, str):
        raise PlanError(f"{what}: {name!r} is no column name")
    if rows.schema is None:
        return None
    if name not in rows.schema.names:
        raise PlanError(f"{what}: no column {name!r}{did_you_mean(name, rows.names())}")
    return rows.schema.field(name).type


def did_you_mean(name: str, names: Iterable[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names) or 'none'}"


def check_names(names: Sequence[str], what: str) -> None:
    """No name twice, none of the engine's own."""
    for name, times in Counter(names).items():
        if times > 1:
            raise PlanError(f"{what}: column {name!r} is there {times} times; give one of them another name with .alias()")
        if name in HIDDEN:
            raise PlanError(f"{what}: {name!r} is a name of flinkray's own; give the column another one with .alias()")


def check_watermark(schema: pa.Schema, watermark: WatermarkStrategy) -> None:
    kind = check_column(RowType(visible(schema)), watermark.column, "watermark")
    if not (pa.types.is_timestamp(kind) or pa.types.is_int64(kind)):
        raise PlanError(f"watermark: column {watermark.column!r} is {kind}; event time is a timestamp, or int64 microseconds")
