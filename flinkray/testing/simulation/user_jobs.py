"""More jobs that the simulator brings along: windows of every other kind, and functions with the joins and rankings that are nowhere else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flinkray.api.expressions import coalesce, col, lit
from flinkray.connectors.memory import MemorySource
from flinkray.graph.co_process import CoProcessFunction
from flinkray.graph.process import AggregatingState, KeyedProcessFunction, ListState, ProcessContext, ReducingState, ValueState
from flinkray.graph.row_process import ProcessFunction
from flinkray.testing.simulation.job_inputs import RATE, ROWS, bids_of

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.stream import DataStream

_PRICES = {"auction": "int64", "price": "int64"}


def kinds_of_windows(env: StreamEnvironment) -> DataStream:
    """Windows of every other kind, with evictors and triggers. Of answers that are refined or purged what they come to at the end."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=Watermarks.bounded("date_time", "1s"), uid="bids")
    gaps = bids.select("auction", "price", gap=(col("auction") % 3 + 1) * 400_000)
    mine, totals = gaps.key_by("auction"), {"a": agg.count(), "b": agg.sum("price")}
    full = mine.window(windows.Count(3)).aggregate(a=agg.count()).uid("count").select("auction", "a", b=lit(0))
    by_column = mine.window(windows.Session(gap_column="gap")).aggregate(**totals).uid("gaps")
    newest = mine.window(windows.Tumbling("4s")).evict(within="1s").aggregate(**totals).uid("newest")
    largest = mine.window(windows.Sliding("3s", "1s")).reduce(_larger).uid("largest").select("auction", a=col("price"), b=lit(-1))
    early = mine.window(windows.Session("900ms")).trigger(windows.Trigger(rows=2)).aggregate(**totals).uid("early")
    sessions = early.key_by("auction").aggregate(a=agg.count(), b=agg.sum("b"), emit="final").uid("sessions")
    parts = mine.window(windows.Global()).trigger(windows.Trigger(every="50ms", purge=True)).aggregate(**totals).uid("parts")
    whole = parts.key_by("auction").aggregate(a=agg.sum("a"), b=agg.sum("b"), emit="final").uid("whole")
    columns = ("auction", "a", "b")
    return full.union(by_column.select(*columns), newest.select(*columns), largest, sessions, whole)


def rows_and_times(env: StreamEnvironment) -> DataStream:
    """Functions of rows and batches, event time that is taken on the way, refined windows, pairs in an interval, distinct counts."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    watermark = Watermarks.bounded("date_time", "1s")
    plain = env.from_source(bids_of(0, ROWS, RATE), uid="bids")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), watermark=watermark, uid="more").select("auction", "price")
    bids = plain.assign_watermarks(watermark).uid("timed")
    mine = bids.select("auction", "bidder", "price").key_by("auction")
    near = mine.interval_join(more.key_by("auction"), "-300ms", "300ms", how="left").uid("near")
    refined = mine.window(windows.Tumbling("2s")).allowed_lateness("500ms").aggregate(a=agg.count(), b=agg.sum("price")).uid("refined")
    last = refined.key_by("auction", "window_start").aggregate(a=agg.max("a"), b=agg.max("b"), emit="final").uid("last")
    bidders = mine.aggregate(a=agg.count_distinct("bidder"), b=agg.count_distinct("price"), emit="final").uid("bidders")
    even = bids.filter(_is_even, uid="even").flat_map(_twice, _ROW, uid="twice")
    batches = plain.map_batches(_negated, _ROW, uid="negated")
    columns = ("auction", "a", "b")
    pairs = near.select("auction", a=col("price"), b=coalesce(col("price_right"), lit(-1)))
    return pairs.union(last.select(*columns), bidders.select(*columns), even, batches)


def _is_even(row: dict[str, Any]) -> bool:
    return bool(row["price"] % 2 == 0)


def _twice(row: dict[str, Any]) -> Any:
    for times in (1, 2):
        yield {"auction": row["auction"], "a": row["price"] * times, "b": times}


def _negated(batch: pa.RecordBatch) -> dict[str, Any]:
    return {"auction": batch.column("auction"), "a": -batch.column("price").to_numpy(), "b": np.full(batch.num_rows, -2)}


def _larger(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return max(first, second, key=lambda row: (row["price"], row["gap"]))


def functions(env: StreamEnvironment) -> DataStream:
    """Functions for all keys at once and without keys, state of the other kinds, dead letters, and the joins and rankings that are nowhere else."""
    from flinkray.api import agg
    from flinkray.api.watermarks import Watermarks

    watermark = Watermarks.bounded("date_time", "1s")
    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=watermark, uid="bids").select("auction", "bidder", "price")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), watermark=watermark, uid="more").select("auction", "price")
    mine = bids.select("auction", "price").key_by("auction")
    at_once = mine.process(_Totals(), uid="totals")
    collected = mine.process(_Collected(), uid="collected")
    halves = bids.process(_Halves(), uid="halves")
    beside = bids.connect(more).process(_Beside(), uid="beside")
    letters = bids.map(_picky, _PRICES, on_error="dead_letter", uid="picky")
    failed = letters.get_side_output("dead_letter").map(_letter, _PRICES, uid="letters").select("auction", a=col("price"), b=lit(-3))
    passed = letters.select("auction", a=col("price"), b=lit(3))
    near = bids.select("auction", "price").broadcast_join(more, "auction").uid("broadcast")
    valid = mine.temporal_join(more.key_by("auction")).uid("temporal")
    known = bids.lookup_join(MemorySource(pa.table({"bidder": range(0, 2_000, 2), "half": range(1_000)})), "bidder", "inner", uid="known")
    distinct = (
        bids.distinct("auction", "bidder").uid("distinct").key_by("auction").aggregate(a=agg.count(), b=agg.max("bidder"), emit="final")
    )
    best = mine.top_n(2, "price", rank="place").uid("best").key_by("auction", "place").aggregate(b=agg.sum("price"), emit="final")
    joined = [stream.select("auction", a=col("price"), b=coalesce(col("price_right"), lit(-1))) for stream in (near, valid)]
    return at_once.union(
        collected,
        halves,
        halves.get_side_output("odd"),
        beside,
        failed,
        passed,
        *joined,
        known.select("auction", a=col("bidder"), b=col("half")),
        distinct.uid("distinct-counts"),
        best.uid("best-prices").select("auction", a=col("place"), b=col("b")),
    )


_ROW = {"auction": "int64", "a": "int64", "b": "int64"}


class _Totals(KeyedProcessFunction):
    """Of all keys at once: rows and prices of each, told at the end."""

    output_schema = _ROW
    rows = ValueState("rows", int)
    prices = ValueState("prices", int)

    def process_keys(self, batch: pa.RecordBatch, keys: Any, ctx: Any) -> None:
        for state, weights in ((self.rows, None), (self.prices, batch.column("price").to_numpy())):
            added = np.bincount(keys.index, weights, len(keys)).astype(np.int64)
            before: Any = state.read(keys)
            state.write(keys, np.where(before.valid, before, 0) + added)
        ctx.register_event_timers(keys, np.full(len(keys), 10**18))

    def on_timers(self, keys: Any, times: Any, ctx: Any) -> dict[str, Any]:
        return {"auction": keys.unique, "a": self.rows.read(keys), "b": self.prices.read(keys)}


class _Product:
    """Modulo a prime: what comes of it does not depend on the order."""

    def create_accumulator(self) -> int:
        return 1

    def add(self, value: int, accumulator: int) -> int:
        return accumulator * value % 1_000_003

    def get_result(self, accumulator: int) -> int:
        return accumulator


class _Collected(KeyedProcessFunction):
    """Rows of one key together; state of the other kinds."""

    output_schema = _ROW
    prices = ListState("prices", int)
    most = ReducingState("most", int, max)
    product = AggregatingState("product", int, _Product())

    def process_batch(self, rows: pa.RecordBatch, ctx: Any) -> None:
        for price in rows.column("price").to_pylist():
            self.prices.add(price)
            self.most.add(price)
            self.product.add(price % 1_000_003 or 1)
        ctx.register_event_timer(10**18)

    def on_timer(self, timestamp: int, ctx: ProcessContext) -> Any:
        yield {"auction": ctx.key, "a": self.most.value + len(list(self.prices)), "b": self.product.value}


class _Halves(ProcessFunction):
    """Without keys: odd prices to a side output."""

    output_schema = _ROW
    side_outputs = {"odd": _ROW}

    def process(self, row: dict[str, Any], ctx: ProcessContext) -> Any:
        if row["price"] % 2:
            ctx.output("odd", {"auction": row["auction"], "a": row["price"], "b": 1})
        else:
            yield {"auction": row["auction"], "a": row["price"], "b": 0}


class _Beside(CoProcessFunction):
    """Two streams without keys."""

    output_schema = _ROW

    def process1(self, row: dict[str, Any], ctx: ProcessContext) -> Any:
        yield {"auction": row["auction"], "a": row["bidder"], "b": 4}

    def process2(self, row: dict[str, Any], ctx: ProcessContext) -> Any:
        yield {"auction": row["auction"], "a": row["price"], "b": 5}


def _picky(row: dict[str, Any]) -> dict[str, Any]:
    if row["bidder"] % 5 == 0:
        raise ValueError(row["bidder"])
    return {"auction": row["auction"], "price": row["price"]}


def _letter(row: dict[str, Any]) -> dict[str, Any]:
    failed = json.loads(row["row"])
    return {"auction": failed["auction"], "price": failed["price"]}
