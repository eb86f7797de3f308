"""A whole job in one thread on virtual time, from one seed: the cores, operators, state and checkpoints that run on Ray, with message delays
and processes killed on the way.

    report = simulate(build_job, seed=7, kills=2)      # build_job(env) returns the stream whose rows are compared
    assert report.exactly_once
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flinkray.checkpoint.store import open_store
from flinkray.config import Checkpointing
from flinkray.core.job import JobCore
from flinkray.core.job_events import (
    CreateWorker,
    End,
    EndRecorded,
    JobCommand,
    JobEvent,
    JobStatus,
    KillWorker,
    ManifestFate,
    RecordEnd,
    Say,
    Send,
    Sweep,
    Tick,
    WorkerLost,
    WorkerStarted,
    WriteManifest,
)
from flinkray.core.messages import Deploy
from flinkray.core.workers import WorkerState
from flinkray.errors import FlinkrayError
from flinkray.runtime.job_manager import job_settings
from flinkray.runtime.job_storage import JobStorage
from flinkray.runtime.sinks import transactional_uids
from flinkray.runtime.task_manager import Background, JobBundle, Secrets, TaskManager
from flinkray.testing.simulated_exchange import SimulatedExchange, SimulatedNetwork
from flinkray.testing.simulated_sink import OUTPUTS, SimulatedOutput, SimulatedSink
from flinkray.testing.world import World

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.stream import DataStream

TICK_S = 0.02
STEP_S = 0.0005
MESSAGE_DELAY_S = 0.002
STORAGE_DELAY_S = 0.01
DETECTION_S = 0.05
START_S = 0.3
"""A TaskManager's start, warming included."""

LIMIT_S = 600.0

_numbers = itertools.count()
"""Every simulation of this process has memory storage and an output of its own."""


@dataclass
class SimulationReport:
    seed: int
    finished: bool
    status: str
    rows: list[dict[str, Any]]
    expected: list[dict[str, Any]]
    restarts: int
    checkpoints: int
    kills: int
    events: int
    virtual_s: float
    hash: str
    error: str = ""
    timeline: list[str] = field(default_factory=list, repr=False)

    @property
    def exactly_once(self) -> bool:
        """The job finished, and its committed rows are those of the run without a failure."""
        return self.finished and self.rows == self.expected


def simulate(
    build_job: Callable[[StreamEnvironment], DataStream],
    seed: int,
    kills: int = 1,
    parallelism: int = 2,
    checkpoint_interval: str = "200ms",
) -> SimulationReport:
    """Run the job without failures, then with `kills` TaskManagers killed at moments that the seed chooses, and compare."""
    calm = _Simulation(build_job, seed, 0, parallelism, checkpoint_interval, None)
    calm.run()
    stormy = _Simulation(build_job, seed, kills, parallelism, checkpoint_interval, calm.virtual_s)
    stormy.run()
    return stormy.report(calm.output.rows())


class _SimulatedBackground(Background):
    """Uploads take a while of virtual time, and are lost with their process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._closed = False

    def run(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def work() -> None:
            if self._closed:
                return
            try:
                result: Any = function()
            except FlinkrayError as error:
                result = error
            done(result)

        self._world.after(self._world.delay_s(STORAGE_DELAY_S), work)

    def close(self) -> None:
        self._closed = True


class _SimulatedWorker:
    """One TaskManager process."""

    def __init__(self, simulation: _Simulation, instance: str, name: str) -> None:
        self.name = name
        self.instance = instance
        self.dead = False
        self._simulation = simulation
        self._world = simulation.world
        self._scheduled = False
        self._heard = 0
        self._last_report_at = 0.0
        checkpointing = simulation.bundle.config.checkpointing
        assert checkpointing is not None
        store = open_store(checkpointing.storage, simulation.bundle.application)
        exchange = SimulatedExchange(simulation.network, instance, self.schedule)
        self.endpoint = exchange.endpoint
        self.task_manager = TaskManager(instance, exchange, _SimulatedBackground(self._world), simulation.bundle, store, self._world.clock)

    def schedule(self, delay_s: float = STEP_S) -> None:
        if not self._scheduled and not self.dead:
            self._scheduled = True
            self._world.after(delay_s, self._step)

    def kill(self) -> None:
        self.dead = True
        self.task_manager.close()

    def _step(self) -> None:
        self._scheduled = False
        if self.dead:
            return
        worked = self.task_manager.run_once(0.0)
        self.task_manager.core.check_invariants()
        reports, stats = self.task_manager.poll(self._heard, 0.0)
        for number, report in reports:
            self._heard = number
            self._tell(report)
        if stats is not None:
            self._tell(stats)
        self.schedule(STEP_S if worked else 0.01)

    def _tell(self, report: Any) -> None:
        """Reports of one process arrive in order."""
        self._last_report_at = max(self._last_report_at, self._world.now + self._world.delay_s(MESSAGE_DELAY_S))
        self._world.after(self._last_report_at - self._world.now, lambda: self._simulation.give(report))


class _Simulation:
    """The JobManager's shell on virtual time."""

    def __init__(
        self,
        build_job: Callable[[StreamEnvironment], DataStream],
        seed: int,
        kills: int,
        parallelism: int,
        interval: str,
        calm_s: float | None,
    ) -> None:
        from flinkray.api.environment import StreamEnvironment

        self.seed = seed
        self.world = World(seed)
        self.network = SimulatedNetwork(self.world)
        name = f"simulated-{next(_numbers)}"
        checkpointing = Checkpointing(interval=interval, min_pause="0s", storage=f"memory://{name}")
        env = StreamEnvironment(name, parallelism=parallelism, runtime="local", checkpointing=checkpointing)
        build_job(env).sink_to(SimulatedSink(name), uid="simulated")
        OUTPUTS[name] = self.output = SimulatedOutput()
        self.bundle = JobBundle(env.job_graph(), replace(env.config, restore="none"), name)
        settings = replace(job_settings(self.bundle.config), spares=1)
        self.core = JobCore(self.bundle.graph, settings, f"token-{seed}", transactional_uids(self.bundle.graph))
        self.storage = JobStorage(self.bundle, f"token-{seed}", lambda: seed)
        self.workers: dict[str, _SimulatedWorker] = {}
        self.kills = 0
        self._started_at = self.world.now
        for _ in range(kills):
            self.world.after(0.5 + self.world.random.random() * (calm_s or 1.0), self._kill_one)

    @property
    def virtual_s(self) -> float:
        return self.world.now - self._started_at

    def run(self) -> None:
        self.world.after(self.world.delay_s(STORAGE_DELAY_S), self._open)
        self._tick()
        self.world.run(lambda: self.core.status.terminal, LIMIT_S)
        store = open_store(f"memory://{self.bundle.application}", self.bundle.application)
        store.delete(store.list(""))

    def report(self, expected: list[dict[str, Any]]) -> SimulationReport:
        return SimulationReport(
            seed=self.seed,
            finished=self.core.status is JobStatus.FINISHED,
            status=self.core.status.value,
            rows=self.output.rows(),
            expected=expected,
            restarts=self.core.restarts,
            checkpoints=self.core.checkpoints.completed,
            kills=self.kills,
            events=self.world.events,
            virtual_s=self.virtual_s,
            hash=self.world.hash,
            error=str(self.core.error or ""),
            timeline=self.world.timeline,
        )

    def give(self, event: JobEvent) -> None:
        commands = self.core.step(event, self.world.now)
        self.core.check_invariants()
        if not isinstance(event, Tick):
            self.world.note(f"{type(event).__name__} {type(getattr(event, 'body', None)).__name__} -> {self.core.status.value}")
        for command in commands:
            self._carry_out(command)

    # -- commands -------------------------------------------------------------------------------------------------

    def _carry_out(self, command: JobCommand) -> None:
        if isinstance(command, Send):
            self._send(command)
        elif isinstance(command, CreateWorker):
            self.world.after(START_S * (0.5 + self.world.random.random()), lambda: self._create(command))
        elif isinstance(command, KillWorker):
            self._kill(command.instance)
        elif isinstance(command, WriteManifest):
            self.world.after(self.world.delay_s(STORAGE_DELAY_S), lambda: self._write_manifest(command))
        elif isinstance(command, Sweep):
            self.world.after(self.world.delay_s(STORAGE_DELAY_S), lambda: self.storage.sweep(command))
        elif isinstance(command, RecordEnd):
            self.world.after(self.world.delay_s(STORAGE_DELAY_S), lambda: self._record_end(command))
        elif isinstance(command, Say | End):
            self.world.note(str(command))

    def _send(self, command: Send) -> None:
        secrets = None
        if isinstance(command.command.body, Deploy):
            data_key, data_keys = self.storage.data_keys()
            secrets = Secrets(b"simulated", data_key, data_keys)

        def arrive() -> None:
            worker = self.workers.get(command.instance)
            if worker is not None and not worker.dead:
                worker.task_manager.submit(command.command, secrets)

        self.world.after(self.world.delay_s(MESSAGE_DELAY_S), arrive)

    def _create(self, command: CreateWorker) -> None:
        worker = _SimulatedWorker(self, command.instance, command.name)
        self.workers[command.instance] = worker
        worker.schedule()
        self.give(WorkerStarted(command.instance, worker.endpoint, 0, "simulated"))

    def _kill(self, instance: str) -> None:
        worker = self.workers.pop(instance, None)
        if worker is not None:
            worker.kill()

    def _kill_one(self) -> None:
        """A process dies; the JobManager hears of it a little later."""
        active = [w.instance for w in self.core.workers if w.state is not WorkerState.REQUESTED and w.instance in self.workers]
        if not active or self.core.status.terminal:
            return
        instance = self.world.random.choice(active)
        self.kills += 1
        self.world.note(f"kill {self.workers[instance].name}")
        self._kill(instance)
        self.world.after(DETECTION_S, lambda: self.give(WorkerLost(instance, "process", "killed by the simulator")))

    # -- storage and time -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        opened, chosen = self.storage.open()
        self.world.note(chosen)
        self.give(opened)

    def _write_manifest(self, command: WriteManifest) -> None:
        self.storage.write_manifest(command, self.world.note)
        self.give(ManifestFate(command.content.checkpoint, "complete"))

    def _record_end(self, command: RecordEnd) -> None:
        self.storage.record_end(command.status)
        self.give(EndRecorded())

    def _tick(self) -> None:
        if not self.core.status.terminal:
            self.give(Tick())
            self.world.after(TICK_S, self._tick)
