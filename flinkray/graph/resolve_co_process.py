"""Makes the logical nodes of connected streams, checked against the rows of both."""

from __future__ import annotations

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.graph.co_process import (
    BroadcastProcessFunction,
    CoProcessFunction,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    broadcast_states_of,
)
from flinkray.graph.joins import check_join_keys
from flinkray.graph.logical import LogicalNode
from flinkray.graph.logical_co_process import CoProcessNode, RowCoProcessNode
from flinkray.graph.process import KeyedProcessFunction
from flinkray.graph.resolve import require_append_only
from flinkray.graph.resolve_keyed import require_schema
from flinkray.graph.resolve_process import process_node
from flinkray.graph.row_process import ProcessFunction, row_process_node


def co_process_node(
    left: LogicalNode,
    keys: tuple[str, ...],
    right: LogicalNode,
    right_keys: tuple[str, ...] | None,
    function: KeyedProcessFunction,
    output_schema: pa.Schema | None,
) -> CoProcessNode:
    """`right_keys` None: the right stream is broadcast."""
    _check_function(function, right_keys is None, KeyedBroadcastProcessFunction, KeyedCoProcessFunction, "keyed ")
    node = process_node(left, keys, function, output_schema)
    require_append_only(right, "connect")
    its = require_schema(right, "connect")
    broadcast_states_of(function)
    if right_keys is not None:
        check_join_keys(require_schema(left, "connect"), its, keys, right_keys, "inner")
    timed = left.rows.event_time and right.rows.event_time
    rows = type(node.rows)(output_schema, event_time=timed)
    return CoProcessNode(inputs=(left, right), rows=rows, keys=keys, function=function, sides=node.sides, right_keys=right_keys)


def row_co_process_node(
    left: LogicalNode, right: LogicalNode, broadcast: bool, function: ProcessFunction, output_schema: pa.Schema | None
) -> RowCoProcessNode:
    """The same for streams without keys."""
    _check_function(function, broadcast, BroadcastProcessFunction, CoProcessFunction, "")
    node = row_process_node(left, function, output_schema)
    require_append_only(right, "connect")
    if not broadcast and broadcast_states_of(function):
        raise PlanError(
            f"connect: {type(function).__name__} has broadcast state; write connect(other.broadcast()), or a BroadcastProcessFunction"
        )
    timed = left.rows.event_time and right.rows.event_time
    rows = type(node.rows)(output_schema, event_time=timed)
    return RowCoProcessNode(inputs=(left, right), rows=rows, function=function, sides=node.sides, broadcast=broadcast)


def _check_function(function: object, broadcast: bool, of_broadcast: type, of_two: type, keyed: str) -> None:
    """Raises PlanError where the function is not what the streams need."""
    wanted, second = (of_broadcast, "process_broadcast") if broadcast else (of_two, "process2")
    if not isinstance(function, wanted):
        sides = "a broadcast stream" if broadcast else f"two {keyed}streams"
        raise PlanError(f"connect: {function!r} is no fr.{wanted.__name__}, which {sides} {'needs' if broadcast else 'need'}")
    if not callable(getattr(function, second, None)):
        raise PlanError(f"connect: {type(function).__name__} has no {second}(row, ctx)")
    if function.input_columns is not None:  # type: ignore[attr-defined]
        raise PlanError(f"connect: {type(function).__name__}.input_columns: connected streams are given whole; select() before connect()")
