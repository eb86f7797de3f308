"""q20: bids with their auction, where that is of category 10."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

SQL = """
SELECT b.*, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time AS auction_time, a.expires, a.seller, a.category,
    a.extra AS auction_extra
FROM bid b JOIN auction a ON b.auction = a.id
WHERE a.category = 10
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    names = ("id", "item_name", "description", "initial_bid", "reserve", "expires", "seller", "category")
    auctions = nexmark.auctions().filter(col("category") == 10)
    auctions = auctions.select(*names, auction_time=col("date_time"), auction_extra=col("extra"))
    return nexmark.bids().key_by("auction").join(auctions.key_by("id")).uid("expanded")
