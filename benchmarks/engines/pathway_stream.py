"""Pathway on files of JSON lines, in the environment that `environments.py pathway` makes (its CSV reader wants a header, which Flink's cannot skip): static
mode (all files are there), its Rust engine.

Seconds are from `pw.run` to its end, reading in it; persistence is off. `parallelism` threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from harness import Request, request, serve

os.environ["PATHWAY_THREADS"] = str(request()["parallelism"])  # read when the engine starts
os.environ["PATHWAY_TELEMETRY_SERVER"] = ""

import pathway as pw

NAMES = ("auction", "bidder", "price", "channel", "url", "date_time", "extra")
WHOLE = ("auction", "bidder", "price", "date_time", "extra")


def euros(bids: pw.Table) -> pw.Table:
    return bids.select(bids.auction, bids.bidder, price=0.908 * bids.price, date_time=bids.date_time, extra=bids.extra)


def some(bids: pw.Table) -> pw.Table:
    return bids.filter(pw.this.auction % 123 == 0).select(pw.this.auction, pw.this.price)


def summed(bids: pw.Table) -> pw.Table:
    return bids.groupby(bids.bidder).reduce(bids.bidder, total=pw.reducers.sum(bids.price))


def counted(bids: pw.Table, window: pw.temporal.Window, key: str) -> pw.Table:
    at = bids.with_columns(at=bids.date_time.dt.strptime("%Y-%m-%dT%H:%M:%S.%fZ"))
    return at.windowby(at.at, window=window, instance=at[key]).reduce(key=pw.this._pw_instance, bids=pw.reducers.count())


def sliding(bids: pw.Table) -> pw.Table:
    return counted(bids, pw.temporal.sliding(hop=pw.Duration(seconds=2), duration=pw.Duration(seconds=10)), "auction")


QUERIES: dict[str, Callable[[pw.Table], pw.Table]] = {
    "q0": lambda bids: bids.select(*(bids[name] for name in WHOLE)),
    "q1": euros,
    "q2": some,
    "q5": sliding,
    "sum": summed,
}
"""q5 counts in windows, and does not look for the largest."""


def run(query: str, asked: Request) -> tuple[float, int | None]:
    pw.internals.parse_graph.G.clear()
    kinds = {name: int if name in ("auction", "bidder", "price") else str for name in NAMES}
    schema = pw.schema_builder({name: pw.column_definition(dtype=kind) for name, kind in kinds.items()})
    place = os.path.dirname(asked["files"]["bid"][0])
    bids = pw.io.jsonlines.read(place, schema=schema, mode="static")
    pw.io.null.write(QUERIES[query](bids))
    started = time.perf_counter()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    return time.perf_counter() - started, None


if __name__ == "__main__":
    serve(run, QUERIES)
