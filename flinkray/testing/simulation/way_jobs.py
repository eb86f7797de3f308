"""One more job that the simulator brings along: operators of the other jobs in their other ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flinkray.api.expressions import coalesce, col, lit
from flinkray.connectors.memory import MemorySource
from flinkray.testing.simulation.job_inputs import RATE, ROWS, bids_of

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.stream import DataStream

_ROW = {"auction": "int64", "a": "int64", "b": "int64"}


def ways(env: StreamEnvironment) -> DataStream:
    """Joins that keep other rows, answers at other times, windows by the clock, rows on which functions raise. Of answers that are replaced, and of
    windows whose rows depend on the clock, what they come to at the end."""
    from flinkray.api import agg, windows
    from flinkray.api.watermarks import Watermarks

    watermark = Watermarks.bounded("date_time", "1s")
    bids = env.from_source(bids_of(0, ROWS, RATE), watermark=watermark, uid="bids").select("auction", "bidder", "price")
    more = env.from_source(bids_of(9, ROWS // 2, RATE / 3), watermark=watermark, uid="more").select("auction", "price")
    mine, its = bids.select("auction", "price").key_by("auction"), more.key_by("auction")
    a, b = coalesce(col("price"), lit(-1)), coalesce(col("price_right"), lit(-1))
    joined = [
        bids.select("auction", "price").broadcast_join(more, "auction", how="inner").uid("broadcast"),
        mine.asof_join(its, tolerance="2s").uid("tolerant"),
        mine.interval_join(its, "-300ms", "300ms").uid("near"),
        mine.interval_join(its, "0s", "500ms", how="right").uid("near-right"),
        *(mine.window(windows.Tumbling("2s")).join(its, how=how).uid(f"windows-{how}") for how in ("inner", "left", "right")),
    ]
    halves = MemorySource(pa.table({"bidder": range(0, 2_000, 2), "half": range(1_000)}))
    known = bids.lookup_join(halves, "bidder", uid="known").select("auction", a=col("bidder"), b=coalesce(col("half"), lit(-1)))
    totals = {"a": agg.count(), "b": agg.sum("price")}
    replaced = [_last(mine.aggregate(**totals, emit=emit).uid(f"each-{emit}"), f"last-{emit}") for emit in ("batch", "row", "30ms")]
    largest = mine.reduce(_dearer).uid("largest").select("auction", a=col("price"), b=lit(1))
    clocks = {"sliding": windows.Sliding("40ms", "20ms", time="processing"), "session": windows.Session("20ms", time="processing")}
    by_clock = [_last(mine.window(window).aggregate(**totals).uid(name), f"{name}-in-all") for name, window in clocks.items()]
    cheap = bids.filter(_cheap, on_error="skip", uid="cheap").select("auction", a=col("price"), b=lit(-2))
    doubled = bids.map(_doubled, _ROW, on_error="skip", uid="doubled")
    twice = bids.flat_map(_twice, _ROW, on_error="dead_letter", uid="twice")
    letters = twice.get_side_output("dead_letter").map(lambda row: {"auction": -1, "a": len(row["row"]), "b": -3}, _ROW, uid="letters")
    pairs = [stream.select("auction", a=a, b=b) for stream in joined]
    return pairs[0].union(*pairs[1:], known, *replaced, _last(largest, "largest-of-all"), *by_clock, cheap, doubled, twice, letters)


def _last(answers: DataStream, uid: str) -> DataStream:
    """The sums of all rows that are there in the end."""
    from flinkray.api import agg

    return answers.key_by("auction").aggregate(a=agg.sum("a"), b=agg.sum("b"), emit="final").uid(uid)


def _dearer(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return max(first, second, key=lambda row: int(row["price"]))


def _cheap(row: dict[str, Any]) -> bool:
    return 1_000_000 // (row["bidder"] % 4) > row["price"]


def _doubled(row: dict[str, Any]) -> dict[str, Any]:
    return {"auction": row["auction"], "a": row["price"] * 2, "b": 7 // (row["bidder"] % 5)}


def _twice(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"auction": row["auction"], "a": row["price"], "b": n // (row["bidder"] % 3)} for n in (1, 2)]
