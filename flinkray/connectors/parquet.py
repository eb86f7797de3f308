"""Parquet files as a source: split by row groups, only the wanted columns decoded, one position for each row. And as a sink."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from flinkray.config import Duration
from flinkray.connectors.base import Split
from flinkray.connectors.enumerators import SPLITS_PER_READER
from flinkray.connectors.file_sink import FileSink, FileWriter
from flinkray.connectors.files import FileSource, InputFile, Missing, Paths
from flinkray.connectors.parquet_reader import ParquetReader, open_parquet
from flinkray.connectors.schemas import SchemaLike, engine_schema, file_columns

MAX_SPLIT_ROWS = 2_000_000
MIN_SPLIT_ROWS = 65_536
_WRITE_ROWS = 131_072
_WRITE_BYTES = 32 << 20
_MICROS = {"milliseconds": (1000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1000)}


@dataclass(frozen=True, init=False)
class ParquetSource(FileSource):
    """Reads Parquet files, directories, globs or URLs. Columns by name; see `connectors.schemas` for how files may differ.

    `missing="null"` reads a column that a file lacks as null. `watch="1s"` looks for new files that often, for ever. A split that is
    further than `max_skew` of event time ahead of the watermark waits. `rate`: rows/s at most over all readers. `split_rows` bounds a
    split's size.
    """

    split_rows: int

    def __init__(
        self, paths: Paths, schema: SchemaLike | None = None, missing: Missing = "error", watch: Duration | None = None,
        max_skew: Duration | None = "10s", rate: float | None = None, *, storage_options: Mapping[str, Any] | None = None,
        split_rows: int = MAX_SPLIT_ROWS,
    ) -> None:  # fmt: skip
        self._init(paths, schema, missing, watch, max_skew, rate, storage_options)
        self._set(split_rows=split_rows)

    def infer(self, file: InputFile) -> tuple[pa.Schema | None, bool]:
        if file.size == 0:
            return None, False
        with self.open_file(file) as parquet:
            return engine_schema(parquet.schema_arrow, file.path), parquet.metadata.num_rows > 0

    def split_files(self, files: Sequence[InputFile], event_time_column: str | None, parallelism: int) -> list[Split]:
        files = [file for file in files if file.size]
        with ThreadPoolExecutor(max_workers=16) as pool:
            footers = list(pool.map(lambda file: self._footer(file, event_time_column), files))
        rows = sum(footer.rows for footer in footers)
        target = max(rows // (SPLITS_PER_READER * parallelism), min(MIN_SPLIT_ROWS, self.split_rows))
        target = min(target, self.split_rows)
        return [split for file, footer in zip(files, footers, strict=True) for split in footer.splits(file, target)]

    def _footer(self, file: InputFile, event_time_column: str | None) -> Footer:
        with self.open_file(file) as parquet:
            file_columns(parquet.schema_arrow, self.schema(), self.missing, file.path)
            return Footer.of(parquet.metadata, event_time_column)

    @contextmanager
    def open_file(self, file: InputFile) -> Iterator[pq.ParquetFile]:
        parquet = open_parquet(file, self.storage_options)
        try:
            yield parquet
        finally:
            parquet.close(force=True)

    def open_split(self, split: Split, offset: Any | None) -> ParquetReader:
        return ParquetReader(split, offset, self.schema(), self.missing, self.storage_options)


@dataclass(frozen=True)
class Footer:
    """What planning needs to know of a file's row groups."""

    group_rows: tuple[int, ...]
    group_min_us: tuple[int | None, ...]

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    @classmethod
    def of(cls, metadata: pq.FileMetaData, event_time_column: str | None) -> Footer:
        groups = range(metadata.num_row_groups)
        rows = tuple(metadata.row_group(group).num_rows for group in groups)
        names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        if event_time_column not in names:
            return cls(rows, (None,) * len(rows))
        index = names.index(event_time_column)
        scale = _micros_per_unit(metadata.schema.column(index))
        return cls(rows, tuple(_min_us(metadata.row_group(group).column(index), scale) for group in groups))

    def splits(self, file: InputFile, target_rows: int) -> Iterator[Split]:
        """Consecutive row groups together until they have `target_rows`."""
        start = rows = 0
        for group, group_rows in enumerate(self.group_rows):
            rows += group_rows
            if rows >= target_rows or (rows and group == len(self.group_rows) - 1):
                yield self._split(file, start, group + 1, rows)
                start, rows = group + 1, 0

    def _split(self, file: InputFile, start: int, stop: int, rows: int) -> Split:
        bounds = [self.group_min_us[group] for group in range(start, stop) if self.group_rows[group]]
        known = [bound for bound in bounds if bound is not None]
        return Split(
            id=f"{file.path}#{start}-{stop}",
            payload=file.payload(start=start, stop=stop),
            min_event_time_us=min(known) if known and len(known) == len(bounds) else None,
            size=rows,
        )


def _micros_per_unit(column: Any) -> tuple[int, int] | None:
    """(multiply, divide) to get µs from the raw integers of an event-time column; None where statistics cannot tell."""
    if column.physical_type != "INT64":
        return None
    logical = json.loads(column.logical_type.to_json())
    if logical["Type"] == "Timestamp":
        return _MICROS.get(logical["timeUnit"])
    return (1, 1) if logical["Type"] in ("None", "Int") else None


def _min_us(chunk: Any, scale: tuple[int, int] | None) -> int | None:
    statistics = chunk.statistics
    if scale is None or statistics is None or not statistics.has_min_max:
        return None
    return int(statistics.min_raw) * scale[0] // scale[1]


@dataclass(frozen=True)
class ParquetSink(FileSink):
    """Writes Parquet files into a directory, exactly once: everything under `dir/*.parquet` is committed."""

    suffix = ".parquet"

    def open_writer(self, handle: BinaryIO, schema: pa.Schema) -> ParquetFileWriter:
        return ParquetFileWriter(handle, schema)


class ParquetFileWriter(FileWriter):
    """Gathers rows to row groups worth having."""

    def __init__(self, handle: BinaryIO, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(handle, schema)
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _WRITE_ROWS or self._bytes >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches, self._schema), row_group_size=self._rows)
        self._batches.clear()
        self._rows = self._bytes = 0

    def close(self) -> None:
        self._flush()
        self._writer.close()
