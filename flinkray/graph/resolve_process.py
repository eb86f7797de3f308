"""Makes the logical node of a process function, checked against the rows that arrive."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.expressions.types import schema_from
from flinkray.graph.logical import LogicalNode, ProcessNode, RowType
from flinkray.graph.planner_uids import check_uid
from flinkray.graph.process import KeyedProcessFunction, mode_of, states_of
from flinkray.graph.resolve import check_column, check_names, require_append_only
from flinkray.graph.resolve_keyed import require_schema


def process_node(
    stream: LogicalNode, keys: tuple[str, ...], function: KeyedProcessFunction, output_schema: pa.Schema | None
) -> ProcessNode:
    """Rows of `output_schema` (None: unknown until they come), with the event time of the rows or timers that they come from."""
    if not isinstance(function, KeyedProcessFunction):
        raise PlanError(f"process: {function!r} is no fr.KeyedProcessFunction")
    require_append_only(stream, "process")
    require_schema(stream, "process")
    mode_of(function)
    states_of(function)
    name = type(function).__name__
    for column in function.input_columns or ():
        check_column(stream.rows, column, f"process: {name}.input_columns")
    if output_schema is not None:
        check_names(output_schema.names, "process: output_schema")
    rows = RowType(output_schema, event_time=stream.rows.event_time)
    return ProcessNode(inputs=(stream,), rows=rows, keys=keys, function=function, sides=side_schemas(function))


def side_schemas(function: Any) -> dict[str, pa.Schema]:
    """What a process function declares to give to its side outputs, by tag. Raises PlanError."""
    sides = {}
    for tag, declared in function.side_outputs.items():
        check_uid(tag)
        try:
            sides[tag] = schema_from(declared)
        except PlanError as error:
            raise PlanError(f"process: {type(function).__name__}.side_outputs[{tag!r}]: {error}") from None
        check_names(sides[tag].names, f"process: side output {tag!r}")
    return sides
