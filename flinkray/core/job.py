"""The JobManager's decisions, pure: one event in, commands out.

    CREATED -> DEPLOYING -> RUNNING -> FINISHED
                  ^  |         |
                  |  v         v            any but the last: -> CANCELLING -> CANCELLED, -> FAILED
                RESTARTING <---+

An attempt is one deployment of the whole job. Deploy goes to every slot; when all are ready, Start; when all run, checkpoints begin. Any
failure ends the attempt: the policy says when the next one starts, from the newest complete checkpoint. Commands are sent again until
they are answered (rule 12).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from flinkray.core.checkpoints import CheckpointCoordinator, CheckpointPolicy
from flinkray.core.failures import FailurePolicy, GiveUp
from flinkray.core.job_events import (
    CancelRequested,
    CheckpointContent,
    CreateWorker,
    Deliver,
    End,
    EndRecorded,
    JobCommand,
    JobEvent,
    JobStatus,
    JournalAttempt,
    KillWorker,
    ManifestFate,
    NoRoom,
    Opened,
    OpenFailed,
    RecordEnd,
    Say,
    Send,
    Sweep,
    Tick,
    WorkerLost,
    WorkerStarted,
    WriteManifest,
)
from flinkray.core.messages import (
    Abort,
    Aborted,
    Acknowledged,
    CheckpointDeclined,
    Command,
    CommandBody,
    Committed,
    Counters,
    Deploy,
    FailureCause,
    Notify,
    PeerLost,
    Ready,
    Report,
    Running,
    SinkRows,
    SlotEnded,
    Start,
    Stats,
    Stop,
    TaskFailed,
    Trigger,
    Triggered,
)
from flinkray.core.outstanding import Outstanding
from flinkray.core.state_plan import states_for_slot
from flinkray.core.workers import Workers
from flinkray.errors import DeposedError, FlinkrayError, JobFailedError, ProtocolError, ResourceError
from flinkray.graph.job_graph import JobGraph
from flinkray.ids import Epoch

DEPLOY_TIMEOUT_S = 120.0
WORKER_TIMEOUT_S = 180.0
"""A TaskManager that is not up and warm by then is given up (a first start compiles kernels)."""

CANCEL_TIMEOUT_S = 10.0
"""A cancelled job does not wait longer than this for storage to take the record of its end."""


@dataclass(frozen=True)
class JobSettings:
    """What the core needs of the configuration; seconds throughout."""

    name: str
    spares: int
    checkpoints: CheckpointPolicy
    restart_initial_s: float
    restart_maximum_s: float
    restart_attempts: int | None
    allow_repeated_output: bool = False
    retained: int = 3
    """Complete checkpoints that storage keeps, and a restart may fall back to."""


@dataclass
class JobCore:
    """`step(event, now) -> commands`; `now` is monotonic seconds, only ever compared with itself."""

    graph: JobGraph
    settings: JobSettings
    token: str
    """Random, from the shell: instance ids are derived from it."""
    transactional_uids: frozenset[str] = frozenset()
    """Sinks whose committed rows are visible outside (rule 20)."""
    status: JobStatus = JobStatus.CREATED
    attempt: int = 0
    restarts: int = 0
    error: Any = None
    running_at: float | None = None
    waiting_for: str = ""
    """What the job cannot go on without, in words, for the status."""

    def __post_init__(self) -> None:
        slots = self.graph.slots()
        self.workers = Workers(slots, self.settings.spares)
        self.checkpoints = CheckpointCoordinator(self.settings.checkpoints, slots, next_id=1)
        self.policy = FailurePolicy(self.settings.restart_initial_s, self.settings.restart_maximum_s, self.settings.restart_attempts)
        self.epoch = Epoch(0, 1, self.token)
        self.claim: int | None = None
        self.hash_seed = 0
        self.contents: dict[int, CheckpointContent] = {}
        self.stats: dict[int, Stats] = {}
        self.first_row_at_us: int | None = None
        self._base_counters = Counters()
        self._restart_at = 0.0
        self._deployed_at = 0.0
        self._ready: set[int] = set()
        self._running: set[int] = set()
        self._ended: set[int] = set()
        self._committed: dict[int, int] = {}
        self._swept = 0
        self._final: int | None = None
        self._writing: CheckpointContent | None = None
        self._recording = False
        self._cancelled_at = 0.0
        self._outstanding = Outstanding()
        self._created = 0

    # -- entry ----------------------------------------------------------------------------------------------------

    def step(self, event: JobEvent, now: float) -> list[JobCommand]:
        if self.status.terminal:
            return []
        out: list[JobCommand] = []
        self._handle(event, now, out)
        if not self.status.terminal:
            self._advance(now, out)
        return out

    def check_invariants(self) -> None:
        self.checkpoints.check_invariants()
        if self.status is JobStatus.RUNNING and len(self._running) != self.workers.slots:
            raise ProtocolError("RUNNING, but not every slot runs")
        if self._final is not None and len(self._ended) != self.workers.slots:
            raise ProtocolError("a final checkpoint before all inputs ended")
        if self._writing is not None and (self.checkpoints.pending is None or not self.checkpoints.pending.writing):
            raise ProtocolError("a manifest is being written that nobody awaits")

    def counters(self) -> Counters:
        """Rows so far; those of a replay are not counted twice."""
        if self._final is not None:
            return self.contents[self._final].counters
        total = self._base_counters
        for stats in self.stats.values():
            total = total.plus(stats.counters)
        return total

    def _handle(self, event: JobEvent, now: float, out: list[JobCommand]) -> None:
        if isinstance(event, Report):
            self._on_report(event, now, out)
        elif isinstance(event, Opened):
            self._on_opened(event, now)
        elif isinstance(event, OpenFailed):
            self._fail(event.error or JobFailedError(event.reason), out)
        elif isinstance(event, WorkerStarted):
            if not self.workers.started(event.instance, event.endpoint, event.pid, event.node_id, event.zone):
                out.append(KillWorker(event.instance))
        elif isinstance(event, WorkerLost):
            self._on_worker_lost(event, now, out)
        elif isinstance(event, NoRoom):
            self._on_no_room(event, out)
        elif isinstance(event, ManifestFate):
            self._on_manifest(event, now, out)
        elif isinstance(event, CancelRequested):
            self._on_cancel(event, now, out)
        elif isinstance(event, EndRecorded):
            self._on_end_recorded(event, out)

    def _advance(self, now: float, out: list[JobCommand]) -> None:
        """Whatever is due at this time in this state."""
        if self.status is JobStatus.CANCELLING:
            if now - self._cancelled_at > CANCEL_TIMEOUT_S:
                out.append(Say(f"storage did not take the record of the end in {CANCEL_TIMEOUT_S:.0f} s: leaving without it"))
                self._on_end_recorded(EndRecorded(), out)
            return
        if self._recording:
            return
        self._keep_workers(now, out)
        if self.status in (JobStatus.CREATED, JobStatus.RESTARTING):
            self._try_deploy(now, out)
        elif self.status is JobStatus.DEPLOYING:
            if now - self._deployed_at > DEPLOY_TIMEOUT_S:
                missing = sorted(set(range(self.workers.slots)) - self._running)
                self._attempt_failed(
                    "process", f"slots {missing} were not running {DEPLOY_TIMEOUT_S:.0f} s after their deployment", None, now, out
                )
        elif self.status is JobStatus.RUNNING:
            self._advance_checkpoints(now, out)
        out += self._outstanding.due(now)

    # -- start and workers ----------------------------------------------------------------------------------------

    def _on_opened(self, event: Opened, now: float) -> None:
        self.claim = event.claim
        self.epoch = Epoch(event.claim, 1, self.token)
        self.attempt = event.next_attempt - 1
        self.hash_seed = event.hash_seed
        self.checkpoints.next_id = event.next_checkpoint
        for content in (*event.older, *((event.restore,) if event.restore else ())):
            self.contents[content.checkpoint] = content
        if event.restore is not None:
            self.checkpoints.latest = event.restore.checkpoint
        self._restart_at = now

    def _keep_workers(self, now: float, out: list[JobCommand]) -> None:
        for worker in self.workers.late(now, WORKER_TIMEOUT_S):
            self.workers.remove(worker.instance)
            out += [Say(f"{worker.name} did not come up in {WORKER_TIMEOUT_S:.0f} s"), KillWorker(worker.instance)]
        for _ in range(self.workers.missing(finishing=self._final is not None)):
            self._created += 1
            instance = hashlib.sha256(f"{self.token}/{self._created}".encode()).hexdigest()[:32]
            worker = self.workers.request(instance, now)
            out.append(CreateWorker(instance, worker.name))

    def _on_no_room(self, event: NoRoom, out: list[JobCommand]) -> None:
        worker = self.workers.remove(event.instance)
        if worker is None:
            return
        if len(list(self.workers)) >= self.workers.slots:
            self.workers.spares = max(0, len(list(self.workers)) - self.workers.slots)
            out.append(Say(f"no room for a spare TaskManager: {event.reason}"))
        else:
            self._fail(event.error or ResourceError(event.reason), out)

    def _on_worker_lost(self, event: WorkerLost, now: float, out: list[JobCommand]) -> None:
        worker = self.workers.remove(event.instance)
        if worker is None:
            return
        out.append(KillWorker(event.instance))
        out.append(Say(f"{worker.name} (pid {worker.pid}) is lost: {event.reason}"))
        if worker.slot is not None and self.status in (JobStatus.DEPLOYING, JobStatus.RUNNING):
            self._attempt_failed(event.cause, f"{worker.name} is lost: {event.reason}", None, now, out)

    # -- attempts -------------------------------------------------------------------------------------------------

    def _try_deploy(self, now: float, out: list[JobCommand]) -> None:
        self.waiting_for = self._obstacle(now)
        if self.waiting_for:
            return
        assigned = self.workers.assign()
        if assigned is None:
            raise ProtocolError("workers vanished between the check and the assignment")
        self.attempt += 1
        restored = self.contents[self.checkpoints.latest] if self.checkpoints.latest is not None else None
        self._reset_attempt(restored)
        self.status = JobStatus.DEPLOYING
        self._deployed_at = now
        out.append(JournalAttempt(self.attempt, tuple(worker.instance for worker in assigned)))
        origin = f"checkpoint {restored.checkpoint}" if restored else "the beginning"
        out.append(Say(f"attempt {self.attempt} starts from {origin} on {', '.join(f'{w.name} (pid {w.pid})' for w in assigned)}"))
        peers = tuple(worker.endpoint for worker in assigned)
        for slot, worker in enumerate(assigned):
            states = states_for_slot(self.graph, restored.states, slot) if restored else ()
            deploy = Deploy(slot, self.claim or 0, self.hash_seed, peers, restored.checkpoint if restored else None, states)
            self._send(worker.instance, deploy, now, out)

    def _obstacle(self, now: float) -> str:
        """Why the next attempt cannot start yet; empty when it can."""
        if self.claim is None:
            return "checkpoint storage to be claimed"
        if self._writing is not None:
            return f"the fate of checkpoint {self._writing.checkpoint}'s manifest"
        if now < self._restart_at:
            return "the restart delay"
        if self.workers.usable() < self.workers.slots:
            return f"TaskManagers: {self.workers.usable()} of {self.workers.slots} are up"
        return ""

    def _reset_attempt(self, restored: CheckpointContent | None) -> None:
        self._outstanding.clear()
        for slots in (self._ready, self._running, self._ended):
            slots.clear()
        self.stats.clear()
        self._committed.clear()
        self._final = None
        self._base_counters = restored.counters if restored else Counters()
        self.checkpoints.restored(restored.checkpoint if restored else None)

    def _attempt_failed(self, cause: FailureCause, reason: str, error: Any, now: float, out: list[JobCommand]) -> None:
        self.checkpoints.give_up(now)
        self._outstanding.clear()
        decision = self.policy.decide(cause, now)
        if isinstance(decision, GiveUp):
            self._fail(error or JobFailedError(f"{reason}; {decision.why}"), out)
            return
        self.error = error or JobFailedError(reason)
        self.restarts += 1
        self.status = JobStatus.RESTARTING
        self._restart_at = now + decision.after_s
        wait = f" in {decision.after_s:.1f} s" if decision.after_s else ""
        out.append(Say(f"attempt {self.attempt} failed ({cause}): {reason.splitlines()[0]}; restarting{wait}"))
        out += [Send(worker.instance, Command(self.epoch, self.attempt, Stop())) for worker in self.workers.assigned()]

    # -- reports --------------------------------------------------------------------------------------------------

    def _on_report(self, report: Report, now: float, out: list[JobCommand]) -> None:
        worker = self.workers.get(report.instance)
        if worker is None or worker.slot is None or report.attempt != self.attempt:
            return
        if self.status not in (JobStatus.DEPLOYING, JobStatus.RUNNING):
            return
        slot, body = worker.slot, report.body
        if isinstance(body, Stats):
            self.stats[slot] = body
            self._note_first_row(body.first_row_at_us)
        elif isinstance(body, Ready):
            self._on_ready(report.instance, slot, now, out)
        elif isinstance(body, Running):
            self._on_running(report.instance, slot, now, out)
        elif isinstance(body, Triggered):
            self._answered(report.instance, Trigger, body.checkpoint)
        elif isinstance(body, Aborted):
            self._answered(report.instance, Abort, body.checkpoint)
        elif isinstance(body, Acknowledged):
            self._on_acknowledged(body, now, out)
        elif isinstance(body, CheckpointDeclined):
            self._on_declined(body, now, out)
        elif isinstance(body, Committed):
            self._on_committed(report.instance, slot, body, now, out)
        elif isinstance(body, SlotEnded):
            self._ended.add(slot)
        elif isinstance(body, SinkRows):
            out.append(Deliver(body.uid, report.instance, body.data))
        elif isinstance(body, PeerLost):
            self._attempt_failed("channel", f"{worker.name} lost its channel to {body.peer_instance}: {body.reason}", None, now, out)
        elif isinstance(body, TaskFailed):
            self._on_task_failed(body, now, out)

    def _on_ready(self, instance: str, slot: int, now: float, out: list[JobCommand]) -> None:
        self._answered(instance, Deploy)
        if slot in self._ready:
            return
        self._ready.add(slot)
        if len(self._ready) == self.workers.slots:
            for worker in self.workers.assigned():
                self._send(worker.instance, Start(), now, out)

    def _on_running(self, instance: str, slot: int, now: float, out: list[JobCommand]) -> None:
        self._answered(instance, Start)
        self._running.add(slot)
        if self.status is JobStatus.DEPLOYING and len(self._running) == self.workers.slots:
            self.status = JobStatus.RUNNING
            if self.restarts:
                out.append(Say(f"attempt {self.attempt} runs, {now - self._deployed_at:.2f} s after its deployment"))
            self.running_at = self.running_at if self.running_at is not None else now
            self.checkpoints.run_started(now)
            if self.checkpoints.latest is not None:
                self._notify(self.checkpoints.latest, now, out)

    def _on_task_failed(self, body: TaskFailed, now: float, out: list[JobCommand]) -> None:
        if body.cause == "damaged" and self.checkpoints.latest is not None:
            refusal = self._fall_back(body.object_name)
            if refusal:
                self._fail(JobFailedError(f"{body.message}; {refusal}"), out)
                return
        where = f"task {body.task} ({body.uid}): " if body.task else ""
        self._attempt_failed(body.cause, f"{where}{body.message}", body.error, now, out)

    def _fall_back(self, object_name: str) -> str:
        """Make the checkpoint before the damaged one the newest, where rule 20 allows it. Returns why not, or an empty string."""
        damaged = self.checkpoints.latest
        older = max((known for known in self.contents if damaged is not None and known < damaged), default=None)
        if older is None:
            return f"no older checkpoint is left to restore from; start afresh with --restore none (object {object_name})"
        visible = (
            sorted(uid for uid, pending in self.contents[damaged].transactions.items() if uid in self.transactional_uids and pending)
            if damaged
            else []
        )
        if visible and not self.settings.allow_repeated_output:
            return (
                f"falling back to checkpoint {older} would write again what sinks {', '.join(visible)} have committed since; "
                "start with --allow-repeated-output to accept repeated rows, or afresh with --restore none"
            )
        if damaged is not None:
            del self.contents[damaged]
        self.checkpoints.latest = older
        return ""

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _advance_checkpoints(self, now: float, out: list[JobCommand]) -> None:
        if self.checkpoints.timed_out(now):
            self._give_up_checkpoint("it timed out", now, out)
        all_ended = len(self._ended) == self.workers.slots
        if self._final is None and self.checkpoints.due(now, all_ended):
            pending = self.checkpoints.begin(self.attempt, now, final=all_ended)
            trigger = Trigger(pending.checkpoint, pending.base, self.settings.checkpoints.store)
            for worker in self.workers.assigned():
                if any(task.subtask == worker.slot for task in self.graph.source_tasks()):
                    self._send(worker.instance, trigger, now, out)

    def _note_first_row(self, at_us: int | None) -> None:
        if at_us is not None and (self.first_row_at_us is None or at_us < self.first_row_at_us):
            self.first_row_at_us = at_us

    def _on_acknowledged(self, ack: Acknowledged, now: float, out: list[JobCommand]) -> None:
        self._note_first_row(ack.first_row_at_us)
        pending = self.checkpoints.pending
        if pending is None or not self.checkpoints.acknowledge(self.attempt, ack):
            return
        counters = Counters()
        transactions: dict[str, tuple[Any, ...]] = {}
        for answer in pending.acks.values():
            counters = counters.plus(answer.counters)
            for uid, prepared in answer.transactions.items():
                transactions[uid] = (*transactions.get(uid, ()), *prepared)
        states = tuple(state for slot in sorted(pending.acks) for state in pending.acks[slot].states)
        content = CheckpointContent(pending.checkpoint, pending.attempt, states, transactions, self._base_counters.plus(counters))
        self._writing = content
        if self.settings.checkpoints.store:
            out.append(WriteManifest(content, pending.started_at, max(answer.sync_ms for answer in pending.acks.values())))
        else:
            self._on_manifest(ManifestFate(pending.checkpoint, "complete"), now, out)

    def _on_declined(self, body: CheckpointDeclined, now: float, out: list[JobCommand]) -> None:
        pending = self.checkpoints.pending
        if pending is not None and pending.checkpoint == body.checkpoint and not pending.writing:
            self.checkpoints.trouble = body.reason
            self._give_up_checkpoint(body.reason, now, out)

    def _give_up_checkpoint(self, reason: str, now: float, out: list[JobCommand]) -> None:
        checkpoint = self.checkpoints.give_up(now)
        if checkpoint is not None:
            self._abort(checkpoint, reason, now, out)

    def _abort(self, checkpoint: int, reason: str, now: float, out: list[JobCommand]) -> None:
        out.append(Say(f"checkpoint {checkpoint} failed: {reason}"))
        for worker in self.workers.assigned():
            self._answered(worker.instance, Trigger, checkpoint)
            self._send(worker.instance, Abort(checkpoint), now, out)

    def _on_manifest(self, event: ManifestFate, now: float, out: list[JobCommand]) -> None:
        content = self._writing
        if content is None or content.checkpoint != event.checkpoint:
            return
        if event.fate == "deposed":
            self._fail(DeposedError(f"another owner has taken over the application: {event.reason}"), out)
            return
        self._writing = None
        pending = self.checkpoints.pending
        done = self.checkpoints.written(event.checkpoint, event.fate == "complete", now)
        live = self.status is JobStatus.RUNNING and content.attempt == self.attempt
        if done is None:
            self.checkpoints.trouble = event.reason
            if live:
                self._abort(event.checkpoint, event.reason, now, out)
            return
        self.contents[done.checkpoint] = content
        for old in sorted(self.contents)[: -self.settings.retained]:
            del self.contents[old]
        self.policy.on_progress()
        if not live:
            return
        if pending is not None and pending.final:
            self._final = done.checkpoint
        self._notify(done.checkpoint, now, out)

    def _notify(self, checkpoint: int, now: float, out: list[JobCommand]) -> None:
        for worker in self.workers.assigned():
            self._answered(worker.instance, Notify)
            self._send(worker.instance, Notify(checkpoint), now, out)

    def _on_committed(self, instance: str, slot: int, body: Committed, now: float, out: list[JobCommand]) -> None:
        self._committed[slot] = max(self._committed.get(slot, 0), body.checkpoint)
        waiting = self._outstanding.waiting(instance, Notify)
        if isinstance(waiting, Notify) and waiting.checkpoint <= body.checkpoint:
            self._answered(instance, Notify)
        settled = min((self._committed.get(s, 0) for s in range(self.workers.slots)), default=0)
        if self.settings.checkpoints.store and settled > self._swept and settled == self.checkpoints.latest:
            self._swept = settled
            pending = self.checkpoints.pending
            out.append(Sweep(settled, pending.checkpoint if pending else None, pending.base if pending else None))
        if self._final is not None and settled >= self._final and not self._recording:
            self._recording = True
            out.append(RecordEnd(JobStatus.FINISHED))

    # -- the end --------------------------------------------------------------------------------------------------

    def _on_cancel(self, event: CancelRequested, now: float, out: list[JobCommand]) -> None:
        if self._recording or self.status is JobStatus.CANCELLING:
            return
        self.status = JobStatus.CANCELLING
        self._cancelled_at = now
        self._recording = True
        out.append(Say(f"cancelling{': ' + event.reason if event.reason else ''}"))
        self._dismiss(out)
        out.append(RecordEnd(JobStatus.CANCELLED))

    def _on_end_recorded(self, event: EndRecorded, out: list[JobCommand]) -> None:
        if event.error:
            self._fail(JobFailedError(event.error), out)
            return
        self.status = JobStatus.CANCELLED if self.status is JobStatus.CANCELLING else JobStatus.FINISHED
        if self.status is JobStatus.FINISHED:
            self.error = None
        self._dismiss(out)
        out.append(End(self.status, None))

    def _fail(self, error: Any, out: list[JobCommand]) -> None:
        self.status = JobStatus.FAILED
        self.error = error if isinstance(error, FlinkrayError) else JobFailedError(str(error))
        self._dismiss(out)
        out.append(End(JobStatus.FAILED, self.error))

    def _dismiss(self, out: list[JobCommand]) -> None:
        self._outstanding.clear()
        for worker in list(self.workers):
            self.workers.remove(worker.instance)
            out.append(KillWorker(worker.instance))

    # -- sending until answered -----------------------------------------------------------------------------------

    def _send(self, instance: str, body: CommandBody, now: float, out: list[JobCommand]) -> None:
        out.append(self._outstanding.send(instance, Command(self.epoch, self.attempt, body), now))

    def _answered(self, instance: str, kind: type, number: int = 0) -> None:
        self._outstanding.answered(instance, kind, number)


__all__ = ["JobCore", "JobSettings", "Tick"]
