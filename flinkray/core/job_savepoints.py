"""When a checkpoint may become a savepoint (rule 21): begun after the request, complete, and everything up to it committed."""

from __future__ import annotations

from flinkray.core.job_events import JobCommand, JobStatus, RefuseSavepoint, SavepointRequested, SavepointWritten, WriteSavepoint
from flinkray.core.job_state import JobState


def on_savepoint_requested(job: JobState, event: SavepointRequested, out: list[JobCommand]) -> None:
    if event.request in job.savepoints or event.request in job.writing_savepoints:
        return
    if not job.settings.checkpoints.store:
        out.append(RefuseSavepoint(event.request, "the job has no checkpoint storage"))
    elif job.recording or job.status is JobStatus.CANCELLING:
        out.append(RefuseSavepoint(event.request, f"the job is ending ({job.status.value})"))
    else:
        job.savepoints[event.request] = job.checkpoints.next_id if job.final is None else job.final


def savepoint_waits(job: JobState) -> bool:
    """One was asked for, and no checkpoint that would do is complete yet."""
    return any((job.checkpoints.latest or 0) < first for first in job.savepoints.values())


def settled_checkpoint(job: JobState) -> int:
    """Up to which every sink of every slot is known to have committed; 0 for none."""
    return min((job.committed.get(slot, 0) for slot in range(job.workers.slots)), default=0)


def write_savepoints(job: JobState, settled: int, out: list[JobCommand]) -> None:
    if settled not in job.contents:
        return
    for request, first in sorted(job.savepoints.items()):
        if settled >= first or settled == job.final:  # no checkpoint follows the final one, and it holds everything
            del job.savepoints[request]
            job.writing_savepoints.add(request)
            out.append(WriteSavepoint(request, settled))


def on_savepoint_written(job: JobState, event: SavepointWritten) -> None:
    job.writing_savepoints.discard(event.request)
