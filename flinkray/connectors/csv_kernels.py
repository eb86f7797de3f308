"""Kernels that find and convert the fields of plain CSV: rows without quotes. Whatever they do not understand they refuse, so that the careful
parser can say what is wrong, or accept it.

Fields are found as simdjson does: 64 bytes at a time are compared with the characters that matter, and only those places are visited
(Langdale and Lemire, "Parsing Gigabytes of JSON per Second", 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]

from flinkray.state.bits import count_trailing_zeros, load_i64, load_u8
from flinkray.state.jit import I4, I8, RO_I4, RO_U1, U1, inlined, intrinsic, njit, types

_NEWLINE, _RETURN, _MINUS, _DOT, _SPACE, _T, _Z = (ord(c) for c in "\n\r-. TZ")
_BLOCK = 64
_MAX_DIGITS = 18
"""Of an integer that surely fits into 64 bits."""
_DAY_US, _SECOND_US = 86_400_000_000, 1_000_000
_WORD = 8
REFUSED = -1

_I4_ROWS = types.int32[:, ::1]


@intrinsic
def _marks(typing_context: Any, address: Any, delimiter: Any, quote: Any) -> Any:
    """uint64: bit i is set where byte i of the 64 at an address is the delimiter, the quote, a newline or a carriage return."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, lane = ir.IntType(8), ir.IntType(32)
        vector = ir.VectorType(byte, _BLOCK)
        text = builder.load(builder.inttoptr(args[0], vector.as_pointer()), align=1)
        everywhere = ir.Constant(ir.VectorType(lane, _BLOCK), [0] * _BLOCK)
        found = None
        for wanted in (args[1], args[2], ir.Constant(byte, _NEWLINE), ir.Constant(byte, _RETURN)):
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), wanted, ir.Constant(lane, 0))
            here = builder.icmp_unsigned("==", text, builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), everywhere))
            found = here if found is None else builder.or_(found, here)
        return builder.bitcast(found, ir.IntType(64))

    return types.uint64(types.int64, types.uint8, types.uint8), generate


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, size: Any) -> Any:
    """memcpy."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, pointer, ir.IntType(64), ir.IntType(1)])
        function = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, ir.IntType(64)], kind)
        target, source = (builder.inttoptr(address, pointer) for address in args[:2])
        builder.call(function, [target, source, args[2], ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@njit(
    [types.UniTuple(types.int64, 2)(RO_U1, types.int64, types.uint8, types.uint8, RO_I4, types.int64, types.int64, _I4_ROWS, _I4_ROWS)],
    nogil=True,
    cache=True,
)
def find_fields(text, at, delimiter, quote, places, first, stop, starts, ends):  # type: ignore[no-untyped-def]
    """(rows known then, byte after the last of them; REFUSED when a row is not plain).

    Rows are found from byte `at`, where row number `first` begins, to row number `stop` or the end of `text`, which ends with a newline.
    `places[c]`: the row of `starts` and `ends` for column c, -1 where it is not wanted. `text` must have 64 readable bytes after its end.
    """
    address = np.int64(text.ctypes.data)
    last = places.size - 1
    row, column, begin = first, 0, at
    base = at
    one = np.uint64(1)
    while base < text.size:
        marks = _marks(address + base, delimiter, quote)
        if text.size - base < _BLOCK:
            marks &= (one << np.uint64(text.size - base)) - one
        while marks != 0:
            place = base + count_trailing_zeros(marks)
            marks &= marks - one
            char = load_u8(address + place)
            if char == delimiter:
                if column == last:
                    return row, np.int64(REFUSED)
                if places[column] >= 0:
                    starts[places[column], row] = begin
                    ends[places[column], row] = place
                column += 1
                begin = place + 1
            elif char == _NEWLINE:
                if column != last or (last == 0 and begin == place):
                    return row, np.int64(REFUSED)
                if places[column] >= 0:
                    starts[places[column], row] = begin
                    ends[places[column], row] = place
                column, begin = 0, place + 1
                row += 1
                if row == stop:
                    return row, begin
            else:
                return row, np.int64(REFUSED)
        base += _BLOCK
    return row, begin


@njit([types.boolean(RO_U1, RO_I4, RO_I4, I8, U1)], nogil=True, cache=True)
def read_integers(text, starts, ends, values, valid):  # type: ignore[no-untyped-def]
    """False when a field is neither empty (null) nor an integer of up to 18 digits."""
    address = np.int64(text.ctypes.data)
    for i in range(starts.size):
        at, end = np.int64(starts[i]), np.int64(ends[i])
        valid[i] = at < end
        negative = at < end and load_u8(address + at) == _MINUS
        at += negative
        if end - at > _MAX_DIGITS or (negative and at == end):
            return False
        value = np.int64(0)
        while at < end:
            digit = np.int64(load_u8(address + at)) - 48
            if digit < 0 or digit > 9:
                return False
            value = 10 * value + digit
            at += 1
        values[i] = -value if negative else value
    return True


@inlined
def _two(address):  # type: ignore[no-untyped-def]
    """The number that two characters are; at least 1000 where they are not digits."""
    tens, ones = np.int64(load_u8(address)) - 48, np.int64(load_u8(address + 1)) - 48
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return np.int64(1000)
    return 10 * tens + ones


@inlined
def _days(year, month, day):  # type: ignore[no-untyped-def]
    """Days since 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil); years from 0 on."""
    year -= month <= 2
    era = (year if year >= 0 else year - 399) // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


@inlined
def _month_days(year, month):  # type: ignore[no-untyped-def]
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@inlined
def _minute_us(address):  # type: ignore[no-untyped-def]
    """µs of `YYYY-MM-DD hh:mm` (or with a T); -1 << 62 where it is none."""
    bad = np.int64(-1) << 62
    century, year2, month, day = _two(address), _two(address + 2), _two(address + 5), _two(address + 8)
    hour, minute = _two(address + 11), _two(address + 14)
    between = load_u8(address + 10)
    if load_u8(address + 4) != _MINUS or load_u8(address + 7) != _MINUS or (between != _SPACE and between != _T):
        return bad
    if load_u8(address + 13) != 58 or century > 99 or year2 > 99 or month < 1 or month > 12 or hour > 23 or minute > 59:
        return bad
    year = 100 * century + year2
    if day < 1 or day > _month_days(year, month):
        return bad
    return _days(year, month, day) * _DAY_US + (60 * hour + minute) * 60 * _SECOND_US


@njit([types.int64(RO_U1, RO_I4, RO_I4, I8, U1)], nogil=True, cache=True)
def read_times(text, starts, ends, values, valid):  # type: ignore[no-untyped-def]
    """Values in µs since 1970 UTC of fields `YYYY-MM-DD hh:mm:ss[.f to .ffffff][Z]`, empty ones null. Returns which kinds there are: 1 without
    Z, 2 with, 3 both; REFUSED when a field is something else. Times of one minute often follow one another: it is read once."""
    address = np.int64(text.ctypes.data)
    high = low = np.int64(0)
    minute_us = np.int64(-1) << 62
    kinds = np.int64(0)
    for i in range(starts.size):
        at, end = address + np.int64(starts[i]), address + np.int64(ends[i])
        valid[i] = at < end
        values[i] = 0
        if at == end:
            continue
        zoned = load_u8(end - 1) == _Z
        end -= zoned
        kinds |= 2 if zoned else 1
        if end - at < 19 or end - at > 26 or end - at == 20:
            return REFUSED
        if load_i64(at) != high or load_i64(at + _WORD) != low:
            minute_us = _minute_us(at)
            if minute_us == np.int64(-1) << 62:
                return REFUSED
            high, low = load_i64(at), load_i64(at + _WORD)
        second = _two(at + 17)
        if load_u8(at + 16) != 58 or second > 59:
            return REFUSED
        fraction, scale = np.int64(0), np.int64(_SECOND_US)
        if end - at > 19:
            if load_u8(at + 19) != _DOT:
                return REFUSED
            for place in range(at + 20, end):
                digit = np.int64(load_u8(place)) - 48
                if digit < 0 or digit > 9:
                    return REFUSED
                fraction = 10 * fraction + digit
                scale //= 10
        values[i] = minute_us + second * _SECOND_US + fraction * scale
    return kinds


@njit([types.int64(RO_I4, RO_I4, I4, U1)], nogil=True, cache=True)
def measure_texts(starts, ends, offsets, valid):  # type: ignore[no-untyped-def]
    """Fills Arrow's offsets of the fields; empty ones are null. Returns the bytes of all."""
    total = np.int64(0)
    for i in range(starts.size):
        offsets[i] = total
        valid[i] = starts[i] < ends[i]
        total += ends[i] - starts[i]
    offsets[starts.size] = total
    return total


@njit([types.void(RO_U1, RO_I4, RO_I4, U1)], nogil=True, cache=True)
def copy_texts(text, starts, offsets, data):  # type: ignore[no-untyped-def]
    """The fields one after the other."""
    source, target = np.int64(text.ctypes.data), np.int64(data.ctypes.data)
    for i in range(starts.size):
        _copy(target + offsets[i], source + starts[i], np.int64(offsets[i + 1] - offsets[i]))
