"""Persons, auctions and bids (1 : 3 : 46) as files, made once and kept: `python benchmarks/nexmark_data.py` makes them by hand.

Parquet: snappy, a file per million rows, row groups of 262,144. CSV and JSON lines: two files of each stream that hold every other row,
as the partitions of a log would (Flink reads each file from its start; files of different times would make its rows late). CSV has no header (Flink's
SQL cannot skip one) and times as `2015-07-15 00:00:00.000400` in UTC. Everything lies under benchmarks/data/, which git ignores.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from flinkray.connectors.json import JsonSink
from flinkray.connectors.nexmark_events import LAYOUTS, make_rows, stream_schema

Files = dict[str, list[str]]
"""Paths by stream: bid, auction, person, side_input."""

FOLDER = Path(__file__).parent.parent / "data"
KINDS = ("parquet", "csv", "json")
SEED = 0
INTERVAL_US = 100
"""Between two events: 10,000 events/s."""
SIDE_INPUT_ROWS = 10_000
SIDE_INPUT = pa.schema([("key", pa.int64()), ("value", pa.string())])
ROWS_PER_FILE = 1_000_000
ROWS_PER_BATCH = 262_144
PARTITIONS = 2


def nexmark_files(events: int, kind: str = "parquet", interval_us: int = INTERVAL_US, folder: Path = FOLDER) -> Files:
    """The first `events` events as files of a kind; made when they are not there."""
    place = folder / f"nexmark-{events}-{interval_us}us-{kind}"
    if not place.exists():
        making = folder / f".making-{os.getpid()}-{place.name}"  # a folder under its own name is always complete
        shutil.rmtree(making, ignore_errors=True)
        for stream in LAYOUTS:
            (making / stream).mkdir(parents=True)
            _write(kind, making / stream, stream, events, interval_us)
        (making / "side_input").mkdir()
        _write_side_input(kind, making / "side_input")
        making.rename(place)
    return {name: sorted(str(path) for path in (place / name).iterdir()) for name in (*LAYOUTS, "side_input")}


def rows_of(stream: str, events: int) -> int:
    """How many of the first `events` events are of this stream."""
    return LAYOUTS[stream].rows_before(events)


def _write_side_input(kind: str, folder: Path) -> None:
    """CSV beside CSV, without a header; else Parquet."""
    keys = np.arange(SIDE_INPUT_ROWS)
    table = pa.table({"key": keys, "value": [f"value-{key}" for key in keys]}, schema=SIDE_INPUT)
    if kind == "csv":
        pyarrow.csv.write_csv(table, folder / "part-0000.csv", pyarrow.csv.WriteOptions(include_header=False, quoting_style="none"))
    else:
        pyarrow.parquet.write_table(table, folder / "part-0000.parquet")


def _batches(stream: str, first: int, end: int, interval_us: int) -> Iterator[pa.RecordBatch]:
    names = tuple(stream_schema(stream).names)
    for start in range(first, end, ROWS_PER_BATCH):
        yield make_rows(stream, start, min(start + ROWS_PER_BATCH, end), SEED, interval_us, names)


def _write(kind: str, folder: Path, stream: str, events: int, interval_us: int) -> None:
    rows = rows_of(stream, events)
    if kind == "parquet":
        _write_parquet(folder, stream, rows, interval_us)
        return
    with ExitStack() as stack:
        writers = [_text_writer(kind, folder / f"part-{number:04}.{kind}", stream, stack) for number in range(PARTITIONS)]
        for batch in _batches(stream, 0, rows, interval_us):
            for number, writer in enumerate(writers):
                writer(batch.take(pa.array(np.arange(number, len(batch), PARTITIONS))))


def _write_parquet(folder: Path, stream: str, rows: int, interval_us: int) -> None:
    for number, first in enumerate(range(0, max(rows, 1), ROWS_PER_FILE)):
        with pyarrow.parquet.ParquetWriter(folder / f"part-{number:04}.parquet", stream_schema(stream)) as writer:
            for batch in _batches(stream, first, min(first + ROWS_PER_FILE, rows), interval_us):
                writer.write_batch(batch, row_group_size=ROWS_PER_BATCH)


def _text_writer(kind: str, path: Path, stream: str, stack: ExitStack) -> Any:
    schema = stream_schema(stream)
    if kind == "json":
        handle = stack.enter_context(open(path, "wb"))  # noqa: SIM115
        json = JsonSink(str(path.parent)).open_writer(handle, schema)
        stack.callback(json.close)
        return json.write
    naive = pa.schema([f.with_type(pa.timestamp("us")) if pa.types.is_timestamp(f.type) else f for f in schema])  # no Z in the text
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    csv = stack.enter_context(pyarrow.csv.CSVWriter(path, naive, write_options=options))
    return lambda batch: csv.write_batch(batch.cast(naive))
