"""Projection pushdown: from the sinks up, which columns of each stream somebody needs, and who needs the event time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flinkray.columns import EVENT_TIME
from flinkray.graph.logical import (
    AggregateNode,
    ChangesNode,
    FilterNode,
    FirstNode,
    FunctionNode,
    GeneralWindowNode,
    JoinNode,
    KeyedNode,
    LogicalNode,
    LookupJoinNode,
    ProcessNode,
    ProjectNode,
    RankNode,
    RowType,
    SideOutputNode,
    SinkNode,
    SourceNode,
    TopNNode,
    WatermarkNode,
)
from flinkray.graph.logical_co_process import CoProcessNode, RowCoProcessNode
from flinkray.graph.row_process import RowProcessNode

OutputKey = tuple[int, str | None]
"""A node's serial and the tag of its output (None: the main one)."""

ORDERED_BY_TIME = frozenset({"first", "last"})
"""Aggregates that look at the event time of a row where it has one."""


@dataclass(frozen=True)
class Need:
    """What consumers use of a stream's rows. `columns=None` is all of them, where they are not known by name."""

    columns: frozenset[str] | None = frozenset()
    event_time: bool = False

    def __or__(self, other: Need) -> Need:
        columns = None if self.columns is None or other.columns is None else self.columns | other.columns
        return Need(columns, self.event_time or other.event_time)

    def with_columns(self, names: frozenset[str]) -> Need:
        return self | Need(names)


def all_columns(rows: RowType, event_time: bool = False) -> Need:
    return Need(None if rows.schema is None else frozenset(rows.schema.names), event_time)


def kept(rows: RowType, need: Need) -> tuple[str, ...]:
    """Names of the known columns that are kept, in the stream's order: at least one where rows carry nothing else, so that they count."""
    if need.columns is None:
        return rows.names()
    names = tuple(name for name in rows.names() if name in need.columns)
    return names if names or need.event_time or rows.changelog else rows.names()[:1]


def needs(nodes: Sequence[LogicalNode]) -> dict[OutputKey, Need]:
    """What is needed of every output; `nodes` in topological order."""
    found: dict[OutputKey, Need] = {}
    for node in reversed(nodes):
        for key, need in _asks(node, found):
            found[key] = found.get(key, Need()) | need
    return found


def _asks(node: LogicalNode, found: Mapping[OutputKey, Need]) -> Iterator[tuple[OutputKey, Need]]:
    """What a node asks of its inputs' outputs."""
    if isinstance(node, SourceNode):
        return
    need = found.get((node.serial, None), Need())
    if isinstance(node, SideOutputNode):
        yield (node.inputs[0].serial, node.tag), need
        return
    if isinstance(node, CoProcessNode | RowCoProcessNode):
        for stream in node.inputs:
            yield (stream.serial, None), all_columns(stream.rows, node.rows.event_time)
        return
    if isinstance(node, JoinNode):
        for stream, asked in zip(node.inputs, join_needs(node, need), strict=True):
            yield (stream.serial, None), asked
        return
    for stream in node.inputs:
        yield (stream.serial, None), input_need(node, need, found)


def input_need(node: LogicalNode, need: Need, found: Mapping[OutputKey, Need]) -> Need:
    """What `node` uses of its input's rows when `need` is used of its own."""
    match node:
        case FilterNode():
            return need.with_columns(node.predicate.columns())
        case ProjectNode():
            used = set(kept(node.rows, need)) if node.rows.schema is not None else {name for name, _ in node.columns}
            columns = [expression.columns() for name, expression in node.columns if name in used]
            return Need(frozenset().union(*columns), need.event_time)
        case FunctionNode():
            return all_columns(node.inputs[0].rows, need.event_time)
        case WatermarkNode():
            return Need(need.columns).with_columns(frozenset({node.watermark.column}))
        case AggregateNode():
            timed = node.window is not None or any(a.function in ORDERED_BY_TIME for a in node.aggregates)
            return _late(node, found) | Need(node.columns_used(), timed and node.inputs[0].rows.event_time)
        case GeneralWindowNode():
            looked_at = node.columns_used()
            asked = all_columns(node.inputs[0].rows) if looked_at is None else Need(looked_at)
            return _late(node, found) | asked | Need(event_time=node.inputs[0].rows.event_time)
        case TopNNode():
            through = frozenset(node.inputs[0].rows.names()) & frozenset(kept(node.rows, need))
            order = frozenset(name for name, _ in node.by)
            return _late(node, found) | Need(through.union(order, node.keys), event_time=True)
        case RankNode():
            ranked = (name for name, _ in node.by if name != EVENT_TIME)
            return Need(frozenset(kept(node.rows, need)).union(node.keys, ranked) - {node.rank}, node.rows.event_time)
        case FirstNode():
            return Need(frozenset(kept(node.rows, need)).union(node.keys), node.rows.event_time)
        case ChangesNode():
            return Need(frozenset(kept(node.rows, need)) - {node.column}, need.event_time)
        case LookupJoinNode():
            names = set(kept(node.rows, need))
            own = {column.left for column in node.columns if column.name in names and column.left is not None}
            return Need(frozenset(own.union(node.keys)), need.event_time)
        case RowProcessNode():
            chosen = node.function.input_columns
            everything = all_columns(node.inputs[0].rows)
            timed = node.inputs[0].rows.event_time
            return Need(everything.columns if chosen is None else frozenset(chosen), timed)
        case ProcessNode():
            wanted = node.function.input_columns
            everything = all_columns(node.inputs[0].rows)
            named = everything.columns if wanted is None else frozenset({*wanted, *node.keys})
            return Need(named, node.inputs[0].rows.event_time)
        case SinkNode():
            return all_columns(node.inputs[0].rows)
        case _:  # union, rebalance
            return Need(need.columns and frozenset(kept(node.rows, need)), need.event_time)


def join_needs(node: JoinNode, need: Need) -> tuple[Need, Need]:
    """What a join uses of its left and of its right rows."""
    join, names = node.join, frozenset(kept(node.rows, need))
    left = {column.left for column in join.columns if column.name in names and column.left is not None}
    right = {column.right for column in join.columns if column.name in names and column.right is not None}
    return Need(frozenset(left.union(join.left_keys)), event_time=True), Need(frozenset(right.union(join.right_keys)), event_time=True)


def _late(node: KeyedNode, found: Mapping[OutputKey, Need]) -> Need:
    return found.get((node.serial, node.late_tag), Need()) if node.late_tag is not None else Need()
