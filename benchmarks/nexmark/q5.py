"""q5: hot items. Of each 10 s, every 2 s, the auctions with the most bids."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

SQL = """
WITH counts AS (
    SELECT auction, epoch_us(date_time) // 2_000_000 - back AS pane, count(*) AS bids
    FROM bid, (VALUES (0), (1), (2), (3), (4)) AS earlier(back)
    GROUP BY ALL
)
SELECT make_timestamp(pane * 2_000_000) AS window_start, auction, bids
FROM counts
QUALIFY bids = max(bids) OVER (PARTITION BY pane)
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    bids = nexmark.bids(event_time=True)
    counts = bids.key_by("auction").window(fr.windows.Sliding("10s", "2s")).aggregate(bids=fr.agg.count()).uid("count")
    hottest = counts.window_all(fr.windows.Tumbling("2s")).top_n(1, by="bids").uid("hottest")
    return hottest.select("window_start", "auction", "bids")
