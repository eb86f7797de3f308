"""Stages on Ray actors: a worker killed at work is replaced without a restart, rows in flight survive their TaskManager, order is kept."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

ROWS = 20_000
HANGS_AT = (5_000, 12_000)
TIMEOUT_S = 60.0


def doubled_in(folder: str) -> type:
    """Made here, since other processes do not know this module."""
    hangs_at = HANGS_AT

    class Doubled:
        """Stops at the batches that hold certain rows, until it is let go."""

        def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
            numbers = batch.column("n").to_numpy()
            for row in hangs_at:
                if numbers[0] <= row <= numbers[-1]:
                    Path(folder, f"at-{row}").write_text(str(os.getpid()))
                    while not Path(folder, f"go-{row}").exists():
                        time.sleep(0.01)
            return {"n": numbers, "twice": 2 * numbers}

    return Doubled


def in_order() -> type:
    class InOrder:
        """Fails the job when rows of this subtask come in another order than they were read."""

        output_schema = {"n": "int64", "twice": "int64"}

        def __init__(self) -> None:
            self.last = -1

        def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            for number in batch.column("n").to_pylist():
                assert number > self.last, f"{number} came after {self.last}"
                self.last = number
            return batch

    return InOrder


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def stopped_at(job: fr.JobHandle, folder: Path, row: int) -> int:
    """The process id of the worker that has the batch."""
    file = folder / f"at-{row}"
    until(lambda: (file.exists() and file.read_text()) or job.status()["status"] == "FAILED", f"row {row}")
    assert file.exists(), job.status()
    return int(file.read_text())


def test_a_killed_worker_is_replaced_without_a_restart_and_a_killed_task_manager_loses_nothing_in_flight(tmp_path: Path) -> None:
    checkpointing = fr.Checkpointing(interval="100ms", min_pause="0s", storage=f"file://{tmp_path}/checkpoints")
    env = fr.StreamEnvironment("stage", checkpointing=checkpointing, batch_rows=1_000)
    rows = env.from_batches(pa.table({"n": range(ROWS)}), uid="rows")
    doubled = rows.map_batches(
        doubled_in(str(tmp_path)), {"n": "int64", "twice": "int64"}, num_gpus=0, num_cpus=0.5, concurrency=2, batch_size=100, uid="stage"
    )
    doubled.map_batches(in_order(), uid="in-order").sink_to(fr.sinks.Parquet(str(tmp_path / "out")), uid="out")
    job = env.execute_async()

    os.kill(stopped_at(job, tmp_path, HANGS_AT[0]), signal.SIGKILL)
    Path(tmp_path, f"go-{HANGS_AT[0]}").touch()

    stopped_at(job, tmp_path, HANGS_AT[1])
    status = job.status()
    assert status["restarts"] == 0
    before = status["checkpoints"]["completed"]
    until(lambda: job.status()["checkpoints"]["completed"] >= before + 2, "checkpoints that hold the batches in flight")
    (at_work,) = [tm for tm in job.status()["task_managers"] if tm["role"] == "active"]
    Path(tmp_path, f"at-{HANGS_AT[1]}").unlink()
    os.kill(at_work["pid"], signal.SIGKILL)
    stopped_at(job, tmp_path, HANGS_AT[1])  # the batch is done again
    Path(tmp_path, f"go-{HANGS_AT[1]}").touch()

    result = job.wait(TIMEOUT_S)
    assert (result.restarts, result.records_in) == (1, ROWS)
    table = pq.read_table(tmp_path / "out").sort_by("n")
    assert table.column("n").to_pylist() == list(range(ROWS))
    assert table.column("twice").to_pylist() == list(range(0, 2 * ROWS, 2))


def test_a_model_that_cannot_be_loaded_fails_the_job_with_its_traceback() -> None:
    class Broken:
        def __init__(self) -> None:
            raise FileNotFoundError("weights.bin")

        def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

    env = fr.StreamEnvironment("broken")
    rows = env.from_batches(pa.table({"n": [1]})).map_batches(Broken, num_cpus=0.5, uid="model")
    with pytest.raises(fr.OperatorError, match=r"weights\.bin") as raised:
        rows.collect()
    assert raised.value.uid == "model"
    assert "in __init__" in raised.value.user_traceback


def test_workers_that_the_cluster_has_no_room_for_are_refused_at_once() -> None:
    rows = fr.StreamEnvironment("too-large").from_batches(pa.table({"n": [1]}))
    with pytest.raises(fr.ResourceError, match=r"'model' ask for 2 GPUs; the cluster has 0"):
        rows.map_batches(lambda batch: batch, num_gpus=1, concurrency=2, uid="model").collect()
