"""q6: average selling price by seller, of the last ten auctions that were closed. Flink's SQL cannot say it (OVER takes no retractions); here it is
a function with state and timers by seller: an auction closes when it expires, and each that was sold gives the seller's new average."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flinkray as fr
from flinkray import col

from .streams import Nexmark

LAST = 10
SQL = f"""
WITH sold AS (
    SELECT a.id, a.seller, a.expires, max(b.price) AS price
    FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.seller, a.expires
)
SELECT seller, id, avg(price) OVER (PARTITION BY seller ORDER BY expires, id ROWS BETWEEN {LAST - 1} PRECEDING AND CURRENT ROW) AS average
FROM sold
"""


class LastSold(fr.KeyedProcessFunction):
    """Takes bids with their auction, by seller."""

    input_columns = ("id", "price", "expires")
    output_schema = {"seller": "int64", "id": "int64", "average": "float64"}
    best = fr.MapState("best", int, int)
    expires = fr.MapState("expires", int, int)
    last = fr.ValueState("last", "list[int64]")

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        if row["price"] > self.best.get(row["id"], -1):
            self.best[row["id"]] = row["price"]
            self.expires[row["id"]] = row["expires"]
            ctx.register_event_timer(row["expires"])

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[dict[str, Any]]:
        for auction in sorted(auction for auction, expires in self.expires.items() if expires == timestamp):
            self.last.value = [*(self.last.value or []), self.best.pop(auction)][-LAST:]
            self.expires.pop(auction)
            yield {"seller": ctx.key, "id": auction, "average": sum(self.last.value) / len(self.last.value)}


def build(nexmark: Nexmark) -> fr.DataStream:
    auctions = nexmark.auctions(event_time=True).select("id", "seller", "date_time", "expires")
    bids = nexmark.bids(event_time=True).select("auction", "price", bid_time=col("date_time"))
    joined = auctions.key_by("id").join(bids.key_by("auction")).uid("joined")
    valid = joined.filter(col("bid_time").between(col("date_time"), col("expires")))
    return valid.key_by("seller").process(LastSold(), uid="last-sold")
