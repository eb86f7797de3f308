"""Bids of the Nexmark benchmark as files, made once and kept: `python benchmarks/data.py [--rows 10000000] [--csv-rows 4000000]`.

Parquet: all 7 columns, snappy, a file per million rows, row groups of 262,144. CSV: two files that hold every other row each, as the
partitions of a log would (Flink reads each file from its start; files of different times would make its rows late), without a header
(Flink's SQL cannot skip one), times as `2015-07-15 00:00:00.000400` in UTC. Everything lies under benchmarks/data/, which git ignores.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from flinkray.connectors.nexmark_events import make_rows, stream_schema

FOLDER = Path(__file__).parent / "data"
SCHEMA: pa.Schema = stream_schema("bid")
SEED = 0
INTERVAL_US = 100
ROWS_PER_FILE = 1_000_000
ROWS_PER_BATCH = 262_144
CSV_PARTITIONS = 2


def parquet_files(rows: int) -> list[str]:
    """Paths of Parquet files with the first `rows` bids; made when they are not there."""
    return _files("parquet", rows, _write_parquet)


def repeated(files: list[str], passes: int) -> list[str]:
    """The same files several times over, under names of their own: more rows of the same keys, for queries that do not look at time."""
    if passes == 1:
        return files
    folder = Path(files[0]).parent.with_name(f"{Path(files[0]).parent.name}-{passes}-times")
    folder.mkdir(exist_ok=True)
    for number in range(passes):
        for file in map(Path, files):
            link = folder / f"{number:02}-{file.name}"
            if not link.exists():
                os.link(file, link)
    return sorted(str(path) for path in folder.iterdir())


def csv_files(rows: int) -> list[str]:
    """Paths of CSV files with the first `rows` bids; made when they are not there."""
    return _files("csv", rows, _write_csv)


def _files(kind: str, rows: int, write: Callable[[Path, int], None]) -> list[str]:
    folder = FOLDER / f"bids-{rows}-{kind}"
    if not folder.exists():
        making = FOLDER / f".making-{os.getpid()}-{folder.name}"  # a folder under its own name is always complete
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        write(making, rows)
        making.rename(folder)
    return sorted(str(path) for path in folder.iterdir())


def _batches(first: int, end: int) -> Iterator[pa.RecordBatch]:
    for start in range(first, end, ROWS_PER_BATCH):
        yield make_rows("bid", start, min(start + ROWS_PER_BATCH, end), SEED, INTERVAL_US, tuple(SCHEMA.names))


def _write_parquet(folder: Path, rows: int) -> None:
    for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
        with pyarrow.parquet.ParquetWriter(folder / f"part-{number:04}.parquet", SCHEMA) as writer:
            for batch in _batches(first, min(first + ROWS_PER_FILE, rows)):
                writer.write_batch(batch, row_group_size=ROWS_PER_BATCH)


def _write_csv(folder: Path, rows: int) -> None:
    position = SCHEMA.get_field_index("date_time")
    schema = SCHEMA.set(position, pa.field("date_time", pa.timestamp("us")))  # without a zone: no Z in the text
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    with ExitStack() as stack:
        paths = [folder / f"part-{number:04}.csv" for number in range(CSV_PARTITIONS)]
        writers = [stack.enter_context(pyarrow.csv.CSVWriter(path, schema, write_options=options)) for path in paths]
        for batch in _batches(0, rows):
            naive = batch.set_column(position, schema.field(position), batch.column(position).cast(pa.timestamp("us")))
            for number, writer in enumerate(writers):
                writer.write_batch(naive.take(pa.array(np.arange(number, len(naive), CSV_PARTITIONS))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="bids as Parquet")
    parser.add_argument("--csv-rows", type=int, default=4_000_000, help="bids as CSV")
    arguments = parser.parse_args()
    for files in (parquet_files(arguments.rows), csv_files(arguments.csv_rows)):
        size_mb = sum(os.path.getsize(path) for path in files) / 1e6
        print(f"{len(files)} files, {size_mb:,.0f} MB: {os.path.dirname(files[0])}")


if __name__ == "__main__":
    main()
