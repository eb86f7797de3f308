"""How a job ends: FINISHED after the last commit, CANCELLED when asked, FAILED when it cannot go on.

A record in the journal goes before whatever cannot be taken back: a leader that was deposed meanwhile loses that slot, and nothing happens.
"""

from __future__ import annotations

from typing import Any

from flinkray.core.job_events import (
    CancelRequested,
    End,
    EndRecorded,
    JobCommand,
    JobStatus,
    KillWorker,
    RecordEnd,
    Say,
    StandDown,
    Superseded,
    WriteJournal,
)
from flinkray.core.job_halts import answer_stop, stopped
from flinkray.core.job_state import JobState
from flinkray.core.journal_records import Requested, RunEnded
from flinkray.core.messages import EpochRefused
from flinkray.errors import DeposedError, FlinkrayError, JobFailedError

CANCEL = "cancel"
"""What a `Requested` record of a cancel says."""

CANCEL_TIMEOUT_S = 10.0
"""A cancelled job does not wait longer than this for storage to take the record of its end."""


def on_cancel(job: JobState, event: CancelRequested, now: float, out: list[JobCommand]) -> None:
    if job.recording or job.status is JobStatus.CANCELLING or event.request in job.requests:
        return
    if event.request:
        job.requests.add(event.request)
    out.append(WriteJournal(Requested(event.request, CANCEL, event.reason)))
    begin_cancelling(job, event.reason, now, out)


def begin_cancelling(job: JobState, reason: str, now: float, out: list[JobCommand]) -> None:
    """That it was asked for is journaled."""
    job.move(JobStatus.CANCELLING)
    job.cancelled_at = now
    out.append(Say(f"cancelling{': ' + reason if reason else ''}"))
    dismiss(job, out)
    if job.storage_open:
        record_cancelled(job, out)


def record_cancelled(job: JobState, out: list[JobCommand]) -> None:
    job.recording = True
    out.append(RecordEnd(JobStatus.CANCELLED))


def advance_cancelling(job: JobState, now: float, out: list[JobCommand]) -> None:
    if now - job.cancelled_at > CANCEL_TIMEOUT_S:
        out.append(Say(f"storage did not take the record of the end in {CANCEL_TIMEOUT_S:.0f} s: leaving without it"))
        on_end_recorded(job, EndRecorded(), out)


def on_end_recorded(job: JobState, event: EndRecorded, out: list[JobCommand]) -> None:
    if event.error:
        fail(job, JobFailedError(event.error), out)
        return
    if job.status is JobStatus.CANCELLING:
        end(job, JobStatus.CANCELLED, out)
    else:
        end(job, JobStatus.STOPPED if stopped(job) else JobStatus.FINISHED, out)


def end(job: JobState, status: JobStatus, out: list[JobCommand]) -> None:
    """FINISHED, STOPPED or CANCELLED, and storage knows it."""
    job.move(status)
    if status is not JobStatus.CANCELLED:
        job.error = None
        answer_stop(job, out)
    out.append(WriteJournal(RunEnded(status.value)))
    dismiss(job, out)
    out.append(End(status, None))


def fail(job: JobState, error: Any, out: list[JobCommand]) -> None:
    job.move(JobStatus.FAILED)
    job.error = error if isinstance(error, FlinkrayError) else JobFailedError(str(error))
    out.append(WriteJournal(RunEnded(JobStatus.FAILED.value, str(job.error))))
    dismiss(job, out)
    out.append(End(JobStatus.FAILED, job.error))


def dismiss(job: JobState, out: list[JobCommand]) -> None:
    """End every TaskManager; what the journal says of the run's end goes before."""
    for worker in list(job.workers):
        job.workers.remove(worker.instance)
        job.outstanding.forget(worker.instance)
        out.append(KillWorker(worker.instance))


def on_superseded(job: JobState, event: Superseded, out: list[JobCommand]) -> None:
    """The run is in other hands: for this process it is over, and nobody is told."""
    job.superseded = True
    job.move(JobStatus.FAILED)
    job.error = DeposedError(f"another JobManager leads this run: {event.reason}")
    out.append(End(JobStatus.FAILED, job.error))


def on_epoch_refused(job: JobState, instance: str, body: EpochRefused, out: list[JobCommand]) -> None:
    """What a TaskManager thinks of an earlier leader does not concern this one."""
    if body.refused == job.epoch:
        job.superseded = True
        reason = f"TaskManager {instance} obeys epoch {body.current.rank}, this leader's is {body.refused.rank}"
        out.append(StandDown(body.current.election, reason))
