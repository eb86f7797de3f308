"""Keys of a batch in the form that indexes take, and back to Arrow columns.

One key column of a word type (integers, floats, dates, timestamps) stays a word. Everything else becomes bytes: a single string or binary
column lends its own buffers, several columns are written row by row (per column a byte that says null or not, then eight bytes, or a
length of four bytes and the bytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError
from flinkray.state.arrow_buffers import (
    ALL_VALID,
    NO_BITMAP,
    Bitmap,
    bitmap_of,
    bytes_of,
    contiguous,
    is_bytes_type,
    is_word_type,
    value_type,
    words_of,
)
from flinkray.state.bits import bit_at, copy_bytes, load_i64, load_u8, load_u32, store_i64
from flinkray.state.jit import I8, I8_ROWS, RO_I8, RO_U1, U1, njit, types
from flinkray.state.key_hash import hash_arrays, key_words

NO_WORDS = np.empty(0, np.int64)
NO_OFFSETS = np.zeros(1, np.int64)
NO_ROWS = np.empty(0, np.int64)


@dataclass(slots=True)
class Keys:
    """Keys of n rows: `words[n]` on the word path, else `data[offsets[i]:offsets[i + 1]]`. `bitmap`: which are not null
    (only a single key column can be null as a whole)."""

    hashes: np.ndarray
    bitmap: Bitmap
    words: np.ndarray
    offsets: np.ndarray
    data: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)


class KeyCodec:
    """Encodes and decodes keys of fixed column types. Dictionaries count as their values. Raises PlanError for types that cannot be keys."""

    def __init__(self, kinds: Sequence[pa.DataType]) -> None:
        self.kinds = tuple(value_type(kind) for kind in kinds)
        for kind in self.kinds:
            if not (is_word_type(kind) or is_bytes_type(kind) or pa.types.is_null(kind)):
                raise PlanError(f"a column of type {kind} cannot be a key; use integers, floats, strings, dates or timestamps")
        self._wordy = [not is_bytes_type(kind) for kind in self.kinds]
        self.by_words = self._wordy == [True]
        """Whether keys are words; else they are bytes."""

    def keys(self, batch: pa.RecordBatch, columns: Sequence[str], seed: int) -> Keys:
        return self.encode([contiguous(batch.column(name)) for name in columns], batch.num_rows, seed)

    def whole_numbers(self, batch: pa.RecordBatch, columns: Sequence[str]) -> np.ndarray | None:
        """int64[n]: the keys as they are, when they are one column of integers, dates or timestamps and none is null."""
        if not self.by_words or pa.types.is_floating(self.kinds[0]) or pa.types.is_null(self.kinds[0]):
            return None
        array = contiguous(batch.column(columns[0]))
        return None if array.null_count else words_of(array)

    def encode(self, arrays: Sequence[pa.Array], rows: int, seed: int) -> Keys:
        """The keys of plain arrays, hashed with the job's seed."""
        hashes = hash_arrays(arrays, rows, seed)
        if self.by_words:
            return Keys(hashes, bitmap_of(arrays[0]), key_words(arrays[0]), NO_OFFSETS, NO_BITMAP)
        if len(arrays) == 1:
            offsets, data = bytes_of(arrays[0])
            return Keys(hashes, bitmap_of(arrays[0]), NO_WORDS, offsets, data)
        whole = all(self._wordy) and not any(array.null_count for array in arrays)
        offsets, data = _write_words(arrays, rows) if whole else self._write_rows(arrays, rows)
        return Keys(hashes, ALL_VALID, NO_WORDS, offsets, data)

    def _write_rows(self, arrays: Sequence[pa.Array], rows: int) -> tuple[np.ndarray, np.ndarray]:
        ends = np.full(rows + 1, len(arrays), np.int64)
        columns = [self._buffers(array, wordy) for array, wordy in zip(arrays, self._wordy, strict=True)]
        for words, offsets, _, (bits, shift) in columns:
            _add_sizes(words, offsets, bits, shift, ends)
        _ends_to_offsets(ends)
        data = np.empty(int(ends[-1]), np.uint8)
        cursor = ends[:-1].copy()
        for words, offsets, source, (bits, shift) in columns:
            _write_column(words, offsets, source, bits, shift, cursor, data)
        return ends, data

    @staticmethod
    def _buffers(array: pa.Array, wordy: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, Bitmap]:
        if wordy:
            return key_words(array), NO_OFFSETS, NO_BITMAP, bitmap_of(array)
        offsets, data = bytes_of(array)
        return NO_WORDS, offsets, data, bitmap_of(array)

    def decode_words(self, words: np.ndarray, nulls: np.ndarray = NO_ROWS) -> list[pa.Array]:
        """The key column of word keys; the rows `nulls` are of the null key."""
        valid = None
        if len(nulls):
            valid = np.ones(len(words), np.bool_)
            valid[nulls] = False
        return [words_to_array(words, self.kinds[0], valid)]

    def decode_bytes(self, offsets: np.ndarray, data: np.ndarray, nulls: np.ndarray = NO_ROWS) -> list[pa.Array]:
        """The key columns of bytes keys; the rows `nulls` are of the null key."""
        rows = len(offsets) - 1
        valid = np.ones(rows, np.bool_)
        if len(self.kinds) == 1:
            valid[nulls] = False
            return [bytes_to_array(offsets, data, self.kinds[0], valid)]
        cursor, arrays = offsets[:-1].copy(), []
        for kind, wordy in zip(self.kinds, self._wordy, strict=True):
            parts = np.zeros((2, rows), np.int64)  # word or start, and length
            mask = np.empty(rows, np.uint8)
            _read_column(data, cursor, wordy, parts, mask)
            valid = mask.view(np.bool_)
            if wordy:
                arrays.append(words_to_array(parts[0], kind, valid))
            else:
                arrays.append(bytes_to_array(*gathered(data, parts[0], parts[1]), kind, valid))
        return arrays


def _write_words(arrays: Sequence[pa.Array], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The same bytes, where all columns are words and none of them is null: then all rows are of one length."""
    row = np.dtype([field for column in range(len(arrays)) for field in ((f"there {column}", np.uint8), (f"word {column}", np.int64))])
    written = np.empty(rows, row)
    for column, array in enumerate(arrays):
        written[f"there {column}"] = 1
        written[f"word {column}"] = key_words(array)
    return np.arange(rows + 1, dtype=np.int64) * row.itemsize, written.view(np.uint8)


def words_to_array(words: np.ndarray, kind: pa.DataType, valid: np.ndarray | None = None) -> pa.Array:
    """int64 words as an array of a word type; `valid` (bool[n]) says which are not null."""
    mask = None if valid is None or valid.all() else ~valid
    if pa.types.is_null(kind):
        return pa.nulls(len(words))
    if pa.types.is_floating(kind):
        return pc.cast(pa.array(words.view(np.float64), mask=mask), kind, safe=False)
    if pa.types.is_uint64(kind):
        return pa.array(words.view(np.uint64), mask=mask)
    if mask is not None:
        words = np.where(mask, 0, words)
    array = pa.array(words, pa.int64(), mask=mask)
    if kind.bit_width == 32 and pa.types.is_temporal(kind):
        array = pc.cast(array, pa.int32())
    return array if kind == pa.int64() else pc.cast(array, kind)


def bytes_to_array(offsets: np.ndarray, data: np.ndarray, kind: pa.DataType, valid: np.ndarray) -> pa.Array:
    """Consecutive bytes as an array of a bytes type."""
    rows, nulls = len(valid), int(len(valid) - np.count_nonzero(valid))
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little")) if nulls else None
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind):
        fixed = np.zeros((rows, kind.bit_width // 8), np.uint8)
        _spread_fixed(offsets, data, fixed.reshape(-1), kind.bit_width // 8)
        return pa.Array.from_buffers(kind, rows, [bitmap, pa.py_buffer(fixed)], nulls)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    large = pa.large_string() if text else pa.large_binary()
    buffers = [bitmap, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(data)]
    array = pa.Array.from_buffers(large, rows, buffers, nulls)
    return array if kind == large else pc.cast(array, kind)


def gathered(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, data) of the pieces of some bytes, one behind the other."""
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    pieces = np.empty(int(offsets[-1]), np.uint8)
    _gather_bytes(data, starts, offsets, pieces)
    return offsets, pieces


@njit([types.void(RO_U1, I8, I8, U1)], nogil=True, cache=True)
def _gather_bytes(data, starts, offsets, pieces):  # type: ignore[no-untyped-def]
    source, target = data.ctypes.data, pieces.ctypes.data
    for i in range(starts.size):
        copy_bytes(source + starts[i], target + offsets[i], offsets[i + 1] - offsets[i])


@njit([types.void(RO_I8, RO_I8, RO_U1, types.int64, I8)], nogil=True, cache=True)
def _add_sizes(words, offsets, bits, shift, ends):  # type: ignore[no-untyped-def]
    for i in range(ends.size - 1):
        if bits.size == 0 or bit_at(bits, shift + i):
            ends[i] += 8 if words.size else 4 + offsets[i + 1] - offsets[i]


@njit([types.void(I8)], nogil=True, cache=True)
def _ends_to_offsets(sizes):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(sizes.size - 1):
        size = sizes[i]
        sizes[i] = total
        total += size
    sizes[sizes.size - 1] = total


@njit([types.void(RO_I8, RO_I8, RO_U1, RO_U1, types.int64, I8, U1)], nogil=True, cache=True)
def _write_column(words, offsets, source, bits, shift, cursor, data):  # type: ignore[no-untyped-def]
    from_address, to_address = source.ctypes.data, data.ctypes.data
    for i in range(cursor.size):
        at = cursor[i]
        if bits.size != 0 and not bit_at(bits, shift + i):
            data[at] = 0
            cursor[i] = at + 1
            continue
        data[at] = 1
        at += 1
        if words.size:
            store_i64(to_address + at, words[i])
            cursor[i] = at + 8
            continue
        start, length = offsets[i], offsets[i + 1] - offsets[i]
        for j in range(4):
            data[at + j] = (length >> (8 * j)) & 255
        copy_bytes(from_address + start, to_address + at + 4, length)
        cursor[i] = at + 4 + length


@njit([types.void(RO_U1, I8, types.boolean, I8_ROWS, U1)], nogil=True, cache=True)
def _read_column(data, cursor, wordy, parts, mask):  # type: ignore[no-untyped-def]
    base = data.ctypes.data
    for i in range(cursor.size):
        at = cursor[i]
        mask[i] = load_u8(base + at)
        cursor[i] = at + 1
        if mask[i] == 0:
            continue
        if wordy:
            parts[0, i] = load_i64(base + at + 1)
            cursor[i] = at + 9
        else:
            parts[0, i] = at + 5
            parts[1, i] = load_u32(base + at + 1)
            cursor[i] = at + 5 + parts[1, i]


@njit([types.void(RO_I8, RO_U1, U1, types.int64)], nogil=True, cache=True)
def _spread_fixed(offsets, data, fixed, width):  # type: ignore[no-untyped-def]
    for i in range(offsets.size - 1):
        for j in range(offsets[i + 1] - offsets[i]):
            fixed[i * width + j] = data[offsets[i] + j]
