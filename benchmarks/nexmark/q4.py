"""q4: average price for a category. Of the winning bids of all its auctions; changes with every winning bid."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

KEY = ("category",)
SQL = """
SELECT category, avg(final) AS average
FROM (
    SELECT max(b.price) AS final, a.category
    FROM auction a JOIN bid b ON a.id = b.auction
    WHERE b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.category
)
GROUP BY category
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    auctions = nexmark.auctions().select("id", "category", "date_time", "expires")
    bids = nexmark.bids().select("auction", "price", bid_time=col("date_time"))
    joined = auctions.key_by("id").join(bids.key_by("auction")).uid("joined")
    valid = joined.filter(col("bid_time").between(col("date_time"), col("expires")))
    winning = valid.key_by("id", "category").aggregate(final=fr.agg.max("price")).uid("winning")
    return winning.key_by("category").aggregate(average=fr.agg.mean("final")).uid("average")
