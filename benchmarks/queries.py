"""The queries of `benchmarks/nexmark.py` in flinkray's public API, and the script that times them, see `peers/__init__.py`.

Ray runtime, exactly-once checkpoints every second to a folder, into a Blackhole sink. Seconds are from the first read of any task (noted by the
source itself, on the clock of this machine) to the job's end, its last checkpoint and commits in it; starting Ray, the actors and deployment
are not. Neither a spare TaskManager nor a standby JobManager is asked for: a query of a third of a second would share its two cores with
processes that are just starting. The first run of a query is not counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data

import flinkray as fr
from flinkray import col
from flinkray.connectors.base import Source, Split, SplitReader
from flinkray.connectors.wrapped import WrappedSource


def q0(bids: fr.DataStream) -> fr.DataStream:
    """Pass through."""
    return bids.select("auction", "bidder", "price", "date_time", "extra")


def q1(bids: fr.DataStream) -> fr.DataStream:
    """Dollars to euros."""
    return bids.select("auction", "bidder", (0.908 * col("price")).alias("price"), "date_time", "extra")


def q2(bids: fr.DataStream) -> fr.DataStream:
    """Bids on some auctions."""
    return bids.filter(col("auction") % 123 == 0).select("auction", "price")


def q5(bids: fr.DataStream) -> fr.DataStream:
    """Of each 10 s, every 2 s, the auctions with the most bids."""
    counts = bids.key_by("auction").window(fr.windows.Sliding("10s", "2s")).aggregate(bids=fr.agg.count())
    return counts.window_all(fr.windows.Tumbling("2s")).top_n(1, by="bids").select("window_start", "auction", "bids")


def q7(bids: fr.DataStream) -> fr.DataStream:
    """Of each 10 s the highest bids, whole rows, ties kept."""
    chosen = bids.select("auction", "price", "bidder", "date_time", "extra")
    return chosen.window_all(fr.windows.Tumbling("10s")).top_n(1, by="price").drop("window_start", "window_end")


def q11(bids: fr.DataStream) -> fr.DataStream:
    """Bids of each bidder's sessions with a gap of 10 s."""
    return bids.key_by("bidder").window(fr.windows.Session("10s")).aggregate(bids=fr.agg.count())


def running_sum(bids: fr.DataStream, emit: str = "batch") -> fr.DataStream:
    """Sum of prices by bidder."""
    return bids.key_by("bidder").aggregate(emit=emit, total=fr.agg.sum("price"))


def final_sum(bids: fr.DataStream) -> fr.DataStream:
    """The same, answered once at the end of the input."""
    return running_sum(bids, "final")


QUERIES: dict[str, Callable[[fr.DataStream], fr.DataStream]] = {
    "q0": q0,
    "q1": q1,
    "q2": q2,
    "q5": q5,
    "q7": q7,
    "q11": q11,
    "sum": running_sum,
    "sum-final": final_sum,
}

TIMED = frozenset({"q5", "q7", "q11"})
"""Queries with windows: they need watermarks, 4 s behind as in the Nexmark project."""


@dataclass(frozen=True)
class Stamped(WrappedSource):
    """A source that notes in a folder when each of its splits is opened."""

    folder: str

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        (Path(self.folder) / str(time.time_ns())).touch()
        return self.inner.open_split(split, offset)

    def first_s(self) -> float:
        return min(int(path.name) for path in Path(self.folder).iterdir()) / 1e9


def source(files: list[str]) -> Source:
    """The source of bids for these files, by their suffix."""
    if files[0].endswith(".parquet"):
        return fr.sources.Parquet(files)
    return fr.sources.Csv(files, schema=data.SCHEMA, header=False)


def run(query: str, files: list[str], parallelism: int, runtime: Any, sink: Any) -> float:
    """Seconds that the query took."""
    with tempfile.TemporaryDirectory(prefix="flinkray-bench-") as storage, tempfile.TemporaryDirectory() as opened:
        bids = Stamped(source(files), opened)
        env = fr.StreamEnvironment(
            name=f"bench-{query}",
            parallelism=parallelism,
            runtime=runtime,
            checkpointing=fr.Checkpointing(interval="1s", storage=f"file://{storage}"),
            resources=fr.Resources(spare_task_managers=0),
            high_availability=fr.HighAvailability(standbys=0),
        )
        watermark = fr.Watermarks.bounded("date_time", "4s") if query in TIMED else None
        QUERIES[query](env.from_source(bids, watermark=watermark, uid="bids")).sink_to(sink, uid="out")
        result = env.execute()
        assert result.finished_at is not None
        if result.restarts:
            print(f"{query}: restarted {result.restarts} times", file=sys.stderr)
        return result.finished_at.timestamp() - bids.first_s()


def main() -> None:
    request: dict[str, Any] = json.loads(sys.argv[1])
    arguments = (request["files"], request["parallelism"], request.get("runtime", "ray"))
    for query in request["queries"]:
        seconds = [run(query, *arguments, fr.sinks.Blackhole()) for _ in range(1 + request["repeat"])]
        print(json.dumps({"query": query, "seconds": seconds[1:]}), flush=True)


if __name__ == "__main__":
    main()
