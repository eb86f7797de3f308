"""Running totals: per key of CSV files the number of rows and the sum, smallest and largest of a column, kept up to date.

    python jobs/running_totals.py --input "bids/*.csv" --out out/totals              # the last answer of each key
    python jobs/running_totals.py --input "bids/*.csv" --out out/totals --changelog  # every change, as `_change` and `_seq`
    python jobs/running_totals.py --input sales/ --key shop --value amount --watch 2s --changelog
    flinkray run jobs/running_totals.py --parallelism 2 -- --input "bids/*.csv" --out out/totals
    ray job submit --working-dir . -- python jobs/running_totals.py --input /data/bids --out /tmp/totals

Writes Parquet: the key, rows, total, smallest, largest. In a changelog the row with the largest `_seq` of a key is its answer.
"""

from __future__ import annotations

import argparse

import flinkray as fr


def running_totals(rows: fr.DataStream, key: str, value: str, emit: str) -> fr.DataStream:
    """Totals of `value` per `key`; `emit` as in `KeyedStream.aggregate`."""
    agg = fr.agg
    totals = {"rows": agg.count(), "total": agg.sum(value), "smallest": agg.min(value), "largest": agg.max(value)}
    return rows.key_by(key).aggregate(emit=emit, **totals).uid("totals")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="CSV files with a header: a path, glob or directory")
    parser.add_argument("--out", default="out/running-totals", help="directory for the answer (default: %(default)s)")
    parser.add_argument("--mode", choices=("error", "append", "overwrite"), default="error", help="when it holds files of another run")
    parser.add_argument("--key", default="bidder", help="column of the key (default: %(default)s)")
    parser.add_argument("--value", default="price", help="column that is summed (default: %(default)s)")
    parser.add_argument("--changelog", action="store_true", help="write every change instead of the last answers")
    parser.add_argument("--watch", help="look for new files this often, for ever (needs --changelog)")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="what to do with malformed rows")
    parser.add_argument("--rate", type=float, help="rows/s at most, over all subtasks")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--runtime", choices=("ray", "local"), help="default: FLINKRAY_RUNTIME, else ray")
    parser.add_argument("--checkpoint-interval", default="10s")
    parser.add_argument("--storage", help="where checkpoints go, file:///path or s3://bucket/prefix")
    arguments = parser.parse_args()
    if arguments.watch and not arguments.changelog:
        parser.error("--watch never ends, so there are no last answers: give --changelog too")

    storage = {"storage": arguments.storage} if arguments.storage else {}
    env = fr.StreamEnvironment(
        name="running-totals",
        parallelism=arguments.parallelism,
        runtime=arguments.runtime,
        checkpointing=fr.Checkpointing(interval=arguments.checkpoint_interval, **storage),
    )
    source = fr.sources.Csv(arguments.input, watch=arguments.watch, rate=arguments.rate, on_error=arguments.on_error)
    rows = env.from_source(source, uid="rows")
    totals = running_totals(rows, arguments.key, arguments.value, "batch" if arguments.changelog else "final")
    totals.sink_to(fr.sinks.Parquet(arguments.out, mode=arguments.mode, changelog=arguments.changelog), uid="out")
    result = env.execute()
    print(f"{result.status}: {result.records_in:,} rows, {result.records_out:,} results in {arguments.out}, {result.restarts} restarts")


if __name__ == "__main__":
    main()
