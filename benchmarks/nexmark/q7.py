"""q7: highest bids of each 10 s, as whole rows. The windows take the place of the project's join of bids with their largest price."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

SQL = """
WITH highest AS (
    SELECT max(price) AS price, epoch_us(date_time) // 10_000_000 AS pane FROM bid GROUP BY pane
)
SELECT auction, bid.price, bidder, date_time, extra
FROM bid SEMI JOIN highest ON bid.price = highest.price AND epoch_us(date_time) // 10_000_000 = pane
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    bids = nexmark.bids(event_time=True).select("auction", "price", "bidder", "date_time", "extra")
    return bids.window_all(fr.windows.Tumbling("10s")).top_n(1, by="price").uid("highest").drop("window_start", "window_end")
