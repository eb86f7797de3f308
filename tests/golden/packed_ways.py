"""A golden case of operators of the other cases in their other ways: joins that keep other rows, answers at other times, windows by the clock, rows on
which functions raise. Every answer is a row of (what, key, a, b)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import flinkray as fr

ROW = {"auction": "int64", "a": "int64", "b": "int64"}


def ways(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    col, agg, of = fr.col, fr.agg, fr.windows
    rows = bids.select("auction", "bidder", "price", "date_time")
    mine, opened = rows.select("auction", "price").key_by("auction"), auctions.select("id", "seller")
    sellers = opened.key_by("id")
    a, b = fr.coalesce(col("price"), fr.lit(-1)), fr.coalesce(col("seller"), fr.lit(-1))
    joined = {
        "broadcast": rows.select("auction", "price").broadcast_join(opened, {"auction": "id"}, how="inner"),
        "tolerant": mine.asof_join(sellers, tolerance="400ms"),
        "near": mine.interval_join(sellers, "-100ms", "200ms", how="right"),
        "windows": mine.window(of.Tumbling("300ms")).join(sellers, how="right"),
        "table": rows.lookup_join(fr.sources.Memory(pa.table({"bidder": range(0, 4_000, 2), "seller": range(2_000)})), "bidder"),
    }
    few = rows.filter(col("price") % 8 == 0)  # which rows a function raises on is found out by calling it again and again
    twice = few.flat_map(_twice, ROW, on_error="dead_letter", uid="twice")
    others = {
        "cheap": few.filter(_cheap, on_error="skip", uid="cheap").select("auction", a=col("price"), b=fr.lit(0)),
        "mapped": few.map(_divided, ROW, on_error="skip", uid="divided"),
        "twice": twice,
        "letters": twice.get_side_output("dead_letter").map(
            lambda row: {"auction": row["row"].count("auction"), "a": 0, "b": 0}, ROW, uid="letters"
        ),
        "batches": rows.map_batches(_negated, ROW, uid="negated"),
        "largest": mine.reduce(_dearer, emit="final").select("auction", a=col("price"), b=fr.lit(0)),
        "rows": _there(mine.aggregate(a=agg.count(), b=agg.sum("price"), emit="row")),
        "now and then": _there(mine.aggregate(a=agg.count(), b=agg.sum("price"), emit="20ms")),
        "sliding": _there(mine.window(of.Sliding("40ms", "20ms", time="processing")).aggregate(a=agg.count(), b=agg.sum("price"))),
        "session": _there(mine.window(of.Session("10ms", time="processing")).aggregate(a=agg.count(), b=agg.sum("price"))),
    }
    streams = {name: stream.select("auction", a=a, b=b) for name, stream in joined.items()} | others
    named = [stream.select("a", "b", key=col("auction"), what=fr.lit(name)) for name, stream in streams.items()]
    return named[0].union(*named[1:])


def _there(answers: fr.DataStream) -> fr.DataStream:
    """The sums of all answers that are there in the end."""
    return answers.select("auction", "a", "b").key_by("auction").aggregate(a=fr.agg.sum("a"), b=fr.agg.sum("b"), emit="final")


def _cheap(row: dict[str, Any]) -> bool:
    return row["price"] < 60_000 // (row["bidder"] % 4)


def _divided(row: dict[str, Any]) -> dict[str, Any]:
    return {"auction": row["auction"], "a": row["price"], "b": 7 // (row["bidder"] % 5)}


def _twice(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"auction": row["auction"], "a": row["price"], "b": n // (row["bidder"] % 3)} for n in (1, 2)]


def _negated(batch: pa.RecordBatch) -> dict[str, Any]:
    return {"auction": batch.column("auction"), "a": pc.negate(batch.column("price")), "b": batch.column("bidder")}


def _dearer(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return max(first, second, key=lambda row: row["price"])


WAYS = """SELECT 'broadcast' AS what, auction AS key, price AS a, seller AS b
        FROM bids b JOIN auctions a ON auction = id AND a.date_time <= b.date_time
    UNION ALL SELECT 'tolerant', auction, price, coalesce(seller, -1)
        FROM bids b LEFT JOIN auctions a ON auction = id AND b.date_time - a.date_time BETWEEN 0 AND 400000
    UNION ALL SELECT 'near', id, coalesce(price, -1), seller
        FROM bids b RIGHT JOIN auctions a ON auction = id AND a.date_time - b.date_time BETWEEN -100000 AND 200000
    UNION ALL SELECT 'windows', id, coalesce(price, -1), seller
        FROM bids b RIGHT JOIN auctions a ON auction = id AND b.date_time // 300000 = a.date_time // 300000
    UNION ALL SELECT 'table', auction, price, CASE WHEN bidder % 2 = 0 AND bidder < 4000 THEN bidder // 2 ELSE -1 END FROM bids
    UNION ALL SELECT 'cheap', auction, price, 0 FROM bids WHERE price % 8 = 0 AND bidder % 4 > 0 AND price < 60000 // nullif(bidder % 4, 0)
    UNION ALL SELECT 'mapped', auction, price, 7 // nullif(bidder % 5, 0) FROM bids WHERE price % 8 = 0 AND bidder % 5 > 0
    UNION ALL SELECT 'twice', auction, price, n // nullif(bidder % 3, 0) FROM bids, (VALUES (1), (2)) AS times(n) WHERE price % 8 = 0 AND bidder % 3 > 0
    UNION ALL SELECT 'letters', 1, 0, 0 FROM bids WHERE price % 8 = 0 AND bidder % 3 = 0
    UNION ALL SELECT 'batches', auction, -price, bidder FROM bids
    UNION ALL SELECT 'largest', auction, max(price), 0 FROM bids GROUP BY auction
    UNION ALL SELECT what, auction, times * count(*), times * sum(price)::BIGINT
        FROM bids, (VALUES ('rows', 1), ('now and then', 1), ('session', 1), ('sliding', 2)) AS ways(what, times) GROUP BY what, times, auction"""
