"""One deployment of the whole job after the other: workers, Deploy, Start, what ends an attempt and where the next one starts from."""

from __future__ import annotations

import hashlib
from typing import Any

from flinkray.core.failures import GiveUp
from flinkray.core.job_checkpoints import notify
from flinkray.core.job_endings import fail, record_cancelled
from flinkray.core.job_events import (
    CheckpointContent,
    CreateWorker,
    JobCommand,
    JobStatus,
    KillWorker,
    NoRoom,
    Opened,
    Say,
    Send,
    WorkerLost,
    WorkerStarted,
    WriteJournal,
)
from flinkray.core.job_halts import answer_rescale, fail_undecided, rescaled_without_room, stopped
from flinkray.core.job_state import JobState
from flinkray.core.journal_records import AttemptBegun, StorageClaimed, WorkerAdded
from flinkray.core.messages import Command, Counters, Deploy, FailureCause, Hello, Ready, Start, Stop, TaskFailed
from flinkray.core.state_plan import StatePlan
from flinkray.core.workers import Worker, WorkerState
from flinkray.errors import JobFailedError, ProtocolError, ResourceError
from flinkray.ids import Epoch

DEPLOY_TIMEOUT_S = 120.0
WORKER_TIMEOUT_S = 180.0
"""A TaskManager that is not up and warm by then is given up (a first start compiles kernels)."""

SPARE_PATIENCE_S = 1.0
"""The first deployment waits so long for the spares: a job should be protected from its first row on, and not share its cores with a
process that is still warming."""


NAMED = 16
"""TaskManagers, in one line of the log."""

CATCH_UP_S = 1.0
"""A restarted attempt has the cores for so long before the next spare is made."""


def on_opened(job: JobState, event: Opened, now: float, out: list[JobCommand]) -> None:
    job.claim = event.claim
    job.epoch = Epoch(event.claim, job.epoch.election, job.token)
    job.attempt = max(job.attempt, event.next_attempt - 1)
    job.hash_seed = event.hash_seed
    job.checkpoints.next_id = max(job.checkpoints.next_id, event.next_checkpoint)
    chosen = (*((event.restore,) if event.restore else ()), *event.older)
    for content in chosen:
        job.contents[content.checkpoint] = content
    if event.restore is not None:
        job.checkpoints.latest = event.restore.checkpoint
    job.restart_at = now
    job.storage_open = True
    ids = tuple(content.checkpoint for content in chosen)
    out.append(WriteJournal(StorageClaimed(event.claim, event.hash_seed, event.data_key, ids, event.names)))
    if job.status is JobStatus.CANCELLING:
        record_cancelled(job, out)
    for worker in job.workers.greeting():
        greet(job, worker.instance, now, out)


# -- workers ----------------------------------------------------------------------------------------------------------


def on_worker_started(job: JobState, event: WorkerStarted, now: float, out: list[JobCommand]) -> None:
    if not job.workers.started(event.instance, event.endpoint, event.pid, event.node_id, event.zone):
        out.append(KillWorker(event.instance))
        return
    worker = job.workers.get(event.instance)
    if worker is not None and worker.state is WorkerState.GREETING and job.claim is not None:
        greet(job, event.instance, now, out)


def greet(job: JobState, instance: str, now: float, out: list[JobCommand]) -> None:
    """Not before the epoch is whole: a TaskManager may have obeyed one of this claim already."""
    job.send(instance, Hello(), now, out)


def keep_workers(job: JobState, now: float, out: list[JobCommand]) -> None:
    """Give up those that do not come up, and ask for those that are missing. No spare is made towards the end of the job, nor while an attempt is
    deployed and catches up: a process that starts takes the cores that the recovery needs."""
    for worker in job.workers.late(now, WORKER_TIMEOUT_S):
        out.append(Say(f"{worker.name} did not come up in {WORKER_TIMEOUT_S:.0f} s"))
        job.lose(worker.instance, out)
    busy = job.status is JobStatus.DEPLOYING or now < job.catching_up_until
    for _ in range(job.workers.missing(spares=job.final is None and not busy)):
        job.created += 1
        instance = hashlib.sha256(f"{job.token}/{job.created}".encode()).hexdigest()[:32]
        worker = job.workers.request(instance, now)
        out += [WriteJournal(WorkerAdded(instance, worker.number)), CreateWorker(instance, worker.name)]


def on_no_room(job: JobState, event: NoRoom, out: list[JobCommand]) -> None:
    if job.lose(event.instance, out, kill=False) is None:
        return
    if rescaled_without_room(job, event.reason, out):
        return
    if len(list(job.workers)) >= job.workers.slots:
        job.workers.spares = max(0, len(list(job.workers)) - job.workers.slots)
        out.append(Say(f"no room for a spare TaskManager: {event.reason}"))
    else:
        fail(job, event.error or ResourceError(event.reason), out)


def on_worker_lost(job: JobState, event: WorkerLost, now: float, out: list[JobCommand]) -> None:
    worker = job.lose(event.instance, out)
    if worker is None:
        return
    out.append(Say(f"{worker.name} (pid {worker.pid}) is lost: {event.reason}"))
    if worker.slot is not None and job.adoption is not None:
        job.adoption.lost = job.adoption.lost or f"{worker.name} is lost: {event.reason}"
    elif worker.slot is not None and job.status in (JobStatus.DEPLOYING, JobStatus.RUNNING):
        attempt_failed(job, event.cause, f"{worker.name} is lost: {event.reason}", None, now, out)


# -- deployment -------------------------------------------------------------------------------------------------------


def try_deploy(job: JobState, now: float, out: list[JobCommand]) -> None:
    """Begin the next attempt when nothing stands in its way."""
    job.waiting_for = _obstacle(job, now)
    if job.waiting_for:
        return
    assigned = job.workers.assign(frozenset(job.left_nodes))
    if assigned is None:
        raise ProtocolError("workers vanished between the check and the assignment")
    job.attempt = job.highest_attempt = max(job.attempt, job.highest_attempt) + 1
    restored = job.contents[job.checkpoints.latest] if job.checkpoints.latest is not None else None
    _reset_attempt(job, restored)
    job.move(JobStatus.DEPLOYING)
    job.deployed_at = now
    out.append(WriteJournal(_attempt_record(job, tuple(worker.instance for worker in assigned), restored)))
    origin = f"checkpoint {restored.checkpoint}" if restored else "the beginning"
    out.append(Say(f"attempt {job.attempt} starts from {origin} on {_names(assigned)}"))
    peers = tuple(worker.endpoint for worker in assigned)
    plan = StatePlan(job.graph, restored.states if restored else ())
    for slot, worker in enumerate(assigned):
        states, checkpoint = plan.for_slot(slot), restored.checkpoint if restored else None
        deploy = Deploy(slot, job.claim or 0, job.hash_seed, peers, checkpoint, states, parallelism=job.parallelism)
        job.send(worker.instance, deploy, now, out)


def _names(workers: list[Worker]) -> str:
    """For people, who read no thousand."""
    named = ", ".join(f"{worker.name} (pid {worker.pid})" for worker in workers[:NAMED])
    return named if len(workers) <= NAMED else f"{named} and {len(workers) - NAMED} more"


def _attempt_record(job: JobState, workers: tuple[str, ...], restored: CheckpointContent | None) -> AttemptBegun:
    checkpoint = restored.checkpoint if restored else None
    return AttemptBegun(job.attempt, workers, checkpoint, job.restarts, job.base_counters, job.passed_over, job.parallelism)


def _obstacle(job: JobState, now: float) -> str:
    """Why the next attempt cannot start yet; empty when it can."""
    if job.claim is None:
        return "checkpoint storage to be claimed"
    if job.writing is not None:
        return f"the fate of checkpoint {job.writing.checkpoint}'s manifest"
    if job.leadership_in_doubt:
        return "the journal, to confirm that this JobManager leads"
    if now < job.restart_at:
        return "the restart delay"
    if silent := job.channels.awaited(now):
        return f"{', '.join(worker.name for worker in job.workers if worker.instance in silent)} to be heard again"
    if job.workers.usable() < job.workers.slots:
        return f"TaskManagers: {job.workers.usable()} of {job.workers.slots} are up"
    if job.status is JobStatus.CREATED and job.workers.usable() < job.workers.slots + job.workers.spares:
        if job.slots_up_at is None:
            job.slots_up_at = now
        if now - job.slots_up_at < SPARE_PATIENCE_S:
            return "the spare TaskManager, for a moment"
    return ""


def _reset_attempt(job: JobState, restored: CheckpointContent | None) -> None:
    job.outstanding.clear()
    for known in (job.ready, job.running, job.ended, job.stats, job.committed):
        known.clear()
    job.final = job.checkpoints.latest if stopped(job) else None
    job.base_counters = restored.counters if restored else Counters()
    job.watch.begin()
    job.checkpoints.restored(restored.checkpoint if restored else None)


def advance_deploying(job: JobState, now: float, out: list[JobCommand]) -> None:
    if now - job.deployed_at > DEPLOY_TIMEOUT_S:
        missing = sorted(set(range(job.workers.slots)) - job.running)
        attempt_failed(job, "process", f"slots {missing} were not running {DEPLOY_TIMEOUT_S:.0f} s after their deployment", None, now, out)


def on_ready(job: JobState, instance: str, slot: int, body: Ready, now: float, out: list[JobCommand]) -> None:
    job.answered(instance, Deploy)
    if slot in job.ready:
        return
    job.ready[slot] = body
    if len(job.ready) == job.workers.slots:
        for worker in job.workers.assigned():
            job.send(worker.instance, Start(halted=stopped(job)), now, out)


def on_running(job: JobState, instance: str, slot: int, now: float, out: list[JobCommand]) -> None:
    job.answered(instance, Start)
    job.running.add(slot)
    if job.status is JobStatus.DEPLOYING and len(job.running) == job.workers.slots:
        job.move(JobStatus.RUNNING)
        if job.restarts:
            job.catching_up_until = now + CATCH_UP_S
            out.append(Say(f"attempt {job.attempt} runs, {now - job.deployed_at:.2f} s after its deployment{_restored_from(job)}"))
        job.running_at = job.running_at if job.running_at is not None else now
        job.checkpoints.run_started(now)
        if job.checkpoints.latest is not None:
            notify(job, job.checkpoints.latest, now, out)
        answer_rescale(job, out)


def _restored_from(job: JobState) -> str:
    memory, storage = (sum(getattr(ready, of) for ready in job.ready.values()) for of in ("memory_bytes", "storage_bytes"))
    return f"; state: {memory / 1e6:.1f} MB from memory, {storage / 1e6:.1f} MB from storage" if memory + storage else ""


# -- failure ----------------------------------------------------------------------------------------------------------


def attempt_failed(job: JobState, cause: FailureCause, reason: str, error: Any, now: float, out: list[JobCommand]) -> None:
    """The policy says when the next attempt starts, or that none does."""
    job.checkpoints.give_up(now)
    job.outstanding.clear()
    fail_undecided(job, reason, out)
    decision = job.policy.decide(cause, now)
    if isinstance(decision, GiveUp):
        fail(job, error or JobFailedError(f"{reason}; {decision.why}"), out)
        return
    job.error = error or JobFailedError(reason)
    job.restarts += 1
    job.move(JobStatus.RESTARTING)
    job.restart_at = now + decision.after_s
    wait = f" in {decision.after_s:.1f} s" if decision.after_s else ""
    out.append(Say(f"attempt {job.attempt} failed ({cause}): {reason.splitlines()[0]}; restarting{wait}"))
    out += [Send(worker.instance, Command(job.epoch, job.attempt, Stop())) for worker in job.workers.assigned()]


def on_task_failed(job: JobState, body: TaskFailed, now: float, out: list[JobCommand]) -> None:
    if body.cause == "damaged" and job.checkpoints.latest is not None:
        refusal = _fall_back(job, body.object_name)
        if refusal:
            fail(job, JobFailedError(f"{body.message}; {refusal}"), out)
            return
    where = f"task {body.task} ({body.uid}): " if body.task else ""
    attempt_failed(job, body.cause, f"{where}{body.message}", body.error, now, out)


def _fall_back(job: JobState, object_name: str) -> str:
    """Make the checkpoint before the damaged one the newest, where rule 20 allows it. Returns why not, or an empty string."""
    damaged = job.checkpoints.latest
    older = max((known for known in job.contents if damaged is not None and known < damaged), default=None)
    if older is None:
        return f"no older checkpoint is left to restore from; start afresh with --restore none (object {object_name})"
    visible = (
        sorted(uid for uid, pending in job.contents[damaged].transactions.items() if uid in job.transactional_uids and pending)
        if damaged
        else []
    )
    if visible and not job.settings.allow_repeated_output:
        return (
            f"falling back to checkpoint {older} would write again what sinks {', '.join(visible)} have committed since; "
            "start with --allow-repeated-output to accept repeated rows, or afresh with --restore none"
        )
    if damaged is not None:
        del job.contents[damaged]
        job.passed_over = (*job.passed_over, damaged)
    job.checkpoints.latest = older
    return ""
