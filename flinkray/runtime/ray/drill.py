"""`flinkray drill`: cause a loss on a running job for real, watch it, and say what it did.

Processes end as by `kill -9`; a node by the death of its raylet, which takes its workers with it; a zone node by node.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flinkray.errors import ResourceError, UsageError, WaitTimeoutError
from flinkray.runtime.ray.leader import Leader

GIVE_UP_S = 120.0
SETTLE_S = 3.0
"""What runs again must go on for so long, and complete a checkpoint where checkpoints are taken."""
LOOK_S = 0.02

Status = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a loss did. Seconds from the loss on."""

    target: str
    noticed_s: float | None
    """Until the status showed anything of it; None when it never did."""
    running_s: float
    """Until the job ran again, or still."""
    leader_changed: bool
    restarts: int
    checkpoints_failed: int
    checkpoints_completed: int

    def lines(self) -> list[str]:
        noticed = f"noticed after {self.noticed_s:.2f} s, " if self.noticed_s is not None else "not noticed by the job, "
        return [
            f"{self.target} lost: {noticed}running after {self.running_s:.2f} s",
            f"leader {'changed' if self.leader_changed else 'stayed'}; {self.restarts} restart(s)"
            + (": rows since the last checkpoint were read again" if self.restarts else ": no task was restarted, no row was read again"),
            f"checkpoints since: {self.checkpoints_completed} complete, {self.checkpoints_failed} given up",
        ]


def drill(name: str, target: str, zone: str | None) -> Verdict:
    """Raises UsageError when there is nothing of the kind to lose, WaitTimeoutError when the job does not run again."""
    leader = Leader(name)
    if not leader.exists():
        raise UsageError(f"there is no job {name} in this Ray cluster")
    before: Status = leader.call("status")
    if before["status"] != "RUNNING":
        raise UsageError(f"job {name} is {before['status']}; a drill wants one that runs")
    lost_at = time.monotonic()
    what = _cause(before, target, zone)
    return _watch(name, leader, before, what, lost_at)


def _cause(status: Status, target: str, zone: str | None) -> str:
    active = [tm for tm in status["task_managers"] if tm["role"] == "active"]
    if target == "leader":
        _kill_process(status["leader"])
        return f"the leader (pid {status['leader']['pid']})"
    if target == "taskmanager":
        _kill_process(active[0])
        return f"{active[0]['id']} (pid {active[0]['pid']})"
    if target == "node":
        head = ray.get_runtime_context().get_node_id()
        victim = next((tm for tm in active if tm["node_id"] != head), None)
        if victim is None:
            raise UsageError("every TaskManager runs on this very node; a node can be lost in a cluster of several only")
        _kill_node(victim["node_id"])
        return f"node {victim['node_id'][:8]}"
    nodes = {tm["node_id"] for tm in (*status["task_managers"], status["leader"]) if tm["zone"] == zone}
    if not nodes:
        zones = sorted({tm["zone"] for tm in status["task_managers"] if tm["zone"]})
        raise UsageError(f"nothing of the job runs in zone {zone!r}; it runs in {', '.join(zones) or 'nodes without a zone label'}")
    if ray.get_runtime_context().get_node_id() in nodes:
        raise UsageError(f"this command runs in zone {zone!r}, too; call it from another")
    for node_id in sorted(nodes):
        _kill_node(node_id)
    return f"zone {zone} ({len(nodes)} node(s))"


def _kill_process(process: dict[str, Any]) -> None:
    _on_node(process["node_id"], process["pid"])


def _kill_node(node_id: str) -> None:
    _on_node(node_id, None)


def _on_node(node_id: str, pid: int | None) -> None:
    """Kill a process of the node, or, without one, its raylet: the parent of every worker."""

    def kill() -> None:
        os.kill(pid if pid is not None else os.getppid(), signal.SIGKILL)

    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    call = ray.remote(num_cpus=0, max_retries=0)(kill).options(scheduling_strategy=strategy).remote()
    done, _ = ray.wait([call], timeout=30)
    if not done:
        raise ResourceError(f"node {node_id[:8]} did not take the order to end a process in 30 s")


def _watch(name: str, leader: Leader, before: Status, what: str, lost_at: float) -> Verdict:
    noticed_s = running_s = None
    settled: Status | None = None
    while True:
        now_s = time.monotonic() - lost_at
        status: Status = leader.call("status")
        changed = _traces(status) != _traces(before)
        if changed and noticed_s is None:
            noticed_s = now_s
        if status["status"] != "RUNNING":
            running_s = None
            if status["status"] in ("FAILED", "FINISHED", "CANCELLED", "STOPPED"):
                raise WaitTimeoutError(f"job {name} ended during the drill: {status['status']} {status['error'] or ''}".rstrip())
        elif running_s is None and (changed or now_s > SETTLE_S):
            running_s, settled = now_s, status
        if running_s is not None and settled is not None and now_s - running_s > SETTLE_S:
            return Verdict(
                what,
                noticed_s,
                running_s,
                status["leader"]["pid"] != before["leader"]["pid"],
                status["restarts"] - before["restarts"],
                max(0, status["checkpoints"]["failed"] - before["checkpoints"]["failed"]),
                max(0, (status["checkpoints"]["latest_id"] or 0) - (before["checkpoints"]["latest_id"] or 0)),
            )
        if now_s > GIVE_UP_S:
            raise WaitTimeoutError(
                f"job {name} does not run {GIVE_UP_S:.0f} s after {what} was lost; it waits for {status['waiting_for'] or 'nothing that it says'}"
            )
        time.sleep(LOOK_S)


def _traces(status: Status) -> tuple[Any, ...]:
    """What a loss changes."""
    return status["leader"]["pid"], status["attempt"], status["status"], tuple(tm["pid"] for tm in status["task_managers"])
