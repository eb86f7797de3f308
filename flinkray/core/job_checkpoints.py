"""The job's side of a checkpoint: trigger, acknowledgements, the manifest's fate, commits, and what the end of all inputs adds."""

from __future__ import annotations

from typing import Any

from flinkray.core.job_endings import fail
from flinkray.core.job_events import (
    CheckpointContent,
    JobCommand,
    JobStatus,
    ManifestFate,
    RecordEnd,
    Say,
    Sweep,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.job_halts import (
    begin_halt,
    carry_on,
    forget_lost_leaver,
    halting,
    note_checkpoint,
    roll_back,
    stopped,
    undo_and_roll_back,
    undo_halt,
)
from flinkray.core.job_savepoints import savepoint_waits, settled_checkpoint, write_savepoints
from flinkray.core.job_state import JobState
from flinkray.core.journal_records import CheckpointCompleted
from flinkray.core.messages import Abort, Acknowledged, CheckpointDeclined, Committed, Counters, Notify, Trigger
from flinkray.errors import DeposedError


def advance_checkpoints(job: JobState, now: float, out: list[JobCommand]) -> None:
    """Give up what takes too long, trigger what is due."""
    if job.checkpoints.timed_out(now):
        give_up_checkpoint(job, "it timed out", now, out)
        if job.status is not JobStatus.RUNNING:
            return
    if job.final is not None or job.leadership_in_doubt or job.checkpoints.pending is not None:
        return
    all_ended = len(job.ended) == job.workers.slots
    forget_lost_leaver(job, out)
    begin_halt(job, now, out)
    if all_ended and job.halt is not None and job.halt.what != "stop":
        undo_halt(job, "its inputs have ended", out)
    if all_ended and job.halt is not None and not job.halt.named:
        return  # what is to become the savepoint is the checkpoint after the end
    halt = halting(job) or (all_ended and job.halt is not None)
    if job.checkpoints.due(now, all_ended, halt or savepoint_waits(job)):
        last = halt and not all_ended
        stop = halt and job.halt is not None and job.halt.what == "stop"
        pending = job.checkpoints.begin(job.attempt, now, final=all_ended or stop)
        if halt:
            note_checkpoint(job, pending.checkpoint, out)
        trigger = Trigger(pending.checkpoint, pending.base, job.settings.checkpoints.store, last)
        sources = {task.subtask for task in job.graph.source_tasks()}
        for worker in job.workers.assigned():
            if worker.slot in sources:
                job.send(worker.instance, trigger, now, out)


def on_acknowledged(job: JobState, ack: Acknowledged, now: float, out: list[JobCommand]) -> None:
    job.note_first_row(ack.first_row_at_us)
    pending = job.checkpoints.pending
    if pending is None or not job.checkpoints.acknowledge(job.attempt, ack):
        return
    job.writing = content_of(pending.checkpoint, pending.attempt, pending.acks, job.base_counters)
    if job.settings.checkpoints.store:
        out.append(WriteManifest(job.writing, pending.started_at, max(answer.sync_ms for answer in pending.acks.values())))
    else:
        on_manifest(job, ManifestFate(pending.checkpoint, "complete"), now, out)


def content_of(checkpoint: int, attempt: int, acks: dict[int, Acknowledged], base: Counters) -> CheckpointContent:
    """What a checkpoint holds when all slots have acknowledged it; `base`: rows before the attempt."""
    counters = base
    transactions: dict[str, list[Any]] = {}
    for answer in acks.values():
        counters = counters.plus(answer.counters)
        for uid, prepared in answer.transactions.items():
            transactions.setdefault(uid, []).extend(prepared)
    states = tuple(state for slot in sorted(acks) for state in acks[slot].states)
    return CheckpointContent(checkpoint, attempt, states, {uid: tuple(prepared) for uid, prepared in transactions.items()}, counters)


def on_declined(job: JobState, body: CheckpointDeclined, now: float, out: list[JobCommand]) -> None:
    pending = job.checkpoints.pending
    if pending is not None and pending.checkpoint == body.checkpoint and not pending.writing:
        job.checkpoints.trouble = body.reason
        give_up_checkpoint(job, body.reason, now, out)


def give_up_checkpoint(job: JobState, reason: str, now: float, out: list[JobCommand]) -> None:
    checkpoint = job.checkpoints.give_up(now)
    if checkpoint is None:
        return
    abort(job, checkpoint, reason, now, out)
    if job.halt is not None and job.halt.checkpoint == checkpoint:
        undo_and_roll_back(job, f"checkpoint {checkpoint} failed: {reason}", now, out)


def abort(job: JobState, checkpoint: int, reason: str, now: float, out: list[JobCommand]) -> None:
    out.append(Say(f"checkpoint {checkpoint} failed: {reason}"))
    for worker in job.workers.assigned():
        job.answered(worker.instance, Trigger, checkpoint)
        job.send(worker.instance, Abort(checkpoint), now, out)


def on_manifest(job: JobState, event: ManifestFate, now: float, out: list[JobCommand]) -> None:
    content = job.writing
    if content is None or content.checkpoint != event.checkpoint:
        return
    if event.fate == "deposed":
        fail(job, DeposedError(f"ownership lost: {event.reason}"), out)
        return
    job.writing = None
    pending = job.checkpoints.pending
    done = job.checkpoints.written(event.checkpoint, event.fate == "complete", now)
    live = job.status is JobStatus.RUNNING and content.attempt == job.attempt
    decides = job.halt is not None and job.halt.checkpoint == event.checkpoint
    if done is None:
        job.checkpoints.trouble = event.reason
        if live:
            abort(job, event.checkpoint, event.reason, now, out)
        if decides and undo_halt(job, f"checkpoint {event.checkpoint} failed: {event.reason}", out) and live:
            roll_back(job, "its sources stand still", now, out)
        return
    if job.settings.checkpoints.store:
        out.append(WriteJournal(CheckpointCompleted(done.checkpoint, event.name)))
    job.contents[done.checkpoint] = content
    for old in sorted(job.contents)[: -job.settings.retained]:
        del job.contents[old]
    job.passed_over = tuple(damaged for damaged in job.passed_over if damaged > min(job.contents))
    job.policy.on_progress()
    if decides and carry_on(job, now, out):
        return
    if not live:
        return
    if (pending is not None and pending.final) or decides:
        job.final = done.checkpoint
    notify(job, done.checkpoint, now, out)


def notify(job: JobState, checkpoint: int, now: float, out: list[JobCommand]) -> None:
    for worker in job.workers.assigned():
        job.answered(worker.instance, Notify)
        job.send(worker.instance, Notify(checkpoint), now, out)


def on_committed(job: JobState, instance: str, slot: int, body: Committed, out: list[JobCommand]) -> None:
    job.committed.note(slot, body.checkpoint)
    waiting = job.outstanding.waiting(instance, Notify)
    if isinstance(waiting, Notify) and waiting.checkpoint <= body.checkpoint:
        job.answered(instance, Notify)
    settled = settled_checkpoint(job)
    write_savepoints(job, settled, out)  # before the sweep, which must spare what they copy
    if job.settings.checkpoints.store and settled > job.swept and settled == job.checkpoints.latest:
        job.swept = settled
        pending = job.checkpoints.pending
        in_flight, base = (pending.checkpoint, pending.base) if pending else (None, None)
        out.append(Sweep(settled, in_flight, base, tuple(sorted(job.contents))))
    record_finished(job, out)


def record_finished(job: JobState, out: list[JobCommand]) -> None:
    """Once the final checkpoint is committed, and in the savepoints that were asked for."""
    if job.final is None or job.recording or job.writing_savepoints or settled_checkpoint(job) < job.final:
        return
    if job.halt is not None and job.halt.checkpoint is None:  # asked for when the inputs had ended
        if job.halt.what != "stop":
            undo_halt(job, "its inputs have ended", out)
        else:
            note_checkpoint(job, job.final, out)
            write_savepoints(job, job.final, out)
    if job.halt is not None and job.halt.savepoint and not (job.halt.error or job.halt.savepoint_ready):
        return  # its name is being taken, or it is being written
    job.recording = True
    out.append(RecordEnd(JobStatus.STOPPED if stopped(job) else JobStatus.FINISHED))
