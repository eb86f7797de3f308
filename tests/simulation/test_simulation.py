"""Whole jobs on virtual time: whatever the seed lets go wrong, the committed rows are those of a run without failures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.testing import Faults, SimulationReport, simulate
from flinkray.testing.simulation.faults import KINDS
from flinkray.testing.simulation.job import Settings
from flinkray.testing.simulation.jobs import JOBS
from flinkray.testing.simulation.soak import soak
from jobs.hot_items import hot_items


def windows(env: fr.StreamEnvironment) -> fr.DataStream:
    bids = env.from_source(
        fr.sources.Nexmark("bid", rows=2_000, rate=1_500), watermark=fr.Watermarks.bounded("date_time", "50ms"), uid="bids"
    )
    counts = bids.key_by("auction").window(fr.windows.Sliding("100ms", "20ms"))
    return counts.aggregate(bids=fr.agg.count(), top=fr.agg.max("price")).uid("counts")


def sessions(env: fr.StreamEnvironment) -> fr.DataStream:
    bids = env.from_source(
        fr.sources.Nexmark("bid", rows=2_000, rate=1_500), watermark=fr.Watermarks.bounded("date_time", "50ms"), uid="bids"
    )
    return bids.key_by("bidder").window(fr.windows.Session("5ms")).aggregate(bids=fr.agg.count()).uid("sessions")


def check(report: SimulationReport) -> None:
    assert report.exactly_once, report.story()
    assert report.expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("job", [windows, sessions])
def test_the_rows_are_the_same_when_task_managers_die_again_and_again(job: object, seed: int) -> None:
    check(simulate(job, seed, Faults(crash=1.5)))  # type: ignore[arg-type]


def test_hot_items_at_parallelism_three() -> None:
    def job(env: fr.StreamEnvironment) -> fr.DataStream:
        source = fr.sources.Nexmark("bid", rows=3_000, rate=3_000, interval="5ms")
        return hot_items(env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids"))

    check(simulate(job, 5, Faults.only("crash", "reset"), parallelism=3))


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_mixtures_of_all_faults(job: object) -> None:
    many = [JOBS[name] for name in ("keyed-state", "drained", "connected", "windows", "functions", "rows-and-times", "answers", "ways")]
    for seed in range(3 if job in many else 12):  # their many operators take as long
        check(simulate(job, seed, Faults.swarm()))  # type: ignore[arg-type]


def test_a_job_that_is_drained_in_a_storm_gives_each_row_once() -> None:
    """Drains that are carried through, and such as are undone by a loss in the middle."""
    coverage: Counter[str] = Counter()
    for seed in range(5):
        report = simulate(JOBS["drained"], seed, Faults(drain=2.5, crash=2.0, crash_leader=0.5, store_fail=0.01))
        check(report)
        coverage.update(report.coverage)
    assert coverage["drain done"] > 2
    assert coverage["drain failed"] > 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_two_thousand_mixtures_and_every_fault_happens(job: object) -> None:
    total = soak(job, range(2_000), Faults.swarm(), Settings())  # type: ignore[arg-type]
    assert total.first_failure is None, total.first_failure.story()
    assert not [name for name in total.never_happened(Faults.swarm()) if name in KINDS], total.table(Faults.swarm())


def test_without_faults_the_job_finishes_at_once_and_nothing_is_restarted() -> None:
    report = simulate(JOBS["two-inputs"], 3, Faults.none())
    check(report)
    assert report.recoveries == 0
    assert not report.injected


def test_the_sinks_of_a_users_graph_are_replaced_and_compared() -> None:
    def job(env: fr.StreamEnvironment) -> None:
        bids = env.from_source(fr.sources.Nexmark("bid", rows=300, rate=300), uid="bids").select("auction", "price")
        bids.sink_to(fr.sinks.Parquet("/nowhere/at/all"), uid="first")
        bids.filter(fr.col("price") > 100).sink_to(fr.sinks.Json("/nowhere/else"), uid="second")

    report = simulate(job, 2, Faults.only("crash"))
    check(report)
    assert set(report.rows) == {"first", "second"}


def test_user_code_that_raises_is_survived() -> None:
    report = simulate(JOBS["transactional-sink"], 1, Faults(user_error=0.1))
    check(report)
    assert {fault.kind for fault in report.injected} == {"user_error"}
    assert report.recoveries


@pytest.mark.parametrize("name", ["timers", "windows"])
def test_user_code_that_raises_when_time_goes_on_is_survived(name: str) -> None:
    report = simulate(JOBS[name], 1, Faults(timer_error=0.05))
    check(report)
    assert {fault.kind for fault in report.injected} == {"timer_error"}
    assert report.recoveries


def test_an_operator_that_fails_without_a_fault_in_user_code_is_told() -> None:
    seen = 0

    def third_reading(batch: pa.RecordBatch) -> pa.RecordBatch:
        nonlocal seen
        seen += batch.num_rows
        if seen > 2 * 200:
            raise IndexError("a defect")
        return batch

    def job(env: fr.StreamEnvironment) -> fr.DataStream:
        source = fr.sources.Nexmark("bid", rows=200, rate=400)
        return env.from_source(source, uid="bids").select("auction", "price").map_batches(third_reading, uid="map")

    failing = next((r for r in (simulate(job, seed, Faults(crash=4.0)) for seed in range(5)) if not r.exactly_once), None)
    assert failing is not None
    assert failing.violations[0].startswith("an attempt fails for a reason: map: ")


def test_a_cancelled_job_goes_on_where_it_was_when_it_is_started_again() -> None:
    report = simulate(JOBS["transactional-sink"], 3, Faults(cancel=2.0))
    check(report)
    assert report.runs > 1
    assert report.coverage["job CANCELLED"]


PRINT_HASH = """
from flinkray.testing import simulate
from flinkray.testing.simulation.jobs import JOBS
for name in ("hot-items", "two-inputs", "transactional-sink", "calls"):
    for _ in range(2):
        print(name, simulate(JOBS[name], 11).hash)
"""


def test_one_seed_is_one_history_whatever_pythons_hashes_are() -> None:
    told = []
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
        shown = subprocess.run([sys.executable, "-c", PRINT_HASH], env=environment, capture_output=True, text=True, timeout=120, check=True)
        told += shown.stdout.strip().splitlines()
    assert len(told) == 4 * 4
    assert len(set(told)) == 4, told
