"""Connected and broadcast streams against DuckDB: run straight, with checkpoints, and restored in the middle at another parallelism."""

from __future__ import annotations

from collections.abc import Callable
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

BIDS, AUCTIONS = 23_000, 1_500
WATERMARK = fr.Watermarks.bounded("date_time", "1s")
RULES = pa.table({"rule": ["cheap", "dear", "all"], "least": [0, 10_000, 0], "most": [100, 10**12, 10**12]})


class BidsOfAuctions(fr.KeyedCoProcessFunction):
    """Bids and seller of each auction, told at the end."""

    output_schema = {"auction": "int64", "bids": "int64", "seller": "int64"}
    bids = fr.ValueState("bids", int)
    seller = fr.ValueState("seller", int)

    def process1(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.bids.value = (self.bids.value or 0) + 1
        ctx.register_event_timer(10**18)

    def process2(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.seller.value = row["seller"]
        ctx.register_event_timer(10**18)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        yield {"auction": ctx.key, "bids": self.bids.value or 0, "seller": self.seller.value}


class RuledBids(fr.KeyedBroadcastProcessFunction):
    """Counts each auction's bids under each rule. Rows that come before the rules wait in state."""

    output_schema = {"auction": "int64", "rule": "string", "bids": "int64"}
    rules = fr.BroadcastState("rules", str, {"least": int, "most": int})
    prices = fr.ListState("prices", int)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.prices.add(row["price"])
        ctx.register_event_timer(10**18)

    def process_broadcast(self, row: dict[str, Any], ctx: Any) -> None:
        self.rules[row["rule"]] = {"least": row["least"], "most": row["most"]}

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        assert len(self.rules) == RULES.num_rows
        prices = list(self.prices)
        for name, rule in sorted(self.rules.items()):
            count = sum(rule["least"] <= price < rule["most"] for price in prices)
            if count:
                yield {"auction": ctx.key, "rule": name, "bids": count}


class Beside(fr.CoProcessFunction):
    """Bids and auctions as rows of one kind, without keys."""

    output_schema = {"auction": "int64", "price": "int64"}

    def process1(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        yield {"auction": row["auction"], "price": row["price"]}

    def process2(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        yield {"auction": row["id"], "price": -row["seller"]}


QUERIES = {
    "beside": "SELECT auction, price FROM bids UNION ALL SELECT id, -seller FROM auctions",
    "connected": """SELECT coalesce(b.auction, a.id) AS auction, coalesce(b.bids, 0) AS bids, a.seller
        FROM (SELECT auction, count(*) AS bids FROM bids GROUP BY ALL) b FULL JOIN auctions a ON b.auction = a.id""",
    "broadcast": """SELECT auction, rule, count(*) AS bids FROM bids JOIN rules ON price >= least AND price < most GROUP BY ALL""",
}


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
    source = hold(fr.sources.Nexmark("bid", rows=BIDS, rate=rate))
    rows = env.from_source(source, watermark=WATERMARK, uid="bids")
    bids = rows.key_by("auction")
    if name in ("connected", "beside"):
        auctions = env.from_source(fr.sources.Nexmark("auction", rows=AUCTIONS, rate=slower), watermark=WATERMARK, uid="auctions")
    if name == "beside":
        result = rows.connect(auctions).process(Beside(), uid="operator")
    elif name == "connected":
        result = bids.connect(auctions.key_by("id")).process(BidsOfAuctions(), uid="operator")
    else:
        at = pa.array([0] * RULES.num_rows, pa.timestamp("us", "UTC"))
        rules = env.from_batches(RULES.append_column("at", at), watermark=fr.Watermarks.monotonous("at"), uid="rules")
        result = bids.connect(rules.broadcast()).process(RuledBids(), uid="operator")
    result.sink_to(fr.sinks.Parquet(str(folder / "out")), uid="out")


@cache
def expected(name: str) -> pa.Table:
    tables = {"bids": nexmark_table("bid", BIDS, 0), "auctions": nexmark_table("auction", AUCTIONS, 0), "rules": RULES}
    answer = oracle.select_from(tables, QUERIES[name])
    assert answer.num_rows > 1000
    return answer


def judge(name: str, found: pa.Table) -> None:
    oracle.same(found.select(expected(name).column_names), expected(name))


def check(name: str, folder: Path) -> None:
    judge(name, pq.read_table(folder / "out"))


@pytest.mark.parametrize("name", QUERIES)
def test_the_answer_is_duckdbs(name: str, tmp_path: Path) -> None:
    start(name, tmp_path, 2, "20ms").wait(TIMEOUT_S)
    check(name, tmp_path)


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_restored_at_another_parallelism_it_goes_on_where_it_was(name: str, before: int, after: int, tmp_path: Path) -> None:
    job = start(name, tmp_path, before, "20ms", rate=BIDS / 2)
    until_checkpoints(job, 8)
    cancel(job)
    start(name, tmp_path, after, "20ms").wait(TIMEOUT_S)
    check(name, tmp_path)
