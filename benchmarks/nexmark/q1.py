"""q1: currency conversion. Prices from dollars to euros."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

SQL = "SELECT auction, bidder, 0.908::DOUBLE * price AS price, date_time, extra FROM bid"


def build(nexmark: Nexmark) -> fr.DataStream:
    return nexmark.bids().select("auction", "bidder", (0.908 * col("price")).alias("price"), "date_time", "extra")
