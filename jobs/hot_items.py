"""Hot items (Nexmark q5): of every 10 s of bids, each 2 s, the auctions with the most of them; ties are kept.

    python jobs/hot_items.py --out out/hot-items                          # 2,000,000 generated bids
    python jobs/hot_items.py --out out/hot-items --input "bids/*.parquet" # the bids of files (columns auction, date_time)
    flinkray run jobs/hot_items.py --parallelism 2 -- --out out/hot-items
    ray job submit --working-dir . -- python jobs/hot_items.py --out /tmp/hot-items

Writes Parquet: auction, window_start, window_end, bids. Two stages: the first counts bids per auction in sliding windows; its results carry
the end of their window as event time, so the second finds the largest counts of each window in tumbling windows of the slide.
"""

from __future__ import annotations

import argparse

import flinkray as fr


def hot_items(bids: fr.DataStream) -> fr.DataStream:
    """The auctions with the most bids of each window, from a stream with `auction` and event time."""
    counts = bids.key_by("auction").window(fr.windows.Sliding("10s", "2s")).aggregate(bids=fr.agg.count()).uid("counts")
    return counts.window_all(fr.windows.Tumbling("2s")).top_n(1, by="bids").uid("hottest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/hot-items", help="directory for the answer (default: %(default)s)")
    parser.add_argument("--mode", choices=("error", "append", "overwrite"), default="error", help="when it holds files of another run")
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
        name="hot-items",
        parallelism=arguments.parallelism,
        runtime=arguments.runtime,
        checkpointing=fr.Checkpointing(interval=arguments.checkpoint_interval, **storage),
    )
    if arguments.input:
        source = fr.sources.Parquet(arguments.input, rate=arguments.rate)
    else:
        source = fr.sources.Nexmark("bid", rows=arguments.rows, rate=arguments.rate, seed=arguments.seed)
    bids = env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "4s"), uid="bids")
    hot_items(bids).sink_to(fr.sinks.Parquet(arguments.out, mode=arguments.mode), uid="out")
    result = env.execute()
    print(f"{result.status}: {result.records_in:,} bids, {result.records_out:,} hot items in {arguments.out}, {result.restarts} restarts")


if __name__ == "__main__":
    main()
