"""Fraud: large bids that follow a small one of the same bidder, as a stolen card is tried out before it is used.

    python jobs/fraud.py --out out/fraud                                # 2,000,000 generated bids
    python jobs/fraud.py --out out/fraud --input "bids/*.parquet"       # the bids of files (columns bidder, price, date_time)
    flinkray run jobs/fraud.py --parallelism 2 -- --out out/fraud --within-s 5

Writes Parquet: alerts/ with bidder, small_at, at, price; quiet/ with small bids that no large one followed: bidder, small_at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import flinkray as fr


class FraudDetector(fr.KeyedProcessFunction):
    """Looks at a bidder's bids in order of event time, whatever the order in which they come: each waits for a timer of its own."""

    output_schema = {"bidder": "int64", "small_at": "timestamp", "at": "timestamp", "price": "int64"}
    side_outputs = {"quiet": {"bidder": "int64", "small_at": "timestamp"}}
    input_columns = ("price",)

    waiting = fr.MapState("waiting", "timestamp", "list[int64]")
    """Prices by event time."""
    small_at = fr.ValueState("small_at", "timestamp")
    followed = fr.ValueState("followed", bool)

    def __init__(self, small: int, large: int, within: timedelta) -> None:
        self.small, self.large = small, large
        self.within_us = within // timedelta(microseconds=1)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        assert ctx.timestamp is not None
        self.waiting[ctx.timestamp] = [*self.waiting.get(ctx.timestamp, []), row["price"]]
        ctx.register_event_timer(ctx.timestamp)
        if row["price"] < self.small:
            ctx.register_event_timer(ctx.timestamp + self.within_us + 1)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[dict[str, Any]]:
        if self.small_at.value is not None and timestamp > self.small_at.value + self.within_us:
            if not self.followed.value:
                ctx.output("quiet", {"bidder": ctx.key, "small_at": self.small_at.value})
            self.small_at.clear()
        for price in sorted(self.waiting.pop(timestamp, [])):
            if price < self.small:
                self.small_at.value, self.followed.value = timestamp, False
            elif price > self.large and self.small_at.value is not None:
                self.followed.value = True
                yield {"bidder": ctx.key, "small_at": self.small_at.value, "at": timestamp, "price": price}


def fraud(bids: fr.DataStream, small: int, large: int, within: timedelta) -> fr.DataStream:
    """Alerts, and at `get_side_output("quiet")` what did not become one, from a stream with `bidder`, `price` and event time."""
    return bids.key_by("bidder").process(FraudDetector(small, large, within), uid="fraud")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/fraud", help="directory for alerts/ and quiet/ (default: %(default)s)")
    parser.add_argument("--mode", choices=("error", "append", "overwrite"), default="error", help="when it holds files of another run")
    parser.add_argument("--small", type=int, default=1_000, help="bids below are small (default: %(default)s)")
    parser.add_argument("--large", type=int, default=1_000_000, help="bids above are large (default: %(default)s)")
    parser.add_argument("--within-s", type=float, default=1.0, help="seconds that count as following (default: %(default)s)")
    parser.add_argument("--input", help="Parquet files of bids, a path or glob; generated bids without it")
    parser.add_argument("--rows", type=int, default=2_000_000, help="how many bids are generated (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which bids are generated")
    parser.add_argument("--rate", type=float, help="bids/s at most, over all subtasks")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--runtime", choices=("ray", "local"), help="default: FLINKRAY_RUNTIME, else ray")
    parser.add_argument("--checkpoint-interval", default="10s")
    parser.add_argument("--storage", help="where checkpoints go, file:///path or s3://bucket/prefix")
    arguments = parser.parse_args()

    storage = {"storage": arguments.storage} if arguments.storage else {}
    env = fr.StreamEnvironment(
        name="fraud",
        parallelism=arguments.parallelism,
        runtime=arguments.runtime,
        checkpointing=fr.Checkpointing(interval=arguments.checkpoint_interval, **storage),
    )
    if arguments.input:
        source = fr.sources.Parquet(arguments.input, rate=arguments.rate)
    else:
        source = fr.sources.Nexmark("bid", rows=arguments.rows, rate=arguments.rate, seed=arguments.seed)
    bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "4s"), uid="bids")
    alerts = fraud(bids, arguments.small, arguments.large, timedelta(seconds=arguments.within_s))
    alerts.sink_to(fr.sinks.Parquet(f"{arguments.out}/alerts", mode=arguments.mode), uid="alerts")
    alerts.get_side_output("quiet").sink_to(fr.sinks.Parquet(f"{arguments.out}/quiet", mode=arguments.mode), uid="quiet")
    result = env.execute()
    print(f"{result.status}: {result.records_in:,} bids, {result.records_out:,} alerts and quiet bids in {arguments.out}")


if __name__ == "__main__":
    main()
