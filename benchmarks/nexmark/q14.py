"""q14: calculation. Conversions and conditions, the time of day, and how often a letter occurs."""

from __future__ import annotations

import flinkray as fr
from flinkray import col, when

from .streams import Nexmark

SQL = """
SELECT auction, bidder, 0.908::DOUBLE * price AS price,
    CASE
        WHEN hour(date_time) >= 8 AND hour(date_time) <= 18 THEN 'dayTime'
        WHEN hour(date_time) <= 6 OR hour(date_time) >= 20 THEN 'nightTime'
        ELSE 'otherTime'
    END AS bid_time_type,
    date_time, extra, len(extra) - len(replace(extra, 'c', '')) AS c_counts
FROM bid
WHERE 0.908::DOUBLE * price > 1_000_000 AND 0.908::DOUBLE * price < 50_000_000
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    euros, hour = 0.908 * col("price"), col("date_time").dt.hour()
    time_type = when(hour.between(8, 18)).then("dayTime").when((hour <= 6) | (hour >= 20)).then("nightTime").otherwise("otherTime")
    bids = nexmark.bids().filter((euros > 1_000_000) & (euros < 50_000_000))
    return bids.select(
        "auction", "bidder", "date_time", "extra", price=euros, bid_time_type=time_type, c_counts=col("extra").str.count("c")
    )
