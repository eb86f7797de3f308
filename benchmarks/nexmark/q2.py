"""q2: selection. Bids on some auctions."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

SQL = "SELECT auction, price FROM bid WHERE auction % 123 = 0"


def build(nexmark: Nexmark) -> fr.DataStream:
    return nexmark.bids().filter(col("auction") % 123 == 0).select("auction", "price")
