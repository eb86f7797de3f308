"""How a process function is laid out: a shuffle by its keys, with the columns that it wants, then the function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flinkray.graph.job_graph import Hash
from flinkray.graph.logical import ProcessNode, RowType
from flinkray.graph.planner_drafts import Link, Port
from flinkray.graph.process import mode_of, states_of
from flinkray.graph.row_process import RowProcessNode

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering


def lower_row_process(lowering: Lowering, node: RowProcessNode) -> Port:
    """Where the rows are."""
    link = lowering.drafts.feed(lowering.port(node), lowering.parallelism(node), lowering.asked(node))
    params = {
        "function": node.function,
        "output_schema": node.rows.schema,
        "side_schemas": dict(node.sides),
        "columns": node.function.input_columns,
    }
    rows = RowType(node.rows.schema, event_time=link.port.rows.event_time)
    draft = lowering.draft(node, "row_process", params, rows, [link])
    draft.notes.insert(0, f"calls {type(node.function).__name__}.{mode_of(node.function)}")
    return draft.output


def lower_process(lowering: Lowering, node: ProcessNode) -> Port:
    port = lowering.drafts.narrow(lowering.port(node), lowering.asked(node))
    assert port.rows.schema is not None
    params = {
        "keys": node.keys,
        "function": node.function,
        "output_schema": node.rows.schema,
        "side_schemas": dict(node.sides),
        "columns": node.function.input_columns,
    }
    draft = lowering.draft(node, "process", params, node.rows, [Link(port, Hash(node.keys))])
    states = [state.describe() for state in states_of(node.function).values()]
    draft.state = [[f"{key} {port.rows.schema.field(key).type}" for key in node.keys], states]
    named = ", ".join(f"{kind} {name!r}" for name, kind, *_ in states) or "no state"
    over = f"per {', '.join(node.keys)}"
    draft.notes.insert(0, f"calls {type(node.function).__name__}.{mode_of(node.function)} {over}; keeps {named}")
    return draft.output
