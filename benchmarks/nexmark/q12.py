"""q12: bids of each bidder in 10 s of the clock. Which window a bid falls into differs from run to run; only the sums can be checked."""

from __future__ import annotations

import pyarrow as pa

import flinkray as fr

from .streams import Nexmark

SQL = "SELECT bidder, count(*) AS bids FROM bid GROUP BY bidder"


def build(nexmark: Nexmark) -> fr.DataStream:
    windows = nexmark.bids().key_by("bidder").window(fr.windows.Tumbling("10s", time="processing"))
    return windows.aggregate(bids=fr.agg.count()).uid("count")


def checked(answer: pa.Table) -> pa.Table:
    """What is the same in every run: each bidder's bids in all windows together."""
    return answer.group_by("bidder").aggregate([("bids", "sum")]).rename_columns({"bids_sum": "bids"})
