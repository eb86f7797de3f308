"""How a leading JobManager reaches TaskManagers: a call kept open on each, commands, and the silence that tells of a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flinkray.core.job_events import JobEvent, WorkerLost, WorkersFound, WorkerStarted
from flinkray.core.messages import Command, Deploy, Report, Trigger
from flinkray.ids import Epoch
from flinkray.runtime.task_manager import Secrets
from flinkray.testing.simulation.task_manager_process import POLL_S, TaskManagerProcess
from flinkray.testing.simulation.world import Process

if TYPE_CHECKING:
    from flinkray.testing.simulation.cluster import Cluster, Run

CALL_AGAIN_S = 0.4
"""A call without an answer is made again after this."""


@dataclass
class _Peer:
    """A TaskManager as the leader knows it."""

    process: TaskManagerProcess
    started: bool = False
    heard: int = 0
    call: int = 0
    lost: bool = False
    """Not asked any more; ended when the core has put that into the journal."""
    asked_at: float = 0.0
    answered_at: float = 0.0


class TaskManagerCalls:
    """`give` takes what is heard; `epoch` is the leader's, as of now."""

    def __init__(self, caller: Process, cluster: Cluster, epoch: Callable[[], Epoch], give: Callable[[JobEvent], None]) -> None:
        self._caller = caller
        self._cluster = cluster
        self._epoch = epoch
        self._give = give
        self._peers: dict[str, _Peer] = {}
        self._closed = False

    def open(self, process: TaskManagerProcess) -> None:
        """WorkerStarted follows when it answers."""
        if not self._closed:
            now = self._caller.monotonic()
            peer = self._peers[process.instance] = _Peer(process, answered_at=now)
            self._call(peer, now)

    def attach(self, instance: str) -> None:
        """Reach a process that an earlier leader made, or wanted to."""
        process = self._cluster.task_managers.get(instance)
        if process is None:
            self._caller.after(0.0, lambda: self._give(WorkerLost(instance, "process", "there is no such process")))
        else:
            self.open(process)

    def find(self, run: Run) -> None:
        """Of whatever the cluster runs for this run, by the service that has the journal, too."""
        service, network = self._cluster.journal_service, self._cluster.network

        def look() -> None:
            found = tuple(self._cluster.instances_of(run))
            network.message(service, self._caller, lambda: None if self._closed else self._give(WorkersFound(found)))

        network.message(self._caller, service, look)

    def send(self, instance: str, command: Command, secrets: Secrets | None) -> None:
        peer = self._peers.get(instance)
        if peer is None or not peer.started or peer.lost:
            return
        body, injector = command.body, self._cluster.injector
        self._cluster.checkers.command(command)
        if isinstance(body, Trigger) and (fault := injector.strikes("half_trigger")) is not None:
            injector.record(fault, f"Trigger {body.checkpoint} does not go to {peer.process.name}")
            return

        def deliver() -> None:
            peer.process.command(command, secrets)

        self._cluster.network.message(self._caller, peer.process, deliver, "command")
        if isinstance(body, Deploy) and (fault := injector.strikes("repeat_deploy")) is not None:
            again_s = injector.choices(fault).uniform(0.0, 1.0)
            injector.record(fault, f"Deploy of attempt {command.attempt} comes to {peer.process.name} again in {again_s:.2f} s")
            self._caller.world.schedule(again_s, deliver, peer.process)

    def kill(self, instance: str) -> None:
        peer = self._peers.pop(instance, None)
        stranger = self._cluster.task_managers.get(instance)
        if peer is not None:
            self._cluster.network.message(self._caller, peer.process, peer.process.end)
        elif stranger is not None:
            self._kill_stranger(stranger)
        self._cluster.cancel_start(self._caller, instance)

    def _kill_stranger(self, process: TaskManagerProcess) -> None:
        """No call was ever made to it; the service that knows it ends it."""
        service, network = self._cluster.journal_service, self._cluster.network
        self._cluster.checkers.coverage["TaskManager that the journal does not know ended"] += 1
        network.message(self._caller, service, lambda: network.message(service, process, process.end))

    def on_death(self, process: TaskManagerProcess, reason: str) -> None:
        """The open call failed."""
        peer = self._peers.get(process.instance)
        if peer is not None:
            self._lose(peer, reason)

    def look_after(self) -> None:
        """Now and then: who is silent, and who is to be asked again."""
        now = self._caller.monotonic()
        for peer in list(self._peers.values()):
            if peer.lost:
                continue
            if now - peer.answered_at > self._cluster.heartbeat_timeout_s + POLL_S:
                self._lose(peer, f"no answer for {now - peer.answered_at:.1f} s")
            elif now - peer.asked_at > CALL_AGAIN_S:
                self._call(peer, now)

    def close(self) -> None:
        self._closed = True
        self._peers.clear()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _lose(self, peer: _Peer, reason: str) -> None:
        """A leader that was frozen sees silence, too: it is deposed by the journal before it ends what its successor leads."""
        if not peer.lost:
            peer.lost = True
            self._give(WorkerLost(peer.process.instance, "process", reason))

    def _call(self, peer: _Peer, now: float) -> None:
        peer.call += 1
        peer.asked_at = now
        call, heard, started, epoch = peer.call, peer.heard, peer.started, self._epoch()
        network = self._cluster.network

        def answered(reports: list[tuple[int, Report]], stats: Report | None, refused: str = "") -> None:
            network.message(peer.process, self._caller, lambda: self._on_answer(peer, call, reports, stats, refused))

        def arrive() -> None:
            if started:
                peer.process.poll(f"{self._caller.name}/{epoch.rank}", heard, epoch, answered)
            else:
                answered([], None)

        network.message(self._caller, peer.process, arrive)

    def _on_answer(self, peer: _Peer, call: int, reports: list[tuple[int, Report]], stats: Report | None, refused: str) -> None:
        instance = peer.process.instance
        if self._peers.get(instance) is not peer or peer.lost:
            return
        if refused:
            self._lose(peer, refused)
            return
        peer.answered_at = self._caller.monotonic()
        if not peer.started:
            peer.started = True
            self._give(WorkerStarted(instance, peer.process.exchange.endpoint, 0, peer.process.zone, peer.process.zone))
        for number, report in reports:
            if number > peer.heard:
                peer.heard = number
                self._give(report)
        if stats is not None:
            self._give(stats)
        if call == peer.call and self._peers.get(instance) is peer:
            self._call(peer, self._caller.monotonic())
