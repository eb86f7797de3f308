"""Polars as a batch reference on Parquet files: lazy scans on the streaming engine.

Seconds are from the query's start to its last row: queries without state drop the batches that `sink_batches` gives, the others collect their
answer. q5 is Polars' own `group_by_dynamic`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

os.environ["POLARS_MAX_THREADS"] = str(json.loads(sys.argv[1])["parallelism"])  # read when polars is imported

import polars as pl
from harness import Request, serve

c, TIME = pl.col, pl.col("date_time")
Tables = dict[str, pl.LazyFrame]
LEVELS = {"rank1": c("price") < 10_000, "rank2": c("price").is_between(10_000, 1_000_000, closed="left"), "rank3": c("price") >= 1_000_000}


def valid(t: Tables, *more: pl.Expr) -> pl.LazyFrame:
    """Bids with their auction, while it was open."""
    bids = t["bid"].select("auction", "price", *more, bid_time="date_time")
    return t["auction"].join(bids, left_on="id", right_on="auction").filter(c("bid_time").is_between(TIME, c("expires")))


def q3(t: Tables) -> pl.LazyFrame:
    auctions = t["auction"].filter(c("category") == 10).select("id", "seller")
    people = t["person"].filter(c("state").is_in(["OR", "ID", "CA"])).select("name", "city", "state", person="id")
    return auctions.join(people, left_on="seller", right_on="person").select("name", "city", "state", "id")


def q4(t: Tables) -> pl.LazyFrame:
    winning = valid(t).group_by("id", "category").agg(c("price").max().alias("final"))
    return winning.group_by("category").agg(c("final").mean().alias("average"))


def q5(t: Tables) -> pl.LazyFrame:
    windows = t["bid"].group_by_dynamic("date_time", every="2s", period="10s", offset="-8s", group_by="auction")
    counts = windows.agg(pl.len().alias("bids")).rename({"date_time": "window_start"})
    return counts.filter(c("bids") == c("bids").max().over("window_start"))


def q6(t: Tables) -> pl.LazyFrame:
    sold = valid(t).group_by("id", "seller", "expires").agg(c("price").max()).sort("seller", "expires", "id")
    return sold.select("seller", "id", average=c("price").rolling_mean(10, min_samples=1).over("seller"))


def q7(t: Tables) -> pl.LazyFrame:
    placed = t["bid"].select("auction", "price", "bidder", "date_time", "extra", window=TIME.dt.truncate("10s"))
    return placed.join(placed.group_by("window").agg(c("price").max()), on=["window", "price"], how="semi")


def q8(t: Tables) -> pl.LazyFrame:
    sellers = t["auction"].select(id="seller", window_start=TIME.dt.truncate("10s")).unique()
    people = t["person"].select("id", "name", window_start=TIME.dt.truncate("10s"))
    return people.join(sellers, on=["id", "window_start"], how="semi")


def q9(t: Tables) -> pl.LazyFrame:
    joined = valid(t, c("bidder"), c("extra").alias("bid_extra"))
    return joined.group_by("id").agg(pl.all().sort_by(["price", "bid_time"], descending=[True, False]).first())


def q11(t: Tables) -> pl.LazyFrame:
    ordered = t["bid"].select("bidder", "date_time").sort("bidder", "date_time")
    begins = (TIME.diff() > pl.duration(seconds=10)) | (c("bidder") != c("bidder").shift())
    numbered = ordered.with_columns(begins.fill_null(True).cum_sum().alias("number"))
    return numbered.group_by("bidder", "number").agg(pl.len().alias("bids"), TIME.min().alias("start"), TIME.max().alias("end"))


def q13(t: Tables) -> pl.LazyFrame:
    bids = t["bid"].select("auction", "bidder", "price", "date_time", key=c("auction") % 10_000)
    return bids.join(t["side_input"], on="key").drop("key")


def q14(t: Tables) -> pl.LazyFrame:
    euros, hour = 0.908 * c("price"), TIME.dt.hour()
    day_time = pl.when(hour.is_between(8, 18)).then(pl.lit("dayTime"))
    time_type = day_time.when((hour <= 6) | (hour >= 20)).then(pl.lit("nightTime")).otherwise(pl.lit("otherTime"))
    bids = t["bid"].filter((euros > 1_000_000) & (euros < 50_000_000))
    count = c("extra").str.count_matches("c", literal=True).alias("c_counts")
    return bids.select("auction", "bidder", euros.alias("euros"), time_type.alias("bid_time_type"), "date_time", "extra", count)


def ranks() -> list[pl.Expr]:
    found = [pl.len().alias("total_bids")] + [level.sum().alias(f"{name}_bids") for name, level in LEVELS.items()]
    for column in ("bidder", "auction"):
        found.append(c(column).n_unique().alias(f"total_{column}s"))
        found += [c(column).filter(level).n_unique().alias(f"{name}_{column}s") for name, level in LEVELS.items()]
    return found


def q17(t: Tables) -> pl.LazyFrame:
    counts = [pl.len().alias("total_bids")] + [level.sum().alias(f"{name}_bids") for name, level in LEVELS.items()]
    price = c("price")
    prices = [price.min().alias("low"), price.max().alias("high"), price.mean().alias("mean"), price.sum().alias("total")]
    return t["bid"].group_by("auction", TIME.dt.date().alias("day")).agg(*counts, *prices)


def q18(t: Tables) -> pl.LazyFrame:
    return t["bid"].group_by("bidder", "auction").agg(pl.all().sort_by("date_time").last())


def q19(t: Tables) -> pl.LazyFrame:
    ordered = t["bid"].sort(["auction", "price", "date_time"], descending=[False, True, False])
    return ordered.with_columns((pl.int_range(pl.len()).over("auction") + 1).alias("rank_number")).filter(c("rank_number") <= 10)


def q21(t: Tables) -> pl.LazyFrame:
    known = c("channel").str.to_lowercase().replace_strict({"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}, default=None)
    channel_id = pl.coalesce(known, c("url").str.extract("(&|^)channel_id=([^&]*)", 2)).alias("channel_id")
    return t["bid"].select("auction", "bidder", "price", "channel", channel_id).filter(c("channel_id").is_not_null())


def q22(t: Tables) -> pl.LazyFrame:
    parts = c("url").str.split("/")
    directories = [parts.list.get(place, null_on_oob=True).alias(f"dir{place - 2}") for place in (3, 4, 5)]
    return t["bid"].select("auction", "bidder", "price", "channel", *directories)


STATELESS: dict[str, Callable[[Tables], pl.LazyFrame]] = {
    "q0": lambda t: t["bid"].select("auction", "bidder", "price", "date_time", "extra"),
    "q1": lambda t: t["bid"].select("auction", "bidder", 0.908 * c("price"), "date_time", "extra"),
    "q2": lambda t: t["bid"].filter(c("auction") % 123 == 0).select("auction", "price"),
    "q13": q13,
    "q14": q14,
    "q21": q21,
    "q22": q22,
}
QUERIES: dict[str, Callable[[Tables], pl.LazyFrame]] = STATELESS | {
    "q3": q3,
    "q4": q4,
    "q5": q5,
    "q6": q6,
    "q7": q7,
    "q8": q8,
    "q9": q9,
    "q11": q11,
    "q15": lambda t: t["bid"].group_by(TIME.dt.date().alias("day")).agg(*ranks()),
    "q16": lambda t: (
        t["bid"].group_by("channel", TIME.dt.date().alias("day")).agg(TIME.dt.strftime("%H:%M").max().alias("minute"), *ranks())
    ),
    "q17": q17,
    "q18": q18,
    "q19": q19,
    "q20": lambda t: t["bid"].join(t["auction"].filter(c("category") == 10), left_on="auction", right_on="id", suffix="_auction"),
    "sum": lambda t: t["bid"].group_by("bidder").agg(c("price").sum().alias("total")),
}


def run(name: str, request: Request) -> tuple[float, int | None]:
    frame = QUERIES[name]({stream: pl.scan_parquet(paths) for stream, paths in request["files"].items()})
    started = time.perf_counter()
    if name not in STATELESS:
        rows = frame.collect(engine="streaming").height
        return time.perf_counter() - started, rows
    counts: list[int] = []
    frame.sink_batches(lambda batch: counts.append(batch.height))
    return time.perf_counter() - started, sum(counts)


if __name__ == "__main__":
    serve(run, QUERIES)
