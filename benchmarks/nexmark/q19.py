"""q19: the ten best bids of each auction with their rank; of equal prices the earlier bid is better."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

KEY = ("auction", "rank_number")
SQL = """
SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time) AS rank_number
FROM bid
QUALIFY rank_number <= 10
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    best = nexmark.bids().key_by("auction").top_n(10, [("price", "desc"), ("date_time", "asc")], rank="rank_number")
    return best.uid("best")
