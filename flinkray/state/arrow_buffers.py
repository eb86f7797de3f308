"""Arrow arrays as the flat numpy views that kernels take: 64-bit words, bitmaps, bytes with offsets. No copies where none are needed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError

NO_BITMAP = np.empty(0, np.uint8)

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


class Bitmap(NamedTuple):
    """Validity of an array: bit `offset + i` of `bits`; no bits at all where nothing is null."""

    bits: np.ndarray
    offset: int

    @property
    def all_valid(self) -> bool:
        return self.bits.size == 0


ALL_VALID = Bitmap(NO_BITMAP, 0)


def value_type(kind: pa.DataType) -> pa.DataType:
    """A dictionary type's values, else the type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_word_type(kind: pa.DataType) -> bool:
    """Whether a value of the type fits one 64-bit word: integers, floats, booleans, dates, times, timestamps, durations."""
    kind = value_type(kind)
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
    )


def is_bytes_type(kind: pa.DataType) -> bool:
    """Strings and binaries of all layouts, fixed-size binaries, decimals up to 128 bits."""
    kind = value_type(kind)
    decimal = pa.types.is_decimal(kind) and kind.bit_width <= 128
    return any(test(kind) for test in _TEXT + _BINARY) or pa.types.is_fixed_size_binary(kind) or decimal


def contiguous(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One plain array: chunks joined, dictionaries decoded."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def bitmap_of(array: pa.Array) -> Bitmap:
    if array.null_count == 0:
        return ALL_VALID
    buffer = array.buffers()[0]
    if buffer is None:  # the null type has no bitmap: everything is null
        return Bitmap(np.zeros(len(array) // 8 + 1, np.uint8), 0)
    return Bitmap(np.frombuffer(buffer, np.uint8), array.offset)


def words_of(array: pa.Array) -> np.ndarray:
    """Values of a word type as int64 (floats: bits of the double). Where null, anything."""
    kind = array.type
    if pa.types.is_floating(kind):
        return float_values(array).view(np.int64)
    if pa.types.is_boolean(kind):
        array = pc.cast(array, pa.int8())
        kind = array.type
    return np.ascontiguousarray(_fixed_width(array, _numpy_type(kind)), np.int64)


def float_values(array: pa.Array) -> np.ndarray:
    """Values as float64; integers are converted. Where null, anything."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return words_of(array).astype(np.float64)
    return np.ascontiguousarray(_fixed_width(array, _numpy_type(kind)), np.float64)


def bytes_of(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(int64 offsets[n + 1], data) of a bytes type; the bytes of row i are `data[offsets[i]:offsets[i + 1]]`."""
    kind, rows = array.type, len(array)
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind):
        buffer = array.buffers()[1]
        data = np.frombuffer(buffer, np.uint8) if buffer is not None and buffer.size else NO_BITMAP
        return (np.arange(rows + 1, dtype=np.int64) + array.offset) * (kind.bit_width // 8), data
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        array = pc.cast(array, pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary())
        kind = array.type
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    _, offset_buffer, data_buffer = array.buffers()
    if rows == 0 or offset_buffer is None:
        return np.zeros(rows + 1, np.int64), NO_BITMAP
    offsets = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)[array.offset : array.offset + rows + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None and data_buffer.size else NO_BITMAP
    return np.ascontiguousarray(offsets, np.int64), data


def _fixed_width(array: pa.Array, numpy_type: np.dtype) -> np.ndarray:
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.zeros(len(array), numpy_type)
    values = np.frombuffer(buffer, numpy_type)[array.offset : array.offset + len(array)]
    return values if values.flags.aligned else values.copy()


def _numpy_type(kind: pa.DataType) -> np.dtype:
    if pa.types.is_floating(kind):
        return np.dtype(f"f{kind.bit_width // 8}")
    if pa.types.is_integer(kind):
        return np.dtype(("i" if pa.types.is_signed_integer(kind) else "u") + str(kind.bit_width // 8))
    if pa.types.is_temporal(kind):
        return np.dtype(f"i{kind.bit_width // 8}")
    raise PlanError(f"type {kind} is no 64-bit value; cast the column to an integer, float, date or timestamp first")
