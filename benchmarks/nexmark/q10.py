"""q10: log to files. Bids in folders by day and minute, whole files only, each bid once."""

from __future__ import annotations

import flinkray as fr
from flinkray import col
from flinkray.connectors.base import Sink

from .streams import Nexmark

SQL = "SELECT auction, bidder, price, date_time, extra, strftime(date_time, '%Y-%m-%d') AS dt, strftime(date_time, '%H:%M') AS hm FROM bid"


def build(nexmark: Nexmark) -> fr.DataStream:
    time = col("date_time").dt
    bids = nexmark.bids().select("auction", "bidder", "price", "date_time", "extra", dt=time.strftime("%Y-%m-%d"))
    return bids.with_columns(hm=time.strftime("%H:%M"))


def sink(folder: str) -> Sink:
    return fr.sinks.Parquet(folder, partition_by=("dt", "hm"))
