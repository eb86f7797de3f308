"""q11: user sessions. Bids of each bidder's runs without a pause above 10 s."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

SQL = """
WITH paused AS (
    SELECT bidder, epoch_us(date_time) AS us, coalesce(us - lag(us) OVER by_time > 10_000_000, true) AS begins
    FROM bid
    WINDOW by_time AS (PARTITION BY bidder ORDER BY epoch_us(date_time))
), numbered AS (
    SELECT bidder, us, sum(begins::INT) OVER (PARTITION BY bidder ORDER BY us) AS number FROM paused
)
SELECT bidder, count(*) AS bids, make_timestamp(min(us)) AS window_start, make_timestamp(max(us) + 10_000_000) AS window_end
FROM numbered
GROUP BY bidder, number
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    bidders = nexmark.bids(event_time=True).key_by("bidder")
    return bidders.window(fr.windows.Session("10s")).aggregate(bids=fr.agg.count()).uid("sessions")
