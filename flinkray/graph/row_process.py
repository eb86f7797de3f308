"""Process functions without keys: a user's function over rows as they come, with side outputs; and their logical node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.graph.logical import LogicalNode, RowType
from flinkray.graph.process import ProcessContext, mode_of, states_of
from flinkray.graph.resolve import check_column, check_names, require_append_only
from flinkray.graph.resolve_process import side_schemas


class ProcessFunction:
    """Write one of `process(row, ctx)`, which gets a dict and gives any number of dicts, mostly by `yield`, and `process_batch(rows, ctx)`,
    which gets a RecordBatch and gives one, a dict of arrays, or None. `ctx` has `timestamp` (`timestamps` of a batch), `watermark`,
    `processing_time()` and `output(tag, row)`. State and timers belong to a key: for these extend `KeyedProcessFunction`.

    `open(ctx)` and `close()` are called once in each subtask. Attributes: `output_schema`, `side_outputs` (`{tag: schema}`), `input_columns`.
    """

    output_schema: ClassVar[Any] = None
    side_outputs: ClassVar[Mapping[str, Any]] = {}
    input_columns: ClassVar[tuple[str, ...] | None] = None
    modes: ClassVar[tuple[str, ...]] = ("process", "process_batch")

    def open(self, ctx: ProcessContext) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class RowProcessNode(LogicalNode):
    """A user's function over rows, whatever their keys."""

    kind: ClassVar[str] = "row_process"

    function: ProcessFunction
    sides: Mapping[str, pa.Schema]
    """Declared side outputs."""

    def side_outputs(self) -> Mapping[str, RowType]:
        return {tag: RowType(schema, self.rows.event_time) for tag, schema in self.sides.items()}


def row_process_node(stream: LogicalNode, function: ProcessFunction, output_schema: pa.Schema | None) -> RowProcessNode:
    """Rows of `output_schema` (None: unknown until they come), with the event time of the rows that they come from. Raises PlanError."""
    name = type(function).__name__
    if not isinstance(function, ProcessFunction):
        raise PlanError(f"process: {function!r} is no fr.ProcessFunction; a KeyedProcessFunction goes behind key_by(...)")
    require_append_only(stream, "process")
    mode_of(function)
    if states_of(function) or hasattr(function, "on_timer"):
        raise PlanError(f"process: {name} has state or timers, which belong to a key; extend KeyedProcessFunction, and key_by(...) before")
    for column in function.input_columns or ():
        check_column(stream.rows, column, f"process: {name}.input_columns")
    if output_schema is not None:
        check_names(output_schema.names, "process: output_schema")
    return RowProcessNode(
        inputs=(stream,), rows=RowType(output_schema, event_time=stream.rows.event_time), function=function, sides=side_schemas(function)
    )
