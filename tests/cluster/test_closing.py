"""Functions are closed when their job ends, in whatever way; what one raises then keeps no other from being closed."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import flinkray as fr
from flinkray.errors import JobCancelledError
from tests.running import until_checkpoints

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # TaskManagers do not know this file

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


class Noted(fr.ProcessFunction):
    """Leaves a file when it is closed, after some time."""

    output_schema = {"n": "int64"}

    def __init__(self, folder: Path, name: str, fails: bool = False) -> None:
        self.folder, self.name, self.fails = folder, name, fails

    def open(self, ctx: fr.ProcessContext) -> None:
        self.note = self.folder / f"{self.name}-{uuid.uuid4()}"

    def close(self) -> None:
        time.sleep(0.3)
        if self.fails:
            raise OSError("the connection is gone already")
        self.note.touch()

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Iterator[dict[str, Any]]:
        yield {"n": row["n"]}


def job(name: str, folder: Path, rows: int, rate: float | None, runtime: str = "ray") -> fr.JobHandle:
    checkpointing = fr.Checkpointing(interval="100ms", storage=f"file://{folder}/checkpoints")
    env = fr.StreamEnvironment(name, parallelism=2, runtime=runtime, checkpointing=checkpointing)  # type: ignore[arg-type]
    numbers = env.from_source(fr.sources.Nexmark("bid", rows=rows, rate=rate), uid="bids").select(n=fr.col("price"))
    first = numbers.process(Noted(folder, "first", fails=True), uid="first")
    first.process(Noted(folder, "second"), uid="second").sink_to(fr.sinks.Blackhole(), uid="out")
    return env.execute_async()


def closed(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("runtime", ["ray", "local"])
def test_at_the_end_of_the_input(tmp_path: Path, runtime: str) -> None:
    assert job(f"closing-{runtime}", tmp_path, 1_000, None, runtime).wait(60).status == "FINISHED"
    until_closed(tmp_path)


def test_when_it_is_cancelled(tmp_path: Path) -> None:
    running = job("closing-cancelled", tmp_path, 100_000_000, 1_000)
    until_checkpoints(running, 1)
    running.cancel()
    with pytest.raises(JobCancelledError):
        running.wait(60)
    until_closed(tmp_path)


def until_closed(folder: Path) -> None:
    """The TaskManagers of a job on Ray end soon after it."""
    deadline = time.monotonic() + 10
    while closed(folder) != ["second", "second"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert closed(folder) == ["second", "second"]
