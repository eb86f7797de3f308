"""Polars as a batch reference on Parquet files. Prints JSON lines, see `peers/__init__.py`.

Lazy scans on the streaming engine. Seconds are from the query's start to its last row: q0 to q2 drop the batches that `sink_batches` gives,
the others collect their answer. q5 is Polars' own `group_by_dynamic`; `q5-panes` counts in panes of 2 s first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

REQUEST: dict[str, Any] = json.loads(sys.argv[1])
os.environ["POLARS_MAX_THREADS"] = str(REQUEST["parallelism"])  # read when polars is imported

import polars as pl  # noqa: E402

TIME = pl.col("date_time")


def hot(counts: pl.LazyFrame) -> pl.LazyFrame:
    return counts.filter(pl.col("bids") == pl.col("bids").max().over("window_start"))


def sliding(bids: pl.LazyFrame) -> pl.LazyFrame:
    windows = bids.group_by_dynamic("date_time", every="2s", period="10s", offset="-8s", group_by="auction")
    return hot(windows.agg(pl.len().alias("bids")).rename({"date_time": "window_start"}))


def panes(bids: pl.LazyFrame) -> pl.LazyFrame:
    counted = bids.group_by("auction", TIME.dt.truncate("2s").alias("pane")).agg(pl.len().alias("in_pane"))
    starts = pl.concat_list([pl.col("pane") - pl.duration(seconds=back) for back in range(0, 10, 2)]).alias("window_start")
    windows = counted.select("auction", "in_pane", starts).explode("window_start").group_by("auction", "window_start")
    return hot(windows.agg(pl.col("in_pane").sum().alias("bids")))


def highest(bids: pl.LazyFrame) -> pl.LazyFrame:
    placed = bids.select("auction", "price", "bidder", "date_time", "extra", window=TIME.dt.truncate("10s"))
    return placed.join(placed.group_by("window").agg(pl.col("price").max()), on=["window", "price"], how="semi")


def sessions(bids: pl.LazyFrame) -> pl.LazyFrame:
    ordered = bids.select("bidder", "date_time").sort("bidder", "date_time")
    begins = (TIME.diff() > pl.duration(seconds=10)) | (pl.col("bidder") != pl.col("bidder").shift())
    numbered = ordered.with_columns(begins.fill_null(True).cum_sum().alias("number"))
    return numbered.group_by("bidder", "number").agg(pl.len().alias("bids"), TIME.min().alias("start"), TIME.max().alias("end"))


QUERIES: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    "q0": lambda bids: bids.select("auction", "bidder", "price", "date_time", "extra"),
    "q1": lambda bids: bids.select("auction", "bidder", 0.908 * pl.col("price"), "date_time", "extra"),
    "q2": lambda bids: bids.filter(pl.col("auction") % 123 == 0).select("auction", "price"),
    "q5": sliding,
    "q5-panes": panes,
    "q7": highest,
    "q11": sessions,
    "sum": lambda bids: bids.group_by("bidder").agg(pl.col("price").sum().alias("total")),
}


def run(query: str, files: list[str]) -> float:
    """Seconds that the query took."""
    frame = QUERIES[query](pl.scan_parquet(files))
    started = time.perf_counter()
    if query in ("q0", "q1", "q2"):
        frame.sink_batches(lambda batch: None)
    else:
        frame.collect(engine="streaming")
    return time.perf_counter() - started


def main() -> None:
    for query in REQUEST["queries"]:
        seconds = [run(query, REQUEST["files"]) for _ in range(REQUEST["repeat"])]
        print(json.dumps({"query": query, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
