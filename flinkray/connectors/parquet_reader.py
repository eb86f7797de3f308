"""Reads a range of a Parquet file's row groups, from any position on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from flinkray.connectors.base import Split, SplitReader
from flinkray.connectors.files import InputFile, Missing, storage_errors
from flinkray.connectors.schemas import conform, file_columns
from flinkray.errors import SourceError

if TYPE_CHECKING:
    from flinkray.connectors.parquet_pages import PagedFile

_MIN_DECODE_ROWS = 16_384


def open_parquet(file: InputFile, options: Mapping[str, Any] | None) -> pq.ParquetFile:
    """Opens without a memory map: a file that somebody truncates must be an error, not a crash of the process. And without read-ahead where the
    file is local: handing ranges to threads and back took a seventh of a keyed sum's time."""
    file.check_unchanged(options)
    with storage_errors(file.path):
        try:
            if file.is_local:
                return pq.ParquetFile(file.path, memory_map=False, pre_buffer=False)
            return pq.ParquetFile(file.open(options), pre_buffer=True)
        except pa.ArrowInvalid as error:
            raise SourceError(f"{file.path}: is no Parquet file: {error}") from error


def _paged(path: str, parquet: pq.ParquetFile) -> PagedFile:
    from flinkray.connectors.parquet_pages import PagedFile  # loads kernels

    return PagedFile(path, parquet.metadata, parquet.schema_arrow)


class ParquetReader(SplitReader):
    """Reads consecutive row groups of one file."""

    def __init__(self, split: Split, offset: Any | None, schema: pa.Schema, missing: Missing, options: Mapping[str, Any] | None) -> None:
        """`schema`: the columns that are wanted; `missing`: what is done where the file lacks one. `options`: of the storage."""
        self._file = InputFile.of(split.payload)
        self._options = options
        self._schema = schema
        self._parquet = open_parquet(self._file, self._options)
        self._columns = file_columns(self._parquet.schema_arrow, self._schema, missing, self._file.path)
        start, stop = split.payload["start"], split.payload["stop"]
        self._groups = range(start, stop)
        metadata = self._parquet.metadata
        group_rows = [metadata.row_group(group).num_rows for group in self._groups]
        self._ends = list(accumulate(group_rows))
        paged = self._file.is_local and min(group_rows, default=0) >= _MIN_DECODE_ROWS
        self._pages = _paged(self._file.path, self._parquet) if paged else None
        """None: all of it is pyarrow's, which makes batches of several small row groups, and reads ahead where the file is remote."""
        self._taken = 0
        """Rows of the split that `read` has returned."""
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._batch_rows = _MIN_DECODE_ROWS
        """What the next batch should have; where pyarrow decodes, it is the same for a row group."""
        self._rest: pa.RecordBatch | None = None
        if offset is not None:
            self._taken = self._first_row(offset["row_group"] - start) + offset["row"]

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self._rest is None:
            self._rest = self._next_batch(max_rows)
            if self._rest is None:
                self._file.check_unchanged(self._options)
                return None
        batch, self._rest = self._rest.slice(0, max_rows), self._rest.slice(max_rows)
        if not self._rest.num_rows:
            self._rest = None
        self._taken += batch.num_rows
        return conform(batch, self._schema, self._file.path)

    def _next_batch(self, max_rows: int) -> pa.RecordBatch | None:
        try:
            self._batch_rows = max(max_rows, _MIN_DECODE_ROWS)
            if self._batches is None:
                self._batches = self._decode()
            return next(self._batches, None)
        except (OSError, pa.ArrowInvalid) as error:
            raise SourceError(f"{self._file.path}: cannot be decoded: {error}") from error

    def _decode(self) -> Iterator[pa.RecordBatch]:
        """Record batches from the current position on."""
        first = bisect_right(self._ends, self._taken)
        skip = self._taken - self._first_row(first)
        for batch in self._batches_of(self._groups[first:]):
            if skip < batch.num_rows:
                yield batch.slice(skip)
            skip = max(skip - batch.num_rows, 0)

    def _batches_of(self, groups: range) -> Iterator[pa.RecordBatch]:
        columns = list(self._columns) or self._parquet.schema_arrow.names[:1]
        if self._pages is None:
            yield from self._parquet.iter_batches(self._batch_rows, row_groups=list(groups), columns=columns, use_threads=False)
            return
        for group in groups:
            yield from self._batches_of_group(self._pages, group, columns)

    def _batches_of_group(self, pages: PagedFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some of the columns may come from their pages, and the others from pyarrow."""
        plain = pages.columns(group, columns)
        others = [name for name in columns if name not in plain]
        rows = self._parquet.metadata.row_group(group).num_rows
        decoded = self._parquet.iter_batches(self._batch_rows, row_groups=[group], columns=others, use_threads=False) if others else None
        taken = 0
        try:
            while taken < rows:
                batch = next(decoded) if decoded is not None else None
                count = min(self._batch_rows, rows - taken) if batch is None else batch.num_rows
                arrays = {name: column.take(count) for name, column in plain.items()} | (
                    dict(zip(others, batch.columns, strict=True)) if batch else {}
                )
                yield pa.RecordBatch.from_arrays([arrays[name] for name in columns], names=columns)
                taken += count
        finally:
            for column in plain.values():
                column.close()

    def _first_row(self, group_index: int) -> int:
        return self._ends[group_index - 1] if group_index else 0

    def offset(self) -> Any:
        index = bisect_right(self._ends, self._taken)
        return {"row_group": self._groups.start + index, "row": self._taken - self._first_row(index)}

    def close(self) -> None:
        self._parquet.close(force=True)
        if self._pages is not None:
            self._pages.close()
