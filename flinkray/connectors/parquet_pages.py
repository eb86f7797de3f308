"""Columns straight from the pages of a local Parquet file: twice as fast as by way of pyarrow, of whose time two thirds went into its snappy
decoder. Whatever is not plain enough (nulls, nested columns, rare encodings and codecs) is pyarrow's."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flinkray.connectors import parquet_kernels as kernels
from flinkray.connectors.parquet_columns import CODECS, ColumnPages, FixedPages
from flinkray.connectors.parquet_kernels import PAGE_FIELDS
from flinkray.connectors.parquet_text import TextPages
from flinkray.connectors.scratch import borrow

_PHYSICAL = {"INT64": 8, "DOUBLE": 8, "INT32": 4, "FLOAT": 4}
"""Bytes of a value."""
LARGEST_CHUNK_BYTES = 256 << 20
"""A chunk is read whole."""
_PAGES = 64
"""Room for that many at first."""


class PagedFile:
    """A local file of which row groups' columns are read."""

    def __init__(self, path: str, metadata: pq.FileMetaData, schema: pa.Schema) -> None:
        """`schema`: the file's columns as pyarrow gives them."""
        self._metadata = metadata
        self._types = {field.name: field.type for field in schema}
        names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        self._places = {name: i for i, name in enumerate(names) if name in self._types and self._plain(i, self._types[name])}
        self._handle = os.open(path, os.O_RDONLY)

    def _plain(self, place: int, kind: pa.DataType) -> bool:
        column = self._metadata.schema.column(place)
        width = _PHYSICAL.get(column.physical_type)
        fixed = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
        known = column.physical_type == "BYTE_ARRAY" if _is_text(kind) else fixed and kind.bit_width == 8 * (width or 0)
        return known and column.max_repetition_level == 0 and column.max_definition_level <= 1

    def columns(self, group: int, names: Sequence[str]) -> dict[str, ColumnPages]:
        """Those of the columns that can be read here, of one row group."""
        found = {name: self._column(group, self._places[name], self._types[name]) for name in names if name in self._places}
        return {name: column for name, column in found.items() if column is not None}

    def _column(self, group: int, place: int, kind: pa.DataType) -> ColumnPages | None:
        row_group = self._metadata.row_group(group)
        chunk = row_group.column(place)
        optional = self._metadata.schema.column(place).max_definition_level == 1
        statistics = chunk.statistics
        surely_there = not optional or (statistics is not None and statistics.has_null_count and statistics.null_count == 0)
        if chunk.compression not in CODECS or not surely_there or chunk.total_compressed_size > LARGEST_CHUNK_BYTES:
            return None
        start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
        memory = borrow(chunk.total_compressed_size)
        size = os.preadv(self._handle, [memory[: chunk.total_compressed_size].data], start)
        pages = _find_pages(memory[:size], row_group.num_rows, chunk.total_uncompressed_size)
        if pages is None:
            return None
        made = TextPages if _is_text(kind) else FixedPages
        column = made(memory, pages, kind, CODECS[chunk.compression], optional)
        if isinstance(column, TextPages) and not column.fits(row_group.num_rows, chunk.total_uncompressed_size):
            column.close()
            return None
        return column

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def _find_pages(chunk: np.ndarray, rows: int, size_bytes: int) -> np.ndarray | None:
    """int64[pages, PAGE_FIELDS] of a chunk of `size_bytes` when decompressed; None where pyarrow must read them. ArrowInvalid when the chunk is damaged."""
    room = _PAGES
    while True:
        pages = np.empty((room, PAGE_FIELDS), np.int64)
        count = kernels.find_pages(chunk, rows, size_bytes, pages)
        if count == kernels.BROKEN:
            raise pa.ArrowInvalid("a column chunk ends too early, or a page's header is damaged")
        if count == kernels.REFUSED:
            return None
        if count <= room:
            return pages[:count]
        room = count
