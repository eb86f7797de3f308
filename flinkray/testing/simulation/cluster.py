"""Everything there is in one simulated run: the world, its services and processes, and the people who start the job again."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from flinkray.checkpoint.names import log_name, parse_log
from flinkray.config import duration_s
from flinkray.core.job_events import JobStatus, Settle
from flinkray.core.log_records import RecordKind, decode
from flinkray.errors import ProtocolError, UsageError
from flinkray.runtime.task_manager import JobBundle
from flinkray.testing.simulation.answers import Judge
from flinkray.testing.simulation.checkers import Checkers
from flinkray.testing.simulation.exchange import SimulatedExchange
from flinkray.testing.simulation.faults import Faults, Injected, Injector
from flinkray.testing.simulation.job_manager_process import JobManagerProcess
from flinkray.testing.simulation.journal import JournalClient, Ledger
from flinkray.testing.simulation.network import SERVICES, Network
from flinkray.testing.simulation.output import Rows, open_output
from flinkray.testing.simulation.people import People
from flinkray.testing.simulation.storage import Disk, SimulatedStore
from flinkray.testing.simulation.task_manager_process import TaskManagerProcess
from flinkray.testing.simulation.world import Process, World

START_S = 0.2
"""A TaskManager's start, warming included."""

DETECTION_S = 0.04
"""How soon an open call fails after its process has died."""

MANAGER_START_S = 0.5
"""How long a JobManager's restart takes."""

RESUBMIT_S = 0.3
RUNS_LIMIT = 40
ZONES = ("zone-a", "zone-b")
LETTERS = "abcdefgh"
"""JobManagers of one run."""


@dataclass(frozen=True)
class Plan:
    """What is simulated, without the faults."""

    bundle: JobBundle
    output_key: str
    rescaled: tuple[JobBundle, ...] = ()
    """The same job at other parallelisms."""
    expected: Rows | None = None
    """The failure-free answer, once it is known."""
    calm_s: float = 60.0
    """How long the job takes without failures, virtual seconds."""
    standbys: int = 1
    judge: Judge | None = None
    """Says whether the committed rows are right, instead of the comparison with `expected`."""


class Run:
    """One submission of the job: a journal, and the JobManagers that share it."""

    def __init__(self, number: int, bundle: JobBundle) -> None:
        self.number = number
        self.bundle = bundle
        self.ledger = Ledger()
        self.managers: list[JobManagerProcess] = []
        self.status: JobStatus | None = None

    @property
    def over(self) -> bool:
        return self.status is not None

    @property
    def leader(self) -> JobManagerProcess | None:
        """The one that leads, as far as it knows: of several the newest."""
        leaders = [process for process in self.managers if process.leads]
        return max(leaders, key=lambda process: process.leadership.view.election, default=None)

    def process(self, name: str) -> JobManagerProcess | None:
        return next((process for process in self.managers if process.name == name and process.alive), None)


class Cluster:
    def __init__(self, plan: Plan, seed: int, faults: Faults, only: frozenset[tuple[str, int]] | None = None) -> None:
        self.plan = plan
        self.world = World(seed)
        self.bundle = plan.bundle
        self.injector = Injector(faults, self.world, only)
        self.network = Network(self.world, self.injector)
        self.storage_service = Process(self.world, "storage", SERVICES)
        self.journal_service = Process(self.world, "journal", SERVICES)
        self.disk = Disk()
        self.output = open_output(plan.output_key)
        self.output.as_text = plan.judge is None
        self.checkers = Checkers(self.world, self.disk, self.output, plan.expected if plan.judge is None else None)
        self.heartbeat_timeout_s = duration_s(plan.bundle.config.heartbeat_timeout)
        self.orphan_timeout_s = duration_s(plan.bundle.config.orphan_timeout)
        self.directory: dict[str, tuple[Process, SimulatedExchange]] = {}
        self.task_managers: dict[str, TaskManagerProcess] = {}
        self.runs: list[Run] = []
        self.finished = False
        self.failures: list[str] = []
        """Why runs ended that did not finish."""
        self._starting: dict[str, Process] = {}
        """Instances, and who makes them."""
        self._restore = "latest"
        self._restore_claim = 0
        self._submitting = False
        self.people = People(self)

    def inherit(self, before: Cluster) -> None:
        """Begin with the storage and the output that another run has left."""
        self.disk.objects.update(before.disk.objects)
        self.output.prepared.update(before.output.prepared)
        self.output.committed.update(before.output.committed)
        self.checkers.inherit(before.checkers)

    # -- processes ------------------------------------------------------------------------------------------------

    def store_of(self, process: Process) -> SimulatedStore:
        return SimulatedStore(self.disk, self.storage_service, process, self.network, self.injector)

    def journal_of(self, process: Process, run: Run) -> JournalClient:
        return JournalClient(run.ledger, self.journal_service, process, self.network, self.injector)

    def start_task_manager(self, job_manager: JobManagerProcess, instance: str, name: str) -> None:
        self._starting[instance] = job_manager
        start_s = START_S * (0.5 + self.world.random("starts").random())
        self.world.schedule(start_s, lambda: self._started(job_manager, instance, name))

    def cancel_start(self, job_manager: Process, instance: str) -> None:
        """By whoever makes it: another leader knows nothing of a process that is not there yet."""
        if self._starting.get(instance) is job_manager:
            del self._starting[instance]

    def instances_of(self, run: Run) -> list[str]:
        """TaskManagers that there are."""
        return [instance for instance, process in self.task_managers.items() if process.run is run]

    def _started(self, job_manager: JobManagerProcess, instance: str, name: str) -> None:
        if instance not in self._starting:
            return
        del self._starting[instance]
        zone = ZONES[len(self.task_managers) % len(ZONES)]
        process = TaskManagerProcess(self, job_manager.run, instance, f"{name}/{instance[:4]}", zone)
        self.task_managers[instance] = process
        self.skew(process)
        self.world.schedule(0.0, lambda: job_manager.on_task_manager(process), job_manager)

    def reaches(self, instance: str) -> bool:
        """That TaskManager lives, is not cut off, and does what it is told."""
        other = self.task_managers.get(instance)
        return other is not None and not other.paused and other.slowness == 1.0 and not self.network.blocked(self.journal_service, other)

    def skew(self, process: Process) -> None:
        fault = self.injector.strikes("clock_skew")
        if fault is not None:
            rng = self.injector.choices(fault)
            process.clock_offset_s = rng.uniform(-60.0, 60.0)
            process.clock_rate = rng.uniform(0.8, 1.25)
            self.injector.record(fault, f"{process.name}: {process.clock_offset_s:+.1f} s, rate {process.clock_rate:.2f}")

    def kill_task_manager(self, process: TaskManagerProcess) -> None:
        """Every JobManager that has a call open there hears of it soon, unless it is cut off: then the silence tells."""
        process.end()
        for job_manager in self.job_managers():
            if not self.network.blocked(process, job_manager):
                self.world.schedule(DETECTION_S, lambda jm=job_manager: jm.on_death(process, "its process ended"), job_manager)  # type: ignore[misc]

    def job_managers(self) -> list[JobManagerProcess]:
        return [process for run in self.runs for process in run.managers if process.alive]

    def processes(self) -> list[Process]:
        """Those that live, TaskManagers first."""
        return [*self.task_managers.values(), *self.job_managers()]

    def active(self) -> list[TaskManagerProcess]:
        return [process for process in self.task_managers.values() if process.alive and not process.paused]

    def connected(self) -> list[TaskManagerProcess]:
        """Those that have channels to others."""
        return [process for process in self.active() if process.exchange.peers]

    @property
    def run(self) -> Run:
        """The newest: what people look at."""
        return self.runs[-1]

    def start_job_manager(self, run: Run, index: int) -> None:
        if run.over or self.finished:
            return
        lives = sum(process.name.startswith(f"jm-{run.number}{LETTERS[index]}") for process in run.managers)
        name = f"jm-{run.number}{LETTERS[index]}" + (f".{lives}" if lives else "")
        run.managers.append(JobManagerProcess(self, run, name, ZONES[index % len(ZONES)]))

    def on_job_manager_gone(self, process: JobManagerProcess) -> None:
        """It is started again, as a candidate; the others' open calls to it fail."""
        run, index = process.run, LETTERS.index(process.name.split(".")[0][-1])
        if run.over or self.finished:
            return
        start_s = MANAGER_START_S * (0.5 + self.world.random("starts").random())
        self.world.schedule(start_s, lambda: self.start_job_manager(run, index))
        for other in run.managers:
            if other.alive and not self.network.blocked(process, other):
                self.world.schedule(DETECTION_S, lambda jm=other: jm.on_leader_gone(process), other)  # type: ignore[misc]

    # -- people ---------------------------------------------------------------------------------------------------

    def submit(self) -> None:
        """Start the job, restoring what there is; an older run may still be alive somewhere."""
        self._submitting = False
        if self.has_finished():
            self.finished = True
        if self.finished:
            return
        if len(self.runs) >= RUNS_LIMIT:
            self.checkers.violated("liveness", f"{RUNS_LIMIT} runs, and none finished: {self.failures[-1]}")
            return
        if self._restore != "latest" and any(entry.header.claim > self._restore_claim for entry in self.checkers.complete.values()):
            self._restore = "latest"
        config = replace(self.bundle.config, restore=self._restore, allow_repeated_output=self._restore != "latest")
        run = Run(len(self.runs) + 1, replace(self.bundle, config=config))
        self.runs.append(run)
        for index in range(1 + self.plan.standbys):
            self.start_job_manager(run, index)

    def on_settled(self, run: Run, command: Settle) -> None:
        self.people.on_settled(run, command)

    def rescale(self, rng: random.Random) -> str:
        """Start the job at another parallelism, with or without stopping what runs."""
        self.bundle = rng.choice([bundle for bundle in (self.plan.bundle, *self.plan.rescaled) if bundle is not self.bundle])
        stopped = rng.random() < 0.5
        if stopped:
            self._stop_all()
        self.submit_soon()
        return f"to parallelism {self.bundle.config.parallelism}{'' if stopped else ', while it runs'}"

    def submit_soon(self, after_s: float = RESUBMIT_S) -> None:
        if not self._submitting and not self.finished:
            self._submitting = True
            self.world.schedule(after_s, self.submit)

    def restore_older(self, checkpoint: int) -> None:
        """Stop everything, take the output back, and start from an older checkpoint."""
        self._stop_all()
        self.output.take_back(checkpoint)
        self.checkers.taken_back(checkpoint)
        self._restore, self._restore_claim = f"checkpoint:{checkpoint}", max(self.log_numbers())
        self.submit_soon()

    def _stop_all(self) -> None:
        for run in self.runs:
            run.status = run.status or JobStatus.CANCELLED
        for process in self.processes():
            process.end()
        self._starting.clear()

    def on_run_over(self, run: Run, status: JobStatus, error: object) -> None:
        if run.over:
            return
        run.status = status
        if self.finished or status is JobStatus.FINISHED or self.has_finished():
            self.finished = True
            return
        if status is JobStatus.STOPPED:
            self._start_again(run)
            return
        self.failures.append(f"run {run.number}: {type(error).__name__}: {error}" if error else f"run {run.number} ended {status.value}")
        if isinstance(error, ProtocolError | UsageError):
            self.checkers.violated("a run ends for a reason", self.failures[-1])
        elif not self.injector.happened:
            self.checkers.violated("a run ends for a reason", f"nothing was injected, but {self.failures[-1]}")
        if run is self.run:
            self.submit_soon()

    def _start_again(self, run: Run) -> None:
        """From the savepoint that it was stopped with, where there is one."""
        if run is not self.run:
            return
        name = self.people.stopped_with(run)
        if name:
            self._restore, self._restore_claim = f"savepoint:{name}", max(self.log_numbers())
        self.submit_soon()

    # -- the log, as it lies on the disk --------------------------------------------------------------------------

    def log_numbers(self) -> list[int]:
        return sorted(number for name in self.disk.objects if (number := parse_log(name)) is not None)

    def has_finished(self) -> bool:
        numbers = self.log_numbers()
        if not numbers:
            return False
        header, _, _ = decode(self.disk.objects[log_name(numbers[-1])])
        return header.kind is RecordKind.ENDED and header.ended == JobStatus.FINISHED.value

    # -- faults that need to know everything ----------------------------------------------------------------------

    def freeze_owner(self, leader: JobManagerProcess, fault: Injected) -> float:
        """`leader` stops with a record on its way; somebody starts the job elsewhere meanwhile, or a standby takes over."""
        rng = self.injector.choices(fault)
        for_s, elsewhere = rng.uniform(0.5, 5.0), rng.random() < 0.5
        self.injector.record(fault, f"{leader.name} for {for_s:.2f} s{', the job is started elsewhere' if elsewhere else ''}")
        leader.pause()
        self.world.schedule(for_s, leader.resume)
        if elsewhere and leader.run is self.run:
            self.submit_soon()
        return for_s * 0.9
