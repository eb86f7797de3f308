"""q15: bidding statistics. Bids, bidders and auctions of each day, by level of price: distinct counts with conditions."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

KEY = ("day",)
RANKS = """
    count(*) AS total_bids,
    count(*) FILTER (WHERE price < 10_000) AS rank1_bids,
    count(*) FILTER (WHERE price >= 10_000 AND price < 1_000_000) AS rank2_bids,
    count(*) FILTER (WHERE price >= 1_000_000) AS rank3_bids,
    count(DISTINCT bidder) AS total_bidders,
    count(DISTINCT bidder) FILTER (WHERE price < 10_000) AS rank1_bidders,
    count(DISTINCT bidder) FILTER (WHERE price >= 10_000 AND price < 1_000_000) AS rank2_bidders,
    count(DISTINCT bidder) FILTER (WHERE price >= 1_000_000) AS rank3_bidders,
    count(DISTINCT auction) AS total_auctions,
    count(DISTINCT auction) FILTER (WHERE price < 10_000) AS rank1_auctions,
    count(DISTINCT auction) FILTER (WHERE price >= 10_000 AND price < 1_000_000) AS rank2_auctions,
    count(DISTINCT auction) FILTER (WHERE price >= 1_000_000) AS rank3_auctions
"""
SQL = f"SELECT date_time::DATE AS day, {RANKS} FROM bid GROUP BY day"

LEVELS = {
    "rank1": col("price") < 10_000,
    "rank2": (col("price") >= 10_000) & (col("price") < 1_000_000),
    "rank3": col("price") >= 1_000_000,
}


def ranks() -> dict[str, fr.agg.AggregateCall]:
    """The same twelve aggregates (of q16, too)."""
    found = {}
    for what, count in (
        ("bids", fr.agg.count()),
        ("bidders", fr.agg.count_distinct("bidder")),
        ("auctions", fr.agg.count_distinct("auction")),
    ):
        found[f"total_{what}"] = count
        found |= {f"{level}_{what}": count.filter(condition) for level, condition in LEVELS.items()}
    return found


def build(nexmark: Nexmark) -> fr.DataStream:
    bids = nexmark.bids().select("bidder", "auction", "price", day=col("date_time").cast("date"))
    return bids.key_by("day").aggregate(**ranks()).uid("statistics")
