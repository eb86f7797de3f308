"""One column of a row group, decoded page after page: what all columns share, and those of fixed width. Text is in `parquet_text`."""

from __future__ import annotations

from collections.abc import Callable

import cramjam
import numpy as np
import pyarrow as pa

from flinkray.connectors import parquet_kernels as kernels
from flinkray.connectors.parquet_kernels import PADDING
from flinkray.connectors.scratch import borrow, give_back

DAMAGED = "a page is damaged, or its statistics are wrong about nulls"

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


CODECS: dict[str, Decompress] = {"UNCOMPRESSED": _copy, "SNAPPY": _snappy, "ZSTD": _zstd}


class ColumnPages:
    """One column of a row group, taken from front to back, and then closed."""

    least_bytes = 0
    """Of a plain value."""

    def __init__(self, chunk: np.ndarray, pages: np.ndarray, kind: pa.DataType, decompress: Decompress, optional: bool) -> None:
        """`chunk`: borrowed memory, which is given back on close."""
        self._chunk, self._kind, self._decompress, self._optional = chunk, kind, decompress, optional
        self._page = borrow(int(pages[:, kernels.SIZE].max()) + PADDING)
        """The page at hand, decompressed."""
        self._size = self._at = self._left = 0
        """Its bytes, where its next plain value lies, and values left of it."""
        self._indexed = False
        self._run = np.zeros(kernels.RUN_FIELDS, np.int64)
        self._memory_of_dictionary = np.empty(0, np.uint8)
        self._known = 0
        """Values of the dictionary."""
        self._pages = iter(pages.tolist())
        if pages[0, kernels.KIND] == kernels.DICTIONARY_PAGE:
            page = next(self._pages)
            self._memory_of_dictionary = borrow(page[kernels.SIZE] + PADDING)
            self._load(page, self._memory_of_dictionary)
            self._known = page[kernels.VALUES]
            self._open_dictionary()

    def _open_dictionary(self) -> None:
        """`_known` values lie in `_size` bytes of its memory."""
        raise NotImplementedError

    def take(self, rows: int) -> pa.Array:
        """The next values. ArrowInvalid when a page is damaged."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing can be taken any longer: others use the memory."""
        for memory in (self._chunk, self._page, self._memory_of_dictionary):
            give_back(memory)
        self._chunk = self._page = self._memory_of_dictionary = np.empty(0, np.uint8)
        self._pages, self._left = iter(()), 0

    def _open_page(self) -> None:
        page = next(self._pages, None)
        if page is None:
            raise pa.ArrowInvalid(DAMAGED)
        self._load(page, self._page)
        self._left = page[kernels.VALUES]
        self._indexed = page[kernels.ENCODING] != kernels.PLAIN
        least = 0 if self._indexed else self.least_bytes
        self._at = kernels.begin_page(self._page, self._size, self._left, self._optional, least, self._run)
        must(self._at >= 0)

    def _load(self, page: list[int], into: np.ndarray) -> None:
        start, packed, self._size = page[kernels.BODY], page[kernels.PACKED_SIZE], page[kernels.SIZE]
        must(not self._size or self._decompress(self._chunk[start : start + packed], into[: self._size]) == self._size)


class FixedPages(ColumnPages):
    """Values of four or eight bytes."""

    def __init__(self, chunk: np.ndarray, pages: np.ndarray, kind: pa.DataType, decompress: Decompress, optional: bool) -> None:
        self.least_bytes = kind.bit_width // 8
        self._word = np.dtype(f"u{self.least_bytes}")
        self._dictionary = np.empty(0, self._word)
        """Its values, with room behind them."""
        super().__init__(chunk, pages, kind, decompress, optional)

    def _open_dictionary(self) -> None:
        must(self._known * self.least_bytes <= self._size)
        self._dictionary = self._memory_of_dictionary.view(self._word)

    def close(self) -> None:
        super().close()
        self._dictionary = np.empty(0, self._word)

    def take(self, rows: int) -> pa.Array:
        buffer = pa.allocate_buffer(rows * self.least_bytes)
        values = np.frombuffer(buffer, self._word)
        taken = 0
        while taken < rows:
            if not self._left:
                self._open_page()
            stop = min(taken + self._left, rows)
            if self._indexed:
                done = kernels.take_from_dictionary(self._page, self._size, self._run, self._dictionary, self._known, values, taken, stop)
                must(done == stop)
            else:
                size = (stop - taken) * self.least_bytes
                values[taken:stop].view(np.uint8)[:] = self._page[self._at : self._at + size]
                self._at += size
            self._left -= stop - taken
            taken = stop
        return pa.Array.from_buffers(self._kind, rows, [None, buffer], null_count=0)


def must(holds: bool) -> None:
    """Raises ArrowInvalid: of the page at hand something does not hold."""
    if not holds:
        raise pa.ArrowInvalid(DAMAGED)
