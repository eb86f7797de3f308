"""The jobs whose savepoints are kept in `savepoint_format_1/`, the rows that they read, and what the answers must be (DuckDB).

They stay as they are for ever: a savepoint is restored by the job that made it. New kinds of state get new entries, and
`python -m tests.golden.keep_savepoints NAME` makes their savepoints.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

import flinkray as fr
from flinkray.api.collect import final_rows, remaining_rows
from flinkray.connectors.base import Source
from flinkray.connectors.json_text import json_lines
from tests.golden import oracle

BIDS, AUCTIONS = 1_200, 40
READ = BIDS * 3 // 5
"""Bids that were read before the savepoint, or soon after so many."""

_BEGIN_US = 1_767_225_600_000_000
_END_US = _BEGIN_US + 10_000_000
_WATERMARK = fr.Watermarks.bounded("placed", "10ms")
_NAMES = np.array(["apple", "google", "facebook", "baidu", None], object)


def bids() -> pa.Table:
    """auction, bidder, price, channel (some null), placed: a millisecond apart, out of order by up to 7. By arithmetic, so that no generator can change them."""
    i = np.arange(BIDS)
    at = _BEGIN_US + i * 1_000 + i * 7919 % 7_001
    columns = {
        "auction": (3 * i * i + i // 3) % AUCTIONS,
        "bidder": (i * 31 + i // 17) % 60,
        "price": i * 7919 % 9_973 + 1,
        "channel": pa.array(_NAMES[i * 13 % 5].tolist(), pa.string()),
        "placed": pa.array(at, oracle.TIMESTAMP),
    }
    return pa.table(columns)


def auctions() -> pa.Table:
    """id, seller, reserve, opened."""
    i = np.arange(AUCTIONS)
    opened = pa.array(_BEGIN_US + i * 29_000, oracle.TIMESTAMP)
    return pa.table({"id": i + 3, "seller": i * 7 % 60, "reserve": i * 137 % 5_000, "opened": opened})


Hold = Callable[[Source, int], Source]
"""Makes a source stop after so many rows; or leaves it as it is."""


@dataclass(frozen=True)
class Inputs:
    env: fr.StreamEnvironment
    hold: Hold

    def bids(self, *columns: str) -> fr.DataStream:
        source = self.hold(fr.sources.Memory(bids()), READ)
        return self.env.from_source(source, watermark=_WATERMARK, uid="bids").select(*columns, "placed")

    def auctions(self) -> fr.DataStream:
        watermark = fr.Watermarks.bounded("opened", "10ms")
        return self.env.from_source(fr.sources.Memory(auctions()), watermark=watermark, uid="auctions")


@dataclass(frozen=True)
class Kept:
    """`key`: of an upsert stream, whose last rows count; `retracts`: rows are taken back."""

    build: Callable[[Inputs], fr.DataStream]
    query: str
    key: tuple[str, ...] = ()
    retracts: bool = False
    rows: int = BIDS
    """That the job reads, of all its sources."""

    def answer(self) -> pa.Table:
        answer = oracle.select_from({"bids": bids(), "auctions": auctions()}, self.query)
        for column in ("placed", "opened", "until"):
            if column in answer.column_names:
                index = answer.schema.get_field_index(column)
                answer = answer.set_column(index, column, answer.column(index).cast(oracle.TIMESTAMP))
        return answer

    def check(self, shown: Sequence[pa.Table]) -> None:
        """What came out, before and after a restore, is the answer."""
        found, answer = pa.concat_tables(shown), self.answer()
        if self.key:
            found = final_rows(found.sort_by("_seq"), self.key)
        elif self.retracts:
            found = remaining_rows(found.drop_columns(["_seq"]))
        oracle.same(found.select(answer.column_names), answer)


# --- process functions


class Minutes(fr.KeyedProcessFunction):
    """A bidder's bids of each 50 ms, told by a timer when these are over, and all of them at the end; with state of every kind."""

    output_schema = {"bidder": "int64", "until": "timestamp", "bids": "int64", "prices": "string", "most": "int64"}
    counts = fr.MapState("counts", int, int)
    waiting = fr.ListState("waiting", {"placed": int, "price": int})
    total = fr.ValueState("total", int)
    most = fr.ReducingState("most", int, max)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        until = ctx.timestamp // 50_000 * 50_000 + 50_000
        self.counts[until] = self.counts.get(until, 0) + 1
        self.waiting.add({"placed": ctx.timestamp, "price": row["price"]})
        self.total.value = (self.total.value or 0) + 1
        self.most.add(row["price"])
        ctx.register_event_timer(until)
        ctx.register_event_timer(_END_US)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        if timestamp == _END_US:
            yield {"bidder": ctx.key, "until": timestamp, "bids": self.total.value, "prices": None, "most": self.most.value}
            return
        rows = list(self.waiting)
        prices = sorted(row["price"] for row in rows if row["placed"] < timestamp)
        text = ",".join(map(str, prices))
        yield {"bidder": ctx.key, "until": timestamp, "bids": self.counts.pop(timestamp), "prices": text, "most": None}
        self.waiting.clear()
        self.waiting.extend(row for row in rows if row["placed"] >= timestamp)


class Sellers(fr.KeyedCoProcessFunction):
    """Bids and seller of each auction, told by a timer after the last row."""

    output_schema = {"auction": "int64", "bids": "int64", "seller": "int64"}
    bids = fr.ValueState("bids", int)
    seller = fr.ValueState("seller", int)

    def process1(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.bids.value = (self.bids.value or 0) + 1
        ctx.register_event_timer(_END_US)

    def process2(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.seller.value = row["seller"]
        ctx.register_event_timer(_END_US)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        yield {"auction": ctx.key, "bids": self.bids.value or 0, "seller": self.seller.value}


class Limits(fr.KeyedBroadcastProcessFunction):
    """Each auction's bids above its limit; the limits are broadcast, and bids wait for the end."""

    output_schema = {"auction": "int64", "above": "int64"}
    limits = fr.BroadcastState("limits", int, int)
    prices = fr.ListState("prices", int)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        self.prices.add(row["price"])
        ctx.register_event_timer(_END_US)

    def process_broadcast(self, row: dict[str, Any], ctx: Any) -> None:
        self.limits[row["id"]] = row["reserve"]

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        yield {"auction": ctx.key, "above": sum(price > self.limits.get(ctx.key, 0) for price in self.prices)}


# --- files


_FILES_AT = datetime(2026, 1, 1, tzinfo=UTC)


def _files(inputs: Inputs) -> fr.DataStream:
    """Csv, Json and Parquet, each left in the middle of a file. Files in memory have the same path and time on every machine."""
    rows = bids().select(["bidder", "price", "auction"])
    third = BIDS // 3
    parquet, csv = io.BytesIO(), io.BytesIO()
    pq.write_table(rows.slice(0, third), parquet, row_group_size=150)
    pc.write_csv(rows.slice(third, third), csv)
    text = b"".join(json_lines(batch) for batch in rows.slice(2 * third).to_batches())
    streams = []
    for name, source_type, content in (
        ("parquet", fr.sources.Parquet, parquet.getvalue()),
        ("csv", fr.sources.Csv, csv.getvalue()),
        ("json", fr.sources.Json, text),
    ):
        filesystem = fsspec.filesystem("memory")
        filesystem.pipe_file(f"/kept/bids.{name}", content)
        filesystem.store[f"/kept/bids.{name}"].created = _FILES_AT
        source = inputs.hold(source_type(f"memory://kept/bids.{name}"), third * 2 // 3)
        streams.append(inputs.env.from_source(source, uid=name).select("bidder", "price", "auction"))
    return streams[0].union(*streams[1:]).key_by("bidder").aggregate(emit="final", rows=fr.agg.count(), total=fr.agg.sum("price"))


# --- the jobs


_PAUSES = """SELECT *, sum(begins::INT) OVER (PARTITION BY bidder ORDER BY placed RANGE UNBOUNDED PRECEDING) AS number FROM (
    SELECT *, coalesce(placed - lag(placed) OVER (PARTITION BY bidder ORDER BY placed) > 20000, true) AS begins FROM bids)"""


def _by_auction(inputs: Inputs) -> fr.KeyedStream:
    return inputs.auctions().key_by("id")


KEPT: dict[str, Kept] = {
    "sliding": Kept(
        lambda inputs: (
            inputs.bids("auction", "price")
            .key_by("auction")
            .window(fr.windows.Sliding("200ms", "50ms"))
            .aggregate(bids=fr.agg.count(), total=fr.agg.sum("price"), mean=fr.agg.mean("price"), top=fr.agg.max("price"))
            .uid("operator")
        ),
        """SELECT auction, placed - placed % 50000 - back AS window_start, window_start + 200000 AS window_end, count(*) AS bids,
            sum(price)::BIGINT AS total, avg(price) AS mean, max(price) AS top
        FROM bids, range(0, 200000, 50000) AS earlier(back) GROUP BY ALL""",
    ),
    "tumbling-names": Kept(
        lambda inputs: (
            inputs.bids("bidder", "channel", "price")
            .key_by("bidder")
            .window(fr.windows.Tumbling("300ms"))
            .aggregate(first=fr.agg.min("channel"), prices=fr.agg.count_distinct("price"), bids=fr.agg.count())
            .uid("operator")
        ),
        """SELECT bidder, placed - placed % 300000 AS window_start, window_start + 300000 AS window_end, min(channel) AS first,
            count(DISTINCT price) AS prices, count(*) AS bids FROM bids GROUP BY ALL""",
    ),
    "cumulative": Kept(
        lambda inputs: (
            inputs.bids("auction", "price")
            .key_by("auction")
            .window(fr.windows.Cumulative("100ms", "300ms"))
            .aggregate(total=fr.agg.sum("price"))
            .uid("operator")
        ),
        """SELECT auction, placed - placed % 300000 AS window_start, e AS window_end, sum(price)::BIGINT AS total
        FROM bids, LATERAL (SELECT unnest([placed - placed % 100000 + 100000 * k for k in [1, 2, 3]]) AS e)
        WHERE e <= placed - placed % 300000 + 300000 GROUP BY ALL""",
    ),
    "sessions": Kept(
        lambda inputs: (
            inputs.bids("bidder", "price")
            .key_by("bidder")
            .window(fr.windows.Session("20ms"))
            .aggregate(bids=fr.agg.count(), total=fr.agg.sum("price"))
            .uid("operator")
        ),
        f"""SELECT bidder, min(placed) AS window_start, max(placed) + 20000 AS window_end, count(*) AS bids, sum(price)::BIGINT AS total
        FROM ({_PAUSES}) GROUP BY bidder, number""",
    ),
    "top-of-window": Kept(
        lambda inputs: (
            inputs.bids("auction", "price").key_by("auction").window(fr.windows.Tumbling("200ms")).top_n(2, "price").uid("operator")
        ),
        """SELECT auction, price, placed, placed - placed % 200000 AS window_start, window_start + 200000 AS window_end FROM bids
        QUALIFY rank() OVER (PARTITION BY auction, window_start ORDER BY price DESC) <= 2""",
    ),
    "running": Kept(
        lambda inputs: (
            inputs.bids("bidder", "price", "channel", "auction")
            .key_by("bidder")
            .aggregate(
                bids=fr.agg.count(),
                named=fr.agg.count("channel"),
                total=fr.agg.sum("price"),
                mean=fr.agg.mean("price"),
                least=fr.agg.min("price"),
                most=fr.agg.max("price"),
                dear=fr.agg.count().filter(fr.col("price") > 5_000),
                auctions=fr.agg.count_distinct("auction"),
            )
            .uid("operator")
        ),
        """SELECT bidder, count(*) AS bids, count(channel) AS named, sum(price)::BIGINT AS total, avg(price) AS mean, min(price) AS least,
            max(price) AS most, count(*) FILTER (price > 5000) AS dear, count(DISTINCT auction) AS auctions FROM bids GROUP BY bidder""",
        key=("bidder",),
    ),
    "interval-join": Kept(
        lambda inputs: (
            inputs.bids("auction", "price")
            .key_by("auction")
            .interval_join(_by_auction(inputs), "-300ms", "100ms", how="full")
            .uid("operator")
        ),
        """SELECT coalesce(auction, id) AS auction, price, placed, seller, reserve, opened FROM bids FULL JOIN auctions
        ON auction = id AND opened BETWEEN placed - 300000 AND placed + 100000""",
        rows=BIDS + AUCTIONS,
    ),
    "window-join": Kept(
        lambda inputs: (
            inputs.bids("auction", "price")
            .key_by("auction")
            .window(fr.windows.Tumbling("400ms"))
            .join(_by_auction(inputs), how="left")
            .uid("operator")
        ),
        """SELECT auction, placed - placed % 400000 AS window_start, window_start + 400000 AS window_end, price, placed, seller, reserve, opened
        FROM bids LEFT JOIN auctions ON auction = id AND placed - placed % 400000 = opened - opened % 400000""",
        rows=BIDS + AUCTIONS,
    ),
    "regular-join": Kept(
        lambda inputs: inputs.bids("auction", "price").key_by("auction").join(_by_auction(inputs), how="full").uid("operator"),
        """SELECT coalesce(auction, id) AS auction, price, placed, seller, reserve, opened FROM bids FULL JOIN auctions ON auction = id""",
        retracts=True,
        rows=BIDS + AUCTIONS,
    ),
    "as-of-join": Kept(
        lambda inputs: inputs.bids("auction", "price").key_by("auction").asof_join(_by_auction(inputs)).uid("operator"),
        "SELECT auction, price, placed, seller, reserve, opened FROM bids LEFT JOIN auctions ON auction = id AND opened <= placed",
        rows=BIDS + AUCTIONS,
    ),
    "deduplicate": Kept(
        lambda inputs: inputs.bids("bidder", "price").key_by("bidder").deduplicate("price", keep="last").uid("operator"),
        "SELECT bidder, max(price) AS price, arg_max(placed, price) AS placed FROM bids GROUP BY bidder",
        key=("bidder",),
    ),
    "ranks": Kept(
        lambda inputs: (
            inputs.bids("auction", "price").key_by("auction").top_n(3, ["price", ("placed", "asc")], rank="place").uid("operator")
        ),
        """SELECT auction, price, placed, row_number() OVER (PARTITION BY auction ORDER BY price DESC, placed) AS place FROM bids
        QUALIFY place <= 3""",
        key=("auction", "place"),
    ),
    "process": Kept(
        lambda inputs: inputs.bids("bidder", "price").key_by("bidder").process(Minutes(), uid="operator"),
        f"""SELECT bidder, placed - placed % 50000 + 50000 AS until, count(*) AS bids, array_to_string(list_sort(list(price)), ',') AS prices,
            NULL::BIGINT AS most FROM bids GROUP BY ALL
        UNION ALL SELECT bidder, {_END_US} AS until, count(*) AS bids, NULL AS prices, max(price) AS most FROM bids GROUP BY bidder""",
    ),
    "connected": Kept(
        lambda inputs: inputs.bids("auction").key_by("auction").connect(_by_auction(inputs)).process(Sellers(), uid="operator"),
        """SELECT coalesce(auction, id) AS auction, coalesce(n, 0) AS bids, seller FROM (
            SELECT auction, count(*) AS n FROM bids GROUP BY ALL) FULL JOIN auctions ON auction = id""",
        rows=BIDS + AUCTIONS,
    ),
    "broadcast": Kept(
        lambda inputs: (
            inputs.bids("auction", "price").key_by("auction").connect(inputs.auctions().broadcast()).process(Limits(), uid="operator")
        ),
        """SELECT auction, count(*) FILTER (price > coalesce(reserve, 0)) AS above FROM bids LEFT JOIN auctions ON auction = id
        GROUP BY auction""",
        rows=BIDS + AUCTIONS,
    ),
    "files": Kept(
        lambda inputs: _files(inputs).uid("operator"),
        "SELECT bidder, count(*) AS rows, sum(price)::BIGINT AS total FROM bids GROUP BY bidder",
    ),
}
