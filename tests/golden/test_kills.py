"""Every golden job with kills of its TaskManagers, against the one answer that DuckDB gives: in the simulator on virtual time, and on Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.testing import Faults, simulate
from tests.golden import test_connected, test_jobs, test_keyed_operators, test_operators, test_stages
from tests.held import Held
from tests.running import TIMEOUT_S

LASTS_S = 1.0
"""How long a simulated job reads, virtual seconds: ten checkpoints, and some kills."""

KILLS = Faults(crash=2.0)


@dataclass(frozen=True)
class Golden:
    module: Any
    """Has `build` and `judge`."""
    name: str
    rows: int
    """Bids that it reads."""

    def build(self, *given: Any) -> None:
        self.module.build(self.name, *given)

    def wrong(self, found: pa.Table) -> str:
        """How the rows differ from the answer; empty: not at all."""
        try:
            self.module.judge(self.name, found)
        except AssertionError as error:
            return str(error)
        return ""


GOLDEN = [
    *(Golden(test_jobs, name, test_jobs.ROWS) for name in test_jobs.JOBS),
    *(Golden(test_operators, name, test_operators.BIDS) for name in test_operators.CASES),
    *(Golden(test_keyed_operators, name, test_keyed_operators.BIDS) for name in test_keyed_operators.CASES),
    *(Golden(test_connected, name, test_connected.BIDS) for name in test_connected.QUERIES),
    *(Golden(test_stages, name, test_stages.ROWS) for name in test_stages.CASES),
]


async def no_pause(seconds: float) -> None:
    """Instead of one on the real clock."""


IDS = [f"{one.module.__name__.rpartition('.')[2]}: {one.name}" for one in GOLDEN]
TAKES_LONG = {
    "async, any order",
    "left sliding join",
    "inner tumbling join",
    "the other windows",
    "the functions",
    "the answers",
    "the other ways",
}
"""A call for each row, very many rows of results, or very many operators: the others, and jobs of the simulator, have what they have, too."""

each_golden = pytest.mark.parametrize("golden", GOLDEN, ids=IDS)


def killed(golden: Golden, seeds: range, folder: Path) -> int:
    """Kills of TaskManagers in the simulated runs of these seeds, each of which gives the answer."""
    kills = 0

    def job(env: fr.StreamEnvironment) -> None:
        golden.build(env, folder, golden.rows / LASTS_S)

    def judge(found: Mapping[str, pa.Table]) -> str:
        return golden.wrong(found["out"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_stages, "pause", no_pause)
        for seed in seeds:
            report = simulate(job, seed, KILLS, judge=judge)
            assert report.exactly_once, report.story()
            kills += len(report.injected)
    return kills


@pytest.mark.parametrize("golden", [pytest.param(one, marks=pytest.mark.slow if one.name in TAKES_LONG else ()) for one in GOLDEN], ids=IDS)
def test_the_answer_is_duckdbs_when_task_managers_die_again_and_again(golden: Golden, tmp_path: Path) -> None:
    assert killed(golden, range(2, 3), tmp_path) >= 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
@each_golden
def test_thirty_histories_of_kills(golden: Golden, tmp_path: Path) -> None:
    assert killed(golden, range(3, 33), tmp_path) >= 30


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@each_golden
def test_on_ray_the_answer_is_duckdbs_when_both_task_managers_are_killed(golden: Golden, tmp_path: Path) -> None:
    """One after the other; the input lasts until both are replaced."""
    checkpointing = fr.Checkpointing(interval="100ms", min_pause="0s", storage=f"file://{tmp_path}/checkpoints")
    env = fr.StreamEnvironment(f"golden-{tmp_path.name[:60]}", parallelism=2, runtime="ray", checkpointing=checkpointing, batch_rows=500)
    golden.build(env, tmp_path, None, lambda inner: Held(inner, golden.rows // 5, str(tmp_path / "gate")))
    job = env.execute_async()
    for restarts in range(2):
        status = until_running(job, restarts)
        os.kill(next(tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"), signal.SIGKILL)
    until_running(job, 2)
    (tmp_path / "gate").touch()
    result = job.wait(TIMEOUT_S)
    assert (result.status, result.restarts) == ("FINISHED", 2)
    golden.module.check(golden.name, tmp_path)


def until_running(job: fr.JobHandle, restarts: int) -> dict[str, Any]:
    """Until the job has been restarted so often, reads, has completed checkpoints since, and has a spare."""
    deadline, completed = time.monotonic() + TIMEOUT_S, None
    while True:
        status = job.status()
        assert status["status"] not in ("FAILED", "FINISHED"), status
        assert time.monotonic() < deadline, status
        if status["status"] == "RUNNING" and status["restarts"] == restarts and status["records_in"]:
            completed = status["checkpoints"]["completed"] if completed is None else completed
            if status["checkpoints"]["completed"] >= completed + 2 and any(tm["role"] == "spare" for tm in status["task_managers"]):
                return status
        time.sleep(0.02)
