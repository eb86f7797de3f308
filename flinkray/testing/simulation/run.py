"""One seed, one history: `simulate(build_job, seed=7, faults=Faults.swarm())`."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import replace

from flinkray.testing.simulation.answers import Judge, what_is_wrong
from flinkray.testing.simulation.cluster import Cluster, Plan
from flinkray.testing.simulation.faults import Faults
from flinkray.testing.simulation.job import BuildJob, Settings, plan_of, remember
from flinkray.testing.simulation.output import Rows
from flinkray.testing.simulation.report import SimulationReport
from flinkray.testing.simulation.restores import EVERY, check_restores
from flinkray.testing.simulation.storm import Storm
from flinkray.testing.simulation.virtual import virtual_time

LIVENESS_S = 120.0
"""After the storm the job must finish within so much virtual time."""

STORM_LEAST, STORM_MOST = 1.2, 5.0
"""The storm lasts so many times as long as the job takes without failures."""

AFTERMATH_S = 0.5
"""After the end, what is left over may still do harm for so long."""

CALM_SEED = 0
"""Of the failure-free run: its answer does not depend on a seed."""


def simulate(
    build_job: BuildJob,
    seed: int = 0,
    faults: Faults | None = None,
    *,
    settings: Settings | None = None,
    only: frozenset[tuple[str, int]] | None = None,
    judge: Judge | None = None,
    **options: object,
) -> SimulationReport:
    """Run the job once without failures (per process), then under the faults of the seed, and compare.

    `build_job(env)` builds the graph, and returns the stream whose rows are compared, or None when it has added sinks (they are replaced,
    nothing is written outside). `options` are fields of Settings (`parallelism`, `rows`, `checkpoint_interval`, ...). `only` leaves of
    the seed's faults just these (kind, number): for shrinking. `judge` says whether the committed rows are right, instead of the
    comparison: for jobs with an answer from elsewhere, or whose rows may differ as long as the last ones count (changelogs, which come
    with `_change` and in the order of their checkpoints). Raises UsageError.
    """
    settings = replace(settings or Settings(), **options)  # type: ignore[arg-type]
    plan = plan_of(build_job, settings)
    if plan.expected is None:
        plan, _ = calm_run(build_job, settings, judge)
    faults = faults if faults is not None else Faults.swarm()
    return _run(replace(plan, judge=judge), seed, faults, only)


def calm_run(build_job: BuildJob, settings: Settings, judge: Judge | None = None) -> tuple[Plan, SimulationReport]:
    """The failure-free run: what every other is compared with."""
    plan = plan_of(build_job, settings)
    report = _run(replace(plan, judge=judge), CALM_SEED, Faults.none(), None)
    if not report.finished or report.violations:
        raise AssertionError(f"the job does not finish without failures: {report.describe()}")
    plan = replace(plan, expected=report.rows, calm_s=report.virtual_s)
    remember(build_job, settings, plan)
    return plan, report


def _run(plan: Plan, seed: int, faults: Faults, only: frozenset[tuple[str, int]] | None) -> SimulationReport:
    cluster = Cluster(plan, seed, faults, only)
    world, checkers = cluster.world, cluster.checkers
    with virtual_time(world):
        storm = Storm(cluster, STORM_LEAST * plan.calm_s, STORM_MOST * plan.calm_s)
        cluster.submit()
        try:
            world.run(lambda: cluster.finished or bool(checkers.violations), STORM_MOST * plan.calm_s + LIVENESS_S)
            finished_at = world.now
            if cluster.finished and not checkers.violations:
                storm.end()
                world.run(lambda: bool(checkers.violations), finished_at + AFTERMATH_S)
            elif not checkers.violations:
                checkers.violated("liveness", f"not finished {LIVENESS_S:.0f} s after the storm: {_waiting_for(cluster)}")
        except Exception as error:  # noqa: BLE001 - a defect in a core or shell is what a simulation is to find
            text = "".join(traceback.format_exception(error)[-3:])
            checkers.violated("no defect", f"{type(error).__name__}: {error}\n{text}")
            finished_at = world.now
        finally:
            for process in cluster.processes():
                process.end()
    rows = cluster.output.rows()
    if cluster.finished and not checkers.violations and (plan.expected is not None or plan.judge is not None):
        if wrong := what_is_wrong(cluster.output, plan.expected, plan.judge):
            checkers.violated("exactly once", wrong)
        if not checkers.violations:
            cluster.people.check()
        if not checkers.violations and seed % EVERY == 0:
            checkers.coverage["checkpoints restored afterwards"] += check_restores(cluster)
    return _report(cluster, plan, faults, rows, finished_at)


def _waiting_for(cluster: Cluster) -> str:
    leader = cluster.run.leader
    if leader is None or leader.core is None:
        states = ", ".join(f"{process.name} {process.leadership.state.value}" for process in cluster.run.managers if process.alive)
        return f"nobody leads run {cluster.run.number} ({states or 'no JobManager lives'})"
    core = leader.core
    return f"{leader.name} is {core.status.value}, waits for {core.waiting_for or 'nothing'}; pending {core.checkpoints.pending}"


def _report(cluster: Cluster, plan: Plan, faults: Faults, rows: Rows, finished_at: float) -> SimulationReport:
    return SimulationReport(
        seed=cluster.world.seed,
        faults=faults,
        finished=cluster.finished,
        violations=list(cluster.checkers.violations),
        rows=rows,
        expected=plan.expected or {},
        judged=plan.judge is not None,
        checkpoints=cluster.checkers.completed,
        recoveries=max(0, len(cluster.checkers.deployments) - 1),
        runs=len(cluster.runs),
        failures=list(cluster.failures),
        injected=list(cluster.injector.happened),
        coverage=Counter(cluster.checkers.coverage),
        events=cluster.world.events,
        virtual_s=finished_at,
        hash=cluster.world.hash,
        timeline=cluster.world.timeline,
    )
