"""q9: winning bids. The best bid of each auction while it was open, with the auction; replaced when a better one comes."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

KEY = ("id",)
SQL = """
SELECT a.*, b.bidder, b.price, b.date_time AS bid_time, b.extra AS bid_extra
FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) = 1
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    bids = nexmark.bids().select("auction", "bidder", "price", bid_time=col("date_time"), bid_extra=col("extra"))
    joined = nexmark.auctions().key_by("id").join(bids.key_by("auction")).uid("joined")
    valid = joined.filter(col("bid_time").between(col("date_time"), col("expires")))
    return valid.key_by("id").deduplicate([("price", "desc"), ("bid_time", "asc")]).uid("winning")
