"""Jobs that are stopped, drained and rescaled while they run, against DuckDB."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.checkpoint.savepoints import SavepointState
from flinkray.connectors.nexmark import nexmark_table
from tests.golden import oracle
from tests.golden.test_savepoints import APP, JOBS, ROWS, check, let_go, reader, running, start, storage
from tests.running import TIMEOUT_S, until_checkpoints

FAST = 80_000
"""Rows a second, where the test waits for all that the source may give."""


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


def until_held(handle: fr.JobHandle) -> None:
    """It has read all that it may."""
    deadline = time.monotonic() + TIMEOUT_S
    while handle.status()["records_in"] < ROWS * 4 // 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("job", "parallelism"), [slow("hot items", 3), slow("sessions", 1), ("sessions", 4), ("running totals", 3)])
def test_stopped_with_a_savepoint_it_goes_on_from_there_at_another_parallelism(job: str, parallelism: int, tmp_path: Path) -> None:
    handle = running(job, tmp_path, rate=FAST)
    until_held(handle)
    result = handle.stop(savepoint="here", timeout=TIMEOUT_S)
    assert result.status == "STOPPED"
    assert handle.status()["status"] == "STOPPED"
    (info,) = reader(tmp_path).savepoints.list()
    assert (info.name, info.state) == ("here", SavepointState.READY)
    again = start(job, tmp_path, parallelism, "savepoint:here")
    assert again.wait(TIMEOUT_S).records_in == ROWS, "counters go on from the savepoint"
    check(job, tmp_path / "out")


def test_stopped_without_a_savepoint_the_next_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    handle = running("sessions", tmp_path)
    assert handle.stop(timeout=TIMEOUT_S).status == "STOPPED"
    assert reader(tmp_path).savepoints.list() == []
    assert start("sessions", tmp_path, 3).wait(TIMEOUT_S).records_in == ROWS
    check("sessions", tmp_path / "out")
    with pytest.raises(fr.JobFailedError, match="has ended"):
        handle.stop(timeout=TIMEOUT_S)


@pytest.mark.parametrize("job", ["hot items", slow("sessions"), slow("running totals")])
def test_drained_it_has_shown_everything_of_the_rows_that_it_read(job: str, tmp_path: Path) -> None:
    handle = running(job, tmp_path, parallelism=1, rate=FAST)
    until_held(handle)
    result = handle.stop(savepoint="drained", drain=True, timeout=TIMEOUT_S)
    assert (result.status, result.records_in) == ("STOPPED", ROWS * 4 // 5)
    expected = JOBS[job][1](nexmark_table("bid", ROWS, 0).slice(0, ROWS * 4 // 5))
    oracle.same(pq.read_table(tmp_path / "out").select(expected.column_names), expected)
    assert reader(tmp_path).savepoints.describe("drained").state is SavepointState.READY


@pytest.mark.parametrize("job", ["hot items", slow("sessions")])
def test_what_is_restored_from_a_drained_savepoint_counts_new_rows_in_new_windows(job: str, tmp_path: Path) -> None:
    handle = running(job, tmp_path, parallelism=1, rate=FAST)
    until_held(handle)
    handle.stop(savepoint="drained", drain=True, timeout=TIMEOUT_S)
    result = start(job, tmp_path, 1, "savepoint:drained", "second").wait(TIMEOUT_S)
    assert result.records_in == ROWS
    expected = JOBS[job][1](nexmark_table("bid", ROWS, 0).slice(ROWS * 4 // 5))
    oracle.same(pq.read_table(tmp_path / "second").select(expected.column_names), expected)


def test_a_name_that_is_taken_is_refused_and_the_job_runs_on(tmp_path: Path) -> None:
    handle = running("running totals", tmp_path, rate=FAST)
    handle.savepoint("there", TIMEOUT_S)
    with pytest.raises(fr.UsageError, match="exists already"):
        handle.stop(savepoint="there", timeout=TIMEOUT_S)
    with pytest.raises(fr.UsageError, match="use 1 to 256"):
        handle.stop(savepoint="a/b", timeout=TIMEOUT_S)
    let_go(tmp_path)
    assert handle.wait(TIMEOUT_S).status == "FINISHED"
    check("running totals", tmp_path / "out")


@pytest.mark.parametrize("job", [slow("hot items"), "sessions", slow("running totals")])
def test_rescaled_up_and_down_while_it_runs_nothing_is_lost_or_repeated(job: str, tmp_path: Path) -> None:
    handle = running(job, tmp_path)
    for parallelism in (4, 1):
        handle.rescale(parallelism, TIMEOUT_S)
        status = handle.status()
        assert (status["status"], status["restarts"], len(status["task_managers"])) == ("RUNNING", 0, parallelism)
        until_checkpoints(handle, status["checkpoints"]["completed"] + 1)
    let_go(tmp_path)
    assert handle.wait(TIMEOUT_S).records_in == ROWS
    check(job, tmp_path / "out")


def test_a_parallelism_that_cannot_be_is_refused(tmp_path: Path) -> None:
    handle = running("running totals", tmp_path)
    for parallelism, says in ((0, "give 1 to 128"), (129, "give 1 to 128"), (2, "the job runs at parallelism 2")):
        with pytest.raises(fr.UsageError, match=says):
            handle.rescale(parallelism, TIMEOUT_S)
    assert handle.stop(timeout=TIMEOUT_S).status == "STOPPED"
    assert fr.read_state(storage(tmp_path), APP, "totals").num_rows > 0
