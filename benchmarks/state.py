"""What large state costs: a full checkpoint, an incremental one, a restore at another parallelism, and what sealing adds.

    python benchmarks/state.py [--keys 10000000] [--repeat 3] [--json FILE]

One keyed sum in the harness, on one core, from `snapshot` to the file (fsync included) and back. Sealed: packed by lz4, encrypted, digested,
as checkpoints are. Not sealed: packed by lz4 only. Each line is the median of `--repeat`. "MB/s" are of the Arrow bytes that are stored.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.chunk_writer import ObjectBuilder, read_chunk
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.sealing import SEGMENT_BYTES
from flinkray.checkpoint.store import open_store
from flinkray.graph.aggregates import Aggregate, result_schema
from flinkray.graph.key_groups import key_group_range
from flinkray.ids import KeyGroupRange
from flinkray.operators.keyed_aggregate import KeyedAggregateOperator
from flinkray.operators.restore import StateChain, restored_states
from flinkray.testing.harness import OperatorHarness

SCHEMA = pa.schema([("key", pa.int64()), ("value", pa.int64())])
AGGREGATES = (Aggregate("total", "sum", "value"),)
RESULT = result_schema(("key",), AGGREGATES, None, SCHEMA)
DATA_KEY = DataKey("benchmark", b"k" * 32)
MAX_PARALLELISM = 128


def operator() -> KeyedAggregateOperator:
    return KeyedAggregateOperator(keys=("key",), aggregates=AGGREGATES, emit="final", pre_aggregated=False)


def feed(harness: OperatorHarness, keys: np.ndarray) -> None:
    for start in range(0, len(keys), 65536):
        part = keys[start : start + 65536]
        harness.rows(pa.record_batch([pa.array(part), pa.array(part)], schema=SCHEMA))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def write_sealed(store: ObjectStore, name: str, tables: list[tuple[str, bool, pa.Table]], checkpoint: int) -> list[ChunkRef]:
    builder = ObjectBuilder(name, "benchmark/1", DATA_KEY)
    refs = [builder.add("sum", state, "keyed", full, checkpoint, KeyGroupRange(0, MAX_PARALLELISM), table) for state, full, table in tables]
    store.put(name, builder.data())
    return refs


def write_packed(store: ObjectStore, name: str, tables: list[tuple[str, bool, pa.Table]]) -> None:
    codec, parts = pa.Codec("lz4_raw"), []
    for _, _, table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        raw = memoryview(sink.getvalue())
        parts += [codec.compress(raw[at : at + SEGMENT_BYTES]) for at in range(0, len(raw), SEGMENT_BYTES)]
    store.put(name, b"".join(memoryview(part) for part in parts))


def measure(harness: OperatorHarness, store: ObjectStore, checkpoint: int, base: int | None) -> tuple[dict[str, float], list[ChunkRef]]:
    """One checkpoint, its parts timed; written sealed, and once more without."""
    sync_s, captures = timed(lambda: harness.operator.snapshot(checkpoint, base))
    keyed = [capture for capture in captures if capture.kind == "keyed"]
    encode_s, tables = timed(lambda: [(c.name, c.full, table) for c in keyed if (table := c.encode()) is not None])
    sealed_s, refs = timed(lambda: write_sealed(store, f"data/c1-k{checkpoint}-a1-ab-slot-0", tables, checkpoint))
    packed_s, _ = timed(lambda: write_packed(store, f"data/c1-k{checkpoint}-a1-ab-packed-0", tables))
    stored = sum(ref.sealed_bytes for ref in refs)
    raw = sum(table.nbytes for _, _, table in tables)
    total = sync_s + encode_s + sealed_s
    return {
        "sync_s": sync_s,
        "seconds": total,
        "seconds_not_sealed": sync_s + encode_s + packed_s,
        "sealing_share": (sealed_s - packed_s) / total,
        "rows": sum(table.num_rows for _, _, table in tables),
        "stored_bytes": stored,
        "mb_per_s": raw / 1e6 / total,
        "mb_per_s_not_sealed": raw / 1e6 / (sync_s + encode_s + packed_s),
    }, refs


def restore(store: ObjectStore, refs: list[ChunkRef], parallelism: int) -> float:
    """All subtasks, one after the other on one core: read, opened, cut to their key groups, loaded. Returns seconds of them all."""
    started, rows = time.perf_counter(), 0
    for subtask in range(parallelism):
        groups = key_group_range(MAX_PARALLELISM, parallelism, subtask)
        tables = tuple(read_chunk(store, ref, {DATA_KEY.key_id: DATA_KEY}) for ref in refs)
        chain = StateChain(refs[0].state_name, "keyed", 0, KeyGroupRange(0, MAX_PARALLELISM), tables)
        made = OperatorHarness(
            operator(),
            input_schemas=[SCHEMA],
            output_schema=RESULT,
            subtask=subtask,
            parallelism=parallelism,
            max_parallelism=MAX_PARALLELISM,
            restored=restored_states([chain], groups, subtask),
            restored_checkpoint=2,
        )
        rows += made.metrics.state_rows
        made.close()
    assert rows == sum(ref.rows for ref in refs if ref.full), "every key is in one subtask"
    return time.perf_counter() - started


def run(keys: int) -> dict[str, Any]:
    harness = OperatorHarness(operator(), input_schemas=[SCHEMA], output_schema=RESULT, max_parallelism=MAX_PARALLELISM)
    everything = np.random.default_rng(7).permutation(keys).astype(np.int64)
    feed(harness, everything)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        store = open_store(f"file://{folder}", "benchmark")
        full, full_refs = measure(harness, store, 1, None)
        feed(harness, everything[: keys // 100])
        delta, delta_refs = measure(harness, store, 2, 1)
        harness.close()
        restores = {parallelism: restore(store, [*full_refs, *delta_refs], parallelism) for parallelism in (1, 3)}
    return {"full": full, "incremental": delta, "restore_1": restores[1], "restore_3": restores[3]}


def median(runs: list[Any]) -> Any:
    if isinstance(runs[0], dict):
        return {name: median([one[name] for one in runs]) for name in runs[0]}
    return statistics.median(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    found = median([run(options.keys) for _ in range(options.repeat)])
    for name in ("full", "incremental"):
        one = found[name]
        print(
            f"{name:11}  {one['seconds']:6.2f} s (sync part {one['sync_s'] * 1e3:.0f} ms), {one['rows']:,.0f} keys, "
            f"{one['stored_bytes'] / one['rows']:.1f} bytes a key, {one['mb_per_s']:,.0f} MB/s a core; not sealed {one['seconds_not_sealed']:.2f} s, "
            f"{one['mb_per_s_not_sealed']:,.0f} MB/s; sealing is {one['sealing_share']:.1%} of the time"
        )
    print(
        f"restore      at parallelism 1 in {found['restore_1']:.2f} s, at 3 in {found['restore_3']:.2f} s of one core (each subtask reads the whole chunk)"
    )
    if options.json:
        Path(options.json).write_text(json.dumps({"keys": options.keys, **found}, indent=2))


if __name__ == "__main__":
    main()
