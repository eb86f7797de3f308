"""Kernels that take text out of the pages of a Parquet column: each value is its length in four bytes, and then itself."""

from __future__ import annotations

import numpy as np

from flinkray.connectors.parquet_kernels import BROKEN, PADDING
from flinkray.state.bits import load_i64, load_u32, store_i64
from flinkray.state.jit import I8, RO_U1, RO_U8, U1, U8, inlined, njit, types

AT, TAKEN, USED, STATE_FIELDS = range(4)
"""Where the next plain value of a page lies; values taken, and their bytes. These are changed by the kernels."""
_I4 = types.int32[::1]
_RO_U4 = types.Array(types.uint32, 1, "C", readonly=True)
_S32 = np.uint64(32)
_LENGTH = np.uint64(0xFFFFFFFF)


@inlined
def _copy(source, target, length):  # type: ignore[no-untyped-def]
    """32 bytes at a time, up to `PADDING` - 1 too many."""
    at = 0
    while at < length:
        a, b = load_i64(source + at), load_i64(source + at + 8)
        c, d = load_i64(source + at + 16), load_i64(source + at + 24)
        store_i64(target + at, a)
        store_i64(target + at + 8, b)
        store_i64(target + at + 16, c)
        store_i64(target + at + 24, d)
        at += 32


@njit([types.int64(RO_U1, types.int64, I8, types.int64, _I4, U1)], nogil=True, cache=True)
def take_plain(page, end, state, stop, offsets, data):  # type: ignore[no-untyped-def]
    """Values up to number `stop` of page[:end], which has `PADDING` behind it, to `data`, each one's end to `offsets`. Returns how many are
    taken, fewer when `data` is full; or BROKEN."""
    at, taken, used = state[AT], state[TAKEN], state[USED]
    source, target, room = page.ctypes.data, data.ctypes.data, data.size - PADDING
    while taken < stop:
        if end - at < 4:
            return BROKEN
        length = np.int64(load_u32(source + at))
        if length > end - at - 4:
            return BROKEN
        if length > room - used:
            break
        _copy(source + at + 4, target + used, length)
        at += 4 + length
        used += length
        taken += 1
        offsets[taken] = used
    state[AT], state[TAKEN], state[USED] = at, taken, used
    return taken


@njit([types.int64(RO_U1, types.int64, U8)], nogil=True, cache=True)
def find_values(page, end, places):  # type: ignore[no-untyped-def]
    """Where each value of a dictionary lies: its place in the upper half of the word, its length in the lower one. Returns the longest one's
    length, or BROKEN."""
    at, longest = np.int64(0), np.int64(0)
    address = page.ctypes.data
    for i in range(places.size):
        if end - at < 4:
            return BROKEN
        length = np.int64(load_u32(address + at))
        if length > end - at - 4:
            return BROKEN
        places[i] = (np.uint64(at + 4) << _S32) | np.uint64(length)
        longest = max(longest, length)
        at += 4 + length
    return longest


@njit([types.int64(RO_U1, RO_U8, _RO_U4, types.int64, I8, types.int64, _I4, U1)], nogil=True, cache=True)
def take_indexed(dictionary, places, indexes, first, state, stop, offsets, data):  # type: ignore[no-untyped-def]
    """The same for values of a dictionary; value number i has index indexes[i - first]."""
    taken, used = state[TAKEN], state[USED]
    source, target, room = dictionary.ctypes.data, data.ctypes.data, data.size - PADDING
    while taken < stop:
        place = places[indexes[taken - first]]
        length = np.int64(place & _LENGTH)
        if length > room - used:
            break
        _copy(source + np.int64(place >> _S32), target + used, length)
        used += length
        taken += 1
        offsets[taken] = used
    state[TAKEN], state[USED] = taken, used
    return taken
