"""Stages and async calls against DuckDB: run straight, with checkpoints and failures, and restored in the middle at another parallelism."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.connectors.base import Source
from flinkray.connectors.nexmark import nexmark_table
from jobs import streaming_inference
from tests.golden import oracle
from tests.running import TIMEOUT_S, cancel, until_checkpoints

ROWS = 20_000
WATERMARK = fr.Watermarks.bounded("date_time", "10ms")
PRICED = {"auction": "int64", "price": "int64"}


def doubled(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {"auction": batch.column("auction"), "price": pc.multiply(batch.column("price"), 2)}


pause = asyncio.sleep
"""In the simulator answers take long on virtual time only."""


async def asked(row: dict[str, Any]) -> dict[str, Any]:
    await pause(row["price"] % 3 * 0.001)
    return {"auction": row["auction"], "price": 2 * row["price"]}


async def asked_in_batches(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    await pause(0.002)
    return doubled(batch)


CASES: dict[str, Callable[[fr.DataStream], fr.DataStream]] = {
    "stage": lambda bids: bids.map_batches(doubled, PRICED, concurrency=(2, 3), batch_size=64, max_latency="5ms", uid="calls"),
    "async, any order": lambda bids: bids.async_map(asked, PRICED, ordered=False, capacity=100, uid="calls"),
    "async batches": lambda bids: bids.async_map(asked_in_batches, PRICED, batch_size=100, capacity=4, uid="calls"),
}

QUERY = """SELECT auction, date_time - date_time % 100000 AS window_start, window_start + 100000 AS window_end, count(*) AS bids,
    2 * sum(price)::BIGINT AS total FROM rows GROUP BY ALL"""


def start(name: str, folder: Path, parallelism: int, interval: str | None, rate: float | None = None) -> fr.JobHandle:
    checkpointing = fr.Checkpointing(interval=interval, min_pause="0s", storage=f"file://{folder}/checkpoints")
    env = fr.StreamEnvironment("golden", parallelism=parallelism, runtime="local", checkpointing=checkpointing, batch_rows=500)
    build(name, env, folder, rate)
    return env.execute_async()


def build(
    name: str, env: fr.StreamEnvironment, folder: Path, rate: float | None, hold: Callable[[Source], Source] = lambda source: source
) -> None:
    bids = env.from_source(hold(fr.sources.Nexmark("bid", rows=ROWS, rate=rate)), watermark=WATERMARK, uid="bids").select(
        "auction", "price"
    )
    windows = CASES[name](bids).key_by("auction").window(fr.windows.Tumbling("100ms"))
    totals = windows.aggregate(bids=fr.agg.count(), total=fr.agg.sum("price")).uid("windows")
    totals.sink_to(fr.sinks.Parquet(str(folder / "out")), uid="out")


@cache
def answer() -> pa.Table:
    return oracle.select(nexmark_table("bid", ROWS, 0), QUERY)


def judge(name: str, found: pa.Table) -> None:
    oracle.same(found.select(answer().column_names), answer())


def check(name: str, folder: Path) -> None:
    judge(name, pq.read_table(folder / "out"))


def check_job(job: fr.JobHandle, name: str, folder: Path) -> None:
    assert job.status()["late_rows"] == 0, "no row became late by waiting for its answer"
    check(name, folder)


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_duckdbs(name: str, tmp_path: Path) -> None:
    job = start(name, tmp_path, 2, None)
    assert job.wait(TIMEOUT_S).records_in == ROWS
    check_job(job, name, tmp_path)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_restored_at_another_parallelism_it_goes_on_where_it_was(name: str, before: int, after: int, tmp_path: Path) -> None:
    job = start(name, tmp_path, before, "20ms", rate=ROWS / 30)
    until_checkpoints(job, 8)
    cancel(job)
    again = start(name, tmp_path, after, "20ms")
    assert again.wait(TIMEOUT_S).records_in == ROWS, "no row was read twice, none was left out"
    check_job(again, name, tmp_path)


def test_streaming_inference_checks_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"--out": tmp_path / "out", "--rows": 20_000, "--batch-size": 500, "--storage": f"file://{tmp_path}/checkpoints"}
    arguments = [str(part) for option in options.items() for part in option]
    monkeypatch.setattr("sys.argv", ["streaming_inference.py", "--runtime", "local", *arguments])
    streaming_inference.main()
    assert "checked: 20,000 rows, each once" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "out")
    with pytest.raises(SystemExit, match="WRONG"):
        streaming_inference.check(table.slice(1), 20_000, 0, 64)
