"""What is done about TaskManagers that fall behind (`degraded`): they are reported and, when that is wished, left: sources stand still at a
checkpoint, and the job goes on from it without them (`job_halts`). No row is read again, and it is no restart. Pure."""

from __future__ import annotations

from flinkray.core.job_events import JobCommand, Say
from flinkray.core.job_requests import MIGRATE, accept
from flinkray.core.job_state import HaltOrder, JobState
from flinkray.core.workers import Worker, WorkerState


def watch_degraded(job: JobState, now: float, out: list[JobCommand]) -> None:
    """Say what has changed; begin to leave one, in a running job that has nothing else to do."""
    found = {instance: why for instance, why in job.watch.degraded(now).items() if instance in job.workers}
    for instance in sorted(found.keys() - job.degraded.keys()):
        worker = job.workers.get(instance)
        assert worker is not None
        out.append(Say(f"{worker.name} on node {worker.node_id or '?'} is degraded: {found[instance]}"))
    for instance in sorted(job.degraded.keys() - found.keys()):
        worker = job.workers.get(instance)
        if worker is not None:
            out.append(Say(f"{worker.name} keeps up again"))
    job.degraded = found
    if job.settings.degraded.migrates and found and now >= job.migrate_after:
        _begin(job, now, out)


def _begin(job: JobState, now: float, out: list[JobCommand]) -> None:
    if job.halt is not None or job.final is not None or job.leadership_in_doubt or not job.settings.checkpoints.store or job.ended:
        return
    for worker in job.workers.assigned():
        if worker.instance in job.degraded and _has_better(job, worker):
            job.migrate_after = now + job.settings.degraded.pause_s
            request = f"migrate-{worker.instance}-{job.attempt}-{job.checkpoints.next_id}"
            out.append(Say(f"leaving {worker.name}: {job.degraded[worker.instance]}"))
            accept(job, request, MIGRATE, {"instance": worker.instance}, out)
            job.halt = HaltOrder(request, "migrate", leaves=worker.instance)
            return


def _has_better(job: JobState, worker: Worker) -> bool:
    """A spare on another node; on the same one only where others do well on it: then it is the process."""
    same_is_well = any(w.node_id == worker.node_id and w.instance not in job.degraded for w in job.workers.assigned())
    return any(w.state is WorkerState.IDLE and (same_is_well or w.node_id != worker.node_id) for w in job.workers)
