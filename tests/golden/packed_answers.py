"""A golden case of aggregates that keep Arrow values, late rows, changes that are folded, and the joins and windows that no other case has: every
answer is a row of (what, key, a, b)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import flinkray as fr
from flinkray.connectors.base import Lookups, LookupTable

TOLD = {"what": "string", "key": "int64", "a": "int64", "b": "int64"}


# --- aggregates that keep Arrow values


class Spread(fr.Udaf):
    """Largest less smallest."""

    accumulator_type = {"low": "int64", "high": "int64"}
    result_type = "int64"

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        return self._both(groups, columns[0].to_numpy(), columns[0].to_numpy())

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        return self._both(groups, *(accumulators.field(name).to_numpy() for name in ("low", "high")))

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return pc.subtract(accumulators.field("high"), accumulators.field("low"))

    @staticmethod
    def _both(groups: Any, low: np.ndarray, high: np.ndarray) -> pa.Array:
        parts = [np.minimum.reduceat(low, groups.starts[:-1]), np.maximum.reduceat(high, groups.starts[:-1])]
        return pa.StructArray.from_arrays([pa.array(part) for part in parts], names=["low", "high"])


def _aggregates() -> dict[str, Any]:
    agg = fr.agg
    return {
        "opened": agg.first("price"), "closed": agg.last("price"), "mean": agg.mean("price"), "spread": agg.udaf(Spread(), "price"),
        "earliest": agg.min_by("auction", "date_time"), "latest": agg.max_by("auction", "date_time"), "deviation": agg.stddev("price"),
        "prices": agg.collect_list("price"), "best": agg.top_k("price", 2), "about": agg.approx_distinct("auction"),
        "least": agg.quantile("price", 0.0), "most": agg.quantile("price", 1.0),
    }  # fmt: skip


def _told(what: str) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    def told(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        pairs = {
            "edges": (row["opened"], row["closed"]),
            "by time": (row["earliest"], row["latest"]),
            "lists": (len(row["prices"]), sum(row["prices"])),
            "best": (row["best"][0], row["best"][-1]),
            "shape": (-1 if row["deviation"] is None else round(row["deviation"] * 8), row["spread"]),
            "mean": (round(row["mean"] * 8), row["about"]),
            "sketch": (int(row["least"]), int(row["most"])),
        }
        for name, (a, b) in pairs.items():
            yield {"what": f"{what} {name}", "key": row["bidder"], "a": a, "b": b}

    return told


def _told_in_sql(what: str, group: str) -> str:
    parts = {
        "edges": ("arg_min(price, date_time)", "arg_max(price, date_time)"),
        "by time": ("arg_min(auction, date_time)", "arg_max(auction, date_time)"),
        "lists": ("count(*)", "sum(price)::BIGINT"),
        "best": ("max(price)", "coalesce(max(price, 2)[2], max(price))"),
        "shape": ("coalesce(round_even(stddev_samp(price) * 8, 0)::BIGINT, -1)", "max(price) - min(price)"),
        "mean": ("round_even(avg(price) * 8, 0)::BIGINT", "count(DISTINCT auction)"),
        "sketch": ("min(price)", "max(price)"),
    }
    return " UNION ALL ".join(
        f"SELECT '{what} {name}' AS what, bidder AS key, {a} AS a, {b} AS b FROM bids GROUP BY {group}" for name, (a, b) in parts.items()
    )


# --- what a table answers, and a service


@dataclass(frozen=True)
class Halves(LookupTable, Lookups):
    """Half of each even bidder, asked by key."""

    cached_keys: int = 50

    def schema(self) -> pa.Schema:
        return pa.schema([("bidder", pa.int64()), ("half", pa.int64())])

    def with_columns(self, columns: tuple[str, ...]) -> LookupTable:
        return self

    def open(self) -> Lookups:
        return self

    def find(self, keys: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        even = [key for key in keys.column(0).to_pylist() if key % 2 == 0]
        return pa.RecordBatch.from_pydict({"bidder": even, "half": [key // 2 for key in even]}, self.schema())


async def _doubled(row: dict[str, Any]) -> dict[str, Any]:
    return {"bidder": row["bidder"], "price": 2 * row["price"]}


# --- changes, and late rows


def _folded(changes: fr.DataStream, value: fr.expressions.Expression) -> fr.DataStream:
    """How many rows of each key there are in the end, and the sum of a column, by counting changes up and down."""
    sign = fr.when(fr.col("kind").is_in(["+I", "+U"])).then(1).otherwise(-1)
    signed = changes.changes("kind").select("auction", a=sign, b=sign * value)
    return _added(signed, "auction").filter(fr.col("a") != 0)


def _added(rows: fr.DataStream, key: str) -> fr.DataStream:
    return rows.key_by(key).aggregate(a=fr.agg.sum("a"), b=fr.agg.sum("b"), emit="final")


def windows_of_late_rows(bids: fr.DataStream) -> fr.DataStream:
    """Event times jump back, so that rows are late."""
    jumping = bids.select("bidder", "price", at=fr.col("date_time").cast("int64") - fr.col("price") % 7 * 60_000).rebalance()
    timed = jumping.assign_watermarks(fr.Watermarks.bounded("at", "10ms"))
    windows = timed.key_by("bidder").window(fr.windows.Tumbling("50ms")).allowed_lateness("100ms").side_output_late("late")
    return windows.aggregate(a=fr.agg.count(), b=fr.agg.sum("price"))


def late(counts: fr.DataStream) -> fr.DataStream:
    """Which rows are late depends on the batches; each counts once, in its window or as a late row."""
    refined = counts.key_by("bidder", "window_start").aggregate(a=fr.agg.max("a"), b=fr.agg.max("b"), emit="final")
    too_late = counts.get_side_output("late").select("bidder", a=fr.lit(1), b=fr.col("price"))
    return _added(refined.select("bidder", "a", "b").union(too_late), "bidder")


def answers(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    col, agg, of = fr.col, fr.agg, fr.windows
    rows = bids.select("auction", "bidder", "price", "date_time")
    mine, its = rows.key_by("bidder"), rows.select("auction", "price").key_by("auction")
    sellers = auctions.select("id", "seller").key_by("id")
    seller = fr.coalesce(col("seller"), fr.lit(0))
    streams = {
        "late": late(windows_of_late_rows(bids)).select("a", "b", key=col("bidder")),
        "left": _folded(its.join(sellers, how="left"), seller).select("a", "b", key=col("auction")),
        "best": _folded(its.top_n(2, "price"), col("price")).select("a", "b", key=col("auction")),
        "semi": its.join(auctions.filter(col("seller") % 2 == 0).select("id").key_by("id"), how="semi").select(key=col("auction"), a=col("price"), b=fr.lit(0)),
        "right": (
            its.join(sellers, how="right").key_by("auction").aggregate(a=agg.count(), b=agg.sum("price"), emit="final")
            .select("a", b=fr.coalesce(col("b"), fr.lit(0)), key=col("auction"))
        ),
        "pairs": (
            rows.select("auction", "price").key_by("auction").window(of.Tumbling("500ms")).join(sellers, how="full")
            .select(key=col("auction"), a=fr.coalesce(col("price"), fr.lit(-1)), b=fr.coalesce(col("seller"), fr.lit(-1)))
        ),
        "sliding count": mine.window(of.Count(4, 2)).aggregate(a=agg.count()).select("a", b=fr.lit(0), key=col("bidder")),
        "newest": mine.window(of.Tumbling("500ms")).evict(rows=3).aggregate(a=agg.count()).select("a", b=fr.lit(0), key=col("bidder")),
        "by the clock": (
            _added(mine.window(of.Tumbling("30ms", time="processing")).aggregate(a=agg.count(), b=agg.sum("price")), "bidder")
            .select("a", "b", key=col("bidder"))
        ),
        "asked": rows.lookup_join(Halves(), "bidder", "inner", cache="20ms", uid="asked").select(key=col("bidder"), a=col("price"), b=col("half")),
        "in order": (
            rows.filter(col("bidder") % 20 == 0).async_map(_doubled, {"bidder": "int64", "price": "int64"}, capacity=20, uid="doubled")
            .select(key=col("bidder"), a=col("price"), b=fr.lit(0))
        ),
    }  # fmt: skip
    named = [stream.select("key", "a", "b", what=fr.lit(name)) for name, stream in streams.items()]
    running = mine.aggregate(**_aggregates(), emit="final").flat_map(_told("all"), TOLD, uid="told")
    windows = mine.window(of.Tumbling("300ms")).aggregate(**_aggregates()).flat_map(_told("window"), TOLD, uid="told-of-windows")
    return named[0].union(*named[1:], *(stream.select("key", "a", "b", "what") for stream in (running, windows)))


ANSWERS = f"""{_told_in_sql("all", "bidder")} UNION ALL {_told_in_sql("window", "bidder, date_time // 300000")}
    UNION ALL SELECT 'late', bidder, count(*), sum(price)::BIGINT FROM bids GROUP BY bidder
    UNION ALL SELECT 'left', auction, count(*), sum(coalesce(seller, 0))::BIGINT FROM bids LEFT JOIN auctions ON auction = id GROUP BY auction
    UNION ALL SELECT 'best', auction, count(*), sum(price)::BIGINT FROM (
        FROM bids QUALIFY rank() OVER (PARTITION BY auction ORDER BY price DESC) <= 2) GROUP BY auction
    UNION ALL SELECT 'semi', auction, price, 0 FROM bids SEMI JOIN (FROM auctions WHERE seller % 2 = 0) ON auction = id
    UNION ALL SELECT 'right', id, count(*), coalesce(sum(price), 0)::BIGINT FROM bids RIGHT JOIN auctions ON auction = id GROUP BY id
    UNION ALL SELECT 'pairs', coalesce(auction, id), coalesce(price, -1), coalesce(seller, -1)
        FROM bids b FULL JOIN auctions a ON auction = id AND b.date_time // 500000 = a.date_time // 500000
    UNION ALL SELECT 'sliding count', bidder, least(4, rows), 0
        FROM (SELECT bidder, count(*) AS n FROM bids GROUP BY bidder), LATERAL (SELECT unnest(range(2, n + 1, 2)) AS rows)
    UNION ALL SELECT 'newest', bidder, least(3, count(*)), 0 FROM bids GROUP BY bidder, date_time // 500000
    UNION ALL SELECT 'by the clock', bidder, count(*), sum(price)::BIGINT FROM bids GROUP BY bidder
    UNION ALL SELECT 'asked', bidder, price, bidder // 2 FROM bids WHERE bidder % 2 = 0
    UNION ALL SELECT 'in order', bidder, 2 * price, 0 FROM bids WHERE bidder % 20 = 0"""
