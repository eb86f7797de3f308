"""Latency at a fixed rate: from a row's creation to its arrival at the sink, on 2 TaskManagers with checkpoints every second.

    python benchmarks/latency.py [--rate 100000] [--seconds 20] [--parallelism 2] [--json FILE]

Rows are made by the clock: row i is due at start + i / rate and carries that time, so that a stalled reader makes its rows late and is not forgiven
(no coordinated omission). `running`: a keyed sum with emit="row", each output row's latency from its input row's due time. `window`: tumbling windows
of 1 s, latency from the window's end, which the watermark passes with the first row after it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import flinkray as fr
from flinkray.connectors.base import Sink, SinkContext, SinkWriter, Source, Split, SplitEnumerator, SplitReader
from flinkray.connectors.memory import OnceEnumerator

KEYS = 10_000
WARM_UP_S = 3.0


@dataclass(frozen=True)
class ClockSource(Source):
    """`per_second` rows a second for `seconds`, each due at its own moment: key, value, created (int64 us)."""

    per_second: int
    seconds: float
    columns: tuple[str, ...] = ("key", "value", "created")
    rate: float | None = None
    max_skew_us: int | None = None

    @property
    def bounded(self) -> bool:
        return True

    def schema(self) -> pa.Schema:
        return pa.schema([(name, pa.int64()) for name in self.columns])

    def with_columns(self, columns: tuple[str, ...]) -> ClockSource:
        return replace(self, columns=columns)

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        parts = [Split(f"clock-{i}", {"part": i, "parts": parallelism}, None, 1) for i in range(parallelism)]
        return OnceEnumerator([] if state else parts)

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _ClockReader(self, split.payload["part"], split.payload["parts"])


class _ClockReader(SplitReader):
    def __init__(self, source: ClockSource, part: int, parts: int) -> None:
        self._source = source
        self._rate = source.per_second / parts
        self._seed = part
        self._start_s = time.time()
        self._next = 0
        self._total = int(self._rate * source.seconds)

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self._next >= self._total:
            return None
        due = min(int((time.time() - self._start_s) * self._rate), self._total, self._next + max_rows)
        numbers = np.arange(self._next, max(due, self._next), dtype=np.int64)
        self._next += len(numbers)
        values = {
            "key": (numbers * 2654435761 + self._seed) % KEYS,
            "value": numbers,
            "created": (self._start_s * 1e6 + numbers / self._rate * 1e6).astype(np.int64),
        }
        return pa.record_batch([pa.array(values[name]) for name in self._source.columns], schema=self._source.schema())

    def offset(self) -> Any:
        return {"next": self._next}


@dataclass(frozen=True)
class LatencySink(Sink):
    """Keeps how late each row comes after `column` (us), and writes them to `folder` with each checkpoint."""

    column: str
    folder: str
    accepts_changelog: bool = True

    def writer(self, context: SinkContext) -> SinkWriter:
        return _LatencyWriter(self, context)


class _LatencyWriter(SinkWriter):
    def __init__(self, sink: LatencySink, context: SinkContext) -> None:
        self._sink = sink
        self._path = os.path.join(sink.folder, f"{context.subtask}-{context.attempt}-{{}}.npy")
        self._late_us: list[np.ndarray] = []
        self._started_s = 0.0

    def write(self, batch: pa.RecordBatch) -> None:
        now_s = time.time()
        self._started_s = self._started_s or now_s
        if now_s - self._started_s < WARM_UP_S:
            return
        column = batch.column(self._sink.column)
        created = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy(zero_copy_only=False)
        self._late_us.append(now_s * 1e6 - created)

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        if self._late_us:
            np.save(self._path.format(checkpoint_id), np.concatenate(self._late_us))
            self._late_us.clear()
        return []

    def commit(self, transactions: list[dict[str, Any]]) -> None: ...


def measure(kind: str, rate: int, seconds: float, parallelism: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        env = fr.StreamEnvironment(
            f"latency-{kind}-{os.getpid()}",
            parallelism=parallelism,
            checkpointing=fr.Checkpointing(interval="1s", storage=f"file://{folder}/checkpoints"),
        )
        rows = env.from_source(ClockSource(rate, seconds), watermark=fr.Watermarks.monotonous("created"), uid="clock")
        if kind == "running":
            out = rows.key_by("key").aggregate(total=fr.agg.sum("value"), created=fr.agg.max("created"), emit="row")
            out.sink_to(LatencySink("created", folder), uid="out")
        else:
            out = rows.key_by("key").window(fr.windows.Tumbling("1s")).aggregate(total=fr.agg.sum("value"))
            out.filter(fr.col("window_end") < fr.lit(2**62).cast("timestamp[us, UTC]")).sink_to(
                LatencySink("window_end", folder), uid="out"
            )
        result = env.execute()
        late_ms = np.concatenate([np.load(path) for path in Path(folder).glob("*.npy")]) / 1e3
    late_ms = late_ms[late_ms >= 0]  # the last windows fire at the end of input, before their end
    p50, p99, p999 = np.percentile(late_ms, [50, 99, 99.9])
    return {
        "kind": kind,
        "rate": rate,
        "rows": len(late_ms),
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "records_in": result.records_in,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results = [measure(kind, options.rate, options.seconds, options.parallelism) for kind in ("running", "window")]
    for r in results:
        print(
            f"{r['kind']:8} {r['rate']:,} rows/s: p50 {r['p50_ms']:.1f} ms, p99 {r['p99_ms']:.1f} ms, p99.9 {r['p999_ms']:.1f} ms ({r['rows']:,} rows)"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
