"""q0: pass through. What it costs to read a bid and hand it on."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

SQL = "SELECT auction, bidder, price, date_time, extra FROM bid"


def build(nexmark: Nexmark) -> fr.DataStream:
    return nexmark.bids().select("auction", "bidder", "price", "date_time", "extra")
