"""Hashes of key columns, and what follows from them: key groups, and which rows go to which subtask.

The hash is part of the state format: what `hash_keys` returns for a value may never change without a new HASH_VERSION. Integers of any
width hash alike, strings of any layout too; null is a value of its own; NaN equals NaN and -0.0 equals 0.0. The seed is the job's, so
that nobody can craft keys that collide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.state.arrow_buffers import bitmap_of, bytes_of, contiguous, is_bytes_type, is_word_type, words_of
from flinkray.state.bits import bit_at, load_i64, load_u8, load_u32, mix64, mum
from flinkray.state.jit import I8, RO_I8, RO_U1, RO_U2, RO_U8, U2, U8, inlined, njit, types

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_ODD = np.uint64(0x9FB21C651E98DF25)
_NULL = np.uint64(0x6A09E667F3BCC909)
_S1 = np.uint64(0x2D358DCCAA6C78A5)
_S2 = np.uint64(0x8BB84B93962EACC9)
_S3 = np.uint64(0x4B33A62ED433D4A3)
_U23, _U41, _U32 = np.uint64(23), np.uint64(41), np.uint64(32)


def hash_keys(batch: pa.RecordBatch, columns: Sequence[str], seed: int) -> np.ndarray:
    """uint64[n]: the hash of each row's key. Raises PlanError for a column whose type cannot be a key."""
    return hash_arrays([contiguous(batch.column(name)) for name in columns], batch.num_rows, seed)


def hash_arrays(arrays: Sequence[pa.Array], rows: int, seed: int) -> np.ndarray:
    """`hash_keys` over plain arrays (see `arrow_buffers.contiguous`)."""
    hashes = np.empty(rows, np.uint64)
    if not arrays:
        hashes[:] = np.uint64(spread(seed))
    for position, array in enumerate(arrays):
        hash_column(array, seed, hashes, position > 0)
    return hashes


def hash_column(array: pa.Array, seed: int, hashes: np.ndarray, combine: bool) -> None:
    """Hashes one column into `hashes`, over what is there or together with it."""
    spread_seed = np.uint64(spread(seed))
    bits, offset = bitmap_of(array)
    if is_word_type(array.type) or pa.types.is_null(array.type):
        words = key_words(array)
        _hash_words(words, bits, offset, spread_seed, combine, hashes)
    elif is_bytes_type(array.type):
        offsets, data = bytes_of(array)
        _hash_bytes(offsets, data, bits, offset, spread_seed, combine, hashes)
    else:
        raise PlanError(f"a column of type {array.type} cannot be a key; use integers, floats, strings, dates or timestamps")


def key_words(array: pa.Array) -> np.ndarray:
    """Values of a word type as int64 such that equal keys have equal words: one NaN, one zero."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64)
    words = words_of(array)
    if not pa.types.is_floating(array.type):
        return words
    values = words.view(np.float64) + 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.int64)


def key_groups(hashes: np.ndarray, max_parallelism: int) -> np.ndarray:
    """uint16[n]: each hash's key group, from its upper bits (tables index by the lower ones)."""
    groups = np.empty(len(hashes), np.uint16)
    _key_groups(hashes, max_parallelism, groups)
    return groups


def partition(groups: np.ndarray, max_parallelism: int, parallelism: int) -> tuple[np.ndarray, np.ndarray]:
    """(order int64[n], bounds int64[parallelism + 1]): rows `order[bounds[s]:bounds[s + 1]]` go to subtask s, in their old order."""
    order, bounds = np.empty(len(groups), np.int64), np.empty(parallelism + 1, np.int64)
    _partition(groups, max_parallelism, order, bounds)
    return order, bounds


def spread(seed: int) -> int:
    """The seed with its bits spread over 64, so that small seeds differ everywhere."""
    x = (seed * _GOLDEN + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@inlined
def _combined(old: np.uint64, new: np.uint64) -> np.uint64:
    return mix64((((old << _U23) | (old >> _U41)) * _ODD) ^ new)


@inlined
def _bytes_hash(address: int, length: int, seed: np.uint64) -> np.uint64:
    """wyhash's shape: two words a step, the tail read again from the end so that no byte outside is touched."""
    state = seed ^ _S1
    a, b = np.uint64(0), np.uint64(0)
    if length >= 8:
        at, left = address, length
        while left > 16:
            state = mum(np.uint64(load_i64(at)) ^ _S2, np.uint64(load_i64(at + 8)) ^ state)
            at += 16
            left -= 16
        if left >= 8:
            a, b = np.uint64(load_i64(at)), np.uint64(load_i64(at + left - 8))
        else:
            a, b = np.uint64(load_i64(at + left - 8)), np.uint64(0)
    elif length >= 4:
        a, b = np.uint64(load_u32(address)), np.uint64(load_u32(address + length - 4))
    elif length > 0:
        a = (
            (np.uint64(load_u8(address)) << np.uint64(16))
            | (np.uint64(load_u8(address + (length >> 1))) << np.uint64(8))
            | np.uint64(load_u8(address + length - 1))
        )
    return mix64(mum(a ^ _S2 ^ np.uint64(length), b ^ state) ^ _S3)


@njit([types.void(RO_I8, RO_U1, types.int64, types.uint64, types.boolean, U8)], nogil=True, cache=True)
def _hash_words(words, bits, offset, seed, combine, hashes):  # type: ignore[no-untyped-def]
    if bits.size == 0 and not combine:
        for i in range(words.size):
            hashes[i] = mix64(np.uint64(words[i]) ^ seed)
        return
    for i in range(words.size):
        h = mix64(np.uint64(words[i]) ^ seed)
        if bits.size != 0 and not bit_at(bits, offset + i):
            h = mix64(seed ^ _NULL)
        hashes[i] = _combined(hashes[i], h) if combine else h


@njit([types.void(RO_I8, RO_U1, RO_U1, types.int64, types.uint64, types.boolean, U8)], nogil=True, cache=True)
def _hash_bytes(offsets, data, bits, offset, seed, combine, hashes):  # type: ignore[no-untyped-def]
    base = data.ctypes.data
    for i in range(offsets.size - 1):
        if bits.size != 0 and not bit_at(bits, offset + i):
            h = mix64(seed ^ _NULL)
        else:
            h = _bytes_hash(base + offsets[i], offsets[i + 1] - offsets[i], seed)
        hashes[i] = _combined(hashes[i], h) if combine else h


@njit([types.void(RO_U8, types.int64, U2)], nogil=True, cache=True)
def _key_groups(hashes, max_parallelism, groups):  # type: ignore[no-untyped-def]
    for i in range(hashes.size):
        groups[i] = ((hashes[i] >> _U32) * np.uint64(max_parallelism)) >> _U32


@njit([types.void(RO_U2, types.int64, I8, I8)], nogil=True, cache=True)
def _partition(groups, max_parallelism, order, bounds):  # type: ignore[no-untyped-def]
    parallelism = bounds.size - 1
    target = np.empty(max_parallelism, np.int32)
    for group in range(max_parallelism):
        target[group] = group * parallelism // max_parallelism
    place = np.zeros(parallelism + 1, np.int64)
    for i in range(groups.size):
        place[target[groups[i]] + 1] += 1
    for subtask in range(parallelism):
        place[subtask + 1] += place[subtask]
    bounds[:] = place
    for i in range(groups.size):
        subtask = target[groups[i]]
        order[place[subtask]] = i
        place[subtask] += 1
