"""Rows per second of one operator on one core, by the harness: no exchange, no sources, state of a million keys.

python benchmarks/operators.py [NAME ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

import flinkray as fr
from flinkray.columns import EVENT_TIME
from flinkray.expressions.types import schema_from
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.general_windows import Assigner, CountWindow, CumulativeWindow, Windows
from flinkray.graph.joins import AsOf, Interval, Join, Unbounded, join_columns
from flinkray.graph.windows import SessionWindow, TumblingWindow
from flinkray.operators.asof_join import AsOfJoinOperator
from flinkray.operators.base import Operator
from flinkray.operators.first import FirstOperator
from flinkray.operators.general_window import GeneralWindowOperator
from flinkray.operators.interval_join import IntervalJoinOperator
from flinkray.operators.process import ProcessOperator
from flinkray.operators.rank import RankOperator
from flinkray.operators.regular_join import RegularJoinOperator
from flinkray.operators.session_aggregate import SessionAggregateOperator
from flinkray.operators.window_join import WindowJoinOperator
from flinkray.testing.harness import OperatorHarness

KEYS, BATCH = 1_000_000, 65_536
TIME = pa.field(EVENT_TIME, pa.int64(), nullable=False)
LEFT = pa.schema([("key", pa.int64()), ("a", pa.int64()), TIME])
RIGHT = pa.schema([("key", pa.int64()), ("b", pa.float64()), TIME])
ROW_US = 1
"""A row of each side every microsecond."""


def batches(schema: pa.Schema, rows: int, keys: int, seed: int) -> Iterator[pa.RecordBatch]:
    chance = np.random.default_rng(seed)
    for start in range(0, rows, BATCH):
        numbers = np.arange(start, start + BATCH)
        columns = [chance.integers(0, keys, BATCH), numbers.astype(schema.field(1).type.to_pandas_dtype()), numbers * ROW_US]
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=schema)


def join(operator: type[Operator], over: Interval | TumblingWindow, rows: int) -> Callable[[], tuple[int, int, float]]:
    def run() -> tuple[int, int, float]:
        columns = join_columns(LEFT.remove(2), RIGHT.remove(2), ["key"], ["key"], windowed=isinstance(over, TumblingWindow))
        made = operator(join=Join(("key",), ("key",), "inner", columns, over))  # type: ignore[call-arg]
        return both_sides(made, rows)

    return run


class Count(fr.KeyedProcessFunction):
    total = fr.ValueState("total", int)

    def process(self, row, ctx):  # type: ignore[no-untyped-def]
        self.total.value = (self.total.value or 0) + row["a"]


class CountInMap(fr.KeyedProcessFunction):
    counts = fr.MapState("counts", int, int)

    def process(self, row, ctx):  # type: ignore[no-untyped-def]
        kind = row["a"] & 3
        self.counts[kind] = self.counts.get(kind, 0) + 1


class Timed(fr.KeyedProcessFunction):
    output_schema = {"key": "int64", "total": "int64"}
    total = fr.ValueState("total", int)

    def process(self, row, ctx):  # type: ignore[no-untyped-def]
        self.total.value = (self.total.value or 0) + 1
        ctx.register_event_timer(ctx.timestamp + 100)

    def on_timer(self, timestamp, ctx):  # type: ignore[no-untyped-def]
        yield {"key": ctx.key, "total": self.total.value}


class Sums(fr.KeyedProcessFunction):
    total = fr.ValueState("total", int)

    def process_keys(self, batch, keys, ctx):  # type: ignore[no-untyped-def]
        sums = np.bincount(keys.index, weights=batch.column("a").to_numpy(), minlength=len(keys)).astype(np.int64)
        self.total.write(keys, self.total.read(keys) + sums)


def process(function: fr.KeyedProcessFunction, keys: int, rows: int) -> Callable[[], tuple[int, int, float]]:
    def run() -> tuple[int, int, float]:
        schema = None if function.output_schema is None else schema_from(function.output_schema)
        driven = OperatorHarness(
            ProcessOperator(keys=("key",), function=function, output_schema=schema, side_schemas={}), input_schemas=LEFT
        )
        every = np.arange(keys)
        for start in range(0, keys, BATCH):  # every key has state before time is taken
            some = every[start : start + BATCH]
            driven.rows(pa.record_batch([pa.array(some), pa.array(some), pa.array(np.zeros(len(some), np.int64))], schema=LEFT))
        driven.watermark(200)
        driven.output()
        given, out, started = list(batches(LEFT, rows, keys, 1)), 0, 0.0
        started = time.perf_counter()
        for number, batch in enumerate(given):
            driven.rows(batch).watermark((number + 1) * BATCH * ROW_US - 1)
            out += driven.output().num_rows
        seconds = time.perf_counter() - started
        print(f"  {driven.metrics.state_rows:,} keys, {out:,} rows from timers", end="")
        return len(given) * BATCH, out, seconds

    return run


class Storm(fr.KeyedProcessFunction):
    """A timer of every key for one instant."""

    output_schema = {"key": "int64", "total": "int64"}
    total = fr.ValueState("total", int)

    def process(self, row, ctx):  # type: ignore[no-untyped-def]
        self.total.value = row["a"]
        ctx.register_event_timer(1_000_000)

    def on_timer(self, timestamp, ctx):  # type: ignore[no-untyped-def]
        yield {"key": ctx.key, "total": self.total.value}


def storm(keys: int) -> Callable[[], tuple[int, int, float]]:
    """How long a barrier waits at most while a million timers fire: the longest slice, and the synchronous part of a snapshot in between."""

    def run() -> tuple[int, int, float]:
        function = Storm()
        made = ProcessOperator(keys=("key",), function=function, output_schema=schema_from(Storm.output_schema), side_schemas={})
        driven = OperatorHarness(made, input_schemas=LEFT)
        object.__setattr__(made.context, "clock", time.perf_counter)
        for start in range(0, keys, BATCH):
            some = np.arange(start, min(start + BATCH, keys))
            driven.rows(pa.record_batch([pa.array(some), pa.array(some), pa.array(np.zeros(len(some), np.int64))], schema=LEFT))
        slices, captures, out, base = [], [], 0, None
        begun = time.perf_counter()
        while not made.drained or not slices:
            started = time.perf_counter()
            if slices:
                made.advance(driven)
            else:
                made.on_watermark(1_000_000, driven)
            slices.append(time.perf_counter() - started)
            out += driven.output().num_rows
            if len(slices) % 20 == 5:
                started = time.perf_counter()
                finish = driven.capture(len(slices), base)
                captures.append(time.perf_counter() - started)
                finish()
                base = len(slices)
        seconds = sum(slices)
        print(
            f"  {out:,} timers in {len(slices)} slices, the longest {1e3 * max(slices):.0f} ms; snapshots in between {1e3 * max(captures):.0f} ms "
            f"at most; {time.perf_counter() - begun:.1f} s in all",
            end="",
        )
        return out, out, seconds

    return run


def keyed_join(rows: int) -> Callable[[], tuple[int, int, float]]:
    """A left join without an end: each batch's rows meet those of some batches before; rows live for a million microseconds."""

    def run() -> tuple[int, int, float]:
        columns = join_columns(LEFT.remove(2), RIGHT.remove(2), ["key"], ["key"], windowed=False)
        made = RegularJoinOperator(join=Join(("key",), ("key",), "left", columns, Unbounded((1_000_000, 1_000_000))))
        return both_sides(made, rows)

    return run


def asof(rows: int) -> Callable[[], tuple[int, int, float]]:
    def run() -> tuple[int, int, float]:
        columns = join_columns(LEFT.remove(2), RIGHT.remove(2), ["key"], ["key"], windowed=False)
        return both_sides(AsOfJoinOperator(join=Join(("key",), ("key",), "left", columns, AsOf())), rows)

    return run


def both_sides(made: Operator, rows: int) -> tuple[int, int, float]:
    driven = OperatorHarness(made, input_schemas=(LEFT, RIGHT))
    sides = list(zip(batches(LEFT, rows // 2, KEYS, 1), batches(RIGHT, rows // 2, KEYS, 2), strict=True))
    found, most, started = 0, 0, time.perf_counter()
    for number, (left, right) in enumerate(sides):
        driven.rows(left).rows(right, input=1).watermark((number + 1) * BATCH * ROW_US - 1)
        found += driven.output().num_rows
        most = max(most, driven.metrics.state_rows)
    seconds = time.perf_counter() - started
    print(f"  {found:,} rows out, at most {most:,} rows in state", end="")
    return len(sides) * 2 * BATCH, found, seconds


def one_input(make: Callable[[], Operator], rows: int, keys: int = KEYS) -> Callable[[], tuple[int, int, float]]:
    def run() -> tuple[int, int, float]:
        driven = OperatorHarness(make(), input_schemas=LEFT)
        given, out = list(batches(LEFT, rows, keys, 1)), 0
        started = time.perf_counter()
        for number, batch in enumerate(given):
            driven.rows(batch).watermark((number + 1) * BATCH * ROW_US - 1)
            out += driven.output().num_rows
        seconds = time.perf_counter() - started
        print(f"  {out:,} rows out, {driven.metrics.state_rows:,} rows in state", end="")
        return len(given) * BATCH, out, seconds

    return run


def general(window: Assigner) -> Callable[[], Operator]:
    aggregates = (Aggregate("total", "sum", "a"), Aggregate("rows", "count"))
    return lambda: GeneralWindowOperator(keys=("key",), windows=Windows(window), aggregates=aggregates)


def sessions() -> Operator:
    aggregates = (Aggregate("total", "sum", "a"), Aggregate("rows", "count"))
    return SessionAggregateOperator(keys=("key",), aggregates=aggregates, window=SessionWindow(1_000_000))


CASES: dict[str, Callable[[], tuple[int, int, float]]] = {
    "interval join": join(IntervalJoinOperator, Interval(-1_000_000, 1_000_000), 8_000_000),
    "window join": join(WindowJoinOperator, TumblingWindow(1_000_000), 8_000_000),
    "process, ValueState, 1 M keys": process(Count(), KEYS, 1_000_000),
    "process, ValueState, 10 k keys": process(Count(), 10_000, 1_000_000),
    "process, MapState, 1 M keys": process(CountInMap(), KEYS, 1_000_000),
    "process, a timer a row, 1 M keys": process(Timed(), KEYS, 500_000),
    "process_keys, ValueState, 1 M keys": process(Sums(), KEYS, 8_000_000),
    "timer storm, 1 M keys": storm(KEYS),
    "sessions, 1 M keys": one_input(sessions, 8_000_000),
    "regular left join": keyed_join(4_000_000),
    "as-of join": asof(4_000_000),
    "distinct, 1 M keys": one_input(lambda: FirstOperator(keys=("key",), by_time=False), 4_000_000),
    "deduplicate first, 1 M keys": one_input(lambda: FirstOperator(keys=("key",), by_time=True), 4_000_000),
    "top 3 of each, 10 k keys": one_input(lambda: RankOperator(keys=("key",), by=(("a", "asc"),), n=3), 4_000_000, 10_000),
    "cumulative windows, 10 k keys": one_input(general(CumulativeWindow(250_000, 1_000_000)), 4_000_000, 10_000),
    "count windows, 10 k keys": one_input(general(CountWindow(100, 100)), 4_000_000, 10_000),
}


def main() -> None:
    for name in sys.argv[1:] or CASES:
        print(name, flush=True)
        rows, _, seconds = CASES[name]()
        print(f"\n  {rows / seconds / 1e6:.2f} M rows/s ({rows:,} rows in {seconds:.2f} s)")


if __name__ == "__main__":
    main()
