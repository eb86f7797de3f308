"""Columns of fixed width straight from the pages of a local Parquet file: twice as fast as by way of pyarrow, of whose time two thirds went into its
snappy decoder. Whatever is not plain enough (text, nulls, nested columns, rare encodings and codecs) is pyarrow's, as before."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import cramjam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flinkray.connectors import parquet_kernels as kernels
from flinkray.connectors.parquet_kernels import PADDING, PAGE_FIELDS
from flinkray.connectors.scratch import borrow, give_back

_PHYSICAL = {"INT64": 8, "DOUBLE": 8, "INT32": 4, "FLOAT": 4}
"""Bytes of a value."""
LARGEST_CHUNK_BYTES = 256 << 20
"""A chunk is read whole."""
_PAGES = 64
"""Room for that many at first."""

_DAMAGED = "a page is damaged, or its statistics are wrong about nulls"

Decompress = Callable[[np.ndarray, np.ndarray], int]


def _copy(packed: np.ndarray, page: np.ndarray) -> int:
    if len(packed) == len(page):
        page[:] = packed
    return len(packed)


def _snappy(packed: np.ndarray, page: np.ndarray) -> int:
    try:
        return int(cramjam.snappy.decompress_raw_into(packed.data, page.data))
    except cramjam.DecompressionError as error:
        raise pa.ArrowInvalid(f"a page is no snappy: {error}") from error


def _zstd(packed: np.ndarray, page: np.ndarray) -> int:
    return _copy(np.frombuffer(pa.Codec("zstd").decompress(pa.py_buffer(packed), len(page)), np.uint8), page)


_CODECS: dict[str, Decompress] = {"UNCOMPRESSED": _copy, "SNAPPY": _snappy, "ZSTD": _zstd}


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
        return fixed and kind.bit_width == 8 * (width or 0) and column.max_repetition_level == 0 and column.max_definition_level <= 1

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
        if chunk.compression not in _CODECS or not surely_there or chunk.total_compressed_size > LARGEST_CHUNK_BYTES:
            return None
        start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
        memory = borrow(chunk.total_compressed_size)
        size = os.preadv(self._handle, [memory[: chunk.total_compressed_size].data], start)
        pages = _find_pages(memory[:size], row_group.num_rows, chunk.total_uncompressed_size)
        return None if pages is None else ColumnPages(memory, pages, kind, _CODECS[chunk.compression], optional)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


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


class ColumnPages:
    """One column of a row group, taken from front to back, and then closed."""

    def __init__(self, chunk: np.ndarray, pages: np.ndarray, kind: pa.DataType, decompress: Decompress, optional: bool) -> None:
        """`chunk`: borrowed memory, which is given back on close."""
        self._chunk, self._kind, self._decompress, self._optional = chunk, kind, decompress, optional
        self._width = kind.bit_width // 8
        self._word = np.dtype(f"u{self._width}")
        self._page = borrow(int(pages[:, kernels.SIZE].max()) + PADDING)
        """The page at hand, decompressed."""
        self._size = self._at = self._left = 0
        """Its bytes, where its next plain value lies, and values left of it."""
        self._indexed = False
        self._run = np.zeros(kernels.RUN_FIELDS, np.int64)
        self._memory_of_dictionary = np.empty(0, np.uint8)
        self._dictionary, self._known = np.empty(0, self._word), 0
        """Its values, with room behind them, and how many they are."""
        self._pages = iter(pages.tolist())
        if pages[0, kernels.KIND] == kernels.DICTIONARY_PAGE:
            self._load_dictionary(next(self._pages))

    def _load_dictionary(self, page: list[int]) -> None:
        self._memory_of_dictionary = borrow(page[kernels.SIZE])
        self._load(page, self._memory_of_dictionary)
        self._known = page[kernels.VALUES]
        _must(self._known * self._width <= self._size)
        self._dictionary = self._memory_of_dictionary.view(self._word)

    def close(self) -> None:
        """Nothing can be taken any longer: others use the memory."""
        for memory in (self._chunk, self._page, self._memory_of_dictionary):
            give_back(memory)
        self._chunk = self._page = self._memory_of_dictionary = np.empty(0, np.uint8)
        self._pages, self._left = iter(()), 0

    def take(self, rows: int) -> pa.Array:
        """The next values. ArrowInvalid when a page is damaged."""
        buffer = pa.allocate_buffer(rows * self._width)
        values = np.frombuffer(buffer, self._word)
        taken = 0
        while taken < rows:
            if not self._left:
                self._open_page()
            stop = min(taken + self._left, rows)
            if self._indexed:
                done = kernels.take_from_dictionary(self._page, self._size, self._run, self._dictionary, self._known, values, taken, stop)
                _must(done == stop)
            else:
                size = (stop - taken) * self._width
                values[taken:stop].view(np.uint8)[:] = self._page[self._at : self._at + size]
                self._at += size
            self._left -= stop - taken
            taken = stop
        return pa.Array.from_buffers(self._kind, rows, [None, buffer], null_count=0)

    def _open_page(self) -> None:
        page = next(self._pages, None)
        if page is None:
            raise pa.ArrowInvalid(_DAMAGED)
        self._load(page, self._page)
        self._left = page[kernels.VALUES]
        self._indexed = page[kernels.ENCODING] != kernels.PLAIN
        self._at = kernels.begin_page(self._page, self._size, self._left, self._optional, self._width * (not self._indexed), self._run)
        _must(self._at >= 0)

    def _load(self, page: list[int], into: np.ndarray) -> None:
        start, packed, self._size = page[kernels.BODY], page[kernels.PACKED_SIZE], page[kernels.SIZE]
        _must(not self._size or self._decompress(self._chunk[start : start + packed], into[: self._size]) == self._size)


def _must(holds: bool) -> None:
    if not holds:
        raise pa.ArrowInvalid(_DAMAGED)
