"""The example jobs' answers against DuckDB: run straight, with checkpoints, and restored in the middle at another parallelism."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.connectors.base import Source
from flinkray.connectors.nexmark import nexmark_table
from jobs.hot_items import hot_items
from jobs.running_totals import running_totals
from jobs.sessions import sessions
from tests.golden import oracle
from tests.held import Held
from tests.running import TIMEOUT_S, cancel, until_checkpoints

ROWS = 60_000
WATERMARK = fr.Watermarks.bounded("date_time", "1s")

Input = Callable[[Source], Source]
Build = Callable[[fr.StreamEnvironment, Path, float | None, Input], fr.DataStream]


def bids() -> pa.Table:
    return nexmark_table("bid", ROWS, 0)


def generated(env: fr.StreamEnvironment, folder: Path, rate: float | None, hold: Input) -> fr.DataStream:
    return env.from_source(hold(fr.sources.Nexmark("bid", rows=ROWS, rate=rate)), watermark=WATERMARK, uid="bids")


def csv_bids(env: fr.StreamEnvironment, folder: Path, rate: float | None, hold: Input) -> fr.DataStream:
    files = folder / "csv"
    if not files.exists():
        files.mkdir()
        table = bids().select(["bidder", "price"])
        for part in range(3):
            pc.write_csv(table.slice(part * ROWS // 3, ROWS // 3), files / f"{part}.csv")
    return env.from_source(hold(fr.sources.Csv(f"{files}/*.csv", rate=rate)), uid="rows")


JOBS: dict[str, tuple[Build, Callable[[], pa.Table]]] = {
    "hot items": (lambda *given: hot_items(generated(*given)), lambda: oracle.hot_items(bids())),
    "running totals": (
        lambda *given: running_totals(csv_bids(*given), "bidder", "price", "final"),
        lambda: oracle.running_totals(bids(), "bidder", "price"),
    ),
    "sessions": (
        lambda *given: sessions(generated(*given), "200ms"),
        lambda: oracle.sessions(bids(), gap_us=200_000),
    ),
}


def environment(folder: Path, parallelism: int, interval: str | None) -> fr.StreamEnvironment:
    checkpointing = fr.Checkpointing(interval=interval, min_pause="0s", storage=f"file://{folder}/checkpoints")
    return fr.StreamEnvironment("golden", parallelism=parallelism, runtime="local", checkpointing=checkpointing)


def build(name: str, env: fr.StreamEnvironment, folder: Path, rate: float | None, hold: Input = lambda source: source) -> None:
    JOBS[name][0](env, folder, rate, hold).sink_to(fr.sinks.Parquet(str(folder / "out")), uid="out")


def start(name: str, folder: Path, parallelism: int, interval: str | None, rate: float | None = None) -> fr.JobHandle:
    """One with a rate stops before its end, until `gate` is there."""
    env = environment(folder, parallelism, interval)
    build(name, env, folder, rate, lambda inner: inner if rate is None else Held(inner, ROWS * 4 // 5, str(folder / "gate")))
    return env.execute_async()


@cache
def answer(name: str) -> pa.Table:
    return JOBS[name][1]()


def judge(name: str, found: pa.Table) -> None:
    oracle.same(found.select(answer(name).column_names), answer(name))


def check(name: str, folder: Path) -> None:
    judge(name, pq.read_table(folder / "out"))


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_the_answer_is_duckdbs_at_every_parallelism(name: str, parallelism: int, tmp_path: Path) -> None:
    assert start(name, tmp_path, parallelism, None).wait(TIMEOUT_S).status == "FINISHED"
    check(name, tmp_path)


@pytest.mark.parametrize("name", JOBS)
def test_checkpoints_do_not_change_the_answer(name: str, tmp_path: Path) -> None:
    job = start(name, tmp_path, 2, "20ms", rate=60_000)
    until_checkpoints(job, 5)
    (tmp_path / "gate").touch()
    job.wait(TIMEOUT_S)
    check(name, tmp_path)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_restored_at_another_parallelism_it_goes_on_where_it_was(name: str, before: int, after: int, tmp_path: Path) -> None:
    job = start(name, tmp_path, before, "50ms", rate=30_000)
    until_checkpoints(job, 8)
    cancel(job)
    again = start(name, tmp_path, after, "50ms")
    result = again.wait(TIMEOUT_S)
    assert result.records_in == ROWS, "no row was read twice, none was left out"
    check(name, tmp_path)
