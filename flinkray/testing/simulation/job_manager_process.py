"""A JobManager process: the cores of leadership and of the job, and the product's storage and journal shells in fibers. It calls
TaskManagers and the leader, and hears of them only by what they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flinkray.core.job import JobCore
from flinkray.core.job_events import (
    Adopted,
    AttachWorker,
    CreateWorker,
    End,
    EndRecorded,
    FailSavepoint,
    FindWorkers,
    JobCommand,
    JobEvent,
    JobStatus,
    KillWorker,
    LeadershipInDoubt,
    ManifestFate,
    NameSavepoint,
    Opened,
    OpenFailed,
    RecordEnd,
    SavepointNamed,
    SavepointWritten,
    Say,
    Send,
    Settle,
    StandDown,
    Sweep,
    TakeOver,
    Tick,
    WorkersFound,
    WriteJournal,
    WriteManifest,
    WriteSavepoint,
)
from flinkray.core.journal_calls import JournalCall, Recorded
from flinkray.core.leadership import Leadership, LeadershipState
from flinkray.core.leadership_events import (
    Append,
    Beat,
    Begin,
    Lead,
    LeadershipEvent,
    LeaseChanged,
    Leave,
    Superseded,
    Waited,
    Watch,
    WatchBroke,
)
from flinkray.core.leadership_events import StandDown as Deposed
from flinkray.errors import DeposedError, FlinkrayError, ProtocolError, StorageError, UsageError
from flinkray.testing.simulation.reign import Reign
from flinkray.testing.simulation.task_manager_process import TaskManagerProcess
from flinkray.testing.simulation.world import Process

if TYPE_CHECKING:
    from flinkray.testing.simulation.cluster import Cluster, Run

TICK_S = 0.1
LEASE_S = 1.2
SNAPSHOT_INTERVAL = 4
"""Records between two snapshots of the journal: few, so that every run has some."""


class JobManagerProcess(Process):
    def __init__(self, cluster: Cluster, run: Run, name: str, zone: str) -> None:
        super().__init__(cluster.world, name, zone)
        self.run = run
        self.reign: Reign | None = None
        self.leadership = Leadership(name, f"{name}/{cluster.world.seed}", LEASE_S, SNAPSHOT_INTERVAL)
        self._cluster = cluster
        self.store = cluster.store_of(self)
        self.store.on_freeze = lambda fault: cluster.freeze_owner(self, fault)
        self._journal = cluster.journal_of(self, run)
        self._watched: Watch | None = None
        cluster.skew(self)
        self._lead(Begin())
        self._tick()

    @property
    def core(self) -> JobCore | None:
        """Of the job, while this process leads."""
        return self.reign.core if self.reign is not None else None

    @property
    def leads(self) -> bool:
        return self.alive and self.reign is not None and not self.reign.over

    def end(self) -> None:
        if self.alive:
            super().end()
            self._cluster.on_job_manager_gone(self)

    # -- leadership -----------------------------------------------------------------------------------------------

    def _lead(self, event: LeadershipEvent) -> None:
        before = self.leadership.state
        commands = self.leadership.step(event, self.monotonic())
        if self.leadership.state is not before:
            self.note(f"{before.value} -> {self.leadership.state.value}")
        for command in commands:
            if isinstance(command, JournalCall):
                self._journal.call(command, self._lead)
            elif isinstance(command, Recorded):
                if self.reign is not None:
                    self._carry_out(self.reign, self.reign.gate.recorded())
            elif isinstance(command, Watch):
                self._watched = command
                self._look_at_leader(command)
            elif isinstance(command, Lead):
                self._reign(command)
            elif isinstance(command, Leave):
                self._cluster.on_run_over(self.run, JobStatus(command.status), None)  # its leader died before it said so
            elif isinstance(command, Deposed):
                self._abdicate(command.reason)
            elif isinstance(command, Leave) and self.reign is None:  # whoever ended the run may have died with the news
                self._cluster.on_run_over(self.run, JobStatus(command.status), "its end was found in the journal")
            elif isinstance(command, LeaseChanged):
                self._give(LeadershipInDoubt(not command.held))
        self._cluster.checkers.job_manager(self)

    def _reign(self, lead: Lead) -> None:
        reign = self.reign = Reign(self, self.store, self._cluster, self.run.bundle, lead.token, self._give)
        self._watched = None
        self.note(f"leads run {self.run.number}, election {lead.election}, claim {lead.view.claim}")
        self._cluster.checkers.leads(self, lead.election, self._cluster.injector.counts["journal_back"] > 0)
        self._give(TakeOver(lead.view))
        if lead.view.claim is None:
            reign.io.run(reign.storage.open, lambda result: self._on_opened(reign, result))
        else:
            reign.io.run(lambda: reign.storage.adopt(lead.view), lambda result: self._on_opened(reign, result))

    def _abdicate(self, reason: str) -> None:
        self.note(f"stands down: {reason}")
        if self.reign is not None:
            self.reign.close()
            self.reign = None

    def _look_at_leader(self, watch: Watch) -> None:
        """Ask the leader whether it leads, again and again."""
        if self._watched is not watch or not self.alive:
            return
        leader = self.run.process(watch.leader)
        if leader is None:
            self.after(0.0, lambda: self._lead(WatchBroke(watch.election)))
            return

        def arrive() -> None:
            state = leader.leadership.state
            if state is LeadershipState.ELECTING:
                return  # it does not know yet whether it leads
            event = Beat(watch.election) if state is LeadershipState.LEADING else WatchBroke(watch.election)
            self._cluster.network.message(leader, self, lambda: self._lead(event))

        self._cluster.network.message(self, leader, arrive)
        self.after(LEASE_S / 4, lambda: self._look_at_leader(watch))

    def on_leader_gone(self, leader: JobManagerProcess) -> None:
        """The open call failed."""
        if self._watched is not None and self._watched.leader == leader.name:
            self._lead(WatchBroke(self._watched.election))

    # -- the job --------------------------------------------------------------------------------------------------

    def _give(self, event: JobEvent) -> None:
        reign = self.reign
        if reign is None or reign.over:
            return
        before = reign.core.status
        commands = reign.core.step(event, self.monotonic())
        if reign.core.status is not before:
            self.note(f"{before.value} -> {reign.core.status.value}")
        self._cluster.checkers.event(event)
        if isinstance(event, WorkersFound):
            self._cluster.checkers.found(self, [one for one in event.instances if self._cluster.reaches(one)])
        self._carry_out(reign, reign.gate.admit(commands))
        self._cluster.checkers.job_manager(self)

    def _tick(self) -> None:
        if self.run.over:
            return
        self._lead(Waited())
        if self.reign is not None:
            self.reign.calls.look_after()
            self._give(Tick())
        self.after(TICK_S, self._tick)

    def _carry_out(self, reign: Reign, commands: list[JobCommand]) -> None:
        for command in commands:
            if self.reign is not reign:
                return  # deposed by one of them
            self._obey(reign, command)

    def _obey(self, reign: Reign, command: JobCommand) -> None:
        if isinstance(command, Send):
            reign.send(command.instance, command.command)
        elif isinstance(command, WriteJournal):
            self._lead(Append(command.entry))
        elif isinstance(command, CreateWorker):
            self._cluster.start_task_manager(self, command.instance, command.name)
        elif isinstance(command, AttachWorker):
            reign.calls.attach(command.instance)
        elif isinstance(command, FindWorkers):
            reign.calls.find(self.run)
        elif isinstance(command, KillWorker):
            reign.calls.kill(command.instance)
        elif isinstance(command, WriteManifest):
            self._cluster.checkers.manifest_wanted(self, command.content)
            reign.io.run(
                lambda: reign.storage.write_manifest(command, self.note),
                lambda result: self._on_written(reign, command.content.checkpoint, result),
            )
        elif isinstance(command, NameSavepoint):
            self._name_savepoint(reign, command)
        elif isinstance(command, WriteSavepoint):
            self._write_savepoint(reign, command)
        elif isinstance(command, FailSavepoint):
            reign.savepoints.run(lambda: reign.storage.fail_savepoint(command.request, command.reason), lambda result: None)
        elif isinstance(command, Settle):
            self._cluster.on_settled(self.run, command)
        elif isinstance(command, Sweep):
            reign.sweeper.run(lambda: reign.storage.sweep(command), self._on_swept)
        elif isinstance(command, RecordEnd):
            if command.status is not JobStatus.FINISHED:
                reign.storage.stop_waiting()
            reign.io.run(lambda: reign.storage.record_end(command.status), lambda result: self._on_end_recorded(reign, result))
        elif isinstance(command, Say):
            self.note(command.text)
        elif isinstance(command, StandDown):
            self._lead(Superseded(command.election, command.reason))
        elif isinstance(command, End):
            self._finish(reign, command)

    def _finish(self, reign: Reign, command: End) -> None:
        self.note(f"{command.status.value} {command.error or ''}".rstrip())
        reign.over = True
        reign.storage.stop_waiting()
        self._cluster.on_run_over(self.run, command.status, command.error)

    def on_task_manager(self, process: TaskManagerProcess) -> None:
        """The process that was asked for exists; it is warm when it answers."""
        if self.reign is not None:
            self.reign.calls.open(process)

    def ask(self, event: JobEvent) -> None:
        """Somebody wants something of the job that this process leads."""
        self._give(event)

    def on_death(self, process: TaskManagerProcess, reason: str) -> None:
        """An open call failed."""
        if self.reign is not None:
            self.reign.calls.on_death(process, reason)

    # -- storage --------------------------------------------------------------------------------------------------

    def _on_opened(self, reign: Reign, result: Any) -> None:
        if self.reign is not reign:
            return
        if isinstance(result, FlinkrayError):
            self._give(OpenFailed(str(result), result))
        elif isinstance(result, Exception):
            self._give(OpenFailed(f"{type(result).__name__}: {result}", StorageError(f"opening storage failed: {result!r}")))
        else:
            event, text = result if isinstance(result, tuple) else (result, "storage is adopted")
            assert isinstance(event, Opened | Adopted)
            self._cluster.checkers.opened(self, event)
            self.note(text)
            self._give(event)

    def _on_written(self, reign: Reign, checkpoint: int, result: Any) -> None:
        if self.reign is not reign:
            return
        if isinstance(result, DeposedError):
            self._give(ManifestFate(checkpoint, "deposed", str(result)))
        elif isinstance(result, Exception):
            self._give(ManifestFate(checkpoint, "failed", str(result)))
        else:
            self._give(ManifestFate(checkpoint, "complete", name=result))

    def _name_savepoint(self, reign: Reign, command: NameSavepoint) -> None:
        def named(result: Any) -> None:
            if self.reign is not reign:
                return
            if isinstance(result, Exception):
                self._give(SavepointNamed(command.request, str(result), isinstance(result, UsageError)))
            else:
                self._give(SavepointNamed(command.request, ready=result))

        reign.savepoints.run(lambda: reign.storage.name_savepoint(command.request, command.name), named)

    def _write_savepoint(self, reign: Reign, command: WriteSavepoint) -> None:
        reign.storage.pin(command.checkpoint)

        def written(result: Any) -> None:
            reign.storage.unpin(command.checkpoint)
            if self.reign is reign:
                self._give(SavepointWritten(command.request, str(result) if isinstance(result, Exception) else ""))

        reign.savepoints.run(lambda: reign.storage.write_savepoint(command.request, command.checkpoint), written)

    def _on_swept(self, result: Any) -> None:
        if isinstance(result, Exception):
            self.note(f"old checkpoint objects could not be deleted: {result}")

    def _on_end_recorded(self, reign: Reign, result: Any) -> None:
        if self.reign is reign:
            self._give(EndRecorded(str(result) if isinstance(result, Exception) else ""))

    def check_invariants(self) -> None:
        """Raises ProtocolError when a core's state makes no sense, or it waits for something that nobody does."""
        self.leadership.check_invariants()
        reign = self.reign
        if reign is None or reign.over or reign.core.superseded:
            return
        reign.core.check_invariants()
        if reign.io.idle and not reign.gate.waiting and (reign.core.recording or reign.core.writing is not None):
            raise ProtocolError(f"{self.name} waits for a record in storage, and nobody writes it")
