"""How a job ends: FINISHED after the last commit, CANCELLED when asked, FAILED when it cannot go on."""

from __future__ import annotations

from typing import Any

from flinkray.core.job_events import CancelRequested, End, EndRecorded, JobCommand, JobStatus, KillWorker, RecordEnd, Say
from flinkray.core.job_state import JobState
from flinkray.errors import FlinkrayError, JobFailedError

CANCEL_TIMEOUT_S = 10.0
"""A cancelled job does not wait longer than this for storage to take the record of its end."""


def on_cancel(job: JobState, event: CancelRequested, now: float, out: list[JobCommand]) -> None:
    if job.recording or job.status is JobStatus.CANCELLING:
        return
    job.move(JobStatus.CANCELLING)
    job.cancelled_at = now
    job.recording = True
    out.append(Say(f"cancelling{': ' + event.reason if event.reason else ''}"))
    dismiss(job, out)
    out.append(RecordEnd(JobStatus.CANCELLED))


def advance_cancelling(job: JobState, now: float, out: list[JobCommand]) -> None:
    if now - job.cancelled_at > CANCEL_TIMEOUT_S:
        out.append(Say(f"storage did not take the record of the end in {CANCEL_TIMEOUT_S:.0f} s: leaving without it"))
        on_end_recorded(job, EndRecorded(), out)


def on_end_recorded(job: JobState, event: EndRecorded, out: list[JobCommand]) -> None:
    if event.error:
        fail(job, JobFailedError(event.error), out)
        return
    job.move(JobStatus.CANCELLED if job.status is JobStatus.CANCELLING else JobStatus.FINISHED)
    if job.status is JobStatus.FINISHED:
        job.error = None
    dismiss(job, out)
    out.append(End(job.status, None))


def fail(job: JobState, error: Any, out: list[JobCommand]) -> None:
    job.move(JobStatus.FAILED)
    job.error = error if isinstance(error, FlinkrayError) else JobFailedError(str(error))
    dismiss(job, out)
    out.append(End(JobStatus.FAILED, job.error))


def dismiss(job: JobState, out: list[JobCommand]) -> None:
    """End every TaskManager."""
    job.outstanding.clear()
    for worker in list(job.workers):
        job.workers.remove(worker.instance)
        out.append(KillWorker(worker.instance))
