"""A JobManager process: the cores of leadership and of the job, and the product's storage and journal shells in fibers. It calls
TaskManagers and the leader, and hears of them only by what they answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.key_providers import LocalKeyProvider
from flinkray.checkpoint.keys import KeyProvider
from flinkray.checkpoint.sealing import KEY_BYTES
from flinkray.core.gate import JournalGate
from flinkray.core.job import JobCore
from flinkray.core.job_events import (
    Adopted,
    AttachWorker,
    CreateWorker,
    End,
    EndRecorded,
    JobCommand,
    JobEvent,
    JobStatus,
    KillWorker,
    LeadershipInDoubt,
    ManifestFate,
    Opened,
    OpenFailed,
    RecordEnd,
    Say,
    Send,
    StandDown,
    Sweep,
    TakeOver,
    Tick,
    WorkerLost,
    WorkerStarted,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.journal_calls import JournalCall, Recorded
from flinkray.core.leadership import Leadership, LeadershipState
from flinkray.core.leadership_events import Append, Beat, Begin, Lead, LeadershipEvent, LeaseChanged, Superseded, Waited, Watch, WatchBroke
from flinkray.core.leadership_events import StandDown as Deposed
from flinkray.core.messages import Command, Deploy, Report, Trigger
from flinkray.errors import DeposedError, FlinkrayError, ProtocolError, StorageError
from flinkray.runtime.job_manager import job_settings
from flinkray.runtime.job_storage import JobStorage
from flinkray.runtime.sinks import transactional_uids
from flinkray.runtime.task_manager import JobBundle, Secrets
from flinkray.testing.simulation.lane import Lane
from flinkray.testing.simulation.task_manager_process import POLL_S, TaskManagerProcess
from flinkray.testing.simulation.world import Process

if TYPE_CHECKING:
    from flinkray.testing.simulation.cluster import Cluster, Run

TICK_S = 0.1
CALL_AGAIN_S = 0.4
"""A call without an answer is made again after this."""

LEASE_S = 1.2
SNAPSHOT_INTERVAL = 4
"""Records between two snapshots of the journal: few, so that every run has some."""

_KEY = LocalKeyProvider(b"simulated".ljust(KEY_BYTES), "the simulation's key")


class SimulatedStorage(JobStorage):
    """Opens the process's own client of the simulated disk, and waits in virtual time."""

    def __init__(self, bundle: JobBundle, token: str, hash_seed: int, store: ObjectStore, process: Process) -> None:
        super().__init__(bundle, token, lambda: hash_seed)
        self._given = store
        self._stop = _VirtualEvent(process)

    def _provider(self) -> KeyProvider:
        return _KEY

    def _open_store(self) -> ObjectStore:
        return self._given


class _VirtualEvent(threading.Event):
    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set() and timeout is not None:
            self._process.sleep(timeout)
        return self.is_set()


@dataclass
class _Peer:
    """A TaskManager as this JobManager knows it."""

    process: TaskManagerProcess
    started: bool = False
    heard: int = 0
    call: int = 0
    lost: bool = False
    """Not asked any more; ended when the core has put that into the journal."""
    asked_at: float = 0.0
    answered_at: float = 0.0


class _Reign:
    """All that a JobManager has while it leads; dropped when it is deposed."""

    def __init__(self, process: JobManagerProcess, cluster: Cluster, bundle: JobBundle, token: str) -> None:
        self.core = JobCore(bundle.graph, job_settings(bundle.config), token, transactional_uids(bundle.graph))
        self.gate = JournalGate()
        self.storage = SimulatedStorage(bundle, token, cluster.world.seed, process.store, process)
        self.io = Lane(process)
        self.sweeper = Lane(process)
        self.peers: dict[str, _Peer] = {}
        self.over = False

    def close(self) -> None:
        self.over = True
        self.storage.stop_waiting()
        self.io.close()
        self.sweeper.close()
        self.peers.clear()


class JobManagerProcess(Process):
    def __init__(self, cluster: Cluster, run: Run, name: str, zone: str) -> None:
        super().__init__(cluster.world, name, zone)
        self.run = run
        self.reign: _Reign | None = None
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
            elif isinstance(command, Deposed):
                self._abdicate(command.reason)
            elif isinstance(command, LeaseChanged):
                self._give(LeadershipInDoubt(not command.held))
        self._cluster.checkers.job_manager(self)

    def _reign(self, lead: Lead) -> None:
        reign = self.reign = _Reign(self, self._cluster, self.run.bundle, lead.token)
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
        self._carry_out(reign, reign.gate.admit(commands))
        self._cluster.checkers.job_manager(self)

    def _tick(self) -> None:
        if self.run.over:
            return
        self._lead(Waited())
        if self.reign is not None:
            now = self.monotonic()
            for peer in list(self.reign.peers.values()):
                self._look_after(self.reign, peer, now)
            self._give(Tick())
        self.after(TICK_S, self._tick)

    def _carry_out(self, reign: _Reign, commands: list[JobCommand]) -> None:
        for command in commands:
            if self.reign is not reign:
                return  # deposed by one of them
            self._obey(reign, command)

    def _obey(self, reign: _Reign, command: JobCommand) -> None:
        if isinstance(command, Send):
            self._send(reign, command.instance, command.command)
        elif isinstance(command, WriteJournal):
            self._lead(Append(command.entry))
        elif isinstance(command, CreateWorker):
            self._cluster.start_task_manager(self, command.instance, command.name)
        elif isinstance(command, AttachWorker):
            self._attach(reign, command.instance)
        elif isinstance(command, KillWorker):
            self._kill(reign, command.instance)
        elif isinstance(command, WriteManifest):
            self._cluster.checkers.manifest_wanted(self, command.content)
            reign.io.run(
                lambda: reign.storage.write_manifest(command, self.note),
                lambda result: self._on_written(reign, command.content.checkpoint, result),
            )
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

    def _finish(self, reign: _Reign, command: End) -> None:
        self.note(f"{command.status.value} {command.error or ''}".rstrip())
        reign.over = True
        reign.storage.stop_waiting()
        self._cluster.on_run_over(self.run, command.status, command.error)

    def _send(self, reign: _Reign, instance: str, command: Command) -> None:
        peer = reign.peers.get(instance)
        if peer is None or not peer.started or peer.lost:
            return
        body = command.body
        secrets = None
        if isinstance(body, Deploy):
            data_key, data_keys = reign.storage.data_keys()
            secrets = Secrets(b"simulated", data_key, data_keys)
        self._cluster.checkers.command(command)
        injector = self._cluster.injector
        if isinstance(body, Trigger) and (fault := injector.strikes("half_trigger")) is not None:
            injector.record(fault, f"Trigger {body.checkpoint} does not go to {peer.process.name}")
            return

        def deliver() -> None:
            peer.process.command(command, secrets)

        self._cluster.network.message(self, peer.process, deliver, "command")
        if isinstance(body, Deploy) and (fault := injector.strikes("repeat_deploy")) is not None:
            again_s = injector.choices(fault).uniform(0.0, 1.0)
            injector.record(fault, f"Deploy of attempt {command.attempt} comes to {peer.process.name} again in {again_s:.2f} s")
            self.world.schedule(again_s, deliver, peer.process)

    # -- TaskManagers ---------------------------------------------------------------------------------------------

    def on_task_manager(self, process: TaskManagerProcess) -> None:
        """The process that was asked for exists; it is warm when it answers."""
        if self.reign is not None and not self.reign.over:
            now = self.monotonic()
            peer = self.reign.peers[process.instance] = _Peer(process, answered_at=now)
            self._call(self.reign, peer, now)

    def on_death(self, process: TaskManagerProcess, reason: str) -> None:
        """The open call failed."""
        peer = self.reign.peers.get(process.instance) if self.reign is not None else None
        if peer is not None:
            self._lose(peer, reason)

    def _lose(self, peer: _Peer, reason: str) -> None:
        """A leader that was frozen sees silence, too: it is deposed by the journal before it ends what its successor leads."""
        if not peer.lost:
            peer.lost = True
            self._give(WorkerLost(peer.process.instance, "process", reason))

    def _attach(self, reign: _Reign, instance: str) -> None:
        process = self._cluster.task_managers.get(instance)
        if process is None:
            self.after(0.0, lambda: self._give(WorkerLost(instance, "process", "there is no such process")))
        else:
            self.on_task_manager(process)

    def _call(self, reign: _Reign, peer: _Peer, now: float) -> None:
        peer.call += 1
        peer.asked_at = now
        call, heard, started, epoch = peer.call, peer.heard, peer.started, reign.core.epoch

        def arrive() -> None:
            def answered(reports: list[tuple[int, Report]], stats: Report | None, refused: str = "") -> None:
                deliver = lambda: self._on_answer(reign, peer, call, reports, stats, refused)  # noqa: E731
                self._cluster.network.message(peer.process, self, deliver)

            if started:
                peer.process.poll(f"{self.name}/{epoch.rank}", heard, epoch, answered)
            else:
                answered([], None)

        self._cluster.network.message(self, peer.process, arrive)

    def _on_answer(
        self, reign: _Reign, peer: _Peer, call: int, reports: list[tuple[int, Report]], stats: Report | None, refused: str
    ) -> None:
        instance = peer.process.instance
        if self.reign is not reign or reign.peers.get(instance) is not peer or peer.lost:
            return
        if refused:
            self._lose(peer, refused)
            return
        peer.answered_at = self.monotonic()
        if not peer.started:
            peer.started = True
            self._give(WorkerStarted(instance, peer.process.exchange.endpoint, 0, peer.process.zone, peer.process.zone))
        for number, report in reports:
            if number > peer.heard:
                peer.heard = number
                self._give(report)
        if stats is not None:
            self._give(stats)
        if call == peer.call and self.reign is reign:
            self._call(reign, peer, self.monotonic())

    def _look_after(self, reign: _Reign, peer: _Peer, now: float) -> None:
        if peer.lost:
            return
        if now - peer.answered_at > self._cluster.heartbeat_timeout_s + POLL_S:
            self._lose(peer, f"no answer for {now - peer.answered_at:.1f} s")
        elif now - peer.asked_at > CALL_AGAIN_S:
            self._call(reign, peer, now)

    def _kill(self, reign: _Reign, instance: str) -> None:
        peer = reign.peers.pop(instance, None)
        if peer is not None:
            self._cluster.network.message(self, peer.process, peer.process.end)
        self._cluster.cancel_start(instance)

    # -- storage --------------------------------------------------------------------------------------------------

    def _on_opened(self, reign: _Reign, result: Any) -> None:
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

    def _on_written(self, reign: _Reign, checkpoint: int, result: Any) -> None:
        if self.reign is not reign:
            return
        if isinstance(result, DeposedError):
            self._give(ManifestFate(checkpoint, "deposed", str(result)))
        elif isinstance(result, Exception):
            self._give(ManifestFate(checkpoint, "failed", str(result)))
        else:
            self._give(ManifestFate(checkpoint, "complete", name=result))

    def _on_swept(self, result: Any) -> None:
        if isinstance(result, Exception):
            self.note(f"old checkpoint objects could not be deleted: {result}")

    def _on_end_recorded(self, reign: _Reign, result: Any) -> None:
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
