"""Handles of jobs: each means one run, also when another of the same name follows it."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

import flinkray as fr

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def execute(tmp_path: Path, rows: int, rate: float | None = None) -> fr.JobHandle:
    env = fr.StreamEnvironment("again", checkpointing=fr.Checkpointing(storage=f"file://{tmp_path}/{rows}"))
    env.from_source(fr.sources.Nexmark("bid", rows=rows, rate=rate), uid="bids").sink_to(fr.sinks.Blackhole(), uid="out")
    return env.execute_async()


def test_a_handle_that_nobody_holds_any_more_does_not_end_the_next_run_of_its_name(tmp_path: Path) -> None:
    assert execute(tmp_path, 1_000).wait(60).status == "FINISHED"
    gc.collect()
    second = execute(tmp_path, 2_000)
    assert second.wait(60).records_in == 2_000
    time.sleep(2.5)  # the first run's driver has told its JobManager by now that nobody watches
    assert second.status()["records_in"] == 2_000


def test_a_handle_means_its_own_run(tmp_path: Path) -> None:
    first = execute(tmp_path, 1_000)
    first.wait(60)
    second = execute(tmp_path, 100_000, rate=20_000)
    with pytest.raises(fr.JobFailedError, match="JobManagers are gone"):
        first.status()
    assert second.status()["name"] == "again"
    second.cancel()
    with pytest.raises(fr.JobCancelledError):
        second.wait(60)
