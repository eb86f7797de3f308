"""Operators' answers against DuckDB: run straight, with checkpoints, and restored in the middle at another parallelism."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.connectors.base import Source
from flinkray.connectors.nexmark import nexmark_table
from tests.golden import oracle
from tests.held import Held
from tests.running import TIMEOUT_S, cancel, until_checkpoints

BIDS, AUCTIONS = 46_000, 3_000
WATERMARK = fr.Watermarks.bounded("date_time", "1s")


@dataclass(frozen=True)
class Case:
    """`build` gets the bids and the auctions."""

    build: Callable[[fr.DataStream, fr.DataStream], fr.DataStream]
    query: str


def _interval(how: str) -> Case:
    def build(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
        bids = bids.select("auction", "bidder", "price", "date_time")
        sellers = auctions.select("id", "seller", "category", "date_time").key_by("id")
        return bids.key_by("auction").interval_join(sellers, "-300ms", "50ms", how=how)

    return Case(
        build,
        f"""SELECT coalesce(b.auction, a.id) AS auction, b.bidder, b.price, b.date_time, a.seller, a.category, a.date_time AS date_time_right
        FROM bids b {how.upper()} JOIN auctions a
        ON b.auction = a.id AND a.date_time BETWEEN b.date_time - 300000 AND b.date_time + 50000""",
    )


def _window(how: str, size_us: int, slide_us: int) -> Case:
    def build(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
        window = fr.windows.Sliding(size_us / 1e6, slide_us / 1e6)
        sellers = auctions.select("id", "seller", "date_time").key_by("id")
        return bids.select("auction", "price", "date_time").key_by("auction").window(window).join(sellers, how=how)

    windows = f"date_time - date_time % {slide_us} - back AS window_start FROM {{}}, range(0, {size_us}, {slide_us}) AS earlier(back)"
    windows += f" WHERE date_time < date_time - date_time % {slide_us} - back + {size_us}"
    return Case(
        build,
        f"""WITH b AS (SELECT auction, price, date_time, {windows.format("bids")}),
        a AS (SELECT id, seller, date_time, {windows.format("auctions")})
        SELECT coalesce(auction, id) AS auction, coalesce(b.window_start, a.window_start) AS window_start,
            coalesce(b.window_start, a.window_start) + {size_us} AS window_end, price, b.date_time, seller, a.date_time AS date_time_right
        FROM b {how.upper()} JOIN a ON b.auction = a.id AND b.window_start = a.window_start""",
    )


class BidsPerSlot(fr.KeyedProcessFunction):
    """Counts an auction's bids in each 200 ms, by a map and a timer for each."""

    output_schema = {"auction": "int64", "slot": "int64", "bids": "int64", "most": "int64"}
    input_columns = ("price",)
    counts = fr.MapState("counts", int, int)
    most = fr.MapState("most", int, {"price": "int64"})

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        assert ctx.timestamp is not None
        slot = ctx.timestamp // 200_000
        self.counts[slot] = self.counts.get(slot, 0) + 1
        most = self.most.get(slot, {"price": 0})
        self.most[slot] = {"price": max(most["price"], row["price"])}
        ctx.register_event_timer((slot + 1) * 200_000)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[dict[str, Any]]:
        slot = timestamp // 200_000 - 1
        yield {"auction": ctx.key, "slot": slot, "bids": self.counts.pop(slot), "most": self.most.pop(slot)["price"]}


def _process(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    ids = auctions.select(fr.col("id").alias("auction"), "date_time", price=fr.lit(0))
    return bids.select("auction", "date_time", "price").union(ids).key_by("auction").process(BidsPerSlot())


CASES = {
    "process function": Case(
        _process,
        """SELECT auction, date_time // 200000 AS slot, count(*) AS bids, max(price) AS most FROM
        (SELECT auction, date_time, price FROM bids UNION ALL SELECT id, date_time, 0 FROM auctions) GROUP BY ALL""",
    ),
    "inner interval join": _interval("inner"),
    "left interval join": _interval("left"),
    "full interval join": _interval("full"),
    "inner tumbling join": _window("inner", 500_000, 500_000),
    "left sliding join": _window("left", 600_000, 200_000),
}


@cache
def expected(name: str) -> pa.Table:
    tables = {"bids": nexmark_table("bid", BIDS, 0), "auctions": nexmark_table("auction", AUCTIONS, 0)}
    answer = oracle.select_from(tables, CASES[name].query)
    if "date_time_right" in answer.column_names:
        index = answer.schema.get_field_index("date_time_right")
        answer = answer.set_column(index, "date_time_right", answer.column(index).cast(oracle.TIMESTAMP))
    assert answer.num_rows > 1000
    return answer


def start(name: str, folder: Path, parallelism: int, interval: str | None, rate: float | None = None) -> fr.JobHandle:
    checkpointing = fr.Checkpointing(interval=interval, min_pause="0s", storage=f"file://{folder}/checkpoints")
    env = fr.StreamEnvironment("golden", parallelism=parallelism, runtime="local", checkpointing=checkpointing)
    # One with a rate stops before its end, until the gate is there.
    build(name, env, folder, rate, lambda inner: inner if rate is None else Held(inner, BIDS * 4 // 5, str(folder / "gate")))
    return env.execute_async()


def build(
    name: str, env: fr.StreamEnvironment, folder: Path, rate: float | None, hold: Callable[[Source], Source] = lambda source: source
) -> None:
    slower = None if rate is None else rate * AUCTIONS / BIDS
    bids = env.from_source(hold(fr.sources.Nexmark("bid", rows=BIDS, rate=rate)), watermark=WATERMARK, uid="bids")
    auctions = env.from_source(fr.sources.Nexmark("auction", rows=AUCTIONS, rate=slower), watermark=WATERMARK, uid="auctions")
    CASES[name].build(bids, auctions).uid("operator").sink_to(fr.sinks.Parquet(str(folder / "out")), uid="out")


def judge(name: str, found: pa.Table) -> None:
    oracle.same(found.select(expected(name).column_names), expected(name))


def check(name: str, folder: Path) -> None:
    judge(name, pq.read_table(folder / "out"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("parallelism", [1, 3])
def test_the_answer_is_duckdbs_at_every_parallelism(name: str, parallelism: int, tmp_path: Path) -> None:
    assert start(name, tmp_path, parallelism, None).wait(TIMEOUT_S).status == "FINISHED"
    check(name, tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_do_not_change_the_answer(name: str, tmp_path: Path) -> None:
    job = start(name, tmp_path, 2, "20ms", rate=60_000)
    until_checkpoints(job, 5)
    (tmp_path / "gate").touch()
    job.wait(TIMEOUT_S)
    check(name, tmp_path)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_restored_at_another_parallelism_it_goes_on_where_it_was(name: str, before: int, after: int, tmp_path: Path) -> None:
    job = start(name, tmp_path, before, "50ms", rate=30_000)
    until_checkpoints(job, 8)
    cancel(job)
    result = start(name, tmp_path, after, "50ms").wait(TIMEOUT_S)
    assert result.records_in == BIDS + AUCTIONS, "no row was read twice, none was left out"
    check(name, tmp_path)
