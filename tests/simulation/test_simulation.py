"""Whole jobs on virtual time: processes killed where a seed says, and the committed rows are those of a run without failures."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import flinkray as fr
from flinkray.testing.simulation import SimulationReport, simulate
from jobs.hot_items import hot_items


def windows(env: fr.StreamEnvironment) -> fr.DataStream:
    bids = env.from_source(
        fr.sources.Nexmark("bid", rows=2_000, rate=1_500), watermark=fr.Watermarks.bounded("date_time", "50ms"), uid="bids"
    )
    counts = bids.key_by("auction").window(fr.windows.Sliding("100ms", "20ms"))
    return counts.aggregate(bids=fr.agg.count(), top=fr.agg.max("price")).uid("counts")


def two_inputs(env: fr.StreamEnvironment) -> fr.DataStream:
    bids = env.from_source(fr.sources.Nexmark("bid", rows=1_500, rate=1_000), uid="bids").select("auction", "price")
    more = env.from_source(fr.sources.Nexmark("bid", rows=1_500, rate=1_000, seed=9), uid="more").select("auction", "price")
    return bids.union(more).key_by("auction").aggregate(total=fr.agg.sum("price"), emit="final").uid("totals")


def sessions(env: fr.StreamEnvironment) -> fr.DataStream:
    bids = env.from_source(
        fr.sources.Nexmark("bid", rows=2_000, rate=1_500), watermark=fr.Watermarks.bounded("date_time", "50ms"), uid="bids"
    )
    return bids.key_by("bidder").window(fr.windows.Session("5ms")).aggregate(bids=fr.agg.count()).uid("sessions")


def check(report: SimulationReport) -> None:
    tail = "\n".join(report.timeline[-25:])
    assert report.exactly_once, (
        f"seed {report.seed}: {report.status} {report.error}, {len(report.rows)} rows of {len(report.expected)}\n{tail}"
    )
    assert report.checkpoints >= 3
    assert report.expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("job", [windows, two_inputs, sessions])
def test_the_rows_are_the_same_when_task_managers_are_killed(job: object, seed: int) -> None:
    check(simulate(job, seed=seed, kills=2))  # type: ignore[arg-type]


def test_a_job_whose_workers_are_killed_again_and_again_still_finishes() -> None:
    report = simulate(windows, seed=3, kills=8)
    check(report)
    assert report.restarts >= 2


def test_hot_items_at_parallelism_three() -> None:
    def job(env: fr.StreamEnvironment) -> fr.DataStream:
        source = fr.sources.Nexmark("bid", rows=3_000, rate=3_000, interval="5ms")
        return hot_items(env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids"))

    check(simulate(job, seed=5, kills=2, parallelism=3))


PRINT_HASH = """
from tests.simulation.test_simulation import windows
from flinkray.testing.simulation import simulate
report = simulate(windows, seed=11, kills=2)
print(report.hash, report.events)
"""


def test_one_seed_is_one_history_whatever_pythons_hashes_are() -> None:
    told = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
        shown = subprocess.run([sys.executable, "-c", PRINT_HASH], env=environment, capture_output=True, text=True, timeout=120, check=True)
        told.add(shown.stdout.strip().splitlines()[-1])
    assert len(told) == 1, told
