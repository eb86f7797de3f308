"""On which nodes a job's processes go. A node's zone is a label of it. A node is chosen among the living ones and named to Ray: an actor whose
label selector matches no node would be pending for ever, one on a named node that is gone fails at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flinkray.config import HighAvailability
from flinkray.errors import ResourceError


@dataclass(frozen=True)
class Node:
    node_id: str
    zone: str
    """Empty without the label."""


def living_nodes(zone_label: str) -> list[Node]:
    """In an order that does not change; nodes without CPUs (a head kept free of work) only where there are no others."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    working = [node for node in alive if node.get("Resources", {}).get("CPU", 0) > 0]
    nodes = [Node(node["NodeID"], node.get("Labels", {}).get(zone_label, "")) for node in working or alive]
    return sorted(nodes, key=lambda node: (node.zone, node.node_id))


def check_zones(name: str, config: HighAvailability) -> None:
    """`zones="require"`: ResourceError unless there are two zones at least."""
    if config.zones != "require":
        return
    nodes = living_nodes(config.zone_label)
    zones = sorted({node.zone for node in nodes if node.zone})
    if len(zones) < 2:
        raise ResourceError(
            f"job {name!r}: zones='require', and the {len(nodes)} living nodes are in {', '.join(zones) or 'no zone'} (label {config.zone_label}): "
            "start nodes with --labels in other zones, or set HighAvailability(zones='spread')"
        )


def least_taken(nodes: Sequence[Node], taken: Iterable[str], by_zone: bool) -> str | None:
    """The node for one more process, given the nodes of those that are there: first the zone that has fewest, then the node. None when there
    is no node."""
    zone_of = {node.node_id: node.zone for node in nodes}
    on_node = Counter(node_id for node_id in taken if node_id in zone_of)
    in_zone = Counter(zone_of[node_id] for node_id in on_node.elements())
    if not nodes:
        return None
    return min(nodes, key=lambda node: (in_zone[node.zone] if by_zone else 0, on_node[node.node_id])).node_id


def on_node(node_id: str | None) -> Any:
    """The scheduling strategy. Not soft: Ray 2.60 puts actors that take no CPU anywhere then."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False) if node_id else "SPREAD"


def for_task_manager(config: HighAvailability, taken: Iterable[str]) -> str | None:
    """A node for one more TaskManager, given the nodes of those that are there."""
    return least_taken(living_nodes(config.zone_label), taken, config.zones != "ignore")


def apart_from(config: HighAvailability, node_id: str, others: Iterable[str]) -> str | None:
    """A node for a standby: in another zone than `node_id`'s if there is one, else on another node, else anywhere."""
    nodes = living_nodes(config.zone_label)
    zone = next((node.zone for node in nodes if node.node_id == node_id), "")
    elsewhere = [node for node in nodes if node.zone != zone] if config.zones != "ignore" else []
    return least_taken(elsewhere or [node for node in nodes if node.node_id != node_id] or nodes, others, True)
