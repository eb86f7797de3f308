"""How connected streams are laid out: both shuffled by their keys to one operator, or the right one sent to every subtask of it. Without keys rows
stay where they are, or are dealt out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flinkray.graph.co_process import broadcast_states_of
from flinkray.graph.job_graph import Broadcast, Forward, Hash, Rebalance
from flinkray.graph.logical_co_process import CoProcessNode, RowCoProcessNode
from flinkray.graph.planner_columns import all_columns
from flinkray.graph.planner_drafts import Link, Port
from flinkray.graph.process import states_of

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering


def lower_co_process(lowering: Lowering, node: CoProcessNode, sides: tuple[Port, Port]) -> Port:
    timed = node.rows.event_time
    ports = [lowering.drafts.narrow(port, all_columns(port.rows, timed)) for port in sides]
    params = {
        "keys": node.keys,
        "right_keys": node.right_keys,
        "function": node.function,
        "output_schema": node.rows.schema,
        "side_schemas": dict(node.sides),
    }
    second = Broadcast() if node.right_keys is None else Hash(node.right_keys)
    draft = lowering.draft(node, "co_process", params, node.rows, [Link(ports[0], Hash(node.keys)), Link(ports[1], second, input=1)])
    states = [state.describe() for state in states_of(node.function).values()]
    broadcast = [state.describe() for state in broadcast_states_of(node.function).values()]
    assert ports[0].rows.schema is not None
    draft.state = [[f"{key} {ports[0].rows.schema.field(key).type}" for key in node.keys], states, broadcast]
    named = ", ".join(f"{kind} {name!r}" for name, kind, *_ in [*states, *broadcast]) or "no state"
    over = "with what is broadcast to all" if node.right_keys is None else "for rows of both"
    draft.notes.insert(0, f"calls {type(node.function).__name__} per {', '.join(node.keys)}, {over}; keeps {named}")
    return draft.output


def lower_row_co_process(lowering: Lowering, node: RowCoProcessNode, sides: tuple[Port, Port]) -> Port:
    parallelism = lowering.parallelism(node)
    links = []
    for number, port in enumerate(sides):
        narrow = lowering.drafts.narrow(port, all_columns(port.rows, node.rows.event_time))
        stays = port.draft.parallelism == parallelism and not port.rebalanced
        way = Broadcast() if node.broadcast and number else Forward() if stays else Rebalance()
        links.append(Link(narrow, way, input=number))
    params = {
        "function": node.function,
        "output_schema": node.rows.schema,
        "side_schemas": dict(node.sides),
        "broadcast": node.broadcast,
    }
    draft = lowering.draft(node, "row_co_process", params, node.rows, links)
    broadcast = [state.describe() for state in broadcast_states_of(node.function).values()]
    draft.state = [broadcast] if broadcast else None
    over = "with what is broadcast to all" if node.broadcast else "for rows of both"
    named = "".join(f"; keeps {kind} {name!r}" for name, kind, *_ in broadcast)
    draft.notes.insert(0, f"calls {type(node.function).__name__} {over}{named}")
    return draft.output
