"""State of several times its memory: what it costs, what is in memory at most, and that the answer is right.

    PYTHONPATH=. python benchmarks/spill.py [--budget-mb 256] [--times 4] [--case NAME] [--rows N] [--folder DIR] [--results DIR]

Cases, each in a process of its own, with a budget and without one:

- `uniform`: sums, counts, extremes and means by integer key (a row of 25 words). Every key once, in random order, then rows of keys at random: the worst case,
  in which almost each row needs a page that is on disk.
- `skewed`: the same, but nine rows of ten are of a hundredth of the keys.
- `objects`: a process function with a `ValueState` of an object of some 400 bytes, uniform keys; each row reads and replaces it.
- `checkpoint`: as `skewed`, and then a full snapshot and one of what changed, sealed and stored; and a restore of both.

The TaskManager's own classes do it (a slot's way of cutting batches, the upload, the restore), without Ray. Memory is the kernel's word: VmHWM, and the largest
RssAnon + RssFile of samples every 5 ms, above what the process had before there was state. The answer is computed again with numpy.
With all cases, `spill.json` and `spill.md` are written to `benchmarks/results` (or `--results`).
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from nexmark.report import machine
from spill_report import write

from flinkray.checkpoint.base import ChunkRef
from flinkray.checkpoint.chunk_writer import ObjectBuilder, read_chunk
from flinkray.checkpoint.file_store import FileStore
from flinkray.checkpoint.keys import DataKey
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.process import KeyedProcessFunction, ValueState
from flinkray.ids import KeyGroupRange
from flinkray.operators.base import Operator, StateCapture
from flinkray.operators.keyed_aggregate import KeyedAggregateOperator
from flinkray.operators.process import ProcessOperator
from flinkray.operators.restore import StateChain, restored_states
from flinkray.runtime.slot import restored_tables
from flinkray.runtime.task import coalesced_rows, within_memory
from flinkray.state import memory as state_memory
from flinkray.state.memory import StateMemory
from flinkray.testing.harness import OperatorHarness

BATCH_ROWS = 65536
COLUMNS = 4
SCHEMA = pa.schema([("key", pa.int64()), *((f"v{i}", pa.int64()) for i in range(COLUMNS))])
AGGREGATES = (
    Aggregate("n", "count", None),
    *(Aggregate(f"{function}{i}", function, f"v{i}") for i in range(COLUMNS) for function in ("sum", "min", "max", "mean")),
)
OBJECT_BYTES = 400


class Memory(threading.Thread):
    """What the process has in memory, every 5 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most: dict[str, int] = {}
        self.by_step: dict[str, int] = {}
        """Of each step that was begun: the most, MB."""
        self.step = "filling"
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.005):
            now = self.now()
            self.most = {name: max(now[name], self.most.get(name, 0)) for name in now}
            self.by_step[self.step] = max(now["Rss"], self.by_step.get(self.step, 0))

    def stop(self) -> dict[str, int]:
        self._over.set()
        self.join()
        return self.most

    @staticmethod
    def now() -> dict[str, int]:
        """MB."""
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        found = {name: int(lines[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon", "RssFile")}
        return {**found, "Rss": found["RssAnon"] + found["RssFile"]}


# --- what is done


def batches(keys: np.ndarray, first_value: int) -> Iterator[pa.RecordBatch]:
    step = coalesced_rows(cuts=True)
    for start in range(0, len(keys), step):
        part = keys[start : start + step]
        values = np.arange(first_value + start, first_value + start + len(part))
        yield pa.record_batch([pa.array(part), *(pa.array(values * (i + 1)) for i in range(COLUMNS))], schema=SCHEMA)


def fed(harness: OperatorHarness, keys: np.ndarray, first_value: int) -> float:
    """Rows a second, in a slot's parts."""
    spent_s = 0.0
    for batch in batches(keys, first_value):
        began_s = time.perf_counter()
        for part in within_memory(batch, harness.operator.cuts_batches):
            harness.rows(part)
        spent_s += time.perf_counter() - began_s
    return len(keys) / spent_s


class Replaces(KeyedProcessFunction):
    """An object for each key: how many rows, the sum, and some ballast."""

    thing = ValueState("thing", object)

    def process(self, row: dict[str, Any], ctx: Any) -> None:
        known = self.thing.value
        count, total = (known["count"], known["total"]) if known else (0, 0)
        self.thing.value = {"count": count + 1, "total": total + row["v0"], "ballast": "b" * OBJECT_BYTES}

    def on_timer(self, timestamp: int, ctx: Any) -> None:
        return None


class ReplacesAndTells(Replaces):
    """Gives the object's count and sum for rows of v0 = -1, instead of changing it."""

    def process(self, row: dict[str, Any], ctx: Any) -> Any:
        if row["v0"] != -1:
            return super().process(row, ctx)
        known = self.thing.value
        return [{"key": row["key"], "n": known["count"], "total": known["total"]}]


TOLD = pa.schema([("key", pa.int64()), ("n", pa.int64()), ("total", pa.int64())])


def summing() -> Operator:
    return KeyedAggregateOperator(keys=("key",), aggregates=AGGREGATES, emit="final")


def replacing() -> Operator:
    return ProcessOperator(keys=("key",), function=ReplacesAndTells(), output_schema=TOLD, side_schemas={})


# --- whether it is right


def wrong(harness: OperatorHarness, case: str, keys: np.ndarray) -> int:
    """Keys whose answer is not numpy's."""
    values, high = np.arange(len(keys)), int(keys.max()) + 1
    count = np.bincount(keys, minlength=high)
    total = np.bincount(keys, weights=values, minlength=high).astype(np.int64)  # exact: below 2**53
    found_n, found_total, found_most = (np.zeros(high, np.int64) for _ in range(3))
    most = np.zeros(high, np.int64)
    np.maximum.at(most, keys, values)
    for batch in _answers(harness, case, np.flatnonzero(count)):
        at = batch.column("key").to_numpy()
        found_n[at] = batch.column("n").to_numpy()
        found_total[at] = batch.column("sum0" if case != "objects" else "total").to_numpy()
        found_most[at] = batch.column("max3").to_numpy() // 4 if case != "objects" else most[at]
    return int(np.count_nonzero((found_n != count) | (found_total != total) | (found_most != most)))


def _answers(harness: OperatorHarness, case: str, keys: np.ndarray) -> Iterator[pa.RecordBatch]:
    if case == "objects":
        for start in range(0, len(keys), BATCH_ROWS):
            part = pa.array(keys[start : start + BATCH_ROWS])
            ask = pa.record_batch([part, *[pa.array(np.full(len(part), -1))] * COLUMNS], schema=SCHEMA)
            for cut in within_memory(ask):
                harness.rows(cut)
            yield from harness.output().to_batches()
        return
    operator = harness.operator
    assert isinstance(operator, KeyedAggregateOperator)
    given: list[pa.RecordBatch] = []

    class Out:
        def emit(self, batch: pa.RecordBatch, tag: str | None = None) -> None:
            given.append(batch)

    for start in range(0, len(operator._table), 16384):
        operator._emit_slots(np.arange(start, min(start + 16384, len(operator._table)), dtype=np.int32), Out())
        yield from given
        given.clear()


# --- checkpoints


def stored(captures: list[StateCapture], checkpoint: int, store: FileStore, data_key: DataKey) -> list[Any]:
    memory = state_memory.current()
    builder = ObjectBuilder(f"data/{checkpoint}", "spill/1", data_key, keep=None if memory is None else memory.keep_bytes)
    for capture in captures:
        full = capture.full
        for table in capture.encode_parts():
            builder.add("sums", capture.name, capture.kind, full, checkpoint, KeyGroupRange(0, 128), table)
            full = False
            if memory is not None:
                memory.keep()
    store.put_parts(builder.object_name, builder.parts() if memory is None else memory.kept(builder.parts()))
    return [ref for ref, _ in builder.chunks]


def checkpointed(harness: OperatorHarness, keys: int, rows: int, folder: str, watching: Memory) -> tuple[OperatorHarness, dict[str, float]]:
    """A full snapshot, a delta after some more rows, and the operator restored from both."""
    store, data_key = FileStore(f"{folder}/store"), DataKey("k", b"s" * 32)
    took: dict[str, float] = {}

    def timed(name: str, began_s: float) -> None:
        took[name] = round(time.perf_counter() - began_s, 3)

    watching.step, began_s = "full snapshot", time.perf_counter()
    captures = harness.operator.snapshot(1, None)
    timed("full_sync_s", began_s)
    refs = stored(captures, 1, store, data_key)
    timed("full_s", began_s)
    del captures
    fed(harness, np.random.default_rng(11).integers(0, keys // 100, rows), keys + 10**6)
    watching.step, began_s = "delta", time.perf_counter()
    captures = harness.operator.snapshot(2, 1)
    timed("delta_sync_s", began_s)
    refs += stored(captures, 2, store, data_key)
    timed("delta_s", began_s)
    del captures
    settings = harness.settings
    watching.step, began_s = "restore", time.perf_counter()
    by_name: dict[str, list[ChunkRef]] = {}
    for ref in refs:
        by_name.setdefault(ref.state_name, []).append(ref)
    groups = KeyGroupRange(0, 128)
    kinds = {ref.state_name: ref.kind for ref in refs}
    chains = [
        StateChain(name, kinds[name], 0, groups, restored_tables(chunks, lambda ref: read_chunk(store, ref, {"k": data_key})))
        for name, chunks in by_name.items()
    ]
    restored = restored_states(chains, groups, 0)
    again = OperatorHarness(summing(), input_schemas=settings.input_schemas, restored=restored, restored_checkpoint=2)
    timed("restore_s", began_s)
    return again, took


# --- a run


def measure(case: str, keys: int, rows: int, budget_bytes: int | None, folder: str) -> dict[str, Any]:
    make = replacing if case == "objects" else summing
    warm = OperatorHarness(make(), input_schemas=[SCHEMA])
    fed(warm, np.arange(1000), 0)
    del warm
    memory = None if budget_bytes is None else StateMemory(budget_bytes, folder)
    state_memory.use(memory)
    random = np.random.default_rng(7)
    first = random.permutation(keys)
    then = random.integers(0, keys, rows)
    if case in ("skewed", "checkpoint"):
        then = np.where(random.random(rows) < 0.9, random.integers(0, max(1, keys // 100), rows), then)
    harness = OperatorHarness(make(), input_schemas=[SCHEMA])
    before, watching = Memory.now(), Memory()
    watching.start()
    found: dict[str, Any] = {"inserts_per_s": round(fed(harness, first, 0)), "updates_per_s": round(fed(harness, then, keys))}
    found["state_mb"] = (harness.metrics.state_bytes if memory is None else memory.disk_used_bytes) >> 20
    everything = [first, then]
    if case == "checkpoint":
        more = min(rows, 200_000)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            harness, took = checkpointed(harness, keys, more, place, watching)
        found |= took
    most = watching.stop()
    found |= {"before_mb": before["Rss"], "most_mb": most["Rss"], "most_above_mb": most["Rss"] - before["Rss"], "vm_hwm_mb": most["VmHWM"]}
    if memory is not None:
        found["given_up_mb"] = memory.given_up_bytes >> 20
        found["resident_mb"] = memory.resident_bytes() >> 20
    found["most_above_mb_by_step"] = {step: mb - before["Rss"] for step, mb in watching.by_step.items()}
    if case != "checkpoint":
        found["wrong_keys"] = wrong(harness, case, np.concatenate(everything))
    else:
        found["digest"] = _digest(harness)
    return found


def _digest(harness: OperatorHarness) -> str:
    """Of all answers, by key."""
    total = 0
    for batch in _answers(harness, "checkpoint", np.empty(0, np.int64)):
        for row in zip(*(batch.column(name).to_pylist() for name in ("key", "n", "sum0", "min1", "max3")), strict=True):
            total ^= int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=8).digest(), "little")
    return f"{total:016x}"


BYTES_PER_KEY = {"objects": 24 + OBJECT_BYTES + 140}
SUM_BYTES_PER_KEY = 290
"""Measured: what makes the state `--times` the budget."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-mb", type=int, default=256)
    parser.add_argument("--times", type=float, default=4.0, help="state over budget")
    parser.add_argument("--case", action="append", choices=("uniform", "skewed", "objects", "checkpoint"))
    parser.add_argument("--rows", type=int, default=1_000_000, help="after every key has come once")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on a local disk")
    parser.add_argument("--results", type=Path, metavar="DIR", help="benchmarks/results where all cases are run")
    options = parser.parse_args()
    command = " ".join(["python benchmarks/spill.py", *sys.argv[1:]])
    results: dict[str, Any] = {"command": command, **machine(), "budget_mb": options.budget_mb}
    for case in options.case or ("uniform", "skewed", "objects", "checkpoint"):
        keys = int(options.budget_mb * options.times * 2**20 / BYTES_PER_KEY.get(case, SUM_BYTES_PER_KEY))
        results[case] = {"keys": keys, "rows": options.rows}
        for name, budget in (("without", None), ("within", options.budget_mb << 20)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results[case][name] = pool.apply(measure, (case, keys, options.rows, budget, options.folder))
        print(_line(case, results[case], options.budget_mb), flush=True)
    if options.results or not options.case:
        write(results, options.results or Path(__file__).parent / "results")


def _line(case: str, result: dict[str, Any], budget_mb: int) -> str:
    without, within = result["without"], result["within"]
    speeds = ", ".join(
        f"{what} {within[name] / 1e3:,.0f} k/s ({within[name] / without[name]:.2f} of {without[name] / 1e3:,.0f})"
        for what, name in (("new keys", "inserts_per_s"), ("rows", "updates_per_s"))
    )
    right = f"{within['wrong_keys']} wrong" if "wrong_keys" in within else "equal" if within["digest"] == without["digest"] else "DIFFERENT"
    took = ", ".join(f"{name} {within[name]} ({without[name]})" for name in within if name.endswith("_s") and not name.endswith("per_s"))
    return (
        f"{case:10} {result['keys'] / 1e6:.1f} M keys, state {within['state_mb']:,} MB, budget {budget_mb} MB: {speeds}; at most {within['most_above_mb']} MB above "
        f"{within['before_mb']} (without a budget {without['most_above_mb']}), {within['given_up_mb']:,} MB written; {right}"
        + (f"; {took}" if took else "")
    )


if __name__ == "__main__":
    main()
