"""A run of pure cores: TaskManagers, a journal, storage, and one JobManager after the other. Tests choose when a leader dies."""

from __future__ import annotations

from collections import deque
from typing import Any

from flinkray.core.checkpoints import CheckpointPolicy
from flinkray.core.job import JobCore, JobSettings
from flinkray.core.job_adoption import ADOPT_TIMEOUT_S
from flinkray.core.job_events import (
    Adopted,
    AttachWorker,
    CheckpointContent,
    CreateWorker,
    JobEvent,
    JobStatus,
    KillWorker,
    ManifestFate,
    Opened,
    Send,
    TakeOver,
    Tick,
    WorkerLost,
    WorkerStarted,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.journal_records import Elected, JournalEntry, JournalRecord
from flinkray.core.journal_view import JournalView, fold
from flinkray.core.messages import Acknowledged, Committed, Counters, Report, Stats
from flinkray.core.task_manager import BuildTasks, Built, CommitUpTo, Observed, TaskManagerCore, Tell
from tests.unit.test_job_core import graph

__all__ = ["ADOPT_TIMEOUT_S", "Run"]


class Run:
    """`storage_on`: manifests stand at once; else they wait in `manifests`."""

    def __init__(self, store: bool = True, spares: int = 1) -> None:
        policy = CheckpointPolicy(1.0 if store else None, 0.0, 60.0, store)
        self.settings = JobSettings("job", spares, policy, 0.1, 10.0, None)
        self.task_managers: dict[str, TaskManagerCore] = {}
        self.mute: set[str] = set()
        """Instances that nobody reaches."""
        self.records: list[JournalRecord] = []
        self.stored: list[CheckpointContent] = []
        self.manifests: list[WriteManifest] = []
        self.storage_on = True
        self.commits = True
        self.now = 0.0
        self.said: list[Any] = []
        """Every command of the current leader."""
        self.core: JobCore | None = None
        self._events: deque[JobEvent] = deque()

    # -- leaders --------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> JobCore:
        assert self.core is not None
        return self.core

    @property
    def view(self) -> JournalView:
        return fold(self.records)

    def begin(self) -> Run:
        """The first leader deploys, and all run."""
        self.elect(storage=False)
        self.give(Opened(5, None, (), 1, 1, 7))
        assert self.leader.status is JobStatus.RUNNING
        return self

    def die(self) -> JobCore:
        """The leader is gone, and what it was about to hear."""
        core, self.core = self.leader, None
        self._events.clear()
        return core

    def elect(self, storage: bool = True) -> list[Any]:
        """The next leader; `storage`: it has read the storage log already. Returns what it commands."""
        token = f"token {self.view.election + 1}"
        self.records.append(JournalRecord(token, Elected(self.view.election + 1, token)))
        self.core = JobCore(graph(), self.settings, token, frozenset({"out"}))
        self.said = []
        self.give(TakeOver(self.view))
        if storage:
            self.adopt()
        return self.said

    def adopt(self, **changes: Any) -> list[Any]:
        newest_first = tuple(sorted(self.stored, key=lambda content: -content.checkpoint))
        values = {"contents": newest_first, "next_checkpoint": 1 + max((c.checkpoint for c in self.stored), default=0), "next_attempt": 1}
        return self.give(Adopted(**{**values, **changes}))

    def give(self, event: JobEvent | None = None, at: float | None = None) -> list[Any]:
        """One event, and all that follows from it. Returns the commands."""
        self.now = self.now if at is None else at
        before = len(self.said)
        if event is not None:
            self._events.append(event)
        while self._events and self.core is not None:
            commands = self.core.step(self._events.popleft(), self.now)
            self.core.check_invariants()
            self.said += commands
            for command in commands:
                self._carry_out(command)
        return self.said[before:]

    def tick(self, at: float) -> list[Any]:
        return self.give(Tick(), at)

    # -- the world ------------------------------------------------------------------------------------------------

    def task_manager(self, slot: int) -> TaskManagerCore:
        """The TaskManager of the journal's current attempt."""
        return self.task_managers[self.view.attempt_workers[slot]]

    def kill(self, slot: int) -> str:
        """Its process ends; the leader, if there is one, is not told."""
        instance = self.view.attempt_workers[slot]
        del self.task_managers[instance]
        return instance

    def observe(self, slot: int, body: Any) -> list[Any]:
        """Something happens in the tasks of a slot; the leader, if there is one, hears of it."""
        before = len(self.said)
        core = self.task_manager(slot)
        self._effects(core, core.step(Observed(core.attempt, body)))
        self.give()
        return self.said[before:]

    def acknowledge(self, checkpoint: int, *slots: int, prepared: tuple[str, ...] = ()) -> list[Any]:
        before = len(self.said)
        for slot in slots:
            self.observe(slot, Acknowledged(checkpoint, slot, (), {"out": prepared}, Counters(checkpoint, 1)))
        return self.said[before:]

    def checkpoint(self, checkpoint: int) -> None:
        """One from trigger to commit."""
        self.tick(self.now + 1.5)
        self.acknowledge(checkpoint, 0, 1)
        assert self.leader.checkpoints.latest == checkpoint

    def stats(self, slot: int, rows: int) -> None:
        self.give(Report(self.view.attempt_workers[slot], self.view.attempt, Stats(Counters(rows, rows), 0)))

    def sent(self, kind: type, commands: list[Any] | None = None) -> list[Any]:
        said = self.said if commands is None else commands
        return [(c.instance, c.command) for c in said if isinstance(c, Send) and isinstance(c.command.body, kind)]

    def journaled(self, kind: type) -> list[JournalEntry]:
        return [command.entry for command in self.said if isinstance(command, WriteJournal) and isinstance(command.entry, kind)]

    def killed(self) -> list[str]:
        return [command.instance for command in self.said if isinstance(command, KillWorker)]

    def _carry_out(self, command: Any) -> None:
        if isinstance(command, WriteJournal):
            self.records.append(JournalRecord(self.leader.token, command.entry))
        elif isinstance(command, CreateWorker):
            self.task_managers[command.instance] = TaskManagerCore(command.instance)
            self._events.append(WorkerStarted(command.instance, f"at {command.name}", 1, "n"))
        elif isinstance(command, AttachWorker):
            if command.instance in self.task_managers:
                self._events.append(WorkerStarted(command.instance, f"at {command.name}", 1, "n"))
            else:
                self._events.append(WorkerLost(command.instance, "process", "its process ended"))
        elif isinstance(command, KillWorker):
            self.task_managers.pop(command.instance, None)
        elif isinstance(command, Send):
            self.deliver(command)
        elif isinstance(command, WriteManifest):
            self.manifests.append(command)
            if self.storage_on:
                self.stored.append(command.content)
                self._events.append(ManifestFate(command.content.checkpoint, "complete", name=f"log/{command.content.checkpoint}"))

    def deliver(self, command: Send) -> None:
        core = self.task_managers.get(command.instance)
        if core is not None and command.instance not in self.mute:
            self._effects(core, core.step(command.command))

    def _effects(self, core: TaskManagerCore, effects: list[Any]) -> None:
        core.check_invariants()
        for effect in effects:
            if isinstance(effect, Tell):
                self._events.append(effect.report)
            elif isinstance(effect, BuildTasks):
                self._effects(core, core.step(Built(effect.attempt)))
            elif isinstance(effect, CommitUpTo) and self.commits:
                self._effects(core, core.step(Observed(core.attempt, Committed(effect.checkpoint))))
