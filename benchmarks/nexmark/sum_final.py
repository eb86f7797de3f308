"""sum-final: sum of price by bidder, answered once at the end. Not of Nexmark."""

from __future__ import annotations

import flinkray as fr

from .streams import Nexmark
from .sum import SQL as SQL


def build(nexmark: Nexmark) -> fr.DataStream:
    return nexmark.bids().key_by("bidder").aggregate(emit="final", total=fr.agg.sum("price")).uid("sum")
