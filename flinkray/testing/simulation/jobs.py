"""Jobs that the simulator brings along: small, and each with another way to lose or double rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.api.expressions import coalesce, col, lit
from flinkray.graph.co_process import BroadcastState, KeyedBroadcastProcessFunction, KeyedCoProcessFunction
from flinkray.graph.process import KeyedProcessFunction, ListState, MapState, ProcessContext, ValueState
from flinkray.testing.simulation.answer_jobs import answers
from flinkray.testing.simulation.job import BuildJob
from flinkray.testing.simulation.job_inputs import RATE, ROWS, OneSplit, bids_of
from flinkray.testing.simulation.user_jobs import functions, kinds_of_windows, rows_and_times
from flinkray.testing.simulation.way_jobs import ways

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.stream import DataStream


def hot_items(env: StreamEnvironment) -> DataStream:
    """Sliding windows per key, then the largest of each window over all keys (Nexmark q5)."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=Watermarks.bounded("date_time", "1s"), uid="bids")
    counts = bids.key_by("auction").window(windows.Sliding("10s", "2s")).aggregate(bids=agg.count()).uid("counts")
    return counts.window_all(windows.Tumbling("2s")).top_n(1, by="bids").uid("hottest")


def two_inputs(env: StreamEnvironment) -> DataStream:
    """Two sources at different speeds, united, and a total per key: alignment, and state that every row changes."""
    from flinkray.api import agg

    bids = env.from_source(bids_of(0, ROWS, RATE), uid="bids").select("auction", "price")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), uid="more").select("auction", "price")
    return bids.union(more).key_by("auction").aggregate(total=agg.sum("price"), bids=agg.count(), emit="final").uid("totals")


def transactional_sink(env: StreamEnvironment) -> DataStream:
    """Every row goes through to the sink: the committed transactions are the answer, a large part of it in each checkpoint."""
    bids = env.from_source(bids_of(0, ROWS, RATE), uid="bids").select("auction", "bidder", "price")
    return bids.rebalance().filter(col("price") > 0)


def calls(env: StreamEnvironment) -> DataStream:
    """A stage, then coroutines in any order, then windows: rows in flight at every barrier, and none may become late."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=Watermarks.bounded("date_time", "1s"), uid="bids")
    doubled = bids.map_batches(_doubled, _PRICES, concurrency=2, batch_size=7, uid="stage")
    asked = doubled.async_map(_asked, _PRICES, ordered=False, capacity=5, uid="async")
    return asked.key_by("auction").window(windows.Tumbling("5s")).aggregate(bids=agg.count(), total=agg.sum("price")).uid("windows")


_PRICES = {"auction": "int64", "price": "int64"}


def _doubled(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {"auction": batch.column("auction"), "price": pc.multiply(batch.column("price"), 2)}


async def _asked(row: dict[str, Any]) -> dict[str, Any]:
    return {"auction": row["auction"], "price": row["price"] + 1}


def window_join(env: StreamEnvironment) -> DataStream:
    """Two inputs at different speeds, joined by key and window, both sides kept where they find no partner: rows of two sides in state, and
    what a window answers depends on the slower one's time."""
    from flinkray.api import windows
    from flinkray.api.watermarks import Watermarks

    lagging = Watermarks.bounded("date_time", "1s")
    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=lagging, uid="bids").select("auction", "price", "date_time")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), watermark=lagging, uid="more").select("auction", "bidder", "date_time")
    return bids.key_by("auction").window(windows.Tumbling("2s")).join(more.key_by("auction"), how="full").uid("joined")


def idle_readers(env: StreamEnvironment) -> DataStream:
    """Each input has rows for one reader only, and they are joined by window and counted by window again: tasks that are idle for a moment
    still hold windows, and none may come late."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    lagging = Watermarks.bounded("date_time", "1s")
    bids = env.from_source(bids_of(0, 30, None, OneSplit), watermark=lagging, uid="bids").select("auction", "price", "date_time")
    more = env.from_source(bids_of(9, 12, None, OneSplit), watermark=lagging, uid="more").select("auction", "bidder", "date_time")
    joined = bids.key_by("auction").window(windows.Tumbling("2s")).join(more.key_by("auction"), how="full").uid("joined")
    return joined.key_by("auction").window(windows.Tumbling("2s")).aggregate(rows=agg.count(), total=agg.sum("price")).uid("counts")


class Pauses(KeyedProcessFunction):
    """Bids of an auction in order of event time, whatever the order in which they come, and when none came for 1.5 s: a timer for each
    bid, and one that every later bid deletes and sets anew."""

    output_schema = {"auction": "int64", "at": "int64", "price": "int64"}

    waiting = MapState("waiting", "int64", "list[int64]")
    """Prices by event time."""
    quiet_at = ValueState("quiet_at", "int64")

    def process(self, row: dict[str, Any], ctx: ProcessContext) -> None:
        assert ctx.timestamp is not None
        self.waiting[ctx.timestamp] = [*self.waiting.get(ctx.timestamp, []), row["price"]]
        ctx.register_event_timer(ctx.timestamp)

    def on_timer(self, timestamp: int, ctx: ProcessContext) -> Iterator[dict[str, Any]]:
        if timestamp == self.quiet_at.value:
            self.quiet_at.clear()
            yield {"auction": ctx.key, "at": timestamp, "price": None}
        prices = sorted(self.waiting.pop(timestamp, []))
        for price in prices:
            yield {"auction": ctx.key, "at": timestamp, "price": price}
        if prices:
            if self.quiet_at.value is not None:
                ctx.delete_event_timer(self.quiet_at.value)
            self.quiet_at.value = (
                timestamp + 1_500_001
            )  # never the time of a bid: a key has one timer for a time, and it is deleted for both
            ctx.register_event_timer(self.quiet_at.value)


def timers(env: StreamEnvironment) -> DataStream:
    """A process function with state of two kinds and timers, some of which are deleted. What the end of the input flushes is left out: a timer
    that is set there, beyond the last row, need not fire."""
    from flinkray.api.watermarks import Watermarks

    source = bids_of(0, ROWS, RATE)
    bids = env.from_source(source, watermark=Watermarks.bounded("date_time", "1s"), uid="bids")
    last_us = pc.max(source.table["date_time"].cast(pa.int64())).as_py()
    return bids.key_by("auction").process(Pauses(), uid="pauses").filter(col("at") < last_us - 3_000_000)


def keyed_state(env: StreamEnvironment) -> DataStream:
    """Everything that keeps rows or objects by key, each with an answer that does not depend on the order of arrival: a regular and an as-of
    join, the first row of each key, cumulative windows, a process function with a timer for each slot of time."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    watermark = Watermarks.bounded("date_time", "1s")
    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=watermark, uid="bids").select("auction", "bidder", "price", "channel")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), watermark=watermark, uid="more").select("auction", "price")
    mine, its = bids.key_by("auction"), more.key_by("auction")
    joined = mine.join(its).uid("join").select("auction", a=col("price"), b=col("price_right"))
    newest = mine.asof_join(its).uid("asof").select("auction", a=col("price"), b=coalesce(col("price_right"), lit(-1)))
    first = bids.key_by("bidder").deduplicate().uid("first").select("auction", a=col("bidder"), b=col("price"))
    cumulative = mine.window(windows.Cumulative("2s", "6s")).aggregate(
        a=agg.count(), channels=agg.collect_list("channel"), b=agg.max("price")
    )
    slots = mine.process(_Slots(), uid="slots")
    return joined.union(newest, first, cumulative.uid("cumulative").select("auction", "a", "b"), slots)


class _Slots(KeyedProcessFunction):
    output_schema = {"auction": "int64", "a": "int64", "b": "int64"}
    input_columns = ("price",)
    prices = MapState("prices", int, int, ttl="1h")

    def process(self, row: dict[str, Any], ctx: ProcessContext) -> None:
        assert ctx.timestamp is not None
        slot = ctx.timestamp // 3_000_000
        self.prices[slot] = self.prices.get(slot, 0) + row["price"]
        ctx.register_event_timer((slot + 1) * 3_000_000)

    def on_timer(self, timestamp: int, ctx: ProcessContext) -> Any:
        slot = timestamp // 3_000_000 - 1
        yield {"auction": ctx.key, "a": slot, "b": self.prices.pop(slot)}


def drained(env: StreamEnvironment) -> DataStream:
    """Each row waits for a timer, for its window's end and for its session's end, and comes out as it was: the answer is the same however often time is
    brought to its end in between (`drain`), as long as what waits then comes out, once."""
    from flinkray.api import windows
    from flinkray.api.watermarks import Watermarks

    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=Watermarks.bounded("date_time", "1s"), uid="bids")
    mine = bids.select("auction", "price").key_by("auction")
    timers = mine.process(_Waiting(), uid="timers")
    tumbling = mine.window(windows.Tumbling("4s")).process(_rows_of, _Waiting.output_schema).uid("tumbling")
    session = mine.window(windows.Session("700ms")).process(_rows_of, _Waiting.output_schema).uid("session")
    return timers.union(tumbling, session)


class _Waiting(KeyedProcessFunction):
    """Rows come out four seconds later."""

    output_schema = {"auction": "int64", "price": "int64"}
    prices = MapState("prices", int, "list[int64]")

    def process(self, row: dict[str, Any], ctx: ProcessContext) -> None:
        assert ctx.timestamp is not None
        until = ctx.timestamp + 4_000_000
        self.prices[until] = [*self.prices.get(until, []), row["price"]]
        ctx.register_event_timer(until)

    def on_timer(self, timestamp: int, ctx: ProcessContext) -> Any:
        for price in self.prices.pop(timestamp):
            yield {"auction": ctx.key, "price": price}


def _rows_of(rows: pa.RecordBatch, window: Any) -> dict[str, Any]:
    return {"auction": rows.column("auction"), "price": rows.column("price")}


def connected(env: StreamEnvironment) -> DataStream:
    """Two streams in one function, with state and timers that both share; and rows that wait for rules which are broadcast to every subtask."""
    from flinkray.api.watermarks import Watermarks

    watermark = Watermarks.bounded("date_time", "1s")
    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=watermark, uid="bids").select("auction", "price")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), watermark=watermark, uid="more").select("auction", "price")
    both = bids.key_by("auction").connect(more.key_by("auction")).process(_Both(), uid="both")
    return both.union(bids.key_by("auction").connect(more.broadcast()).process(_Ruled(), uid="ruled"))


class _Both(KeyedCoProcessFunction):
    """Of each three seconds: how many rows of either stream."""

    output_schema = {"auction": "int64", "a": "int64", "b": "int64"}
    first = MapState("first", int, int)
    second = MapState("second", int, int)

    def process1(self, row: dict[str, Any], ctx: ProcessContext) -> None:
        self._count(self.first, ctx)

    def process2(self, row: dict[str, Any], ctx: ProcessContext) -> None:
        self._count(self.second, ctx)

    def _count(self, counts: Any, ctx: ProcessContext) -> None:
        assert ctx.timestamp is not None
        until = (ctx.timestamp // 3_000_000 + 1) * 3_000_000
        counts[until] = counts.get(until, 0) + 1
        ctx.register_event_timer(until)

    def on_timer(self, timestamp: int, ctx: ProcessContext) -> Any:
        yield {"auction": ctx.key, "a": self.first.pop(timestamp, 0), "b": self.second.pop(timestamp, 0)}


class _Ruled(KeyedBroadcastProcessFunction):
    """Prices wait for the end; then they are counted by the rules, which all subtasks have."""

    output_schema = {"auction": "int64", "a": "int64", "b": "int64"}
    rules = BroadcastState("rules", int, int)
    prices = ListState("prices", int)

    def process(self, row: dict[str, Any], ctx: ProcessContext) -> None:
        self.prices.add(row["price"])
        ctx.register_event_timer(10**18)

    def process_broadcast(self, row: dict[str, Any], ctx: Any) -> None:
        self.rules[row["auction"]] = self.rules.get(row["auction"], 0) + row["price"]

    def on_timer(self, timestamp: int, ctx: ProcessContext) -> Any:
        yield {"auction": ctx.key, "a": sum(self.prices), "b": sum(rule for _, rule in self.rules.items())}


JOBS: dict[str, BuildJob] = {
    "hot-items": hot_items,
    "two-inputs": two_inputs,
    "transactional-sink": transactional_sink,
    "calls": calls,
    "window-join": window_join,
    "idle-readers": idle_readers,
    "timers": timers,
    "keyed-state": keyed_state,
    "drained": drained,
    "connected": connected,
    "windows": kinds_of_windows,
    "functions": functions,
    "rows-and-times": rows_and_times,
    "answers": answers,
    "ways": ways,
}
