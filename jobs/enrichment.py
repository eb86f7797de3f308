"""Enrichment: every bid with its auction as it was known at the bid's event time, by an as-of join.

    python jobs/enrichment.py --out out/enriched                          # generated bids and auctions
    python jobs/enrichment.py --out out/enriched --bids "bids/*.parquet" --auctions "auctions/*.parquet"
    flinkray run jobs/enrichment.py --parallelism 2 -- --out out/enriched

Writes Parquet: auction, bidder, price, date_time, seller, category, reserve; the last three are null for a bid without an auction.
"""

from __future__ import annotations

import argparse

import flinkray as fr


def enriched(bids: fr.DataStream, auctions: fr.DataStream) -> fr.DataStream:
    """Bids (`auction`, `bidder`, `price`, `date_time`) with `seller`, `category` and `reserve` of the auctions' newest row before."""
    known = auctions.select("id", "seller", "category", "reserve").key_by("id")
    return bids.select("auction", "bidder", "price", "date_time").key_by("auction").asof_join(known).uid("enriched")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/enriched", help="directory for the answer (default: %(default)s)")
    parser.add_argument("--mode", choices=("error", "append", "overwrite"), default="error", help="when it holds files of another run")
    parser.add_argument("--bids", help="Parquet files of bids, a path or glob; generated ones without it")
    parser.add_argument("--auctions", help="Parquet files of auctions; generated ones without it")
    parser.add_argument("--rows", type=int, default=920_000, help="how many bids are generated (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which rows are generated")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--runtime", choices=("ray", "local"), help="default: FLINKRAY_RUNTIME, else ray")
    parser.add_argument("--checkpoint-interval", default="10s")
    parser.add_argument("--storage", help="where checkpoints go, file:///path or s3://bucket/prefix")
    arguments = parser.parse_args()

    storage = {"storage": arguments.storage} if arguments.storage else {}
    env = fr.StreamEnvironment(
        name="enrichment",
        parallelism=arguments.parallelism,
        runtime=arguments.runtime,
        checkpointing=fr.Checkpointing(interval=arguments.checkpoint_interval, **storage),
    )

    def stream(name: str, files: str | None, rows: int) -> fr.DataStream:
        source = fr.sources.Parquet(files) if files else fr.sources.Nexmark(name, rows=rows, seed=arguments.seed)
        return env.from_source(source, watermark=fr.Watermarks.bounded("date_time", "4s"), uid=name)

    bids = stream("bid", arguments.bids, arguments.rows)
    auctions = stream("auction", arguments.auctions, arguments.rows * 3 // 46)
    enriched(bids, auctions).sink_to(fr.sinks.Parquet(arguments.out, mode=arguments.mode), uid="out")
    result = env.execute()
    print(f"{result.status}: {result.records_in:,} rows read, {result.records_out:,} bids in {arguments.out}, {result.restarts} restarts")


if __name__ == "__main__":
    main()
