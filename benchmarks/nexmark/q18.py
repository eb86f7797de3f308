"""q18: the last bid of each bidder on each auction."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark

KEY = ("bidder", "auction")
SQL = "SELECT * FROM bid QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) = 1"


def build(nexmark: Nexmark) -> fr.DataStream:
    return nexmark.bids().key_by("bidder", "auction").deduplicate("date_time", keep="last").uid("last")
