"""The leader killed, frozen, and lost together with others: no task is restarted that need not be, and the output equals DuckDB's."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.api.job_handle import JobHandle
from flinkray.connectors.nexmark import nexmark_table
from flinkray.testing.sentinels import ProbeSink, read_probe
from tests.chaos.test_kill_task_manager import TIMEOUT_S, finish, kill, running, start, until
from tests.golden.oracle import same

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

ROWS = 1_400_000
FILES, FILE_ROWS = 30, 2_000


def with_standby(checkpoints: int) -> Any:
    return lambda s: running(checkpoints)(s) and bool(s["standbys"])


def task_managers(status: dict[str, Any]) -> set[int]:
    return {tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"}


def led_by_another(pid: int) -> Any:
    return lambda s: s["leader"]["pid"] != pid and s["status"] == "RUNNING"


def signal_leader(status: dict[str, Any], number: int = signal.SIGKILL) -> int:
    pid = int(status["leader"]["pid"])
    os.kill(pid, number)
    return pid


def log_of(job: JobHandle) -> str:
    return "\n".join(line.text for line in job.lines(0))


def test_no_task_notices_that_the_leader_is_killed_three_times(tmp_path: Path) -> None:
    probe = str(tmp_path / "probe")
    rows = ROWS + 1_000_000
    job = start(tmp_path, "kill-leader", lambda inner: ProbeSink(inner, probe, "window_start"), rows=rows, held=True)
    before = until(job, with_standby(1))
    for election in (2, 3, 4):
        status = until(job, with_standby(1))
        killed_at = time.time()
        pid = signal_leader(status)
        status = until(job, led_by_another(pid))
        print(f"\nled again {time.time() - killed_at:.2f} s after the kill")
        assert status["leader"]["epoch"] == election
        assert status["attempt"] == before["attempt"]
        assert task_managers(status) == task_managers(before)
    finish(job, tmp_path, restarts=0, rows=rows)
    times = [line["at"] for line in read_probe(probe)]
    print(f"the longest gap at the sink: {max(b - a for a, b in pairwise(times)):.3f} s")


def test_a_leader_that_was_frozen_wakes_up_and_does_no_harm(tmp_path: Path) -> None:
    job = start(tmp_path, "freeze-leader", rows=ROWS, held=True)
    before = until(job, with_standby(1))
    pid = signal_leader(before, signal.SIGSTOP)
    try:
        status = until(job, led_by_another(pid))
        completed = status["checkpoints"]["completed"]
        until(job, lambda s: s["checkpoints"]["completed"] >= completed + 2)
    finally:
        os.kill(pid, signal.SIGCONT)
    finish(job, tmp_path, restarts=0, rows=ROWS)
    status = job.status()
    assert status["leader"]["pid"] != pid
    assert status["attempt"] == before["attempt"]


@pytest.mark.slow
def test_leader_and_standby_killed_together_come_back_and_nothing_is_restarted(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-both", rows=ROWS, held=True)
    before = until(job, with_standby(1))
    os.kill(before["standbys"][0]["pid"], signal.SIGKILL)
    pid = signal_leader(before)
    status = until(job, led_by_another(pid))
    assert task_managers(status) == task_managers(before)
    finish(job, tmp_path, restarts=0, rows=ROWS)


def test_a_task_manager_killed_just_after_the_leader_is_one_restart(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-leader-and-worker", rows=ROWS, held=True)
    status = until(job, with_standby(1))
    signal_leader(status)
    time.sleep(0.03)
    kill(status, "active")
    finish(job, tmp_path, restarts=1, rows=ROWS)


@pytest.mark.slow
def test_the_leader_killed_in_the_middle_of_a_recovery(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-leader-in-recovery", rows=ROWS, held=True)
    status = until(job, with_standby(1))
    kill(status, "active")
    time.sleep(0.05)
    signal_leader(status)
    finish(job, tmp_path, restarts=1, rows=ROWS)


@pytest.mark.slow
def test_a_standby_that_is_killed_is_made_again(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-standby", rows=ROWS, held=True)
    status = until(job, with_standby(1))
    pid = status["standbys"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(job, lambda s: [standby["pid"] for standby in s["standbys"]] not in ([], [pid]))
    finish(job, tmp_path, restarts=0, rows=ROWS)


@pytest.mark.slow
def test_the_leader_killed_while_a_watched_directory_receives_files(tmp_path: Path) -> None:
    """Which files have been seen is the state of a task: a new leader has nothing to find again."""
    bids = nexmark_table("bid", FILES * FILE_ROWS, 0).select(["auction", "price", "date_time"])
    inbox = tmp_path / "in"
    inbox.mkdir()

    def put(number: int) -> None:
        hidden = tmp_path / f"{number}.parquet"
        pq.write_table(bids.slice(number * FILE_ROWS, FILE_ROWS), hidden)
        hidden.rename(inbox / hidden.name)

    put(0)
    checkpointing = fr.Checkpointing(interval="500ms", min_pause="100ms", storage=f"file://{tmp_path}/checkpoints")
    env = fr.StreamEnvironment("kill-leader-watching", parallelism=2, checkpointing=checkpointing)
    env.from_source(fr.sources.Parquet(str(inbox), watch="100ms"), uid="files").sink_to(fr.sinks.Parquet(str(tmp_path / "out")), uid="out")
    job = env.execute_async()
    before = until(job, with_standby(1))
    for number in range(1, FILES):
        put(number)
        if number in (FILES // 3, 2 * FILES // 3):
            pid = signal_leader(until(job, with_standby(1)))
        elif number in (FILES // 3 + 1, 2 * FILES // 3 + 1):  # the file before came while nobody led
            until(job, led_by_another(pid))
    status = until(job, lambda s: s["records_in"] == FILES * FILE_ROWS)
    assert (status["attempt"], status["restarts"], status["leader"]["epoch"]) == (before["attempt"], 0, 3)
    assert task_managers(status) == task_managers(before)
    assert job.stop(timeout=TIMEOUT_S).records_in == FILES * FILE_ROWS
    same(pq.read_table(tmp_path / "out").select(bids.column_names), bids)
