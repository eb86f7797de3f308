"""A new leader over tasks that run (docs/protocol.md, rules 10 and 11): greet every TaskManager that the journal knows, then go on.

    TakeOver -> ADOPTING: Hello to all, and storage is read --all of the current attempt run--> RUNNING, nothing restarted
                                                           --else--> RESTARTING, attempt + 1 from the newest complete checkpoint

A checkpoint that every slot has acknowledged, to whomever, is completed by writing its manifest; every other open one is aborted at once.
Where storage has a newer manifest than the journal, storage is right; where the journal or a TaskManager knows one that storage lacks,
the job fails, since to go on would repeat rows or lose them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from flinkray.core.job_attempts import attempt_failed, on_task_failed
from flinkray.core.job_checkpoints import content_of, notify
from flinkray.core.job_endings import CANCEL, begin_cancelling, end, fail, record_cancelled
from flinkray.core.job_events import Adopted, AttachWorker, Deliver, JobCommand, JobStatus, Say, TakeOver, WriteManifest
from flinkray.core.job_halts import carry_on, fail_undecided, go_on_halting
from flinkray.core.job_requests import take_over_requests
from flinkray.core.job_savepoints import name_again
from flinkray.core.job_state import Adoption, JobState
from flinkray.core.messages import (
    Abort,
    Acknowledged,
    Committed,
    Hello,
    HelloReply,
    PeerLost,
    Ready,
    ReportBody,
    SinkRows,
    SlotEnded,
    Stats,
    TaskFailed,
    TaskManagerState,
)
from flinkray.core.workers import Worker, WorkerState
from flinkray.errors import StorageError
from flinkray.ids import Epoch

ADOPT_TIMEOUT_S = 10.0
"""A TaskManager of the current attempt that has not answered a new leader by then is given up, and the attempt with it."""


def on_take_over(job: JobState, event: TakeOver, now: float, out: list[JobCommand]) -> None:
    view = event.view
    job.epoch = Epoch(view.claim or 0, view.election, job.token)
    job.search_at = now
    job.claim, job.hash_seed = view.claim, view.hash_seed
    job.attempt = job.highest_attempt = view.attempt
    job.restarts, job.base_counters, job.passed_over = view.restarts, view.counters, view.passed_over
    take_over_requests(job, view, out)
    if view.parallelism:
        job.set_parallelism(view.parallelism, out)
    job.workers.number_from(view.next_worker)
    slots = {instance: slot for slot, instance in enumerate(view.attempt_workers)}
    for instance, number in view.workers:
        worker = job.workers.inherit(instance, number, slots.get(instance), now)
        out.append(AttachWorker(instance, worker.name))
    if view.claim is not None:
        job.move(JobStatus.ADOPTING)
        job.adoption = Adoption(view, now)
    cancel = next((request for request in view.requests if request.what == CANCEL), None)
    if cancel is not None:
        begin_cancelling(job, cancel.detail, now, out)


def on_adopted(job: JobState, event: Adopted, out: list[JobCommand]) -> None:
    """Storage is read, and no earlier leader can write to its log any more."""
    job.storage_open = True
    job.highest_attempt = max(job.highest_attempt, event.next_attempt - 1)
    job.checkpoints.next_id = max(job.checkpoints.next_id, event.next_checkpoint)
    if event.ended:
        end(job, JobStatus(event.ended), out)
    elif job.status is JobStatus.CANCELLING:
        record_cancelled(job, out)
    elif job.adoption is not None:
        job.adoption.storage = event
        job.contents = {content.checkpoint: content for content in event.contents if content.checkpoint not in job.passed_over}
        job.checkpoints.latest = max(job.contents, default=None)
        known = max((*job.contents, *job.passed_over), default=0)
        if job.adoption.view.checkpoint > known:
            _fail_missing(job, job.adoption.view.checkpoint, "the journal", known, out)
        else:
            name_again(job, out)


def on_hello_reply(job: JobState, worker: Worker, attempt: int, reply: HelloReply, out: list[JobCommand]) -> None:
    """Counts once; a worker of no slot stays as a spare when it is idle."""
    if reply.epoch != job.epoch:
        return
    job.answered(worker.instance, Hello)
    if worker.state is not WorkerState.GREETING:
        return
    job.highest_attempt = max(job.highest_attempt, attempt)
    heard_of = max((reply.triggered, reply.notified, *(answer.checkpoint for answer in reply.unsettled)))
    job.checkpoints.next_id = max(job.checkpoints.next_id, heard_of + 1)
    if worker.slot is not None and job.adoption is not None:
        worker.state = WorkerState.ASSIGNED
        job.adoption.replies[worker.slot] = (attempt, reply)
    elif reply.state is TaskManagerState.IDLE:
        worker.state, worker.slot = WorkerState.IDLE, None
    else:
        out.append(Say(f"{worker.name} has tasks of attempt {attempt} that nobody knows"))
        job.lose(worker.instance, out)


def on_adopting_report(job: JobState, worker: Worker, slot: int, body: ReportBody, out: list[JobCommand]) -> None:
    """What is said after the answer to Hello; what was said before is in the answer."""
    adoption = job.adoption
    if isinstance(body, SinkRows):
        out.append(Deliver(body.uid, worker.instance, body.data))
    elif isinstance(body, Stats):
        job.stats[slot] = body
        job.note_first_row(body.first_row_at_us)
    elif adoption is None or slot not in adoption.replies:
        return
    elif isinstance(body, Acknowledged):
        adoption.late.setdefault(slot, {})[body.checkpoint] = body
    elif isinstance(body, Committed):
        job.committed.note(slot, body.checkpoint)
    elif isinstance(body, SlotEnded):
        job.ended.add(slot)
    elif isinstance(body, TaskFailed | PeerLost):
        adoption.failure = adoption.failure or body


def advance_adopting(job: JobState, now: float, out: list[JobCommand]) -> None:
    """Decide when storage and every TaskManager of the attempt have answered, or had their time."""
    adoption = job.adoption
    assert adoption is not None
    silent = next(_silent(job), None)
    if silent is not None and now - adoption.since > ADOPT_TIMEOUT_S:
        for worker in list(_silent(job)):
            out.append(Say(f"{worker.name} did not answer the new leader in {ADOPT_TIMEOUT_S:.0f} s"))
            job.lose(worker.instance, out)
        adoption.lost = adoption.lost or f"{silent.name} did not answer the new leader in {ADOPT_TIMEOUT_S:.0f} s"
        silent = None
    if adoption.storage is None:
        job.waiting_for = "checkpoint storage to be read"
    elif silent is not None:
        job.waiting_for = f"TaskManagers to answer the new leader: {silent.name}{' and others' if _more_than_one(job) else ''}"
    else:
        job.waiting_for = ""
        _decide(job, adoption, now, out)


def _silent(job: JobState) -> Iterator[Worker]:
    """TaskManagers of slots that have not answered Hello."""
    return (worker for worker in job.workers.unready() if worker.slot is not None)


def _more_than_one(job: JobState) -> bool:
    return next(islice(_silent(job), 1, None), None) is not None


def _decide(job: JobState, adoption: Adoption, now: float, out: list[JobCommand]) -> None:
    view = adoption.view
    if view.attempt == 0:
        job.move(JobStatus.CREATED)
        job.restart_at = now
        return
    current = {slot: reply for slot, (attempt, reply) in adoption.replies.items() if attempt == view.attempt}
    notified = max((reply.notified for reply in current.values()), default=0)
    known = max((*job.contents, *job.passed_over), default=0)
    if job.settings.checkpoints.store and notified > known:
        _fail_missing(job, notified, "a TaskManager", known, out)
        return
    adoption.failure = adoption.failure or next((reply.failure for reply in current.values() if reply.failure), None)
    why_not = _why_not(job, adoption, current)
    if why_not:
        _recover(job, adoption, current, why_not, now, out)
    else:
        _go_on(job, adoption, current, now, out)


def _why_not(job: JobState, adoption: Adoption, current: dict[int, HelloReply]) -> str:
    """Why the running tasks cannot simply go on; empty when they can."""
    view, latest = adoption.view, job.checkpoints.latest
    if adoption.lost:
        return adoption.lost
    if isinstance(adoption.failure, TaskFailed):
        return f"a task had failed: {adoption.failure.message}"
    if isinstance(adoption.failure, PeerLost):
        return f"a channel to {adoption.failure.peer_instance} was lost: {adoption.failure.reason}"
    for slot in range(job.workers.slots):
        reply = current.get(slot)
        if reply is None or reply.slot != slot or reply.state is not TaskManagerState.RUNNING:
            return f"slot {slot} does not run in attempt {view.attempt}"
    if latest is not None and latest != view.restored and job.contents[latest].attempt != view.attempt:
        return f"checkpoint {latest} is of attempt {job.contents[latest].attempt}, and newer than what attempt {view.attempt} started from"
    return ""


def _go_on(job: JobState, adoption: Adoption, current: dict[int, HelloReply], now: float, out: list[JobCommand]) -> None:
    """Nothing is restarted."""
    view, latest = adoption.view, job.checkpoints.latest
    acks = _acknowledgements(adoption, current)
    job.ready = {slot: Ready() for slot in range(job.workers.slots)}
    job.running = set(job.ready)
    job.ended |= {slot for slot, reply in current.items() if reply.ended}
    for slot, reply in current.items():
        job.committed.note(slot, reply.committed)
    job.checkpoints.restored(latest)
    job.move(JobStatus.RUNNING)
    job.running_at = now
    job.checkpoints.run_started(now)
    out.append(Say(f"JobManager of election {view.election} leads: attempt {view.attempt} goes on, nothing is restarted"))
    chosen = _complete(job, view.attempt, acks, now, out)
    heard_of = {*acks, *(reply.triggered for reply in current.values())}
    heard_of |= {answer.checkpoint for reply in current.values() for answer in reply.unsettled}
    for checkpoint in sorted(heard_of):
        if checkpoint > (latest or 0) and checkpoint != chosen:
            for worker in job.workers.assigned():
                job.send(worker.instance, Abort(checkpoint), now, out)
    if latest is not None:
        notify(job, latest, now, out)
    go_on_halting(job, chosen, now, out)


def _recover(job: JobState, adoption: Adoption, current: dict[int, HelloReply], why_not: str, now: float, out: list[JobCommand]) -> None:
    """A leader lost in the middle of a deployment is no failure of the attempt: it is deployed anew, and not counted."""
    _complete(job, adoption.view.attempt, _acknowledgements(adoption, current), now, out)
    failure = adoption.failure
    begun = len(adoption.replies) == job.workers.slots and not any(
        attempt == adoption.view.attempt and reply.state in (TaskManagerState.IDLE, TaskManagerState.FAILED)
        for attempt, reply in adoption.replies.values()
    )
    if isinstance(failure, TaskFailed):
        on_task_failed(job, failure, now, out)
    elif isinstance(failure, PeerLost):
        attempt_failed(job, "channel", why_not, None, now, out)
    elif adoption.lost or not begun:
        attempt_failed(job, "process", why_not, None, now, out)
    else:
        out.append(Say(f"attempt {job.attempt} was being deployed when its leader was lost ({why_not}): deploying anew"))
        fail_undecided(job, "its JobManager was lost", out)
        job.move(JobStatus.RESTARTING)
        job.restart_at = now
    if job.halted_for_good and not job.status.terminal:
        carry_on(job, now, out)


def _acknowledgements(adoption: Adoption, current: dict[int, HelloReply]) -> dict[int, dict[int, Acknowledged]]:
    """By checkpoint, then slot."""
    found: dict[int, dict[int, Acknowledged]] = {}
    for slot, reply in current.items():
        answers = [answer for answer in reply.unsettled if isinstance(answer, Acknowledged)]
        for answer in (*answers, *adoption.late.get(slot, {}).values()):
            found.setdefault(answer.checkpoint, {})[slot] = answer
    return found


def _complete(job: JobState, attempt: int, acks: dict[int, dict[int, Acknowledged]], now: float, out: list[JobCommand]) -> int | None:
    """Write the manifest of the newest checkpoint that every slot has acknowledged."""
    if not job.settings.checkpoints.store:
        return None  # nothing is kept of it: a last one is taken anew
    latest = job.checkpoints.latest or 0
    whole = [checkpoint for checkpoint, answers in acks.items() if checkpoint > latest and len(answers) == job.workers.slots]
    if not whole:
        return None
    checkpoint = max(whole)
    pending = job.checkpoints.adopt(checkpoint, attempt, acks[checkpoint], now)
    job.writing = content_of(checkpoint, attempt, pending.acks, job.base_counters)
    out.append(WriteManifest(job.writing, now, max(answer.sync_ms for answer in pending.acks.values())))
    return checkpoint


def _fail_missing(job: JobState, checkpoint: int, who: str, newest: int, out: list[JobCommand]) -> None:
    has = f"its newest is {newest}" if newest else "it has none"
    reason = (
        f"{who} knows checkpoint {checkpoint} as complete, and checkpoint storage does not have its manifest ({has}): objects were deleted, "
        "or storage went back in time; start the job again with --restore latest to go on from what is left, rows may repeat"
    )
    fail(job, StorageError(reason), out)
