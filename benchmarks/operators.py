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
from flinkray.graph.joins import Interval, Join, join_columns
from flinkray.graph.windows import TumblingWindow
from flinkray.operators.base import Operator
from flinkray.operators.interval_join import IntervalJoinOperator
from flinkray.operators.process import ProcessOperator
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
        driven = OperatorHarness(made, input_schemas=(LEFT, RIGHT))
        sides = list(zip(batches(LEFT, rows // 2, KEYS, 1), batches(RIGHT, rows // 2, KEYS, 2), strict=True))
        found, most, started = 0, 0, time.perf_counter()
        for number, (left, right) in enumerate(sides):
            driven.rows(left).rows(right, input=1).watermark((number + 1) * BATCH * ROW_US - 1)
            found += driven.output().num_rows
            most = max(most, driven.metrics.state_rows)
        seconds = time.perf_counter() - started
        print(f"  {found:,} pairs, at most {most:,} rows in state", end="")
        return len(sides) * 2 * BATCH, found, seconds

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


CASES: dict[str, Callable[[], tuple[int, int, float]]] = {
    "interval join": join(IntervalJoinOperator, Interval(-1_000_000, 1_000_000), 8_000_000),
    "window join": join(WindowJoinOperator, TumblingWindow(1_000_000), 8_000_000),
    "process, ValueState, 1 M keys": process(Count(), KEYS, 1_000_000),
    "process, ValueState, 10 k keys": process(Count(), 10_000, 1_000_000),
    "process, MapState, 1 M keys": process(CountInMap(), KEYS, 1_000_000),
    "process, a timer a row, 1 M keys": process(Timed(), KEYS, 500_000),
    "process_keys, ValueState, 1 M keys": process(Sums(), KEYS, 8_000_000),
}


def main() -> None:
    for name in sys.argv[1:] or CASES:
        print(name, flush=True)
        rows, _, seconds = CASES[name]()
        print(f"\n  {rows / seconds / 1e6:.2f} M rows/s ({rows:,} rows in {seconds:.2f} s)")


if __name__ == "__main__":
    main()
