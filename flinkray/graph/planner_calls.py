"""How stages and async calls are laid out: apart from what comes before, since their tasks wait for answers; what comes after is chained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flinkray.graph.job_graph import Forward
from flinkray.graph.logical import RowType
from flinkray.graph.logical_calls import AsyncCalls, CallNode, Stage
from flinkray.graph.planner_drafts import Port

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering


def lower_call(lowering: Lowering, node: CallNode) -> Port:
    parallelism = lowering.parallelism(node)
    if isinstance(node.calls, Stage):
        parallelism = min(parallelism, node.calls.workers[1])  # a subtask without a worker could do nothing
    link = lowering.drafts.feed(lowering.port(node), parallelism, lowering.asked(node))
    if link.partitioning is None:
        link = replace(link, port=lowering.drafts.narrow(link.port, lowering.asked(node)), partitioning=Forward())
    rows = RowType(node.rows.schema, event_time=link.port.rows.event_time)
    params = {"function": node.function, "output_schema": node.rows.schema, **node.parameters, **_params(node.calls)}
    draft = lowering.draft(node, node.kind, params, rows, [link])
    draft.parallelism = parallelism
    known = link.port.rows.physical()
    draft.state = ["in flight", None if known is None else [f"{field.name} {field.type}" for field in known]]
    name = getattr(node.function, "__qualname__", type(node.function).__name__)
    draft.notes.append(f"calls {name}: {node.calls.describe()}")
    return draft.output


def _params(calls: Stage | AsyncCalls) -> dict[str, object]:
    return dict(vars(calls))
