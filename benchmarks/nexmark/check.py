"""One query's answer on its way: run as a job with checkpoints, on one of the runtimes, once with a TaskManager killed; compared with the oracle."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

import flinkray as fr
from flinkray.connectors.base import Sink

from .data import Files
from .oracle import answer
from .queries import Query
from .streams import Nexmark

WAIT_S = 120.0


def run(
    query: Query,
    files: Files,
    folder: Path,
    *,
    parallelism: int,
    runtime: Literal["ray", "local"],
    rate: float | None = None,
    kill: bool = False,
) -> pa.Table:
    """The answer in the job's files, in the end. `kill`: SIGKILL to a TaskManager after the first checkpoint; the job must be longer than that (`rate`).

    Raises RuntimeError when nothing was killed, or more than that went wrong.
    """
    env = fr.StreamEnvironment(
        f"nexmark-{query.name}-{folder.name}",
        parallelism=parallelism,
        runtime=runtime,
        checkpointing=fr.Checkpointing(interval="200ms", min_pause="50ms", storage=f"file://{folder}/checkpoints"),
    )
    output = str(folder / "out")
    sink: Sink = query.sink(output) if query.sink is not None else fr.sinks.Parquet(output, changelog=bool(query.key))
    query.build(Nexmark(env, files, rate)).sink_to(sink, uid="out")
    job = env.execute_async()
    if kill:
        _kill(job)
    result = job.wait(WAIT_S)
    if result.restarts != int(kill):
        raise RuntimeError(f"{query.name}: {result.restarts} restarts, and {int(kill)} TaskManagers killed")
    return answer(query, output)


def _kill(job: fr.JobHandle) -> None:
    """One that is at work, when a checkpoint is complete and a spare is there."""
    deadline = time.monotonic() + WAIT_S
    while not _ready(status := job.status()):
        if time.monotonic() > deadline or status["status"] in ("FINISHED", "FAILED"):
            raise RuntimeError(f"the job was {status['status']} before a TaskManager could be killed; more rows, or a lower rate")
        time.sleep(0.02)
    os.kill(next(tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"), signal.SIGKILL)


def _ready(status: dict[str, Any]) -> bool:
    roles = {tm["role"] for tm in status["task_managers"]}
    return status["status"] == "RUNNING" and status["checkpoints"]["completed"] > 0 and roles >= {"active", "spare"}
