"""How joins are laid out: both sides shuffled by their keys to the operator, with only the columns that somebody needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from flinkray.graph.job_graph import Broadcast, Forward, Hash, Rebalance
from flinkray.graph.joins import AsOf, Interval, Join, Unbounded
from flinkray.graph.logical import JoinNode
from flinkray.graph.planner_columns import join_needs, kept
from flinkray.graph.planner_drafts import Link, Port

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering


_KINDS: dict[type, str] = {Interval: "interval_join", Unbounded: "regular_join", AsOf: "asof_join"}


def lower_join(lowering: Lowering, node: JoinNode, sides: tuple[Port, Port]) -> Port:
    need, join = lowering.need(node), node.join
    ports = [lowering.drafts.narrow(port, asked) for port, asked in zip(sides, join_needs(node, need), strict=True)]
    names = set(kept(node.rows, need))
    assert node.rows.schema is not None
    pruned = replace(join, columns=tuple(column for column in join.columns if column.name in names))
    kind = _KINDS.get(type(join.over), "window_join")
    broadcast = isinstance(join.over, AsOf) and join.over.broadcast
    draft = lowering.draft(
        node,
        "broadcast_join" if broadcast else kind,
        {"join": pruned},
        replace(node.rows, schema=pa.schema([field for field in node.rows.schema if field.name in names])),
        _broadcast(ports, lowering.parallelism(node)) if broadcast else _shuffled(ports, join),
    )
    draft.state = _state(node, ports)
    pairs = [name if name == other else f"{name} = {other}" for name, other in zip(join.left_keys, join.right_keys, strict=True)]
    over = f"window {join.over.describe()}" if kind == "window_join" else join.over.describe()
    draft.notes.insert(0, f"{join.how} join on {', '.join(pairs)}, {over}")
    return draft.output


def _shuffled(ports: Sequence[Port], join: Join) -> list[Link]:
    return [Link(port, Hash(keys), input=i) for i, (port, keys) in enumerate(zip(ports, (join.left_keys, join.right_keys), strict=True))]


def _broadcast(ports: Sequence[Port], parallelism: int) -> list[Link]:
    left, right = ports
    spread = left.rebalanced or left.draft.parallelism != parallelism
    return [Link(left, Rebalance() if spread else Forward()), Link(right, Broadcast(), input=1)]


def _state(node: JoinNode, ports: list[Port]) -> list[object]:
    """Keys, what is kept of both sides, and which rows meet: what another version of the program must agree with."""
    join = node.join
    rows = [[f"{field.name} {field.type}" for field in port.rows.schema or ()] for port in ports]
    lives = isinstance(join.over, Unbounded | AsOf)  # how long rows are kept may change between a checkpoint and its restore
    over = type(join.over).__name__ if lives else join.over.describe()
    return [list(join.left_keys), list(join.right_keys), join.how, over, rows]
