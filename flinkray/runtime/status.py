"""The document of `flinkray status NAME --json`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.core.job import JobCore
from flinkray.core.workers import Worker, WorkerState
from flinkray.graph.job_graph import JobGraph


def status_document(
    core: JobCore, times: dict[str, str | None], identity: dict[str, Any], now: float, storage: dict[str, Any]
) -> dict[str, Any]:
    """`identity`: pid, node_id and zone of the JobManager. `now`: monotonic seconds, the core's clock."""
    counters = core.counters()
    return {
        "name": core.settings.name,
        "status": core.shown_status.value,
        "attempt": core.attempt,
        "restarts": core.restarts,
        "failures": dict(core.policy.failures),
        "migrations": core.migrations,
        "stale_ms": 0,
        "waiting_for": core.waiting_for if not core.status.terminal and core.status.value != "RUNNING" else "",
        "leader": {"epoch": core.epoch.election, "claim": core.epoch.claim, **identity},
        "standbys": [],
        "task_managers": [_task_manager(worker, core) for worker in core.workers],
        "checkpoints": core.checkpoints.latest_status(now),
        "storage": storage if "trouble" in storage or not core.checkpoints.trouble else {**storage, "trouble": core.checkpoints.trouble},
        "records_in": counters.records_in,
        "records_out": counters.records_out,
        "late_rows": counters.late_rows,
        "skipped_rows": counters.skipped_rows,
        "dead_letter_rows": counters.dead_letter_rows,
        "watermark": _watermark([stats.watermark_us for stats in core.stats.values()]) if _tells_time(core.graph) else None,
        "state": {
            "rows": sum(stats.state_rows for stats in core.stats.values()),
            "bytes": sum(stats.state_bytes for stats in core.stats.values()),
            "spilled_bytes": sum(stats.spilled_bytes for stats in core.stats.values()),
        },
        "error": str(core.error) if core.error is not None else None,
        "timing": dict(times),
    }


def _task_manager(worker: Worker, core: JobCore) -> dict[str, Any]:
    active = worker.state is WorkerState.ASSIGNED
    tasks = [f"{v.name}[{worker.slot}]" for v in core.graph.vertices if worker.slot is not None and worker.slot < v.parallelism]
    return {
        "id": worker.name,
        "pid": worker.pid,
        "node_id": worker.node_id,
        "zone": worker.zone,
        "role": "active" if active else "spare" if worker.state is WorkerState.IDLE else "starting",
        "tasks": tasks if active else [],
        "degraded": core.degraded.get(worker.instance),
    }


def _tells_time(graph: JobGraph) -> bool:
    """Some source keeps event time; the planner leaves that out where nothing needs it."""
    heads = [vertex.operators[0] for vertex in graph.vertices]
    return any(head.kind == "source" and head.params["watermark"] is not None for head in heads)


def _watermark(all_us: list[int]) -> str | None:
    """The slowest slot's; "end" when all readers of all slots have ended; None before the first."""
    us = min(all_us, default=MIN_WATERMARK)
    if us <= MIN_WATERMARK + 1:
        return None
    if us >= MAX_WATERMARK:
        return "end"
    try:
        return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None
