"""Strings and bytes from the pages of a Parquet column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flinkray.connectors import parquet_kernels as kernels
from flinkray.connectors import parquet_text_kernels as texts
from flinkray.connectors.parquet_columns import ColumnPages, Decompress, must
from flinkray.connectors.parquet_kernels import PADDING

LARGEST_BYTES = 1 << 30
"""Of a row group's text: offsets have 32 bits."""


class TextPages(ColumnPages):
    """Values of any length."""

    least_bytes = 4

    def __init__(self, chunk: np.ndarray, pages: np.ndarray, kind: pa.DataType, decompress: Decompress, optional: bool) -> None:
        self._places = np.empty(0, np.uint64)
        """Where the dictionary's values lie (see `parquet_text_kernels.find_values`)."""
        self._numbers = np.empty(0, np.uint32)
        """0, 1, 2 ...: a dictionary of the places in the dictionary, with room behind them."""
        self._longest = 0
        self._state = np.zeros(texts.STATE_FIELDS, np.int64)
        super().__init__(chunk, pages, kind, decompress, optional)

    def fits(self, rows: int, plain_bytes: int) -> bool:
        """Whether so many rows, of which the plain ones have so many bytes, can become one array."""
        return rows * self._longest + plain_bytes <= LARGEST_BYTES

    def _open_dictionary(self) -> None:
        must(self._known * 4 <= self._size)
        self._places = np.empty(self._known, np.uint64)
        self._longest = texts.find_values(self._memory_of_dictionary, self._size, self._places)
        must(self._longest >= 0)
        self._numbers = np.arange(1 << max(0, self._known - 1).bit_length(), dtype=np.uint32)

    def take(self, rows: int) -> pa.Array:
        state, ends, text = self._state, pa.allocate_buffer(4 * (rows + 1)), _Bytes()
        offsets = np.frombuffer(ends, np.int32)
        offsets[0] = state[texts.TAKEN] = state[texts.USED] = taken = 0
        while taken < rows:
            if not self._left:
                self._open_page()
            stop = min(taken + self._left, rows)
            text.reserve(int(state[texts.USED]) + self._expected_bytes(rows - taken))
            state[texts.AT] = self._at
            indexes = self._indexes(stop - taken) if self._indexed else None
            while (done := self._take(indexes, taken, stop, offsets, text.memory)) < stop:
                must(done != kernels.BROKEN)
                text.reserve(2 * len(text.memory))
            self._at = int(state[texts.AT])
            self._left -= stop - taken
            taken = stop
        return pa.Array.from_buffers(self._kind, rows, [None, ends, text.end(int(state[texts.USED]))], null_count=0)

    def _expected_bytes(self, rows: int) -> int:
        """Of so many values, to judge by what is left of the page at hand, or by the dictionary."""
        some, size = (max(1, self._known), self._longest * self._known // 2) if self._indexed else (self._left, self._size - self._at)
        return rows * size // some + size // some

    def _indexes(self, count: int) -> np.ndarray:
        """The next indexes of the page; none points outside of the dictionary."""
        found = np.empty(count, np.uint32)
        must(kernels.take_from_dictionary(self._page, self._size, self._run, self._numbers, self._known, found, 0, count) == count)
        return found

    def _take(self, indexes: np.ndarray | None, first: int, stop: int, offsets: np.ndarray, data: np.ndarray) -> int:
        if indexes is None:
            return int(texts.take_plain(self._page, self._size, self._state, stop, offsets, data))
        return int(texts.take_indexed(self._memory_of_dictionary, self._places, indexes, first, self._state, stop, offsets, data))

    def close(self) -> None:
        super().close()
        self._places, self._numbers = np.empty(0, np.uint64), np.empty(0, np.uint32)


class _Bytes:
    """Memory that grows, and becomes an Arrow buffer."""

    def __init__(self) -> None:
        self._buffer = pa.allocate_buffer(PADDING, resizable=True)
        self.memory = np.frombuffer(self._buffer, np.uint8)

    def reserve(self, size_bytes: int) -> None:
        """Room for so many, and `PADDING` behind them; `memory` is another array then."""
        if size_bytes + PADDING > len(self.memory):
            self.memory = np.empty(0, np.uint8)  # nobody may look at the buffer while it moves
            self._buffer.resize(size_bytes + PADDING)
            self.memory = np.frombuffer(self._buffer, np.uint8)

    def end(self, size_bytes: int) -> pa.Buffer:
        self.memory = np.empty(0, np.uint8)
        self._buffer.resize(size_bytes)
        return self._buffer
