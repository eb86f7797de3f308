"""q17: auction statistics. How many bids each auction had on a day, and their prices."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .q15 import LEVELS
from .streams import Nexmark

KEY = ("auction", "day")
SQL = """
SELECT auction, date_time::DATE AS day,
    count(*) AS total_bids,
    count(*) FILTER (WHERE price < 10_000) AS rank1_bids,
    count(*) FILTER (WHERE price >= 10_000 AND price < 1_000_000) AS rank2_bids,
    count(*) FILTER (WHERE price >= 1_000_000) AS rank3_bids,
    min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price)::BIGINT AS sum_price
FROM bid
GROUP BY auction, day
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    agg, price = fr.agg, "price"
    bids = nexmark.bids().select("auction", "price", day=col("date_time").cast("date"))
    counts = {f"{level}_bids": agg.count().filter(condition) for level, condition in LEVELS.items()}
    prices = {"min_price": agg.min(price), "max_price": agg.max(price), "avg_price": agg.mean(price), "sum_price": agg.sum(price)}
    return bids.key_by("auction", "day").aggregate(total_bids=agg.count(), **counts, **prices).uid("statistics")
