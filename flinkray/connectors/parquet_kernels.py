"""Kernels that read the pages of a Parquet column chunk: page headers, levels, dictionary indexes. What they do not know they refuse.

The format: github.com/apache/parquet-format, README.md and Encodings.md (data pages of version 1; levels and dictionary indexes as runs of
repeated and of bit-packed numbers); headers are Thrift's compact protocol.
"""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import load_i64, load_u32
from flinkray.state.jit import I8, I8_ROWS, RO_U1, RO_U8, U8, njit, types

KIND, BODY, PACKED_SIZE, SIZE, VALUES, ENCODING, LEVELS = range(7)
"""Columns of a page's row: kind, where its body begins, bytes of the body and of it decompressed, values, their encoding, the levels' encoding."""
PAGE_FIELDS = 7
DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
REFUSED, BROKEN = -1, -2
PADDING = 32
"""Bytes behind a page that may be read, not used: words of 8 bytes are unpacked, text is copied by the 32."""

NEXT, LEFT, REPEATED, BIT, WIDTH = range(5)
"""Where the runs of a page stand: the next run's place, values left of this one, its value or `_PACKED`, the bit of its next value, bits a value."""
RUN_FIELDS = 5
_PACKED = -1
_MOST_BITS = 32

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_DEPTH = 8
_DATA_HEADER, _DICTIONARY_HEADER = 5, 7


@njit([types.UniTuple(types.int64, 2)(RO_U1, types.int64, types.int64)], nogil=True, cache=True)
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """(value, place behind it); the place is BROKEN where it has no end."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return np.int64(value), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(BROKEN)


@njit([types.int64(RO_U1, types.int64, I8)], nogil=True, cache=True)
def _header(chunk, at, page):  # type: ignore[no-untyped-def]
    """Fill in a page's row from the header at a place. Returns the place behind it, or BROKEN."""
    fields = np.zeros(_DEPTH, np.int64)
    depth = 0
    while True:
        if at >= chunk.size:
            return BROKEN
        head = chunk[at]
        at += 1
        if head == 0:
            depth -= 1
            if depth < 0:
                return at
            continue
        kind, step = head & np.uint8(15), head >> np.uint8(4)
        if step:
            fields[depth] += step
        else:
            number, at = _varint(chunk, at, chunk.size)
            if at < 0:
                return BROKEN
            fields[depth] = (number >> 1) ^ -(number & 1)
        if kind == _BYTE:
            at += 1
        elif kind in (_I16, _I32, _I64):
            number, at = _varint(chunk, at, chunk.size)
            if at < 0:
                return BROKEN
            number = (number >> 1) ^ -(number & 1)
            field = fields[depth]
            if depth == 0 and field == 1:
                page[KIND] = number
            elif depth == 0 and field == 2:
                page[SIZE] = number
            elif depth == 0 and field == 3:
                page[PACKED_SIZE] = number
            elif depth == 1 and fields[0] in (_DATA_HEADER, _DICTIONARY_HEADER):
                if field == 1:
                    page[VALUES] = number
                elif field == 2:
                    page[ENCODING] = number
                elif field == 3 and fields[0] == _DATA_HEADER:
                    page[LEVELS] = number
        elif kind == _DOUBLE:
            at += 8
        elif kind == _BINARY:
            size, at = _varint(chunk, at, chunk.size)
            if at < 0 or size < 0 or size > chunk.size - at:
                return BROKEN
            at += size
        elif kind == _STRUCT:
            depth += 1
            if depth == _DEPTH:
                return BROKEN
            fields[depth] = 0
        elif kind not in (_TRUE, _FALSE):
            return BROKEN


@njit([types.int64(RO_U1, types.int64, types.int64, I8_ROWS)], nogil=True, cache=True)
def find_pages(chunk, rows, size_bytes, pages):  # type: ignore[no-untyped-def]
    """Fill in `pages`, a row each. Returns how many there are (more than fit: look again with more room), REFUSED where a page is of a kind that is
    not read here, BROKEN where the chunk is not what it should be: `rows` values, a dictionary first if any, no
    page larger than `size_bytes`, which is what all of them have decompressed."""
    at, count, found = np.int64(0), 0, np.int64(0)
    row = np.zeros(PAGE_FIELDS, np.int64)
    while found < rows:
        row[:] = 0
        row[KIND] = row[PACKED_SIZE] = row[SIZE] = row[VALUES] = -1
        at = _header(chunk, at, row)
        if at < 0 or row[PACKED_SIZE] < 0 or row[SIZE] < 0 or row[SIZE] > size_bytes or row[PACKED_SIZE] > chunk.size - at:
            return BROKEN
        if row[KIND] == DICTIONARY_PAGE:
            if count or row[ENCODING] not in (PLAIN, PLAIN_DICTIONARY):
                return REFUSED
        elif row[KIND] != DATA_PAGE or row[ENCODING] not in (PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY) or row[LEVELS] != RLE:
            return REFUSED
        else:
            found += row[VALUES]
        if row[VALUES] < 0 or found > rows:
            return BROKEN
        row[BODY] = at
        if count < len(pages):
            pages[count, :] = row
        count += 1
        at += row[PACKED_SIZE]
    return count


@njit([types.boolean(RO_U1, types.int64, types.int64, types.int64)], nogil=True, cache=True)
def none_missing(page, at, end, values):  # type: ignore[no-untyped-def]
    """Whether the levels of one bit, in page[at:end], say of each of the values that it is there."""
    while values > 0:
        header, at = _varint(page, at, end)
        if at < 0 or header < 0:
            return False
        if header & 1:
            groups = header >> 1
            if groups > end - at:
                return False
            full = min(values >> 3, groups)
            for i in range(full):
                if page[at + i] != np.uint8(255):
                    return False
            rest = min(values - (full << 3), (groups - full) << 3)
            mask = np.uint8((1 << rest) - 1)
            if rest > 0 and page[at + full] & mask != mask:
                return False
            at += groups
            values -= groups << 3
        else:
            if at >= end or page[at] & np.uint8(1) == 0 or header == 0:
                return False
            at += 1
            values -= header >> 1
    return True


@njit([types.boolean(RO_U1, types.int64, I8)], nogil=True, cache=True)
def _next_run(page, end, run):  # type: ignore[no-untyped-def]
    header, at = _varint(page, run[NEXT], end)
    if at < 0 or header <= 1:
        return False
    width = run[WIDTH]
    if header & 1:
        run[LEFT], run[REPEATED], run[BIT] = (header >> 1) << 3, _PACKED, at << 3
        run[NEXT] = min(at + (header >> 1) * width, end)  # the last run of a page may be cut off behind its last value
        return (header >> 1) <= end
    size = (width + 7) >> 3
    if size > end - at:
        return False
    value = np.int64(0)
    for i in range(size):
        value |= np.int64(page[at + i]) << (8 * i)
    run[LEFT], run[REPEATED], run[NEXT] = header >> 1, value, at + size
    return True


_U4 = types.uint32[::1]
_RO_U4 = types.Array(types.uint32, 1, "C", readonly=True)


@njit(
    [
        types.int64(RO_U1, types.int64, I8, RO_U8, types.int64, U8, types.int64, types.int64),
        types.int64(RO_U1, types.int64, I8, _RO_U4, types.int64, _U4, types.int64, types.int64),
    ],
    nogil=True, cache=True,
)  # fmt: skip
def take_from_dictionary(page, end, run, dictionary, known, values, start, stop):  # type: ignore[no-untyped-def]
    """values[start:stop] from the next indexes of page[:end], which has `PADDING` behind it; `known` values of the dictionary count, behind them is
    room. Returns `stop`, or BROKEN."""
    width = run[WIDTH]
    mask = np.uint64((1 << width) - 1)
    known = np.uint64(known)
    roomy = mask < np.uint64(dictionary.size)
    address = page.ctypes.data
    while start < stop:
        if run[LEFT] <= 0 and not _next_run(page, end, run):
            return BROKEN
        count = min(run[LEFT], stop - start)
        run[LEFT] -= count
        if run[REPEATED] != _PACKED:
            if np.uint64(run[REPEATED]) >= known:
                return BROKEN
            values[start : start + count] = dictionary[run[REPEATED]]
        else:
            bit = run[BIT]
            run[BIT] = bit + count * width
            if run[BIT] > end << 3:
                return BROKEN
            worst = np.uint64(0)
            if roomy:  # an index cannot point outside: whether it was known is asked once, behind the loop
                for i in range(start, start + count):
                    index = (np.uint64(load_i64(address + (bit >> 3))) >> np.uint64(bit & 7)) & mask
                    bit += width
                    worst = max(worst, index)
                    values[i] = dictionary[index]
            else:
                for i in range(start, start + count):
                    index = (np.uint64(load_i64(address + (bit >> 3))) >> np.uint64(bit & 7)) & mask
                    bit += width
                    worst = max(worst, index)
                    values[i] = dictionary[index if index < known else np.uint64(0)]
            if worst >= known:
                return BROKEN
        start += count
    return stop


@njit([types.int64(RO_U1, types.int64, types.int64, types.boolean, types.int64, I8)], nogil=True, cache=True)
def begin_page(page, end, values, levels, width, run):  # type: ignore[no-untyped-def]
    """Where the values of a data page begin. `levels`: levels of one bit come before them. `width`: bytes of a plain value, 0 for indexes, for which
    `run` is set. BROKEN also where a value is missing."""
    at = np.int64(0)
    if levels:
        if end < 4:
            return BROKEN
        at = 4 + np.int64(load_u32(page.ctypes.data))
        if at > end or not none_missing(page, 4, at, values):
            return BROKEN
    if width:
        return at if values * width <= end - at else BROKEN
    if values:
        if at >= end or page[at] > _MOST_BITS:
            return BROKEN
        run[NEXT], run[LEFT], run[WIDTH] = at + 1, 0, page[at]
    return at
