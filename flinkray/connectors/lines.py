"""Rows that end with newlines: cut into blocks of whole rows with exact byte positions, and bad rows found by halving a block.

A block ends where a row ends and holds at most as many rows as were asked for, so that the position after it is one byte offset and
nothing is ever held back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.connectors.files import InputFile, storage_errors
from flinkray.errors import SourceError

Parse = Callable[[pa.Buffer], pa.RecordBatch]
"""Rows of some whole lines; raises pa.ArrowInvalid when any of them is malformed."""

ParsePlain = Callable[[np.ndarray, int], tuple[pa.RecordBatch, int] | None]
"""(the first rows of some whole lines, at most so many; the bytes they take); None when the lines must be cut and parsed with more care.
The bytes given are followed by `SLACK_BYTES` others in memory."""

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".br": "brotli"}
MAX_BLOCK_BYTES = 16 << 20
SLACK_BYTES = 64
MAX_ROW_BYTES = 256 << 20
_MIN_BLOCK_BYTES = 4096
_PIECE_BYTES = 1 << 17
_NEWLINE = ord("\n")
_RETURN = ord("\r")


def compression_of(path: str) -> str | None:
    """The codec that a file's suffix tells; its rows cannot be split by byte range."""
    return next((codec for suffix, codec in COMPRESSIONS.items() if path.endswith(suffix)), None)


class ByteStream:
    """A file's bytes in order from a position; decompressed, with positions in decompressed bytes."""

    def __init__(self, file: InputFile, options: Mapping[str, Any] | None, start: int = 0) -> None:
        self._path = file.path
        self._file = file.open(options)
        self._handle = self._file
        codec = compression_of(file.path)
        if codec is not None:
            self._handle = pa.CompressedInputStream(self._file, codec)
            self._skip(start)
        elif start:
            with storage_errors(self._path):
                self._handle.seek(start)

    def _skip(self, size: int) -> None:
        scratch = bytearray(1 << 20)
        while size > 0:
            got = self.fill(scratch if size >= len(scratch) else bytearray(size))
            if not got:
                raise SourceError(f"{self._path}: ends before the position to go on from; the file has changed")
            size -= got

    def fill(self, buffer: bytearray | memoryview, filled: int = 0) -> int:
        """Fills the buffer from `filled` on; how much of it is filled then: less than all only at the end of the file."""
        view = memoryview(buffer)
        with storage_errors(self._path):
            while filled < len(view):
                got = self._handle.readinto(view[filled:])
                if not got:
                    break
                filled += got
        return filled

    def close(self) -> None:
        self._handle.close()
        self._file.close()


def count_newlines(file: InputFile, options: Mapping[str, Any] | None, stop: int) -> int:
    """Newlines before the byte `stop` of a file: only read when an error must name a line."""
    stream = ByteStream(file, options)
    lines = 0
    while stop > 0:
        buffer = bytearray(min(stop, 4 << 20))
        filled = stream.fill(buffer)
        lines += newlines_in(memoryview(buffer)[:filled])
        stop = stop - filled if filled else 0
    stream.close()
    return lines


def newlines_in(data: memoryview) -> int:
    return count_byte(data, _NEWLINE)


def count_byte(data: memoryview, byte: int) -> int:
    """How often a byte stands in `data`; piece by piece, so that what is compared stays in cache (bytes.count is five times slower)."""
    chars = np.frombuffer(data, np.uint8)
    return sum(int(np.count_nonzero(chars[start : start + _PIECE_BYTES] == byte)) for start in range(0, len(chars), _PIECE_BYTES))


def row_ends(data: memoryview, quote: int | None) -> np.ndarray:
    """Positions just after each row of `data`, which starts with a row. With `quote`, newlines between two quotes end no row."""
    chars = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(chars == _NEWLINE)
    if quote is not None and len(newlines):
        quotes = np.flatnonzero(chars == quote)
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return newlines + 1


@dataclass(frozen=True)
class Block:
    """Whole rows. Blank lines count as rows here."""

    text: memoryview
    """Good until the next call but one."""
    rows: int
    batch: pa.RecordBatch | None = None
    """The rows, where they have been parsed already."""


class RowBlocks:
    """Cuts the rows that start in `position <= byte < stop` of a file into blocks of whole rows."""

    def __init__(
        self,
        file: InputFile,
        options: Mapping[str, Any] | None,
        start: int,
        stop: int | None,
        quote: int | None,
        parse_plain: ParsePlain | None = None,
    ) -> None:
        """`start` must be the first byte of a row. `stop` None: the end of the file. `quote`: rows may contain newlines in quotes.
        `parse_plain` is tried before rows are counted."""
        self.position = start
        self._parse_plain = parse_plain
        self._file = file
        self._stop = stop
        self._quote = quote
        self._stream = ByteStream(file, options, start)
        self._carry = memoryview(b"")
        """Bytes read already that come after `position`."""
        self._row_bytes = 64.0
        self._buffers = [bytearray(), bytearray()]
        """Two, in turn: what is carried over lies in the one used before. Fresh ones of this size would cost as much as reading."""

    def next(self, max_rows: int) -> Block | None:
        """At most `max_rows` rows; None after the last one."""
        if self._stop is not None and self.position >= self._stop:
            return None
        want = int(min(max(max_rows * self._row_bytes * 0.95, _MIN_BLOCK_BYTES), MAX_BLOCK_BYTES))
        while True:
            size = max(want, len(self._carry))
            buffer = self._buffer(size)
            view = memoryview(buffer)[:size]
            view[: len(self._carry)] = self._carry
            filled = self._stream.fill(view, len(self._carry))
            if not filled:
                return None
            block = self._cut(buffer, filled, filled < size, max_rows)
            if block is not None:
                break
            self._carry, want = memoryview(buffer)[:filled], want * 2
            if want > MAX_ROW_BYTES:
                raise SourceError(
                    f"{self._file.path}: the row at byte {self.position} is over {MAX_ROW_BYTES >> 20} MiB; check the line ends and quotes"
                )
        end = len(block.text)
        self._carry = memoryview(buffer)[end:filled]
        self._row_bytes = end / block.rows
        self.position += end
        return block

    def _buffer(self, size: int) -> bytearray:
        """One that does not hold what is carried over; its content is old."""
        self._buffers.reverse()
        if len(self._buffers[0]) < size + SLACK_BYTES:
            self._buffers[0] = bytearray(size + size // 4 + SLACK_BYTES)
        return self._buffers[0]

    def _cut(self, buffer: bytearray, filled: int, at_end: bool, max_rows: int) -> Block | None:
        """The leading whole rows; None when more must be read first."""
        inside = filled if self._stop is None else min(filled, self._stop - self.position)
        text = memoryview(buffer)
        if self._quote is None:
            end = buffer.find(b"\n", inside - 1, filled) + 1
            if not end:
                end = filled if at_end else buffer.rfind(b"\n", 0, filled) + 1
            return self._cut_lines(text[:end], max_rows) if end else None
        ends = row_ends(text[:filled], self._quote)
        if at_end and (not len(ends) or ends[-1] < filled):
            ends = np.append(ends, filled)
        ends = ends[: int(np.searchsorted(ends, inside)) + 1][:max_rows]
        return Block(text[: int(ends[-1])], len(ends)) if len(ends) else None

    def _cut_lines(self, text: memoryview, max_rows: int) -> Block:
        """Of whole lines the first `max_rows`."""
        if self._parse_plain is not None and text[-1] == _NEWLINE:
            parsed = self._parse_plain(np.frombuffer(text, np.uint8), max_rows)
            if parsed is not None:
                return Block(text[: parsed[1]], parsed[0].num_rows, parsed[0])
        rows = newlines_in(text) + (text[-1] != _NEWLINE)
        if rows <= max_rows:
            return Block(text, rows)
        return Block(text[: int(row_ends(text, None)[max_rows - 1])], max_rows)

    def close(self) -> None:
        self._stream.close()


def first_row_from(file: InputFile, options: Mapping[str, Any] | None, start: int) -> int:
    """The first byte of the first row that starts at or after `start` (> 0) of a file that has no newlines inside of rows."""
    stream = ByteStream(file, options, start - 1)
    position = start - 1
    while True:
        buffer = bytearray(1 << 16)
        filled = stream.fill(buffer)
        found = buffer.find(b"\n", 0, filled)
        if found >= 0 or not filled:
            stream.close()
            return position + (found + 1 if found >= 0 else 0)
        position += filled


def salvage(
    block: memoryview, quote: int | None, parse: Parse, reject: Callable[[int, memoryview, Exception], None]
) -> list[pa.RecordBatch]:
    """The good rows of a block with bad ones: pieces that cannot be parsed are halved until each bad row stands alone.

    `reject(first byte in the block, row, reason)` may raise. Blank lines are no rows. Costs some 100 µs for each halving.
    """
    ends = row_ends(block, quote)
    if not len(ends) or ends[-1] < len(block):
        ends = np.append(ends, len(block))
    starts = np.concatenate([[0], ends[:-1]])
    chars = np.frombuffer(block, np.uint8)
    sizes = ends - starts
    blank = (chars[ends - 1] == _NEWLINE) & ((sizes == 1) | ((sizes == 2) & (chars[starts] == _RETURN)))
    starts, ends = starts[~blank], ends[~blank]
    good: list[pa.RecordBatch] = []

    def visit(low: int, high: int) -> None:
        piece = block[int(starts[low]) : int(ends[high - 1])]
        problem: Exception
        try:
            batch = parse(pa.py_buffer(piece))
        except pa.ArrowInvalid as error:
            problem = error
        else:
            if batch.num_rows == high - low:
                good.append(batch)
                return
            if not batch.num_rows and high - low == 1:
                return  # nothing but white space
            problem = pa.ArrowInvalid(f"the line holds {batch.num_rows} rows, and must hold one")
        if high - low == 1:
            reject(int(starts[low]), piece, problem)
            return
        middle = (low + high) // 2
        visit(low, middle)
        visit(middle, high)

    if len(starts):
        visit(0, len(starts))
    return good
