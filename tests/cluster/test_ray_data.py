"""A `ray.data.Dataset` as a source, and a stream's rows as one: each row once, whatever dies; and what is said when blocks are lost."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from tests.running import TIMEOUT_S, until_checkpoints

ray = pytest.importorskip("ray")
pytest.importorskip("pandas", reason="Ray Data needs pandas")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray Data warns of its own settings
]

ROWS, BLOCKS = 6_000, 6
BEGIN_US = 1_767_225_600_000_000


def numbers(rows: int = ROWS, first: int = 0) -> pa.Table:
    n = np.arange(first, first + rows)
    return pa.table({"n": n, "key": n % 10, "at": pa.array(BEGIN_US + n * 1_000, pa.timestamp("us", "UTC"))})


def dataset(rows: int = ROWS, order: int = 1) -> Any:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    table, size = numbers(rows), rows // BLOCKS
    return ray.data.from_arrow([table.slice(i * size, size) for i in range(BLOCKS)][::order])


def environment(name: str, folder: Path, runtime: str = "ray", parallelism: int = 2) -> fr.StreamEnvironment:
    checkpointing = fr.Checkpointing(interval="50ms", min_pause="0s", storage=f"file://{folder}/checkpoints")
    return fr.StreamEnvironment(name, parallelism=parallelism, runtime=runtime, checkpointing=checkpointing, batch_rows=200)  # type: ignore[arg-type]


def start(name: str, folder: Path, given: Any, rate: float | None = None, runtime: str = "ray", restore: str = "latest") -> fr.JobHandle:
    env = environment(name, folder, runtime)
    rows = env.from_ray_data(given, watermark=fr.Watermarks.bounded("at", "100ms"), uid="in", rate=rate)
    rows.select("n", "key").sink_to(fr.sinks.Parquet(str(folder / "out")), uid="out")
    return env.execute_async()


def seen(folder: Path) -> list[int]:
    return sorted(pq.read_table(folder / "out")["n"].to_pylist())


def kill_active(job: fr.JobHandle) -> None:
    os.kill(next(tm["pid"] for tm in job.status()["task_managers"] if tm["role"] == "active"), signal.SIGKILL)


@pytest.mark.slow
def test_each_row_of_a_dataset_is_read_once_though_a_task_manager_is_killed(tmp_path: Path) -> None:
    job = start("dataset-read", tmp_path, dataset(), rate=1_500)
    until_checkpoints(job, 3)
    kill_active(job)
    result = job.wait(TIMEOUT_S)
    assert (result.status, result.restarts, result.records_in) == ("FINISHED", 1, ROWS)
    assert seen(tmp_path) == list(range(ROWS))


def test_a_stream_becomes_a_dataset_with_each_row_once_though_a_task_manager_is_killed(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    env = environment("dataset-written", tmp_path, parallelism=1)

    def dies_once(batch: pa.RecordBatch) -> pa.RecordBatch:
        if batch.num_rows and batch.column("n")[0].as_py() > ROWS // 3 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    rows = env.from_ray_data(dataset(), uid="in", rate=3_000).select("n", "key")
    made = rows.map_batches(dies_once, {"n": "int64", "key": "int64"}, uid="dies").to_ray_data()
    assert killed.exists()
    assert made.schema().names == ["n", "key"]
    assert sorted(row["n"] for row in made.take_all()) == list(range(ROWS))


def test_the_same_rows_in_blocks_in_another_order_go_on_from_the_checkpoint_and_others_do_not(tmp_path: Path) -> None:
    """In one process, which stands for two that come one after the other."""
    job = start("dataset-restored", tmp_path, dataset(), rate=2_000, runtime="local")
    until_checkpoints(job, 3)
    job.cancel()
    with pytest.raises(fr.JobCancelledError):
        job.wait(TIMEOUT_S)
    other = start("dataset-restored", tmp_path, dataset(ROWS + BLOCKS), runtime="local")
    with pytest.raises(fr.SourceError, match="does not hold the rows of the one that the checkpoint was made with"):
        other.wait(TIMEOUT_S)
    result = start("dataset-restored", tmp_path, dataset(order=-1), runtime="local").wait(TIMEOUT_S)
    assert result.records_in == ROWS
    assert seen(tmp_path) == list(range(ROWS))


def test_lost_blocks_end_the_job_with_an_error_that_says_so(tmp_path: Path) -> None:
    env = environment("dataset-lost", tmp_path, runtime="local")
    rows = env.from_ray_data(dataset(), uid="in")
    source = rows._node.source  # type: ignore[attr-defined]
    ray.kill(ray.get_actor(source.actor, "flinkray"))
    with pytest.raises(fr.SourceError, match=r"block \d of 6 is lost .*start the job again with the same Dataset"):
        rows.collect()


def test_blocks_of_pandas_frames_and_blocks_without_rows_are_read(tmp_path: Path) -> None:
    import pandas as pd
    import ray.data

    frames = [pd.DataFrame({"n": [1, 2]}), pd.DataFrame({"n": pd.Series([], dtype="int64")}), pd.DataFrame({"n": [2]})]
    env = environment("dataset-pandas", tmp_path, runtime="local")
    assert sorted(env.from_ray_data(ray.data.from_pandas(frames)).collect()["n"].to_pylist()) == [1, 2, 2]


def test_what_cannot_be_is_told_before_anything_runs(tmp_path: Path) -> None:
    import ray.data

    env = environment("dataset-refused", tmp_path, runtime="local")
    with pytest.raises(fr.PlanError, match=r"is no ray\.data\.Dataset"):
        env.from_ray_data(numbers())
    mixed = ray.data.from_arrow([pa.table({"n": [1]}), pa.table({"n": ["a"]})])
    with pytest.raises(fr.PlanError, match="column 'n' is string in block 1, and int64 before"):
        env.from_ray_data(mixed)
    rows = env.from_ray_data(dataset())
    with pytest.raises(fr.PlanError, match="aggregate with emit='final'"):
        rows.key_by("key").aggregate(rows=fr.agg.count()).to_ray_data()
    assert rows.filter(fr.col("n") < 0).to_ray_data().count() == 0


def test_the_example_of_the_document_runs_as_it_stands() -> None:
    text = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text()
    (code,) = [code for code in re.findall(r"^```py\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL) if "to_ray_data" in code]
    assert "assert " in code
    exec(compile(code, "docs/semantics.md, Ray Data", "exec"), {"__name__": "semantics"})
