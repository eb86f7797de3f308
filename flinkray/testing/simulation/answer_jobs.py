"""One more job that the simulator brings along: answers that change, late rows, aggregates that keep Arrow values, a table that is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.api.expressions import coalesce, col, lit, when
from flinkray.connectors.base import Lookups, LookupTable
from flinkray.graph.udaf import Udaf
from flinkray.testing.simulation.job_inputs import RATE, ROWS, bids_of

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.stream import DataStream

_ROW = {"auction": "int64", "a": "int64", "b": "int64"}


def answers(env: StreamEnvironment) -> DataStream:
    """Everything that takes rows back, which is looked at by counting the changes up and down; late rows, which count once, in a window or apart;
    and the aggregates, joins and windows that are nowhere else."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    watermark = Watermarks.bounded("date_time", "1s")
    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=watermark, uid="bids").select("auction", "bidder", "price", "date_time")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), watermark=watermark, uid="more").select("auction", "price")
    mine, its = bids.select("auction", "price").key_by("auction"), more.key_by("auction")
    found = coalesce(col("price_right"), lit(0))
    changes = [
        _folded(mine.join(its, how="left").uid("left").changes("kind"), found, "left"),
        _folded(mine.join(its, how="anti").uid("anti").changes("kind"), col("price"), "anti"),
        _folded(mine.top_n(2, "price").uid("best").changes("kind"), col("price"), "best"),
    ]
    full = (
        mine.join(its, how="full").uid("full").key_by("auction").aggregate(a=agg.count("price"), b=agg.count("price_right"), emit="final")
    )
    right = mine.join(its, how="right").uid("right").key_by("auction").aggregate(a=agg.count(), b=agg.sum("price"), emit="final")
    last = mine.deduplicate(["price"], keep="last").uid("last").key_by("auction").aggregate(a=agg.count(), b=agg.sum("price"), emit="final")
    cheap, dear = bids.split(col("price") < 10_000)
    semi = mine.join(dear.select("auction").key_by("auction"), how="semi").uid("semi").select("auction", a=col("price"), b=lit(-4))
    near = mine.interval_join(its, "-300ms", "300ms", how="full").uid("near").with_columns(b=found)
    pairs = near.select("auction", "b", a=coalesce(col("price"), lit(-1)))
    largest = mine.reduce(_dearer, emit="final").uid("largest").select("auction", a=col("price"), b=lit(-5))
    full_windows = mine.window(windows.Count(4, 2)).aggregate(a=agg.count()).uid("count").with_columns(b=lit(-6))
    newest = (
        mine.window(windows.Tumbling("2s")).evict(rows=2).aggregate(a=agg.count()).uid("newest").with_columns(b=lit(-9))
    )  # the last to come: any
    by_clock = mine.window(windows.Tumbling("50ms", time="processing")).aggregate(a=agg.count(), b=agg.sum("price")).uid("by-clock")
    asked = bids.lookup_join(Halves(), "bidder", "inner", cache="30ms", uid="asked").select("auction", a=col("bidder"), b=col("half"))
    in_order = cheap.async_map(_plus_one, _ROW, capacity=4, uid="in-order")
    columns = ("auction", "a", "b")
    return _kept(bids).union(
        *changes,
        full.uid("full-counts"),
        right.uid("right-counts"),
        last.uid("last-prices"),
        semi,
        pairs,
        largest,
        full_windows.select(*columns),
        newest.select(*columns),
        _added(by_clock, "by-clock-in-all"),
        asked,
        in_order,
        _late(bids),
    )


def _folded(changes: DataStream, value: Any, uid: str) -> DataStream:
    """How many rows of each auction there are in the end, and the sum of a column. What was there only for a moment depends on the batches."""
    sign = when(col("kind").is_in(["+I", "+U"])).then(1).otherwise(-1)
    return _added(changes.select("auction", a=sign, b=sign * value), f"{uid}-folded").filter(col("a") != 0)


def _added(rows: DataStream, uid: str) -> DataStream:
    from flinkray.api import agg

    return rows.key_by("auction").aggregate(a=agg.sum("a"), b=agg.sum("b"), emit="final").uid(uid)


def _late(bids: DataStream) -> DataStream:
    """Event times jump back. Which rows are late depends on the batches."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    jumping = bids.select("auction", "price", at=col("date_time").cast("int64") - col("price") % 7 * 600_000)
    timed = jumping.assign_watermarks(Watermarks.bounded("at", "100ms")).uid("jumping").drop("at")
    mine = timed.key_by("auction").window(windows.Tumbling("500ms")).allowed_lateness("1s").side_output_late("late")
    counts = mine.aggregate(a=agg.count(), b=agg.sum("price")).uid("late")
    refined = counts.key_by("auction", "window_start").aggregate(a=agg.max("a"), b=agg.max("b"), emit="final").uid("refined")
    too_late = counts.get_side_output("late").select("auction", a=lit(1), b=col("price"))
    return _added(refined.select("auction", "a", "b").union(too_late), "late-or-not")


def _kept(bids: DataStream) -> DataStream:
    """Aggregates that keep Arrow values and sketches, of all rows and of windows."""
    from flinkray.api import agg, windows

    calls = {
        "first": agg.first("price"), "last": agg.last("price"), "mean": agg.mean("price"), "least": agg.min("price"),
        "earliest": agg.min_by("bidder", "date_time"), "dearest": agg.max_by("bidder", "price"), "deviation": agg.stddev("price"),
        "prices": agg.collect_list("price"), "best": agg.top_k("price", 2), "about": agg.approx_distinct("bidder"),
        "median": agg.quantile("price", 0.5), "spread": agg.udaf(_Spread(), "price"),
    }  # fmt: skip
    mine = bids.key_by("auction")
    running = mine.aggregate(**calls, emit="final").uid("kept").flat_map(_told, _ROW, uid="told")
    of_windows = mine.window(windows.Tumbling("4s")).aggregate(**calls).uid("kept-of-windows")
    return running.union(of_windows.flat_map(_told, _ROW, uid="told-of-windows"))


def _told(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Sums of floats may be rounded in any order: their last digits are left out."""
    for a, b in (
        (row["first"], row["last"]),
        (row["earliest"], row["dearest"]),
        (round(row["mean"] * 8), round((row["deviation"] or 0) * 8 + 0.3)),
        (len(row["prices"]), sum(row["prices"])),
        (row["least"], sum(row["best"])),
        (row["about"], round(row["median"])),
        (row["spread"], -7),
    ):
        yield {"auction": row["auction"], "a": a, "b": b}


class _Spread(Udaf):
    accumulator_type = {"low": "int64", "high": "int64"}
    result_type = "int64"

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        return self._both(groups, columns[0].to_numpy(), columns[0].to_numpy())

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        return self._both(groups, *(accumulators.field(name).to_numpy() for name in ("low", "high")))

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return pc.subtract(accumulators.field("high"), accumulators.field("low"))

    @staticmethod
    def _both(groups: Any, low: Any, high: Any) -> pa.Array:
        parts = [np.minimum.reduceat(low, groups.starts[:-1]), np.maximum.reduceat(high, groups.starts[:-1])]
        return pa.StructArray.from_arrays([pa.array(part) for part in parts], names=["low", "high"])


@dataclass(frozen=True)
class Halves(LookupTable, Lookups):
    """Half of each even key, as a database would answer."""

    cached_keys: int = 8

    def schema(self) -> pa.Schema:
        return pa.schema([("bidder", pa.int64()), ("half", pa.int64())])

    def with_columns(self, columns: tuple[str, ...]) -> LookupTable:
        return self

    def open(self) -> Lookups:
        return self

    def find(self, keys: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        even = [key for key in keys.column(0).to_pylist() if key % 2 == 0]
        return pa.RecordBatch.from_pydict({"bidder": even, "half": [key // 2 for key in even]}, self.schema())


async def _plus_one(row: dict[str, Any]) -> dict[str, Any]:
    return {"auction": row["auction"], "a": row["price"] + 1, "b": -8}


def _dearer(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return max(first, second, key=lambda row: int(row["price"]))
