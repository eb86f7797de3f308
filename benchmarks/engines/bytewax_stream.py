"""Bytewax on Parquet files, in the environment that `environments.py bytewax` makes: batches are read by pyarrow, rows are Python objects.

One worker thread, since threads of Python do not run beside each other. Seconds are from the start of the flow to its end, into a sink that drops every
row; recovery (Bytewax's snapshots) is off.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pyarrow.parquet as pq
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import Stream
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from harness import Request, serve

Row = dict[str, Any]
TEN, START = timedelta(seconds=10), datetime(2015, 7, 15, tzinfo=UTC)
CLOCK = win.EventClock(lambda row: row["date_time"].replace(tzinfo=UTC), wait_for_system_duration=timedelta(seconds=4))


class Rows(StatefulSourcePartition[Row, int]):
    def __init__(self, paths: list[str], columns: list[str]) -> None:
        self._batches: Iterator[Any] = (
            batch for path in paths for batch in pq.ParquetFile(path).iter_batches(columns=columns, batch_size=10_000)
        )

    def next_batch(self) -> list[Row]:
        batch = next(self._batches, None)
        if batch is None:
            raise StopIteration
        rows: list[Row] = batch.to_pylist()
        return rows

    def snapshot(self) -> int:
        return 0


class Bids(FixedPartitionedSource[Row, int]):
    def __init__(self, paths: list[str], columns: list[str]) -> None:
        self._paths, self._columns = paths, columns

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Rows:
        return Rows(self._paths, self._columns)


class Dropped(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        pass


class Nowhere(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Dropped:
        return Dropped()


def euros(row: Row) -> Row:
    return {**row, "price": 0.908 * row["price"]}


def counted(bids: Stream[Row], key: str, windower: Any) -> Stream[Any]:
    return win.count_window("count", bids, CLOCK, windower, lambda row: str(row[key])).down


def summed(bids: Stream[Row]) -> Stream[Any]:
    keyed = op.map("pairs", bids, lambda row: (str(row["bidder"]), row["price"]))

    def add(total: int | None, price: int) -> tuple[int, int]:
        now = (total or 0) + price
        return now, now

    return op.stateful_map("sum", keyed, add)


WHOLE = ["auction", "bidder", "price", "date_time", "extra"]
QUERIES: dict[str, tuple[list[str], Any]] = {
    "q0": (WHOLE, lambda bids: bids),
    "q1": (WHOLE, lambda bids: op.map("euros", bids, euros)),
    "q2": (["auction", "price"], lambda bids: op.filter("some", bids, lambda row: row["auction"] % 123 == 0)),
    "q5": (
        ["auction", "date_time"],
        lambda bids: counted(bids, "auction", win.SlidingWindower(length=TEN, offset=timedelta(seconds=2), align_to=START)),
    ),
    "q11": (["bidder", "date_time"], lambda bids: counted(bids, "bidder", win.SessionWindower(gap=TEN))),
    "sum": (["bidder", "price"], summed),
}
"""q5 counts in windows, and does not look for the largest."""


def run(query: str, request: Request) -> tuple[float, int | None]:
    columns, build = QUERIES[query]
    flow = Dataflow(query.replace("-", "_"))
    op.output("out", build(op.input("bids", flow, Bids(request["files"]["bid"], columns))), Nowhere())
    started = time.perf_counter()
    run_main(flow)
    return time.perf_counter() - started, None


if __name__ == "__main__":
    serve(run, QUERIES)
