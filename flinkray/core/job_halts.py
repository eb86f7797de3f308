"""Stop, rescale and migration: sources stand still at a checkpoint, and what was asked for follows from it. Pure.

    asked for -> journaled -> savepoint's name taken -> Begun, sources halted (or drained to their end) -> its checkpoint is complete
        -> stop: everything up to it is committed, the savepoint is written, Ended(STOPPED)
        -> rescale: the next attempt, at the other parallelism, starts from it; not counted as a restart
        -> migration: the next attempt, without a TaskManager that falls behind, likewise

Before the checkpoint is complete any failure undoes the order: the job goes back to the checkpoint before (a drain, too: no window that it
fired survives), runs on, and the request fails. After it nothing undoes it: a failure only makes the commits be repeated (rule 21).
"""

from __future__ import annotations

from flinkray.core.job_events import JobCommand, JobStatus, NameSavepoint, RescaleRequested, Say, Send, StopRequested, WriteJournal
from flinkray.core.job_requests import RESCALE, STOP, accept, answer, refuse
from flinkray.core.job_savepoints import give_up_savepoint
from flinkray.core.job_state import HaltOrder, JobState
from flinkray.core.journal_records import Begun
from flinkray.core.messages import Command, Drain, Stop

_DONE = {"stop": "stopped", "rescale": "rescaled", "migrate": "migrated"}


def on_stop_requested(job: JobState, event: StopRequested, out: list[JobCommand]) -> None:
    if event.request in job.requests or _refused(job, event.request, out):
        return
    if event.savepoint and not job.settings.checkpoints.store:
        refuse(event.request, "this job has no checkpoint storage, and so no savepoints", out)
        return
    accept(job, event.request, STOP, {"savepoint": event.savepoint, "drain": event.drain}, out)
    job.halt = HaltOrder(event.request, "stop", event.savepoint, event.drain, named=not event.savepoint)
    how = f"{' after a drain' if event.drain else ''}{f' with savepoint {event.savepoint}' if event.savepoint else ''}"
    out.append(Say(f"stopping{how}"))
    if event.savepoint:
        out.append(NameSavepoint(event.request, event.savepoint))


def on_rescale_requested(job: JobState, event: RescaleRequested, out: list[JobCommand]) -> None:
    if event.request in job.requests or _refused(job, event.request, out):
        return
    if not job.settings.checkpoints.store:
        refuse(event.request, "this job has no checkpoint storage: at another parallelism it would start from the beginning", out)
    elif job.graph_at is None:
        refuse(event.request, "this job cannot be planned anew here", out)
    elif event.parallelism == (job.parallelism or job.submitted_graph.slots()):
        refuse(event.request, f"the job runs at parallelism {event.parallelism}", out)
    elif not 1 <= event.parallelism <= job.graph.max_parallelism:
        refuse(event.request, f"parallelism {event.parallelism}: give 1 to {job.graph.max_parallelism} (the job's max_parallelism)", out)
    else:
        accept(job, event.request, RESCALE, {"parallelism": event.parallelism}, out)
        job.halt = HaltOrder(event.request, "rescale", parallelism=event.parallelism, before=job.parallelism)
        out.append(Say(f"rescaling from {job.workers.slots} to {job.graph_at(event.parallelism).slots()} slots"))


def _refused(job: JobState, request: str, out: list[JobCommand]) -> bool:
    if job.halt is not None:
        refuse(request, f"the job is being {_DONE[job.halt.what]} already; ask again after that", out)
    elif job.recording or job.status is JobStatus.CANCELLING:
        refuse(request, f"the job is ending ({job.status.value})", out)
    elif not job.storage_open:
        refuse(request, "the job is still starting; ask again when it runs", out)
    else:
        return False
    return True


def begin_halt(job: JobState, now: float, out: list[JobCommand]) -> None:
    """In a running job, when no checkpoint is under way. A drain comes first; else the next checkpoint is the last (see `halting`)."""
    halt = job.halt
    if halt is None or halt.begun or not halt.named or job.final is not None or len(job.ended) == job.workers.slots:
        return  # inputs that have ended by themselves finish the job
    if halt.drain:
        halt.begun = True
        out.append(WriteJournal(Begun(halt.request, 0)))
        drain(job, now, out)


def drain(job: JobState, now: float, out: list[JobCommand]) -> None:
    for worker in job.workers.assigned():
        job.send(worker.instance, Drain(), now, out)


def halting(job: JobState) -> bool:
    """The next checkpoint is the one of the order."""
    halt = job.halt
    return halt is not None and halt.named and halt.checkpoint is None and not halt.drain


def note_checkpoint(job: JobState, checkpoint: int, out: list[JobCommand]) -> None:
    """The checkpoint that decides is about to be triggered."""
    assert job.halt is not None
    job.halt.begun, job.halt.checkpoint = True, checkpoint
    out.append(WriteJournal(Begun(job.halt.request, checkpoint)))


def undo_halt(job: JobState, reason: str, out: list[JobCommand]) -> bool:
    """The order has failed before its checkpoint was complete. True when tasks stand still: the attempt must be begun anew."""
    halt = job.halt
    if halt is None:
        return False
    job.halt = None
    error = f"the job was not {_DONE[halt.what]}, and runs on: {reason}"
    if halt.savepoint:
        give_up_savepoint(halt.request, halt.savepoint, error, out)
    answer(halt.request, error, out)
    return halt.begun


def roll_back(job: JobState, reason: str, now: float, out: list[JobCommand]) -> None:
    """Begin anew from the newest complete checkpoint. No failure of the job: not counted, and without a delay."""
    job.checkpoints.give_up(now)
    job.outstanding.clear()
    job.move(JobStatus.RESTARTING)
    job.restart_at = now
    out.append(Say(f"attempt {job.attempt} is given up: {reason}"))
    out += [Send(worker.instance, Command(job.epoch, job.attempt, Stop())) for worker in job.workers.assigned()]


def undo_and_roll_back(job: JobState, reason: str, now: float, out: list[JobCommand]) -> None:
    if undo_halt(job, reason, out):
        roll_back(job, reason, now, out)


def rescale(job: JobState, now: float, out: list[JobCommand]) -> None:
    """Its checkpoint is complete: the next attempt runs at the new parallelism."""
    halt = job.halt
    assert halt is not None
    if job.status is JobStatus.RUNNING:
        roll_back(job, f"it goes on from checkpoint {halt.checkpoint} at parallelism {halt.parallelism}", now, out)
    job.set_parallelism(halt.parallelism, out)


def migrate(job: JobState, now: float, out: list[JobCommand]) -> None:
    """Its checkpoint is complete: the next attempt runs without the TaskManager that falls behind."""
    halt = job.halt
    assert halt is not None
    worker = job.workers.get(halt.leaves)
    job.halt = None
    if job.status is JobStatus.RUNNING:
        roll_back(job, f"it goes on from checkpoint {halt.checkpoint} without {worker.name if worker else 'one that is lost'}", now, out)
    if worker is not None:
        job.left_nodes.add(worker.node_id)
        job.lose(worker.instance, out)
    job.migrations += 1
    answer(halt.request, "", out)


def carry_on(job: JobState, now: float, out: list[JobCommand]) -> bool:
    """The checkpoint that decides is complete. False for a stop, which waits for more."""
    if job.halt is None or job.halt.what == "stop":
        return False
    if job.halt.what == "rescale":
        rescale(job, now, out)
    else:
        migrate(job, now, out)
    return True


def forget_lost_leaver(job: JobState, out: list[JobCommand]) -> None:
    """The TaskManager to be left is gone by itself before anything was begun."""
    halt = job.halt
    if halt is not None and halt.what == "migrate" and not halt.begun and halt.leaves not in job.workers:
        undo_halt(job, "it is gone by itself", out)


def rescaled_without_room(job: JobState, reason: str, out: list[JobCommand]) -> bool:
    """There is no room for the TaskManagers that a rescale wants: back to where it was. False when that is not why they are wanted."""
    halt = job.halt
    if halt is None or halt.what != "rescale" or job.parallelism != halt.parallelism or job.workers.usable() >= job.workers.slots:
        return False
    job.halt = None
    job.set_parallelism(halt.before, out)
    answer(halt.request, f"the job goes on as it was: there is no room for parallelism {halt.parallelism}: {reason}", out)
    return True


def answer_rescale(job: JobState, out: list[JobCommand]) -> None:
    """The attempt runs."""
    halt = job.halt
    if halt is not None and halt.what == "rescale" and job.parallelism == halt.parallelism and job.halted_for_good:
        job.halt = None
        answer(halt.request, "", out)


def go_on_halting(job: JobState, adopted: int | None, now: float, out: list[JobCommand]) -> None:
    """For a new leader whose tasks run on: what its predecessor had begun. `adopted`: the checkpoint whose manifest is being written."""
    halt = job.halt
    if halt is None or not halt.begun:
        return
    if job.halted_for_good and carry_on(job, now, out):
        return
    if job.halted_for_good:
        job.final = halt.checkpoint
    elif halt.checkpoint is None:
        drain(job, now, out)
    elif adopted != halt.checkpoint:
        undo_and_roll_back(job, "its JobManager was lost before the checkpoint was complete", now, out)


def fail_undecided(job: JobState, reason: str, out: list[JobCommand]) -> None:
    """The attempt is over: an order that was begun, and whose checkpoint is not complete, is undone with it."""
    halt = job.halt
    if halt is None or not halt.begun or job.halted_for_good:
        return
    if job.writing is None or job.writing.checkpoint != halt.checkpoint:  # else the fate of its manifest decides
        undo_halt(job, reason, out)


def stopped(job: JobState) -> bool:
    """What ends the job is a stop."""
    return job.halt is not None and job.halt.what == "stop" and job.halted_for_good


def answer_stop(job: JobState, out: list[JobCommand]) -> None:
    """The job has ended; storage knows it."""
    halt = job.halt
    if halt is not None and halt.what == "stop":
        job.halt = None
        error = f"the job was stopped, and is in its last checkpoint, but the savepoint was not made: {halt.error}" if halt.error else ""
        answer(halt.request, error, out, savepoint="" if error else halt.savepoint)
