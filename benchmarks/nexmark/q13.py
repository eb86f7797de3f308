"""q13: bounded side input. Bids with a column of a table that is read whole."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

SQL = """
SELECT auction, bidder, price, date_time, value
FROM bid JOIN side_input ON auction % 10_000 = key
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    bids = nexmark.bids().select("auction", "bidder", "price", "date_time", key=col("auction") % 10_000)
    return bids.lookup_join(nexmark.side_input(), on="key", how="inner").drop("key")
