"""Makes the logical nodes of connected streams, checked against the rows of both."""

from __future__ import annotations

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.graph.co_process import KeyedBroadcastProcessFunction, KeyedCoProcessFunction, broadcast_states_of
from flinkray.graph.joins import check_join_keys
from flinkray.graph.logical import LogicalNode
from flinkray.graph.logical_co_process import CoProcessNode
from flinkray.graph.process import KeyedProcessFunction
from flinkray.graph.resolve import require_append_only
from flinkray.graph.resolve_keyed import require_schema
from flinkray.graph.resolve_process import process_node


def co_process_node(
    left: LogicalNode,
    keys: tuple[str, ...],
    right: LogicalNode,
    right_keys: tuple[str, ...] | None,
    function: KeyedProcessFunction,
    output_schema: pa.Schema | None,
) -> CoProcessNode:
    """`right_keys` None: the right stream is broadcast."""
    wanted, second = (
        (KeyedCoProcessFunction, "process2") if right_keys is not None else (KeyedBroadcastProcessFunction, "process_broadcast")
    )
    if not isinstance(function, wanted):
        sides = "two keyed streams" if right_keys is not None else "a broadcast stream"
        raise PlanError(f"connect: {function!r} is no fr.{wanted.__name__}, which {sides} need")
    if not callable(getattr(function, second, None)):
        raise PlanError(f"connect: {type(function).__name__} has no {second}(row, ctx)")
    if function.input_columns is not None:
        raise PlanError(f"connect: {type(function).__name__}.input_columns: connected streams are given whole; select() before connect()")
    node = process_node(left, keys, function, output_schema)
    require_append_only(right, "connect")
    its = require_schema(right, "connect")
    broadcast_states_of(function)
    if right_keys is not None:
        check_join_keys(require_schema(left, "connect"), its, keys, right_keys, "inner")
    timed = left.rows.event_time and right.rows.event_time
    rows = type(node.rows)(output_schema, event_time=timed)
    return CoProcessNode(inputs=(left, right), rows=rows, keys=keys, function=function, sides=node.sides, right_keys=right_keys)
