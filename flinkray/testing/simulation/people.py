"""People who ask a running job for a savepoint, a stop or another parallelism, and ask again until they hear how it went."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.memory_store import MemoryStore
from flinkray.checkpoint.savepoints import Savepoints, SavepointState
from flinkray.core.job_events import JobEvent, RescaleRequested, SavepointRequested, Settle, StopRequested
from flinkray.errors import FlinkrayError
from flinkray.testing.simulation.reign import KEY
from flinkray.testing.simulation.storage import Disk

if TYPE_CHECKING:
    from flinkray.testing.simulation.cluster import Cluster, Run

ASK_AGAIN_S = 0.3


class People:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._open: dict[str, tuple[Run, JobEvent]] = {}
        self._all: dict[str, tuple[Run, JobEvent]] = {}
        self._asked: set[tuple[str, str]] = set()
        """Request, and the token of the reign that was asked."""
        self._count = 0

    def save(self, rng: random.Random) -> str:
        return self._ask(lambda request: SavepointRequested(request, f"s-{request}"))

    def stop(self, rng: random.Random, drain: bool = False) -> str:
        """The job is started again when it has stopped."""
        with_savepoint = rng.random() < 0.6
        return self._ask(lambda request: StopRequested(request, f"s-{request}" if with_savepoint else "", drain))

    def rescale(self, rng: random.Random) -> str:
        run = self._cluster.run
        known = [bundle.config.parallelism for bundle in (self._cluster.plan.bundle, *self._cluster.plan.rescaled)]
        parallelism = rng.choice(known)
        return self._ask(lambda request: RescaleRequested(request, parallelism)) if not run.over else ""

    def _ask(self, event_of: Callable[[str], JobEvent]) -> str:
        run = self._cluster.run
        if run.over or self._cluster.finished:
            return ""
        self._count += 1
        request = f"r{self._count}"
        event = event_of(request)
        self._open[request] = self._all[request] = (run, event)
        self._look(request)
        return str(event)

    def _look(self, request: str) -> None:
        """Whoever leads is asked once; it may be another one each time."""
        if request not in self._open:
            return
        run, event = self._open[request]
        leader = run.leader
        if leader is not None and leader.core is not None and (request, leader.core.token) not in self._asked:
            self._asked.add((request, leader.core.token))
            leader.ask(event)
        if not run.over:
            self._cluster.world.schedule(ASK_AGAIN_S, lambda: self._look(request))

    def on_settled(self, run: Run, command: Settle) -> None:
        asked = self._open.pop(command.request, None)
        if asked is None:  # of the job core itself
            self._cluster.checkers.coverage[f"migration {'undone' if command.error else 'done'}"] += 1
            return
        drained = isinstance(asked[1], StopRequested) and asked[1].drain
        what = "drain" if drained else type(asked[1]).__name__.removesuffix("Requested").lower()
        self._cluster.checkers.coverage[f"{what} {'failed' if command.error else 'done'}"] += 1
        self._cluster.world.note("people", f"hear of {command.request}: {command.error or 'done'}")
        if command.savepoint and self.state(command.savepoint) is not SavepointState.READY:
            self._cluster.checkers.violated("a savepoint that was told to be made is READY", command.savepoint)

    def stopped_with(self, run: Run) -> str:
        """The savepoint that the run was stopped with; empty where there is none, or it could not be made."""
        for asked, event in self._all.values():
            if asked is run and isinstance(event, StopRequested) and event.savepoint and self._is_ready(event.savepoint):
                return event.savepoint
        return ""

    def _is_ready(self, name: str) -> bool:
        return any(info.name == name and info.state is SavepointState.READY for info in self._savepoints().list())

    def state(self, name: str) -> SavepointState:
        return self._savepoints().describe(name).state

    def check(self) -> None:
        """When all writers are gone: what is READY can be restored, and deleting them leaves nothing."""
        savepoints = self._savepoints()
        for info in savepoints.list():
            if info.state is SavepointState.READY:
                self._cluster.checkers.coverage["savepoint READY at the end"] += 1
                self._check_whole(savepoints, info.name)
            savepoints.delete(info.name)
        left = self._store().list("savepoints/")
        if left:
            self._cluster.checkers.violated("a deleted savepoint leaves nothing", ", ".join(left))

    def _check_whole(self, savepoints: Savepoints, name: str) -> None:
        try:
            problems = [f"{problem.object_name}: {problem.reason}" for problem in savepoints.read(name)[1].problems()]
        except FlinkrayError as error:
            problems = [str(error)]
        if problems:
            self._cluster.checkers.violated("a READY savepoint can be restored", f"{name}: {problems[0]}")

    def _savepoints(self) -> Savepoints:
        return Savepoints(self._store(), self._cluster.plan.bundle.application, lambda: KEY)

    def _store(self) -> ObjectStore:
        return _DiskView(self._cluster.disk)


class _DiskView(MemoryStore):
    """What lies on the disk, without the faults of requests."""

    def __init__(self, disk: Disk) -> None:
        super().__init__("simulated")
        self._objects = disk.objects
