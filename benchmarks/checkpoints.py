"""What checkpoints cost: the synchronous part with 1,000,000 keys, bytes of an incremental one, and throughput with and without them.

    python benchmarks/checkpoints.py [--keys 1000000] [--repeat 3] [--json FILE]

The first two come from one operator in the harness, so that the moment between two checkpoints is exact: a keyed sum takes in every key
once, is captured in full, takes in 1 % of the keys again, and is captured against the first. Bytes are what is sealed for storage.
Throughput is a keyed sum over generated bids on the Ray runtime at parallelism 2, checkpoint interval 1 s and none, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import flinkray as fr
from flinkray.checkpoint.chunk_writer import ObjectBuilder
from flinkray.checkpoint.keys import DataKey
from flinkray.graph.aggregates import Aggregate, result_schema
from flinkray.ids import KeyGroupRange
from flinkray.operators.keyed_aggregate import KeyedAggregateOperator
from flinkray.testing.harness import OperatorHarness

SCHEMA = pa.schema([("key", pa.int64()), ("value", pa.int64())])
AGGREGATES = (Aggregate("total", "sum", "value"),)


def snapshot_cost(keys: int) -> dict[str, Any]:
    operator = KeyedAggregateOperator(keys=("key",), aggregates=AGGREGATES, emit="final", pre_aggregated=False)
    schema = result_schema(("key",), AGGREGATES, None, SCHEMA)
    harness = OperatorHarness(operator, input_schemas=[SCHEMA], output_schema=schema, event_time=None)
    everything = np.random.default_rng(7).permutation(keys).astype(np.int64)
    _feed(harness, everything)
    full_ms, full_bytes = _capture(operator, 1, None)
    _feed(harness, everything[: keys // 100])
    delta_ms, delta_bytes = _capture(operator, 2, 1)
    again_ms, _ = _capture(operator, 3, None)
    return {
        "keys": keys,
        "full_sync_ms": full_ms,
        "full_again_sync_ms": again_ms,
        "full_bytes": full_bytes,
        "delta_sync_ms": delta_ms,
        "delta_bytes": delta_bytes,
        "bytes_per_key_in_memory": harness.metrics.state_bytes / keys,
    }


def _feed(harness: OperatorHarness, keys: np.ndarray) -> None:
    for start in range(0, len(keys), 65536):
        part = keys[start : start + 65536]
        harness.rows(pa.record_batch([pa.array(part), pa.array(part)], schema=SCHEMA))
    harness.output()


def _capture(operator: KeyedAggregateOperator, checkpoint: int, base: int | None) -> tuple[float, int]:
    started = time.perf_counter()
    captures = operator.snapshot(checkpoint, base)
    sync_ms = (time.perf_counter() - started) * 1e3
    builder = ObjectBuilder("data/benchmark", "benchmark/1", DataKey("benchmark", b"k" * 32))
    for capture in captures:
        table = capture.encode()
        if table is not None:
            builder.add("sum", capture.name, capture.kind, capture.full, checkpoint, KeyGroupRange(0, 128), table)
    return sync_ms, builder.size_bytes


def throughput(interval: str | None, files: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        env = fr.StreamEnvironment(
            f"cost-{interval or 'none'}",
            parallelism=2,
            checkpointing=fr.Checkpointing(interval=interval, storage=f"file://{folder}/checkpoints"),
        )
        bids = env.from_source(fr.sources.Parquet(files), uid="bids")
        bids.key_by("bidder").aggregate(total=fr.agg.sum("price")).uid("sum").sink_to(fr.sinks.Blackhole(), uid="out")
        result = env.execute()
    assert result.started_at is not None
    assert result.finished_at is not None
    return result.records_in / (result.finished_at - result.started_at).total_seconds()


def _pair(files: str, number: int) -> tuple[float, float]:
    """Rows/s with and without checkpoints; which goes first alternates, since these machines get faster and slower by themselves."""
    if number % 2:
        without = throughput(None, files)
        return throughput("1s", files), without
    return throughput("1s", files), throughput(None, files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--files", help="Parquet files of bids (benchmarks/data.py makes them); without it throughput is left out")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    costs = [snapshot_cost(options.keys) for _ in range(options.repeat)]
    cost = {name: statistics.median(c[name] for c in costs) for name in costs[0]}
    print(f"{options.keys:,} keys, medians of {options.repeat}: {cost['bytes_per_key_in_memory']:.0f} bytes a key in memory")
    print(f"first checkpoint: sync part {cost['full_sync_ms']:.1f} ms, {cost['full_bytes']:,.0f} bytes")
    print(f"a later full checkpoint: sync part {cost['full_again_sync_ms']:.1f} ms")
    share = cost["delta_bytes"] / cost["full_bytes"]
    print(
        f"after touching 1 % of the keys: sync part {cost['delta_sync_ms']:.1f} ms, {cost['delta_bytes']:,.0f} bytes, {share:.1%} of the first"
    )
    document: dict[str, Any] = {"snapshot": cost}
    if options.files:
        pairs = [_pair(options.files, number) for number in range(options.repeat)]
        ratio = statistics.median(with_ / without for with_, without in pairs)
        print(
            f"throughput with a 1 s interval: {ratio:.1%} of that without (median of {options.repeat} pairs; {pairs[-1][0] / 1e6:.1f} M rows/s)"
        )
        document["throughput_ratio"] = ratio
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
