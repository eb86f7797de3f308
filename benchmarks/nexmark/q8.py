"""q8: new users. Who came and opened an auction in the same 10 s."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

SQL = """
WITH sellers AS (
    SELECT DISTINCT seller, epoch_us(date_time) // 10_000_000 AS pane FROM auction
)
SELECT id, name, make_timestamp(pane * 10_000_000) AS window_start
FROM person JOIN sellers ON id = seller AND epoch_us(date_time) // 10_000_000 = pane
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    window = fr.windows.Tumbling("10s")
    people = nexmark.people(event_time=True).select("id", "name")
    auctions = nexmark.auctions(event_time=True).key_by("seller")
    sellers = auctions.window(window).aggregate(auctions=fr.agg.count()).uid("sellers").select("seller")
    return people.key_by("id").window(window).join(sellers.key_by("seller")).uid("new-users").select("id", "name", "window_start")
