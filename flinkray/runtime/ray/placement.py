"""On which nodes a job's processes go. A node's zone is a label of it. A node is chosen among those whose raylet answers (Ray itself may take
20 s to notice that one is gone) and named to Ray: an actor whose label selector matches no node would be pending for ever, one on a named node
that is gone fails at once."""

from __future__ import annotations

import errno
import hashlib
import select
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state as ray_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flinkray.config import HighAvailability
from flinkray.errors import ResourceError


@dataclass(frozen=True)
class Node:
    node_id: str
    zone: str
    """Empty without the label."""
    raylet: tuple[str, int] = ("", 0)
    """Where its raylet listens: address and port."""


PROBE_S = 0.5
NODE_ID_LABEL = "ray.io/node-id"
"""Ray gives it to every node."""


def living_nodes(zone_label: str) -> list[Node]:
    """In an order that does not change; nodes without CPUs (a head kept free of work) only where there are no others."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    working = [node for node in alive if node.get("Resources", {}).get("CPU", 0) > 0]
    nodes = [
        Node(node["NodeID"], node.get("Labels", {}).get(zone_label, ""), (node["NodeManagerAddress"], node["NodeManagerPort"]))
        for node in working or alive
    ]
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


def answering(nodes: Sequence[Node], timeout_s: float = PROBE_S) -> list[Node]:
    """Those whose raylet takes a connection: of a dead process it is refused, of a host that is gone or cut off nothing comes in time. All of
    them when none answers."""
    up = _up(nodes, timeout_s)
    return [node for node in nodes if node in up] or list(nodes)


def _up(nodes: Sequence[Node], timeout_s: float) -> set[Node]:
    started = {}
    for node in nodes:
        probe = socket.socket(socket.AF_INET6 if ":" in node.raylet[0] else socket.AF_INET)
        probe.setblocking(False)
        if probe.connect_ex(node.raylet) in (0, errno.EINPROGRESS):
            started[probe] = node
        else:
            probe.close()
    up = set()
    waiting, deadline = set(started), time.monotonic() + timeout_s
    while waiting and (left := deadline - time.monotonic()) > 0:
        _, done, _ = select.select([], list(waiting), [], left)
        waiting -= set(done)
        up |= {started[probe] for probe in done if probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0}
    for probe in started:
        probe.close()
    return up


def is_stranded(actor: Any, zone_label: str) -> bool:
    """Ray believes that the actor lives, on a node whose raylet does not answer."""
    known = ray_state.actors(actor._actor_id.hex())
    node_id = known.get("Address", {}).get("NodeID", "")
    nodes = [node for node in living_nodes(zone_label) if node.node_id == node_id]
    return known.get("State") == "ALIVE" and bool(nodes) and not _up(nodes, PROBE_S)


def shuffled(nodes: Iterable[Node], job: str) -> list[Node]:
    """In another order for every job, always the same for one: jobs of one slot do not all go to the first node."""
    return sorted(nodes, key=lambda node: hashlib.sha256(f"{job}/{node.node_id}".encode()).digest())


def on_node(node_id: str | None) -> dict[str, Any]:
    """Options of an actor that belongs on this node and is not restarted. Not soft: Ray 2.60 puts actors that take no CPU anywhere then."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False) if node_id else "SPREAD"}


def begun_on_node(node_id: str | None) -> dict[str, Any]:
    """Options of an actor that Ray restarts: there first, on any node when that one is gone."""
    if node_id is None:
        return {"scheduling_strategy": "SPREAD"}
    return {"label_selector": {NODE_ID_LABEL: node_id}, "fallback_strategy": [{"label_selector": {NODE_ID_LABEL: f"!{node_id}"}}]}


def for_task_manager(job: str, config: HighAvailability, taken: Iterable[str], leader_node_id: str) -> str | None:
    """A node for one more TaskManager, given the nodes of those that are there. Where all zones have as many it is not the leader's: whoever
    loses that zone should still have the spare."""
    nodes = answering(living_nodes(config.zone_label))
    leader_zone = next((node.zone for node in nodes if node.node_id == leader_node_id), None)
    by_choice = sorted(shuffled(nodes, job), key=lambda node: node.zone == leader_zone)
    return least_taken(by_choice, taken, config.zones != "ignore")


def for_stage_worker(config: HighAvailability, node_id: str, cpus: float, gpus: float) -> dict[str, Any]:
    """Options of a stage's worker: in the zone of the TaskManager that feeds it where one of its nodes is large enough, else anywhere."""
    if config.zones == "ignore":
        return {}
    zone = next((node.get("Labels", {}).get(config.zone_label, "") for node in ray.nodes() if node["NodeID"] == node_id), "")
    large = [
        node
        for node in ray.nodes()
        if node["Alive"] and node.get("Resources", {}).get("CPU", 0) >= cpus and node.get("Resources", {}).get("GPU", 0) >= gpus
    ]
    if not zone or all(node.get("Labels", {}).get(config.zone_label) != zone for node in large):
        return {}
    return {
        "label_selector": {config.zone_label: zone},
        "fallback_strategy": [{"label_selector": {config.zone_label: f"!{zone}"}}],
    }


def for_first_job_manager(job: str, config: HighAvailability) -> str | None:
    """In a zone where there are any: a leader on a node without one could not be told apart from its standby's zone."""
    nodes = answering(living_nodes(config.zone_label))
    return least_taken(shuffled(_in_zones(nodes, config), job), (), False)


def apart_from(config: HighAvailability, node_id: str, others: Iterable[str], nodes: Sequence[Node] | None = None) -> str | None:
    """A node for a standby: in another zone than `node_id`'s if there is one, else on another node, else anywhere. `nodes`: those to choose
    from, else the living ones."""
    nodes = living_nodes(config.zone_label) if nodes is None else nodes
    zone = next((node.zone for node in nodes if node.node_id == node_id), "")
    elsewhere = [node for node in _in_zones(nodes, config) if node.zone != zone] if config.zones != "ignore" else []
    return least_taken(elsewhere or [node for node in nodes if node.node_id != node_id] or nodes, others, True)


def _in_zones(nodes: Sequence[Node], config: HighAvailability) -> list[Node]:
    """Without those that have no label, where some have one."""
    zoned = [node for node in nodes if node.zone]
    return zoned if zoned and config.zones != "ignore" else list(nodes)
