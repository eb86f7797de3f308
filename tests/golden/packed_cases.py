"""Golden cases of several operators each: every answer is a row of (what, key, a, b), so that one run shows them all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

import flinkray as fr

END_US = 10**18


# --- windows


def other_windows(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    """Count windows, sessions whose gap is a column, evictors, functions of windows, rows made one, purging triggers."""
    col, agg, of = fr.col, fr.agg, fr.windows
    rows = bids.select("auction", "bidder", "price", "date_time", gap=(col("bidder") % 3 + 1) * 10_000)
    mine, totals = rows.key_by("bidder"), {"a": agg.count(), "b": agg.sum("price")}
    streams = {
        "count": mine.window(of.Count(5)).aggregate(a=agg.count()).with_columns(b=fr.lit(0)),
        "gaps": mine.window(of.Session(gap_column="gap")).aggregate(**totals),
        "evicted": mine.window(of.Tumbling("500ms")).evict(within="100ms").aggregate(**totals),
        "function": mine.window(of.Tumbling("300ms")).process(_spread, {"bidder": "int64", "a": "int64", "b": "int64"}),
        "reduced": mine.window(of.Sliding("400ms", "200ms")).reduce(_dearer).select("bidder", a=col("price"), b=fr.lit(1)),
        "purged": (
            mine.window(of.Global()).trigger(of.Trigger(rows=3, purge=True)).aggregate(**totals).key_by("bidder")
            .aggregate(a=agg.sum("a"), b=agg.sum("b"), emit="final")
        ),
    }  # fmt: skip
    named = [stream.select("a", "b", key=col("bidder"), what=fr.lit(name)) for name, stream in streams.items()]
    return named[0].union(*named[1:])


def _spread(rows: pa.RecordBatch, window: Any) -> dict[str, Any]:
    prices = rows.column("price").to_numpy()
    return {"bidder": [window.key], "a": [rows.num_rows], "b": [prices.max() - prices.min()]}


def _dearer(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return max(first, second, key=lambda row: row["price"])


OTHER_WINDOWS = """WITH paused AS (
        SELECT *, coalesce(date_time - lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) > (bidder % 3 + 1) * 10000, true) AS begins FROM bids
    ), numbered AS (
        SELECT *, sum(begins::INT) OVER (PARTITION BY bidder ORDER BY date_time RANGE UNBOUNDED PRECEDING) AS number FROM paused
    ), newest AS (
        SELECT *, max(date_time) OVER (PARTITION BY bidder, date_time // 500000) AS last FROM bids)
    SELECT 'count' AS what, bidder AS key, 5::BIGINT AS a, 0::BIGINT AS b
        FROM (SELECT bidder, count(*) // 5 AS n FROM bids GROUP BY bidder), LATERAL (SELECT unnest(range(n)))
    UNION ALL SELECT 'gaps', bidder, count(*), sum(price)::BIGINT FROM numbered GROUP BY bidder, number
    UNION ALL SELECT 'evicted', bidder, count(*), sum(price)::BIGINT FROM newest WHERE date_time >= last - 100000 GROUP BY bidder, last
    UNION ALL SELECT 'function', bidder, count(*), max(price) - min(price) FROM bids GROUP BY bidder, date_time // 300000
    UNION ALL SELECT 'reduced', bidder, max(price), 1 FROM bids, range(0, 400000, 200000) AS earlier(back)
        GROUP BY bidder, date_time // 200000 * 200000 - back
    UNION ALL SELECT 'purged', bidder, count(*), sum(price)::BIGINT FROM bids GROUP BY bidder"""


# --- functions and joins


class Totals(fr.KeyedProcessFunction):
    """For all keys at once."""

    output_schema = {"auction": "int64", "a": "int64", "b": "int64"}
    rows = fr.ValueState("rows", int)
    prices = fr.ValueState("prices", int)

    def process_keys(self, batch: pa.RecordBatch, keys: Any, ctx: Any) -> None:
        for state, weights in ((self.rows, None), (self.prices, batch.column("price").to_numpy())):
            before = state.read(keys)
            state.write(keys, np.where(before.valid, before, 0) + np.bincount(keys.index, weights, len(keys)).astype(np.int64))
        ctx.register_event_timers(keys, np.full(len(keys), END_US))

    def on_timers(self, keys: Any, times: Any, ctx: Any) -> dict[str, Any]:
        return {"auction": keys.unique, "a": self.rows.read(keys), "b": self.prices.read(keys)}


class Mean:
    def create_accumulator(self) -> dict[str, int]:
        return {"rows": 0, "total": 0}

    def add(self, value: int, accumulator: dict[str, int]) -> dict[str, int]:
        return {"rows": accumulator["rows"] + 1, "total": accumulator["total"] + value}

    def get_result(self, accumulator: dict[str, int]) -> int:
        return accumulator["total"] // accumulator["rows"]


class Collected(fr.KeyedProcessFunction):
    """The rows of one key together, with state of the other kinds."""

    output_schema = {"auction": "int64", "a": "int64", "b": "int64"}
    prices = fr.ListState("prices", int)
    most = fr.ReducingState("most", int, max)
    mean = fr.AggregatingState("mean", {"rows": int, "total": int}, Mean())

    def process_batch(self, rows: pa.RecordBatch, ctx: Any) -> None:
        for price in rows.column("price").to_pylist():
            self.prices.add(price)
            self.most.add(price)
            self.mean.add(price)
        ctx.register_event_timer(END_US)

    def on_timer(self, timestamp: int, ctx: Any) -> Any:
        yield {"auction": ctx.key, "a": len(set(self.prices)), "b": self.most.value - self.mean.value}


class Halves(fr.ProcessFunction):
    output_schema = {"auction": "int64", "a": "int64", "b": "int64"}
    side_outputs = {"odd": output_schema}

    def process(self, row: dict[str, Any], ctx: Any) -> Any:
        if row["price"] % 2:
            ctx.output("odd", {"auction": row["auction"], "a": row["price"], "b": 1})
        else:
            yield {"auction": row["auction"], "a": row["price"], "b": 0}


def _picky(row: dict[str, Any]) -> dict[str, Any]:
    if row["bidder"] % 10 == 0:
        raise ValueError(row["bidder"])
    return {"auction": row["auction"], "price": row["price"]}


def _letter(row: dict[str, Any]) -> dict[str, Any]:
    failed = json.loads(row["row"])
    return {"auction": failed["auction"], "price": failed["price"]}


PRICED = {"auction": "int64", "price": "int64"}


def functions(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    """Functions for all keys at once, for rows of one key, without keys; dead letters, split streams, joins with a table and with versions."""
    col, rows = fr.col, bids.select("auction", "bidder", "price", "date_time")
    mine = rows.select("auction", "price").key_by("auction")
    halves = rows.process(Halves(), uid="halves")
    parsed = rows.map(_picky, PRICED, on_error="dead_letter", uid="parsed")
    cheap, dear = rows.split(col("price") < 10_000)
    sellers = auctions.select("id", "seller", "date_time").key_by("id")
    even = fr.sources.Memory(pa.table({"bidder": range(0, 4_000, 2), "half": range(2_000)}))
    streams = {
        "keys": mine.process(Totals(), uid="totals"),
        "batches": mine.process(Collected(), uid="collected"),
        "even": halves,
        "odd": halves.get_side_output("odd"),
        "parsed": parsed.select("auction", a=col("price"), b=fr.lit(0)),
        "failed": parsed.get_side_output("dead_letter").map(_letter, PRICED, uid="failed").select("auction", a=col("price"), b=fr.lit(0)),
        "cheap": cheap.select("auction", a=col("price"), b=fr.lit(0)),
        "dear": dear.select("auction", a=col("price"), b=fr.lit(1)),
        "table": rows.lookup_join(even, "bidder", "inner", uid="table").select("auction", a=col("price"), b=col("half")),
        "versions": mine.temporal_join(sellers).uid("versions").select("auction", a=col("price"), b=col("seller")),
    }
    named = [stream.select("a", "b", key=col("auction"), what=fr.lit(name)) for name, stream in streams.items()]
    return named[0].union(*named[1:])


FUNCTIONS = """SELECT 'keys' AS what, auction AS key, count(*) AS a, sum(price)::BIGINT AS b FROM bids GROUP BY auction
    UNION ALL SELECT 'batches', auction, count(DISTINCT price), max(price) - sum(price)::BIGINT // count(*) FROM bids GROUP BY auction
    UNION ALL SELECT CASE price % 2 WHEN 0 THEN 'even' ELSE 'odd' END, auction, price, price % 2 FROM bids
    UNION ALL SELECT CASE bidder % 10 WHEN 0 THEN 'failed' ELSE 'parsed' END, auction, price, 0 FROM bids
    UNION ALL SELECT CASE WHEN price < 10000 THEN 'cheap' ELSE 'dear' END, auction, price, (price >= 10000)::INT FROM bids
    UNION ALL SELECT 'table', auction, price, bidder // 2 FROM bids WHERE bidder % 2 = 0 AND bidder < 4000
    UNION ALL SELECT 'versions', auction, price, seller FROM bids b JOIN auctions a ON auction = id AND a.date_time <= b.date_time"""


# --- answers that change


def rows_made_one(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    return bids.select("bidder", "price", bids=fr.lit(1)).key_by("bidder").reduce(_summed)


def _summed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {**first, "price": max(first["price"], second["price"]), "bids": first["bids"] + second["bids"]}


ROWS_MADE_ONE = "SELECT bidder, max(price) AS price, count(*) AS bids FROM bids GROUP BY bidder"


def early_sessions(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    sessions = bids.select("bidder", "price", "date_time").key_by("bidder").window(fr.windows.Session("20ms"))
    return sessions.trigger(fr.windows.Trigger(rows=2)).aggregate(bids=fr.agg.count(), best=fr.agg.top_k("price", 2)).drop("best")


EARLY_SESSIONS = """SELECT bidder, min(date_time) AS window_start, max(date_time) + 20000 AS window_end, count(*) AS bids FROM (
    SELECT *, sum(begins::INT) OVER (PARTITION BY bidder ORDER BY date_time RANGE UNBOUNDED PRECEDING) AS number FROM (
        SELECT *, coalesce(date_time - lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) > 20000, true) AS begins FROM bids
    )) GROUP BY bidder, number"""
