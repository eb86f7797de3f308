"""q16: channel statistics. What q15 asks, of each channel and day; and the last minute in which it had a bid."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .q15 import RANKS, ranks
from .streams import Nexmark

KEY = ("channel", "day")
SQL = f"SELECT channel, date_time::DATE AS day, max(strftime(date_time, '%H:%M')) AS minute, {RANKS} FROM bid GROUP BY channel, day"


def build(nexmark: Nexmark) -> fr.DataStream:
    time = col("date_time")
    bids = nexmark.bids().select("channel", "bidder", "auction", "price", day=time.cast("date"), minute=time.dt.truncate("1min"))
    totals = bids.key_by("channel", "day").aggregate(minute=fr.agg.max("minute"), **ranks()).uid("statistics")
    return totals.with_columns(minute=col("minute").dt.strftime("%H:%M"))
