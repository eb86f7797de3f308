"""When a checkpoint may become a savepoint (rule 21): begun after the request, complete, and everything up to it committed. Pure."""

from __future__ import annotations

from flinkray.core.job_events import (
    FailSavepoint,
    JobCommand,
    JobStatus,
    NameSavepoint,
    SavepointNamed,
    SavepointRequested,
    SavepointWritten,
    WriteSavepoint,
)
from flinkray.core.job_requests import SAVEPOINT, accept, answer, refuse
from flinkray.core.job_state import JobState, SavepointOrder


def on_savepoint_requested(job: JobState, event: SavepointRequested, out: list[JobCommand]) -> None:
    if event.request in job.requests:
        return
    if not job.settings.checkpoints.store:
        refuse(event.request, "this job has no checkpoint storage, and so no savepoints", out)
    elif job.recording or job.status is JobStatus.CANCELLING:
        refuse(event.request, f"the job is ending ({job.status.value})", out)
    elif not job.storage_open:
        refuse(event.request, "checkpoint storage is not open yet; ask again when the job runs", out)
    else:
        accept(job, event.request, SAVEPOINT, {"savepoint": event.name}, out)
        job.savepoints[event.request] = SavepointOrder(event.name)
        out.append(NameSavepoint(event.request, event.name))


def name_again(job: JobState, out: list[JobCommand]) -> None:
    """For a new leader, when storage is open: names that earlier ones have taken, or were about to."""
    out += [NameSavepoint(request, order.name) for request, order in sorted(job.savepoints.items())]
    if job.halt is not None and job.halt.savepoint:
        out.append(NameSavepoint(job.halt.request, job.halt.savepoint))


def on_savepoint_named(job: JobState, event: SavepointNamed, out: list[JobCommand]) -> None:
    halt, order = job.halt, job.savepoints.get(event.request)
    if halt is not None and halt.request == event.request:
        halt.named = True
        if event.error and halt.begun:
            halt.error = event.error  # the job stops without it
        elif event.error:
            job.halt = None
            answer(event.request, event.error, out, event.usage)
        elif event.ready:
            halt.savepoint_ready = True
    elif order is None:
        return
    elif event.error or event.ready:
        del job.savepoints[event.request]
        answer(event.request, event.error, out, event.usage, order.name if event.ready else "")
    else:
        order.first = job.checkpoints.next_id if job.final is None else job.final


def savepoint_waits(job: JobState) -> bool:
    """One was asked for, and no checkpoint that would do is complete yet."""
    return any(order.first is not None and (job.checkpoints.latest or 0) < order.first for order in job.savepoints.values())


def settled_checkpoint(job: JobState) -> int:
    """Up to which every sink of every slot is known to have committed; 0 for none."""
    return job.committed.by_all(job.workers.slots)


def write_savepoints(job: JobState, settled: int, out: list[JobCommand]) -> None:
    if settled not in job.contents:
        return
    halt = job.halt
    if halt is not None and settled == halt.checkpoint == job.final and halt.wants_savepoint and halt.request not in job.writing_savepoints:
        job.writing_savepoints[halt.request] = SavepointOrder(halt.savepoint, settled)
        out.append(WriteSavepoint(halt.request, halt.savepoint, settled))
    for request, order in sorted(job.savepoints.items()):
        if order.first is not None and (settled >= order.first or settled == job.final):  # none follows the final one: it holds everything
            job.writing_savepoints[request] = job.savepoints.pop(request)
            out.append(WriteSavepoint(request, order.name, settled))


def on_savepoint_written(job: JobState, event: SavepointWritten, out: list[JobCommand]) -> None:
    order = job.writing_savepoints.pop(event.request, None)
    if order is None:
        return
    if job.halt is not None and job.halt.request == event.request:
        job.halt.error, job.halt.savepoint_ready = event.error, not event.error
    else:
        answer(event.request, event.error, out, savepoint="" if event.error else order.name)


def give_up_savepoint(request: str, name: str, reason: str, out: list[JobCommand]) -> None:
    out.append(FailSavepoint(request, name, reason))
