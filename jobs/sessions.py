"""Sessions (Nexmark q11): runs of a bidder's bids with no pause above the gap; a pause of exactly the gap does not end one.

    python jobs/sessions.py --out out/sessions                          # 2,000,000 generated bids
    python jobs/sessions.py --out out/sessions --input "bids/*.parquet" # the bids of files (columns bidder, price, date_time)
    flinkray run jobs/sessions.py --parallelism 2 -- --out out/sessions --gap 5s
    ray job submit --working-dir . -- python jobs/sessions.py --out /tmp/sessions

Writes Parquet: bidder, window_start (first bid), window_end (last bid + gap), bids, total (their prices).
"""

from __future__ import annotations

import argparse

import flinkray as fr


def sessions(bids: fr.DataStream, gap: str) -> fr.DataStream:
    """Number and sum of each bidder's bids per session, from a stream with `bidder`, `price` and event time."""
    windows = bids.key_by("bidder").window(fr.windows.Session(gap))
    return windows.aggregate(bids=fr.agg.count(), total=fr.agg.sum("price")).uid("sessions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/sessions", help="directory for the answer (default: %(default)s)")
    parser.add_argument("--mode", choices=("error", "append", "overwrite"), default="error", help="when it holds files of another run")
    parser.add_argument("--gap", default="10s", help="a longer pause ends a session (default: %(default)s)")
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
        name="sessions",
        parallelism=arguments.parallelism,
        runtime=arguments.runtime,
        checkpointing=fr.Checkpointing(interval=arguments.checkpoint_interval, **storage),
    )
    if arguments.input:
        source = fr.sources.Parquet(arguments.input, rate=arguments.rate)
    else:
        source = fr.sources.Nexmark("bid", rows=arguments.rows, rate=arguments.rate, seed=arguments.seed)
    bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "4s"), uid="bids")
    sessions(bids, arguments.gap).sink_to(fr.sinks.Parquet(arguments.out, mode=arguments.mode), uid="out")
    result = env.execute()
    print(f"{result.status}: {result.records_in:,} bids, {result.records_out:,} sessions in {arguments.out}, {result.restarts} restarts")


if __name__ == "__main__":
    main()
