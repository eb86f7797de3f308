"""q22: the directories of the url."""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

SQL = """
SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3
FROM bid
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    part = col("url").str.split_part
    return nexmark.bids().select("auction", "bidder", "price", "channel", dir1=part("/", 3), dir2=part("/", 4), dir3=part("/", 5))
