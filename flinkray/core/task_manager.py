"""The TaskManager's decisions, pure: which commands to obey, which to drop, what to answer when asked twice.

    IDLE --Deploy--> DEPLOYING --built--> READY --Start--> RUNNING
      ^                 |                   |                 |
      +----Stop---------+-------------------+-----------------+   (any failure: FAILED, until the next Deploy or Stop)

A command of an older epoch is refused, one of an older attempt dropped (rules 8 and 12); one that was obeyed already is answered again and
not obeyed again. Hello of a new leader is answered with all that it must know (rule 10).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flinkray.core.messages import (
    Abort,
    Aborted,
    Acknowledged,
    CheckpointDeclined,
    Command,
    Committed,
    Deploy,
    Drain,
    Draining,
    EpochRefused,
    Hello,
    HelloReply,
    Notify,
    PeerLost,
    Ready,
    Report,
    ReportBody,
    Running,
    SlotEnded,
    Start,
    Stop,
    TaskFailed,
    Trigger,
    Triggered,
)
from flinkray.core.messages import TaskManagerState as TaskManagerState
from flinkray.errors import ProtocolError
from flinkray.ids import Epoch

# -- events from the shell (besides Command) -------------------------------------------------------------------------


READY = Ready()
"""Nothing was restored."""


@dataclass(frozen=True)
class Built:
    """BuildTasks is done."""

    attempt: int
    ready: Ready = READY


@dataclass(frozen=True)
class Observed:
    """Something the tasks of `attempt` did that the JobManager must hear; dropped when the attempt is over."""

    attempt: int
    body: ReportBody


# -- commands to the shell --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildTasks:
    attempt: int
    deploy: Deploy


@dataclass(frozen=True)
class CloseTasks:
    """Drop the tasks, their channels and their uploads."""


@dataclass(frozen=True)
class StartTasks:
    halted: bool = False


@dataclass(frozen=True)
class DrainTasks:
    pass


@dataclass(frozen=True)
class InjectBarrier:
    checkpoint: int
    base: int | None
    store: bool
    last: bool = False


@dataclass(frozen=True)
class AbandonCheckpoint:
    checkpoint: int


@dataclass(frozen=True)
class CommitUpTo:
    checkpoint: int


@dataclass(frozen=True)
class Tell:
    report: Report


Effect = BuildTasks | CloseTasks | StartTasks | DrainTasks | InjectBarrier | AbandonCheckpoint | CommitUpTo | Tell


@dataclass
class TaskManagerCore:
    """`step(event) -> effects`. One per TaskManager process."""

    instance: str
    state: TaskManagerState = TaskManagerState.IDLE
    epoch: Epoch | None = None
    attempt: int = 0
    notified: int = 0
    committed: int = 0
    ended: bool = False
    slot: int | None = None
    _triggered: int = 0
    _aborted: set[int] = field(default_factory=set)
    _acknowledged: dict[int, Acknowledged | CheckpointDeclined] = field(default_factory=dict)
    """Answers to unsettled checkpoints, to be given again when asked again."""
    _failure: TaskFailed | PeerLost | None = None
    _ready: Ready = READY
    """What was answered to Deploy."""

    def step(self, event: Command | Built | Observed) -> list[Effect]:
        if isinstance(event, Command):
            return self._on_command(event)
        if event.attempt != self.attempt:
            return []
        if isinstance(event, Built):
            return self._on_built(event.ready)
        return self._on_observed(event.body)

    def check_invariants(self) -> None:
        if self.state is TaskManagerState.IDLE and self.ended:
            raise ProtocolError("an idle TaskManager has no ended slot")
        if self.committed > self.notified:
            raise ProtocolError(f"committed up to {self.committed}, notified only up to {self.notified}")
        if any(checkpoint <= self.notified or checkpoint in self._aborted for checkpoint in self._acknowledged):
            raise ProtocolError("an answer to a settled checkpoint is kept")
        if (self.slot is None) != (self.state is TaskManagerState.IDLE):
            raise ProtocolError(f"a TaskManager that is {self.state.value} with slot {self.slot}")

    # -- commands -------------------------------------------------------------------------------------------------

    def _on_command(self, command: Command) -> list[Effect]:
        if not self._accept_epoch(command.epoch):
            assert self.epoch is not None
            return [self._tell(EpochRefused(command.epoch, self.epoch))]
        body = command.body
        if isinstance(body, Hello):
            return [self._tell(self._hello_reply(command.epoch))]
        if command.attempt < self.attempt:
            return []
        if isinstance(body, Deploy):
            return self._on_deploy(command.attempt, body)
        if isinstance(body, Stop):
            return self._on_stop(command.attempt)
        if command.attempt > self.attempt:
            return []  # its Deploy is still to come, and will be sent again
        if isinstance(body, Start):
            return self._on_start(body)
        if isinstance(body, Trigger):
            return self._on_trigger(body)
        if isinstance(body, Drain):
            return self._on_drain()
        if isinstance(body, Abort):
            return self._on_abort(body)
        return self._on_notify(body)

    def refuses(self, epoch: Epoch) -> bool:
        """True for an older epoch than the one that is obeyed, and for an equal one with another token (rule 8). From any thread."""
        current = self.epoch
        return current is not None and (epoch.rank < current.rank or (epoch.rank == current.rank and epoch.token != current.token))

    def _accept_epoch(self, epoch: Epoch) -> bool:
        if self.refuses(epoch):
            return False
        self.epoch = epoch
        return True

    def _hello_reply(self, epoch: Epoch) -> HelloReply:
        return HelloReply(
            epoch=epoch,
            state=self.state,
            slot=self.slot,
            ended=self.ended,
            triggered=self._triggered,
            unsettled=tuple(self._acknowledged[checkpoint] for checkpoint in sorted(self._acknowledged)),
            notified=self.notified,
            committed=self.committed,
            failure=self._failure,
        )

    def _on_deploy(self, attempt: int, deploy: Deploy) -> list[Effect]:
        if attempt == self.attempt:
            again = self.state in (TaskManagerState.READY, TaskManagerState.RUNNING)
            return [self._tell(self._ready)] if again else []
        self._reset(attempt, TaskManagerState.DEPLOYING, deploy.slot)
        self.notified = self.committed = deploy.restored_checkpoint or 0
        return [CloseTasks(), BuildTasks(attempt, deploy)]

    def _on_stop(self, attempt: int) -> list[Effect]:
        if self.state is TaskManagerState.IDLE:
            self.attempt = attempt
            return []
        self._reset(attempt, TaskManagerState.IDLE, None)
        return [CloseTasks()]

    def _on_start(self, start: Start) -> list[Effect]:
        if self.state is TaskManagerState.RUNNING:
            return [self._tell(Running())]
        if self.state is not TaskManagerState.READY:
            return []
        self.state = TaskManagerState.RUNNING
        return [StartTasks(start.halted), self._tell(Running())]

    def _on_drain(self) -> list[Effect]:
        return [DrainTasks(), self._tell(Draining())] if self.state is TaskManagerState.RUNNING else []

    def _on_trigger(self, trigger: Trigger) -> list[Effect]:
        if self.state is not TaskManagerState.RUNNING:
            return []
        if trigger.checkpoint <= self._triggered:
            answer = self._acknowledged.get(trigger.checkpoint)
            return [self._tell(Triggered(trigger.checkpoint)), *([self._tell(answer)] if answer else [])]
        self._triggered = trigger.checkpoint
        return [InjectBarrier(trigger.checkpoint, trigger.base, trigger.store, trigger.last), self._tell(Triggered(trigger.checkpoint))]

    def _on_abort(self, abort: Abort) -> list[Effect]:
        self._triggered = max(self._triggered, abort.checkpoint)
        if abort.checkpoint > self.notified:
            self._aborted.add(abort.checkpoint)
        self._acknowledged.pop(abort.checkpoint, None)
        return [AbandonCheckpoint(abort.checkpoint), self._tell(Aborted(abort.checkpoint))]

    def _on_notify(self, notify: Notify) -> list[Effect]:
        if notify.checkpoint <= self.committed:
            return [self._tell(Committed(notify.checkpoint))]
        if self.state is not TaskManagerState.RUNNING or notify.checkpoint <= self.notified:
            return []
        self.notified = notify.checkpoint
        for settled in [known for known in self._acknowledged if known <= notify.checkpoint]:
            del self._acknowledged[settled]
        self._aborted = {aborted for aborted in self._aborted if aborted > notify.checkpoint}
        return [CommitUpTo(notify.checkpoint)]

    # -- what the tasks did ---------------------------------------------------------------------------------------

    def _on_built(self, ready: Ready) -> list[Effect]:
        if self.state is not TaskManagerState.DEPLOYING:
            return []
        self.state = TaskManagerState.READY
        self._ready = ready
        return [self._tell(ready)]

    def _on_observed(self, body: ReportBody) -> list[Effect]:
        if self.state in (TaskManagerState.IDLE, TaskManagerState.FAILED):
            return []
        if isinstance(body, TaskFailed):
            self.state = TaskManagerState.FAILED
            self._failure = body
            return [CloseTasks(), self._tell(body)]
        if isinstance(body, PeerLost):
            self._failure = body
        if isinstance(body, Acknowledged | CheckpointDeclined):
            if body.checkpoint <= self.notified or body.checkpoint in self._aborted:
                return []  # settled while it was on its way
            self._acknowledged[body.checkpoint] = body
        if isinstance(body, Committed):
            self.committed = max(self.committed, body.checkpoint)
        if isinstance(body, SlotEnded):
            self.ended = True
        return [self._tell(body)]

    def _reset(self, attempt: int, state: TaskManagerState, slot: int | None) -> None:
        self.attempt = attempt
        self.state = state
        self.slot = slot
        self._failure = None
        self._aborted.clear()
        self.notified = self.committed = self._triggered = 0
        self.ended = False
        self._acknowledged.clear()

    def _tell(self, body: ReportBody) -> Tell:
        return Tell(Report(self.instance, self.attempt, body))
