"""Regular, as-of and lookup joins, rankings and general windows against DuckDB: run straight, with checkpoints, and restored in the middle
at another parallelism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.api.collect import final_rows, remaining_rows
from flinkray.connectors.base import Source
from flinkray.connectors.nexmark import nexmark_table
from flinkray.graph.joins import How
from jobs.enrichment import enriched
from jobs.fraud import fraud
from tests.golden import oracle, packed_answers, packed_cases, packed_ways
from tests.held import Held
from tests.running import TIMEOUT_S, cancel, until_checkpoints

BIDS, AUCTIONS = 9_200, 600
WATERMARK = fr.Watermarks.bounded("date_time", "1s")


@dataclass(frozen=True)
class Case:
    """`build` gets the bids and the auctions. `key`: of an upsert stream, whose last rows count; `retracts`: rows are taken back."""

    build: Callable[[fr.DataStream, fr.DataStream], fr.DataStream]
    query: str
    key: tuple[str, ...] = ()
    retracts: bool = False


def _sellers(auctions: fr.DataStream) -> fr.KeyedStream:
    return auctions.select("id", "seller", fr.col("date_time").alias("opened")).key_by("id")


def _join(how: How) -> Case:
    def build(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
        return bids.select("auction", "price", "date_time").key_by("auction").join(_sellers(auctions), how=how)

    return Case(
        build,
        f"""SELECT coalesce(b.auction, a.id) AS auction, b.price, b.date_time, a.seller, a.date_time AS opened
        FROM bids b {how.upper()} JOIN auctions a ON b.auction = a.id""",
        retracts=how != "inner",
    )


def _anti(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    return _sellers(auctions).join(bids.filter(fr.col("bidder") % 6 == 0).select("auction").key_by("auction"), how="anti")


def _asof(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    mine = auctions.select("seller", "id", "date_time").key_by("seller")
    return bids.select("bidder", "price", "date_time").key_by("bidder").asof_join(mine)


def _top(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    return bids.select("auction", "bidder", "price").key_by("auction").top_n(2, "price")


FRAUD = (3_000, 300_000, timedelta(milliseconds=100))
LAST_SMALL = f"""max(CASE WHEN price < {FRAUD[0]} THEN date_time END) OVER (
    PARTITION BY bidder ORDER BY date_time, price ROWS UNBOUNDED PRECEDING)"""

NEWEST_OF_SELLER = """SELECT bidder, price, b.date_time, last_id AS id, last_time AS date_time_right FROM bids b LEFT JOIN LATERAL (
            SELECT max_by(id, (date_time, id)) AS last_id, max(date_time) AS last_time FROM auctions a
            WHERE a.seller = b.bidder AND a.date_time <= b.date_time) ON true"""

CASES = {
    "inner join": _join("inner"),
    "full join": _join("full"),
    "anti join": Case(
        _anti,
        "SELECT id, seller, date_time AS opened FROM auctions WHERE id NOT IN (SELECT auction FROM bids WHERE bidder % 6 = 0)",
        retracts=True,
    ),
    "as-of join": Case(
        _asof,
        NEWEST_OF_SELLER,
    ),
    "broadcast join": Case(
        lambda bids, auctions: bids.select("bidder", "price", "date_time").broadcast_join(
            auctions.select("seller", "id", "date_time"), {"bidder": "seller"}
        ),
        NEWEST_OF_SELLER,
    ),
    "the enrichment job": Case(
        enriched,
        """SELECT auction, bidder, price, b.date_time, seller, category, reserve FROM bids b
        LEFT JOIN auctions a ON a.id = b.auction AND a.date_time <= b.date_time""",
    ),
    "the fraud job": Case(
        lambda bids, _: fraud(bids, *FRAUD),
        f"""SELECT bidder, small_at, date_time AS at, price FROM (SELECT *, {LAST_SMALL} AS small_at FROM bids)
        WHERE price > {FRAUD[1]} AND date_time - small_at <= 100000""",
    ),
    "the fraud job's side output": Case(
        lambda bids, _: fraud(bids, *FRAUD).get_side_output("quiet"),
        f"""SELECT DISTINCT bidder, date_time AS small_at FROM bids s WHERE price < {FRAUD[0]} AND NOT EXISTS (
            SELECT 1 FROM bids l WHERE l.bidder = s.bidder AND l.date_time - s.date_time <= 100000
            AND (l.date_time > s.date_time AND l.price < {FRAUD[0]} OR l.date_time >= s.date_time AND l.price > {FRAUD[1]}))""",
    ),
    "first of each": Case(
        lambda bids, _: bids.select("bidder", "date_time").key_by("bidder").deduplicate(),
        "SELECT bidder, min(date_time) AS date_time FROM bids GROUP BY bidder",
    ),
    "dearest of each": Case(
        lambda bids, _: bids.select("bidder", "price").key_by("bidder").deduplicate("price", keep="last"),
        "SELECT bidder, max(price) AS price FROM bids GROUP BY bidder",
        key=("bidder",),
    ),
    "distinct": Case(
        lambda bids, _: bids.distinct("auction", "bidder").select("auction", "bidder"), "SELECT DISTINCT auction, bidder FROM bids"
    ),
    "longest channel of each cumulative window": Case(
        lambda bids, _: (
            bids.select("bidder", "channel", "date_time", "price")
            .key_by("bidder")
            .window(fr.windows.Cumulative("100ms", "300ms"))
            .aggregate(channel=fr.agg.max("channel"), prices=fr.agg.sum("price"))
            .drop("window_start")
        ),
        """SELECT bidder, e AS window_end, max(channel) AS channel, sum(price)::BIGINT AS prices
        FROM bids, LATERAL (SELECT unnest([date_time - date_time % 100000 + 100000 * k for k in [1, 2, 3]]) AS e)
        WHERE e <= date_time - date_time % 300000 + 300000 GROUP BY ALL""",
    ),
    "sessions with names": Case(
        lambda bids, _: (
            bids.select("bidder", "channel", "price", "date_time")
            .key_by("bidder")
            .window(fr.windows.Session("20ms"))
            .aggregate(first=fr.agg.min("channel"), bids=fr.agg.count())
        ),
        """SELECT bidder, min(date_time) AS window_start, max(date_time) + 20000 AS window_end, min(channel) AS first, count(*) AS bids FROM (
            SELECT *, sum(begins::INT) OVER (PARTITION BY bidder ORDER BY date_time RANGE UNBOUNDED PRECEDING) AS number FROM (
                SELECT *, coalesce(date_time - lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) > 20000, true) AS begins FROM bids
            )) GROUP BY bidder, number""",
    ),
    "early answers": Case(
        lambda bids, _: (
            bids.select("auction", "price", "date_time")
            .key_by("auction")
            .window(fr.windows.Tumbling("500ms"))
            .trigger(fr.windows.Trigger(rows=3))
            .aggregate(dearest=fr.agg.max("price"), bids=fr.agg.count())
        ),
        """SELECT auction, date_time - date_time % 500000 AS window_start, date_time - date_time % 500000 + 500000 AS window_end,
            max(price) AS dearest, count(*) AS bids FROM bids GROUP BY ALL""",
        key=("auction", "window_start", "window_end"),
    ),
    "distinct counts with conditions": Case(
        lambda bids, _: (
            bids.select("bidder", "auction", "channel", "price", "date_time")
            .key_by("bidder")
            .aggregate(
                auctions=fr.agg.count_distinct("auction"),
                cheap=fr.agg.count_distinct("auction").filter(fr.col("price") < 10_000),
                channels=fr.agg.count_distinct("channel").filter(fr.col("auction") % 2 == 0).filter(fr.col("price") >= 10_000),
                bids=fr.agg.count(),
                dear=fr.agg.count().filter(fr.col("price") >= 10_000),
                last=fr.agg.last("price"),
            )
        ),
        """SELECT bidder, count(DISTINCT auction) AS auctions, count(DISTINCT auction) FILTER (price < 10000) AS cheap,
            count(DISTINCT channel) FILTER (auction % 2 = 0 AND price >= 10000) AS channels, count(*) AS bids,
            count(*) FILTER (price >= 10000) AS dear, arg_max(price, date_time) AS last FROM bids GROUP BY bidder""",
        key=("bidder",),
    ),
    "distinct counts of windows": Case(
        lambda bids, _: (
            bids.select("channel", "bidder", "price", "date_time")
            .key_by("channel")
            .window(fr.windows.Tumbling("300ms"))
            .aggregate(bidders=fr.agg.count_distinct("bidder"), cheap=fr.agg.count_distinct("bidder").filter(fr.col("price") < 10_000))
            .drop("window_end")
        ),
        """SELECT channel, date_time - date_time % 300000 AS window_start, count(DISTINCT bidder) AS bidders,
            count(DISTINCT bidder) FILTER (price < 10000) AS cheap FROM bids GROUP BY channel, window_start""",
    ),
    "aggregates of answers that change": Case(
        lambda bids, _: (
            bids.select("auction", "bidder", "price")
            .key_by("auction", "bidder")
            .aggregate(top=fr.agg.max("price"))
            .key_by("bidder")
            .aggregate(auctions=fr.agg.count(), tops=fr.agg.sum("top"), mean=fr.agg.mean("top"))
        ),
        """SELECT bidder, count(*) AS auctions, sum(top)::BIGINT AS tops, avg(top) AS mean FROM (
            SELECT auction, bidder, max(price) AS top FROM bids GROUP BY auction, bidder) GROUP BY bidder""",
        key=("bidder",),
    ),
    "aggregates of rows that are taken back": Case(
        lambda bids, auctions: (
            auctions.select("id", "seller", "category")
            .key_by("id")
            .join(bids.filter(fr.col("bidder") % 3 == 0).select("auction", "price").key_by("auction"), how="left")
            .key_by("seller", "category")
            .aggregate(rows=fr.agg.count(), bids=fr.agg.count("price"), total=fr.agg.sum("price"))
        ),
        """SELECT seller, category, count(*) AS rows, count(price) AS bids, sum(price)::BIGINT AS total FROM auctions a
        LEFT JOIN (FROM bids WHERE bidder % 3 = 0) b ON a.id = b.auction GROUP BY seller, category""",
        key=("seller", "category"),
    ),
    "best three of each with ranks": Case(
        lambda bids, _: (
            bids.select("auction", "bidder", "price", "date_time").key_by("auction").top_n(3, ["price", ("date_time", "asc")], rank="place")
        ),
        """SELECT auction, bidder, price, date_time, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time) AS place
        FROM bids QUALIFY place <= 3""",
        key=("auction", "place"),
    ),
    "the other windows": Case(packed_cases.other_windows, packed_cases.OTHER_WINDOWS),
    "the functions": Case(packed_cases.functions, packed_cases.FUNCTIONS),
    "the answers": Case(packed_answers.answers, packed_answers.ANSWERS),
    "the other ways": Case(packed_ways.ways, packed_ways.WAYS),
    "rows made one": Case(packed_cases.rows_made_one, packed_cases.ROWS_MADE_ONE, key=("bidder",)),
    "early answers of sessions": Case(packed_cases.early_sessions, packed_cases.EARLY_SESSIONS, retracts=True),
    "best two of each": Case(
        _top,
        "SELECT auction, bidder, price FROM (SELECT *, rank() OVER (PARTITION BY auction ORDER BY price DESC) AS r FROM bids) WHERE r <= 2",
        retracts=True,
    ),
}


@cache
def expected(name: str) -> pa.Table:
    tables = {"bids": nexmark_table("bid", BIDS, 0), "auctions": nexmark_table("auction", AUCTIONS, 0)}
    answer = oracle.select_from(tables, CASES[name].query)
    for column in ("date_time_right", "opened", "small_at", "at"):
        if column in answer.column_names:
            index = answer.schema.get_field_index(column)
            answer = answer.set_column(index, column, answer.column(index).cast(oracle.TIMESTAMP))
    assert answer.num_rows > 100
    return answer


def start(name: str, folder: Path, parallelism: int, interval: str | None, gate: bool = False) -> fr.JobHandle:
    checkpointing = fr.Checkpointing(interval=interval, min_pause="0s", storage=f"file://{folder}/checkpoints")
    env = fr.StreamEnvironment("golden", parallelism=parallelism, runtime="local", checkpointing=checkpointing, batch_rows=500)
    # With a gate it stops before its end, until the gate is there.
    build(name, env, folder, None, lambda inner: Held(inner, BIDS * 3 // 5, str(folder / "gate")) if gate else inner)
    return env.execute_async()


def build(
    name: str, env: fr.StreamEnvironment, folder: Path, rate: float | None, hold: Callable[[Source], Source] = lambda source: source
) -> None:
    slower = None if rate is None else rate * AUCTIONS / BIDS
    bids = env.from_source(hold(fr.sources.Nexmark("bid", rows=BIDS, rate=rate)), watermark=WATERMARK, uid="bids")
    auctions = env.from_source(fr.sources.Nexmark("auction", rows=AUCTIONS, rate=slower), watermark=WATERMARK, uid="auctions")
    changes = bool(CASES[name].key or CASES[name].retracts)
    built = CASES[name].build(bids, auctions)
    if not name.startswith("the "):
        built = built.uid("operator")
    built.sink_to(fr.sinks.Parquet(str(folder / "out"), changelog=changes), uid="out")


def judge(name: str, found: pa.Table) -> None:
    """`found`: rows, or changes in their order."""
    answer, case = expected(name), CASES[name]
    if case.key:
        found = final_rows(found, case.key)
    elif case.retracts:
        found = remaining_rows(found)
    oracle.same(found.select(answer.column_names), answer)


def check(name: str, folder: Path) -> None:
    found = pq.read_table(folder / "out")
    judge(name, found.sort_by("_seq").drop_columns(["_seq"]) if "_seq" in found.column_names else found)


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_duckdbs(name: str, tmp_path: Path) -> None:
    assert start(name, tmp_path, 2, None).wait(TIMEOUT_S).status == "FINISHED"
    check(name, tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_checkpointed_and_restored_at_other_parallelisms_it_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    for parallelism in (2, 3):
        job = start(name, tmp_path, parallelism, "20ms", gate=True)
        until_checkpoints(job, 4 if parallelism == 2 else 2)
        cancel(job)
    result = start(name, tmp_path, 1, "20ms").wait(TIMEOUT_S)
    assert result.records_in in (BIDS, BIDS + AUCTIONS), "no row was read twice, none was left out"
    check(name, tmp_path)


def test_some_rows_of_the_case_with_late_rows_are_late_and_some_refine_an_answer() -> None:
    env = fr.StreamEnvironment("late", parallelism=2, runtime="local", batch_rows=500)
    counts = packed_answers.windows_of_late_rows(env.from_source(fr.sources.Nexmark("bid", rows=BIDS), uid="bids"))
    assert 100 < counts.get_side_output("late").collect().num_rows < BIDS
    told = counts.select("bidder", "window_start").collect()
    assert told.num_rows > told.group_by(["bidder", "window_start"]).aggregate([]).num_rows
