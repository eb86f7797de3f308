"""Kernels that look for one byte in text, eight at a time, where Arrow's own make lists, or look at each byte.

Strings are Arrow's: `offsets` has one more element than there are rows, `data` is what they point into.
"""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import copy_bytes, count_trailing_zeros, load_i64, load_u8
from flinkray.state.jit import I4, I8, RO_I4, RO_U1, U1, inlined, njit, types

_LOW = np.uint64(0x7F7F7F7F7F7F7F7F)
_ONES = np.uint64(0x0101010101010101)
_ONE, _SEVEN, _TOP = np.uint64(1), np.uint64(7), np.uint64(56)


@inlined
def _places(address, at, end, limit, pattern):  # type: ignore[no-untyped-def]
    """The upper bit of each byte from `at` on that is the one of the pattern, of eight at most and those before `end`. `limit`: the end of
    what may be read."""
    if limit - at >= 8:
        word = np.uint64(load_i64(address + at)) ^ pattern
        found = ~(((word & _LOW) + _LOW) | word | _LOW)
        if end - at < 8:
            found &= (_ONE << np.uint64((end - at) << 3)) - _ONE
        return found
    found = np.uint64(0)
    for i in range(min(end - at, 8)):
        if np.uint64(load_u8(address + at + i)) == pattern & np.uint64(255):
            found |= np.uint64(128) << np.uint64(i << 3)
    return found


@njit([types.void(RO_I4, RO_U1, types.uint8, I8)], nogil=True, cache=True)
def count_byte(offsets, data, byte, counts):  # type: ignore[no-untyped-def]
    """How often each row has the byte."""
    address, limit, pattern = data.ctypes.data, data.size, np.uint64(byte) * _ONES
    for row in range(counts.size):
        at, end, count = np.int64(offsets[row]), np.int64(offsets[row + 1]), np.uint64(0)
        while at < end:
            count += ((_places(address, at, end, limit, pattern) >> _SEVEN) * _ONES) >> _TOP
            at += 8
        counts[row] = np.int64(count)


@njit([types.int64(RO_I4, RO_U1, types.uint8, types.int64, I4, I4)], nogil=True, cache=True)
def find_parts(offsets, data, byte, index, starts, lengths):  # type: ignore[no-untyped-def]
    """Where part `index` of each row, between two of the bytes, begins, and how long it is: -1 where there are fewer parts. Returns the length of
    all together."""
    address, limit, pattern = data.ctypes.data, data.size, np.uint64(byte) * _ONES
    total = np.int64(0)
    for row in range(starts.size):
        begin, end = np.int64(offsets[row]), np.int64(offsets[row + 1])
        at, part, left, stop = begin, begin, index, end
        while at < end and left >= 0:
            found = _places(address, at, end, limit, pattern)
            while found != np.uint64(0):
                place = at + (count_trailing_zeros(found) >> 3)
                if left == 0:
                    stop = place
                    left = -1
                    break
                left -= 1
                part = place + 1
                found &= found - _ONE
            at += 8
        if left > 0:
            starts[row], lengths[row] = begin, -1
        else:
            starts[row], lengths[row] = part, stop - part
            total += stop - part
    return total


@njit([types.void(RO_U1, I4, I4, I4, U1)], nogil=True, cache=True)
def gather_parts(data, starts, lengths, offsets, parts):  # type: ignore[no-untyped-def]
    """Strings of these parts of `data`; those of a length under 0 are empty."""
    source, target, used = data.ctypes.data, parts.ctypes.data, 0
    offsets[0] = 0
    for row in range(starts.size):
        if lengths[row] > 0:
            copy_bytes(source + starts[row], target + used, np.int64(lengths[row]))
            used += lengths[row]
        offsets[row + 1] = used
