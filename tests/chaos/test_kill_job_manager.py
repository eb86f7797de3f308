"""The leader killed, frozen, and lost together with others: no task is restarted that need not be, and the output equals DuckDB's."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flinkray.api.job_handle import JobHandle
from flinkray.testing.sentinels import ProbeSink, read_probe
from tests.chaos.test_kill_task_manager import finish, kill, running, start, until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

ROWS = 1_400_000


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
    job = start(tmp_path, "kill-leader", lambda inner: ProbeSink(inner, probe, "window_start"), rows=ROWS)
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
    finish(job, tmp_path, restarts=0, rows=ROWS)
    times = [line["at"] for line in read_probe(probe)]
    print(f"the longest gap at the sink: {max(b - a for a, b in pairwise(times)):.3f} s")


def test_a_leader_that_was_frozen_wakes_up_and_does_no_harm(tmp_path: Path) -> None:
    job = start(tmp_path, "freeze-leader", rows=ROWS)
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


def test_leader_and_standby_killed_together_come_back_and_nothing_is_restarted(tmp_path: Path) -> None:
    rows = ROWS + 600_000  # Ray takes its time to start both again
    job = start(tmp_path, "kill-both", rows=rows)
    before = until(job, with_standby(1))
    os.kill(before["standbys"][0]["pid"], signal.SIGKILL)
    pid = signal_leader(before)
    status = until(job, led_by_another(pid))
    assert task_managers(status) == task_managers(before)
    finish(job, tmp_path, restarts=0, rows=rows)


def test_a_task_manager_killed_just_after_the_leader_is_one_restart(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-leader-and-worker", rows=ROWS)
    status = until(job, with_standby(1))
    signal_leader(status)
    time.sleep(0.03)
    kill(status, "active")
    finish(job, tmp_path, restarts=1, rows=ROWS)


def test_the_leader_killed_in_the_middle_of_a_recovery(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-leader-in-recovery", rows=ROWS)
    status = until(job, with_standby(1))
    kill(status, "active")
    time.sleep(0.05)
    signal_leader(status)
    finish(job, tmp_path, restarts=1, rows=ROWS)


def test_a_standby_that_is_killed_is_made_again(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-standby", rows=ROWS)
    status = until(job, with_standby(1))
    pid = status["standbys"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(job, lambda s: [standby["pid"] for standby in s["standbys"]] not in ([], [pid]))
    finish(job, tmp_path, restarts=0, rows=ROWS)
