"""The streams of the benchmark, as the queries ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flinkray as fr
from flinkray.connectors.base import Source
from flinkray.connectors.nexmark_events import stream_schema

from .data import SIDE_INPUT, Files

WATERMARK = fr.Watermarks.bounded("date_time", "4s")
"""As in the Nexmark project."""

SHARES = {"bid": 46 / 50, "auction": 3 / 50, "person": 1 / 50}


@dataclass(frozen=True)
class Nexmark:
    """The three streams over files. `rate` bounds the events/s of them together; `wrap` is put around each source."""

    env: fr.StreamEnvironment
    files: Files
    rate: float | None = None
    wrap: Callable[[Source], Source] = lambda source: source

    def bids(self, event_time: bool = False) -> fr.DataStream:
        """auction, bidder, price, channel, url, date_time, extra. Queries that look at event time ask for it."""
        return self._stream("bid", event_time)

    def auctions(self, event_time: bool = False) -> fr.DataStream:
        """id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra."""
        return self._stream("auction", event_time)

    def people(self, event_time: bool = False) -> fr.DataStream:
        """id, name, email_address, credit_card, city, state, date_time, extra."""
        return self._stream("person", event_time)

    def side_input(self) -> Source:
        """key, value: a bounded table."""
        paths = self.files["side_input"]
        source: Source
        if paths[0].endswith(".csv"):
            source = fr.sources.Csv(paths, schema=SIDE_INPUT, header=False)
        else:
            source = fr.sources.Parquet(paths)
        return source

    def _stream(self, name: str, event_time: bool) -> fr.DataStream:
        source = self.wrap(self._source(name))
        return self.env.from_source(source, watermark=WATERMARK if event_time else None, uid=name)

    def _source(self, name: str) -> Source:
        paths, schema = self.files[name], stream_schema(name)
        rate = None if self.rate is None else self.rate * SHARES[name]
        source: Any
        if paths[0].endswith(".parquet"):
            source = fr.sources.Parquet(paths, rate=rate)
        elif paths[0].endswith(".csv"):
            source = fr.sources.Csv(paths, schema=schema, header=False, rate=rate)
        else:
            source = fr.sources.Json(paths, schema=schema, rate=rate)
        return source
