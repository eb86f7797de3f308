"""kill -9 of TaskManagers at the worst moments: the output equals DuckDB's over the same rows, whatever happens."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.api.job_handle import JobHandle, JobResult
from flinkray.connectors.base import Sink, Source
from flinkray.connectors.nexmark import nexmark_table
from flinkray.testing.sentinels import CrashingSink, ProbeSink, read_probe
from tests.golden.oracle import hot_items, same
from tests.held import Held

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

ROWS = 400_000
RATE = 100_000
TIMEOUT_S = 90.0


def start(
    tmp_path: Path,
    name: str,
    sink: Callable[[Sink], Sink] = lambda inner: inner,
    rows: int = ROWS,
    rate: float | None = RATE,
    held: bool = False,
) -> JobHandle:
    """`held`: the last rows come when `finish` waits for them, so that the job runs for as long as the test needs it."""
    env = fr.StreamEnvironment(
        name,
        parallelism=2,
        checkpointing=fr.Checkpointing(interval="1s", min_pause="100ms", storage=f"file://{tmp_path}/checkpoints"),
    )
    source: Source = fr.sources.Nexmark(stream="bid", rows=rows, rate=rate)
    source = Held(source, rows // 2 - 20_000, str(tmp_path / "gate")) if held else source
    bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids")
    hottest = (
        bids.key_by("auction")
        .window(fr.windows.Sliding("10s", "2s"))
        .aggregate(bids=fr.agg.count())
        .uid("count")
        .window_all(fr.windows.Tumbling("2s"))
        .top_n(1, by="bids")
        .uid("hottest")
    )
    hottest.sink_to(sink(fr.sinks.Parquet(str(tmp_path / "out"))), uid="out")
    return env.execute_async()


def until(job: JobHandle, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition(status := job.status()):
        assert time.monotonic() < deadline, f"waited in vain; the last status is {status}"
        assert status["status"] not in ("FAILED", "FINISHED"), status["error"]
        time.sleep(0.02)
    return status


def running(checkpoints: int) -> Callable[[dict[str, Any]], bool]:
    return lambda s: (
        s["status"] == "RUNNING"
        and s["checkpoints"]["completed"] >= checkpoints
        and any(tm["role"] == "spare" for tm in s["task_managers"])
    )


def kill(status: dict[str, Any], role: str, index: int = 0) -> int:
    pid = [tm["pid"] for tm in status["task_managers"] if tm["role"] == role][index]
    os.kill(pid, signal.SIGKILL)
    return pid


def check(tmp_path: Path, rows: int = ROWS) -> None:
    answer = pq.read_table(tmp_path / "out")
    same(
        answer.select(["auction", "window_start", "bids"]),
        hot_items(nexmark_table("bid", rows, 0)).select(["auction", "window_start", "bids"]),
    )


def finish(job: JobHandle, tmp_path: Path, restarts: int, rows: int = ROWS) -> JobResult:
    (tmp_path / "gate").touch()
    result = job.wait(timeout=TIMEOUT_S)
    check(tmp_path, rows)
    assert result.status == "FINISHED"
    assert result.restarts == restarts
    assert result.records_in == rows, "replayed rows are not counted twice"
    return result


@pytest.mark.parametrize(("checkpoints", "pause_s", "index"), [(0, 0.3, 0), (1, 0.0, 1), (1, 0.4, 0), (2, 0.8, 1), (3, 0.2, 0)])
def test_the_output_is_equal_when_a_task_manager_is_killed(tmp_path: Path, checkpoints: int, pause_s: float, index: int) -> None:
    log = str(tmp_path / "probe")
    rows = ROWS + checkpoints * 2 * RATE  # the input lasts two seconds longer for each checkpoint that is waited for
    job = start(tmp_path, f"kill-{checkpoints}-{index}-{pause_s}", lambda inner: ProbeSink(inner, log, "window_start"), rows=rows)
    status = until(job, running(checkpoints))
    time.sleep(pause_s)
    killed_at = time.time()
    kill(status, "active", index)
    finish(job, tmp_path, restarts=1, rows=rows)
    lines = read_probe(log)
    before = max((line["max"] for line in lines if line["at"] <= killed_at), default=-(2**63))
    new = next(line["at"] for line in lines if line["at"] > killed_at and line["max"] > before)
    print(f"\nfrom the kill to the first new row at the sink: {new - killed_at:.3f} s")


def test_killing_the_spare_restarts_nothing(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-spare")
    kill(until(job, running(1)), "spare")
    finish(job, tmp_path, restarts=0)


def test_a_task_manager_killed_during_a_checkpoint(tmp_path: Path) -> None:
    marker = str(tmp_path / "crashed")
    job = start(tmp_path, "kill-in-checkpoint", lambda inner: CrashingSink(inner, "prepare", marker, after_calls=2))
    finish(job, tmp_path, restarts=1)
    assert os.path.exists(marker)


def test_two_kills_in_a_row(tmp_path: Path) -> None:
    job = start(tmp_path, "kill-twice")
    first = kill(until(job, running(1)), "active")
    status = until(
        job, lambda s: s["restarts"] >= 1 and len([tm for tm in s["task_managers"] if tm["role"] == "active" and tm["pid"] != first]) == 2
    )
    kill(status, "active", 1)
    finish(job, tmp_path, restarts=2)


def test_a_task_manager_killed_between_the_last_manifest_and_its_commits(tmp_path: Path) -> None:
    """A short input that has ended: only the final checkpoint has rows to commit, and its commit is where the process dies."""
    marker = str(tmp_path / "crashed")
    job = start(tmp_path, "kill-before-commit", lambda inner: CrashingSink(inner, "commit", marker), rows=30_000, rate=None)
    finish(job, tmp_path, restarts=1, rows=30_000)
    assert os.path.exists(marker)


def test_a_task_manager_killed_after_a_short_input_has_ended(tmp_path: Path) -> None:
    marker = str(tmp_path / "crashed")
    job = start(tmp_path, "kill-after-end", lambda inner: CrashingSink(inner, "prepare", marker), rows=30_000, rate=None)
    finish(job, tmp_path, restarts=1, rows=30_000)
    assert os.path.exists(marker)
