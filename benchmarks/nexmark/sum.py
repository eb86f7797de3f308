"""sum: running sum of price by bidder. Not of Nexmark."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

KEY = ("bidder",)
SQL = "SELECT bidder, sum(price)::BIGINT AS total FROM bid GROUP BY bidder"


def build(nexmark: Nexmark) -> fr.DataStream:
    return nexmark.bids().key_by("bidder").aggregate(total=fr.agg.sum("price")).uid("sum")
