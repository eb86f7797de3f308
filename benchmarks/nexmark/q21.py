"""q21: add a channel id, known for four channels, from the url for others."""

from __future__ import annotations

import flinkray as fr
from flinkray import col, when

from .streams import Nexmark

SQL = """
SELECT * FROM (
    SELECT auction, bidder, price, channel,
        CASE lower(channel)
            WHEN 'apple' THEN '0'
            WHEN 'google' THEN '1'
            WHEN 'facebook' THEN '2'
            WHEN 'baidu' THEN '3'
            ELSE nullif(regexp_extract(url, '(&|^)channel_id=([^&]*)', 2), '')
        END AS channel_id
    FROM bid
)
WHERE channel_id IS NOT NULL
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    channel, url_id = col("channel").str.lower(), col("url").str.extract("(&|^)channel_id=([^&]*)", 2)
    known = when(channel == "apple").then("0").when(channel == "google").then("1").when(channel == "facebook").then("2")
    channel_id = known.when(channel == "baidu").then("3").otherwise(url_id)
    bids = nexmark.bids().select("auction", "bidder", "price", "channel", channel_id=channel_id)
    return bids.filter(col("channel_id").is_not_null())
