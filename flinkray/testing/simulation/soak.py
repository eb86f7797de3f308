"""Many seeds: how many passed, what happened in them, and what never did."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flinkray.core.job_events import JobStatus
from flinkray.core.leadership import LeadershipState
from flinkray.core.log_records import RecordKind
from flinkray.core.messages import TaskManagerState
from flinkray.testing.simulation.faults import KINDS, Faults
from flinkray.testing.simulation.job import BuildJob, Settings
from flinkray.testing.simulation.report import SimulationReport
from flinkray.testing.simulation.run import simulate

STATES: tuple[str, ...] = (
    *(f"job {status.value}" for status in JobStatus if status not in (JobStatus.STOPPING, JobStatus.STOPPED)),
    *(f"JobManager {state.value}" for state in LeadershipState),
    *(f"TaskManager {state.value}" for state in TaskManagerState if state is not TaskManagerState.DEPLOYING),  # which is over within a step
    *(f"record {kind.value}" for kind in RecordKind),
    *(f"command {name}" for name in ("Deploy", "Start", "Trigger", "Abort", "Notify", "Stop", "Hello")),
    *(
        f"report {name}"
        for name in (
            "HelloReply",
            "EpochRefused",
            "Ready",
            "Running",
            "Triggered",
            "Aborted",
            "Acknowledged",
            "CheckpointDeclined",
            "Committed",
            "SlotEnded",
            "TaskFailed",
            "PeerLost",
            "Stats",
        )
    ),
    *(f"failure {cause}" for cause in ("user", "storage", "damaged")),
    "manifest complete",
    "manifest failed",
    "manifest deposed",
    "manifest of a deposed owner",
    "event TakeOver",
    "event Opened",
    "event Adopted",
    "event OpenFailed",
    "event WorkerLost",
    "event CancelRequested",
    "event LeadershipInDoubt",
    "checkpoints restored afterwards",
)
"""What a soak should have seen."""


@dataclass
class Soak:
    """Sums over seeds."""

    seeds: int = 0
    passed: int = 0
    counting: int = 0
    """Seeds with three complete checkpoints, a recovery and an injected fault."""
    elapsed_s: float = 0.0
    first_failure: SimulationReport | None = None
    failing: list[int] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    recoveries: list[int] = field(default_factory=list)
    injected: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    faults_seeds: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)

    def add(self, report: SimulationReport) -> None:
        self.seeds += 1
        self.passed += report.exactly_once
        self.counting += report.counts
        self.checkpoints.append(report.checkpoints)
        self.recoveries.append(report.recoveries)
        self.injected.append(len(report.injected))
        kinds = Counter(fault.kind for fault in report.injected)
        self.faults.update(kinds)
        self.faults_seeds.update(kinds.keys())
        self.states.update(report.coverage)
        if not report.exactly_once:
            self.failing.append(report.seed)
            self.first_failure = self.first_failure or report

    @property
    def seeds_per_s(self) -> float:
        return self.seeds / self.elapsed_s if self.elapsed_s else 0.0

    def never_happened(self, faults: Faults) -> list[str]:
        """Faults of the mixture, and states of the protocol, that no seed has seen."""
        rates = faults.rates()
        wanted = [name for name, kind in KINDS.items() if (faults == Faults.swarm() and kind.mixed) or rates[name]]
        return [*(kind for kind in wanted if not self.faults[kind]), *(state for state in STATES if not self.states[state])]

    def summary(self) -> str:
        lines = [
            f"{self.seeds} seeds, {self.passed} passed, {self.seeds_per_s:.1f} seeds/s; {self.counting} count "
            "(3 complete checkpoints, a recovery, an injected fault)"
        ]
        for what, values in (("checkpoints", self.checkpoints), ("recoveries", self.recoveries), ("faults", self.injected)):
            lines.append(f"  {what:<12} {_distribution(values)}")
        return "\n".join(lines)

    def table(self, faults: Faults) -> str:
        """Coverage: each fault and each state of the protocol, how often, and in how many seeds."""
        lines = [f"{'fault':<20} {'times':>8} {'seeds':>7}"]
        lines += [f"{kind:<20} {self.faults[kind]:>8} {self.faults_seeds[kind]:>7}" for kind in KINDS]
        lines += ["", f"{'state of the protocol':<30} {'times':>8}"]
        lines += [f"{state:<30} {self.states[state]:>8}" for state in STATES]
        never = self.never_happened(faults)
        lines += ["", f"never happened: {', '.join(never) or 'nothing'}"]
        return "\n".join(lines)


def soak(
    build_job: BuildJob,
    seeds: Iterable[int],
    faults: Faults,
    settings: Settings,
    stop_at_first: bool = True,
    progress: Callable[[Soak], None] | None = None,
) -> Soak:
    """Simulate one seed after the other."""
    total, started = Soak(), time.perf_counter()
    for seed in seeds:
        total.add(simulate(build_job, seed, faults, settings=settings))
        total.elapsed_s = time.perf_counter() - started
        if progress is not None:
            progress(total)
        if stop_at_first and total.failing:
            break
    return total


def _distribution(values: list[int]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * part))] for name, part in (("p10", 0.1), ("median", 0.5), ("p90", 0.9))}
    return f"min {ordered[0]}, " + ", ".join(f"{name} {value}" for name, value in at.items()) + f", max {ordered[-1]}"
