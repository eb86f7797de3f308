"""What a leader has to decide for 1,000 TaskManagers and 10,000 tasks, and how long that takes it, without a cluster.

    PYTHONPATH=. python benchmarks/scale.py [--task-managers 1000] [--vertices 10] [--checkpoints 5] [--seconds 15] [--json FILE]

The cores of job, journal and storage log run as in a JobManager; TaskManagers, storage and the GCS answer at once (`scale_parts`). Only the
leader's own work is timed, on one core; the clock of the cores is virtual. What the network, storage and the GCS add: docs/scaling.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.scale_parts import CLAIM, Leader, TaskManagers, Work, wide_graph
from flinkray.core.job_events import Adopted, JobStatus, Opened, Tick, WorkerLost
from flinkray.core.messages import Counters, Report, Stats
from flinkray.core.messages import Work as TaskWork
from flinkray.runtime.journal import MemorySlots

STATS_PER_S = 10
"""Of a TaskManager with nothing else to say (`runtime.task_manager.STATS_INTERVAL_S`)."""


def memory_bytes() -> int:
    """Resident, of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def told(work: Work) -> dict[str, Any]:
    return {
        "seconds": work.total_s,
        "events": work.events,
        "events_per_s": work.events / work.total_s,
        **{f"{k}_s": s for k, s in work.seconds.items()},
    }


def started(task_managers: int, vertices: int) -> tuple[Leader, MemorySlots, TaskManagers, Work]:
    """A first leader, from its election to RUNNING: as many TaskManagers as slots, and a spare."""
    graph, slots = wide_graph(task_managers, vertices), MemorySlots()
    cluster = TaskManagers(graph)
    leader = Leader(graph, slots, 1, cluster)
    leader.give(Opened(CLAIM, None, (), 1, 1, 7))
    assert leader.core.status is JobStatus.RUNNING, leader.core.waiting_for
    return leader, slots, cluster, leader.work


def steady(leader: Leader, seconds: float) -> Work:
    """Every TaskManager says ten times a second how far it is."""
    total = Work()
    busy, workers = 0.0, leader.core.workers.assigned()
    for _ in range(round(seconds * STATS_PER_S)):
        leader.now += 1 / STATS_PER_S
        busy += 0.05
        done = tuple(TaskWork(vertex.index, busy, int(busy * 1e6)) for vertex in leader.core.graph.vertices)
        said = Stats(Counters(1, 1), 0, None, 0, 1, 1, done)
        work = leader.measured(*(Report(worker.instance, leader.core.attempt, said) for worker in workers))
        total.seconds.update(work.seconds)
        total.events += work.events
    assert not leader.core.degraded, "all do the same work"
    return total


def checkpoint(leader: Leader) -> dict[str, Any]:
    """From the trigger to the last commit."""
    workers, said = leader.core.workers.assigned(), Stats(Counters(1, 1), 0)
    puts, latest = len(leader.journal_puts), leader.core.checkpoints.latest
    while True:
        leader.now += 1.0
        work = leader.measured(Tick())
        if leader.core.checkpoints.latest != latest:
            break
        leader.give(*(Report(worker.instance, leader.core.attempt, said) for worker in workers))
    assert set(leader.core.committed.values()) == {leader.core.checkpoints.latest}
    sizes = leader.journal_puts[puts:]
    return {**told(work), "journal_slots": len(sizes), "journal_bytes": sum(sizes)}


def recovery(leader: Leader) -> Work:
    """One TaskManager is killed: its spare takes over, everybody restores, until every slot runs again."""
    lost = leader.core.workers.assigned()[0]
    attempt = leader.core.attempt
    work = leader.measured(WorkerLost(lost.instance, "process", "killed"), Tick())
    assert leader.core.status is JobStatus.RUNNING
    assert leader.core.attempt == attempt + 1
    return work


def adoption(leader: Leader, slots: MemorySlots, cluster: TaskManagers) -> Work:
    """Another leader greets every TaskManager, and the attempt goes on."""
    contents = tuple(leader.core.contents[known] for known in sorted(leader.core.contents, reverse=True))
    attempt = leader.core.attempt
    successor = Leader(leader.core.graph, slots, 2, cluster)
    successor.give(Adopted(contents, leader.core.checkpoints.next_id, attempt + 1))
    assert successor.core.status is JobStatus.RUNNING
    assert successor.core.attempt == attempt
    return successor.work


def measure(task_managers: int, vertices: int, checkpoints: int, seconds: float) -> dict[str, Any]:
    """Everything, in this order: start, steady, checkpoints, one loss, another leader."""
    before = memory_bytes()
    leader, slots, cluster, start = started(task_managers, vertices)
    start_slots, start_bytes = len(leader.journal_puts), sum(leader.journal_puts)
    quiet = steady(leader, seconds)
    taken = [checkpoint(leader) for _ in range(checkpoints)]
    memory = memory_bytes() - before
    recovered = recovery(leader)
    adopted = adoption(leader, slots, cluster)
    last = taken[1:] or taken
    return {
        "task_managers": task_managers,
        "tasks": len(leader.core.graph.tasks()),
        "start": {**told(start), "journal_slots": start_slots, "journal_bytes": start_bytes},
        "steady": {**told(quiet), "core_share": quiet.total_s / seconds},
        "checkpoint": {name: median(one[name] for one in last) for name in last[0]},
        "recovery": told(recovered),
        "adoption": told(adopted),
        "manifest_bytes": leader.manifest_bytes,
        "sealed_manifest_bytes": leader.sealed_bytes,
        "journal_snapshot_bytes": leader.snapshot_bytes,
        "deploy_bytes": cluster.pickled_bytes["Deploy"],
        "memory_bytes": memory,
        "channels": leader.core.graph.vertices[0].parallelism ** 2 * (vertices - 2) + task_managers,
        "connections": task_managers * (task_managers - 1) // 2,
    }


def table(found: dict[str, Any]) -> str:
    lines = [f"{found['task_managers']:,} TaskManagers, {found['tasks']:,} tasks; of one core of the leader:", ""]
    lines.append(f"{'':12}{'seconds':>9}{'events':>9}{'events/s':>10}   of them")
    for name in ("start", "steady", "checkpoint", "recovery", "adoption"):
        one = found[name]
        parts = ", ".join(
            f"{kind} {one[f'{kind}_s']:.3f} s" for kind in ("decisions", "journal", "manifest", "sealing") if f"{kind}_s" in one
        )
        lines.append(f"{name:12}{one['seconds']:9.3f}{one['events']:9,.0f}{one['events_per_s']:10,.0f}   {parts}")
    at_checkpoint = found["checkpoint"]
    lines += [
        "",
        f"steady: {found['steady']['core_share']:.1%} of a core, each TaskManager heard {STATS_PER_S} times a second",
        f"journal: {found['start']['journal_slots']:,} slots ({found['start']['journal_bytes']:,} bytes) at the start, "
        f"{at_checkpoint['journal_slots']:.0f} ({at_checkpoint['journal_bytes']:,.0f} bytes) a checkpoint, snapshot {found['journal_snapshot_bytes']:,} bytes",
        f"manifest: {found['manifest_bytes']:,} bytes, {found['sealed_manifest_bytes']:,} sealed",
        f"Deploy: {found['deploy_bytes']:,} bytes to each TaskManager after the loss",
        f"memory of the leader's cores: {found['memory_bytes'] / 1e6:,.0f} MB",
        f"channels: {found['channels']:,}, connections between TaskManagers: {found['connections']:,}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task-managers", type=int, default=1000)
    parser.add_argument("--vertices", type=int, default=10)
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0, help="of steady running, virtual")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.task_managers < 2 or options.vertices < 3 or options.checkpoints < 1:
        parser.error("2 TaskManagers, 3 vertices and 1 checkpoint at least")
    found = measure(options.task_managers, options.vertices, options.checkpoints, options.seconds)
    print(table(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
