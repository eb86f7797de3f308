"""The kernel that folds a batch into accumulators: an interpreter of small programs, a block of rows at a time.

Accumulators are rows of int64 words (word 0: the generation of the last change). A program has one line per operation and says which
word it changes and where its inputs lie, by address and stride: so columns of a batch, partial aggregates of another task and rows of
another table all go through the same code. In a block each operation runs as a loop of its own, while the block's rows are in the cache.
"""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import as_f64, as_i64, load_i64, load_u8, prefetch
from flinkray.state.jit import I4, I8, I8_ROWS, RO_I4, inlined, njit, types

ADD_ONE, ADD_VALID, ADD, SET_FLAGS, SUM_INT, SUM_FLOAT, SUM_WIDE, ADD_WIDE, MIN, MAX, FIRST, LAST, LEAST_BY, MOST_BY = range(14)
SPREAD, ADD_SPREAD = 14, 15
"""Operations. ADD adds a count; SET_FLAGS sets the bits A; SUM_WIDE an int64 and ADD_WIDE two halves to a 128-bit sum; SPREAD a value and ADD_SPREAD another
accumulator to (count, mean, squared differences)."""

OP, WORD, BIT, A, B, C, STRIDE, VALIDITY, VALID_AT, VALID_SHIFT = range(10)
"""Fields of a program's line. A, B, C: addresses of the inputs; BIT: the aggregate's bit in the flags, or -1 where
another line sets it or there is none; VALID_AT: address of a
bitmap (VALID_SHIFT: its first bit) or of a word of flags (VALID_SHIFT: the bit) with the inputs' stride."""
LINE = 10

ALWAYS, BITMAP, FLAG = range(3)

BLOCK = 512
_PREFETCH_ABOVE = 1 << 18
"""Bytes of rows: smaller tables stay in the cache."""


@inlined
def _is_valid(kind: int, at: int, shift: int, stride: int, i: int) -> bool:
    if kind == ALWAYS:
        return True
    if kind == BITMAP:
        return (load_u8(at + ((shift + i) >> 3)) >> ((shift + i) & 7)) & 1 != 0
    return (load_i64(at + i * stride) >> shift) & 1 != 0


@inlined
def _touch(rows, slots, start, end, generation, touched, count):  # type: ignore[no-untyped-def]
    for i in range(start, end):
        slot = np.uint32(slots[i])
        if rows[slot, 0] != generation:
            rows[slot, 0] = generation
            touched[count] = slots[i]
            count += 1
    return count


@inlined
def _run_sum(rows, slots, start, end, flag_word, word, line):  # type: ignore[no-untyped-def]
    op, a, b, stride = line[OP], line[A], line[B], line[STRIDE]
    kind, at, shift = line[VALIDITY], line[VALID_AT], line[VALID_SHIFT]
    flags, mask = np.uint64(flag_word), np.int64(0)
    if line[BIT] >= 0:
        mask = np.int64(1) << line[BIT]
    good = True
    upper = word + np.uint64(1)
    for i in range(start, end):
        if not _is_valid(kind, at, shift, stride, i):
            continue
        slot = np.uint32(slots[i])
        if mask != 0:
            rows[slot, flags] |= mask
        value, old = load_i64(a + i * stride), rows[slot, word]
        if op == SUM_FLOAT:
            rows[slot, word] = as_i64(as_f64(old) + as_f64(value))
        elif op == SUM_INT:
            new = old + value
            good &= (old ^ new) & (value ^ new) >= 0
            rows[slot, word] = new
        else:
            low = np.uint64(old) + np.uint64(value)
            high = load_i64(b + i * stride) if op == ADD_WIDE else value >> 63
            old_high = rows[slot, upper]
            new_high = old_high + high + (1 if low < np.uint64(old) else 0)
            good &= (old_high ^ new_high) & (high ^ new_high) >= 0
            rows[slot, word] = np.int64(low)
            rows[slot, upper] = new_high
    return good


@inlined
def _run_extreme(rows, slots, start, end, flag_word, word, line):  # type: ignore[no-untyped-def]
    """min, max: rows start with the least or greatest word there is, so that no flag need be asked."""
    op, a, stride = line[OP], line[A], line[STRIDE]
    kind, at, shift = line[VALIDITY], line[VALID_AT], line[VALID_SHIFT]
    flags, mask = np.uint64(flag_word), np.int64(1) << max(line[BIT], 0)
    for i in range(start, end):
        if _is_valid(kind, at, shift, stride, i):
            slot, value = np.uint32(slots[i]), load_i64(a + i * stride)
            if line[BIT] >= 0:
                rows[slot, flags] |= mask
            old = rows[slot, word]
            rows[slot, word] = min(old, value) if op == MIN else max(old, value)
    return True


@inlined
def _run_choice(rows, slots, start, end, flag_word, word, line):  # type: ignore[no-untyped-def]
    """first, last, min_by, max_by: the word that decides, and the value beside it."""
    op, a, b, stride = line[OP], line[A], line[B], line[STRIDE]
    kind, at, shift = line[VALIDITY], line[VALID_AT], line[VALID_SHIFT]
    flags, mask = np.uint64(flag_word), np.int64(1) << line[BIT]
    downward, upper = op in (FIRST, LEAST_BY), word + np.uint64(1)
    for i in range(start, end):
        if not _is_valid(kind, at, shift, stride, i):
            continue
        slot, value = np.uint32(slots[i]), load_i64(a + i * stride)
        old = rows[slot, word]
        better = value < old if downward else (value > old or (op == LAST and value == old))
        if better or rows[slot, flags] & mask == 0:
            rows[slot, flags] |= mask
            rows[slot, word] = value
            rows[slot, upper] = load_i64(b + i * stride)
    return True


@inlined
def _run_spread(rows, slots, start, end, word, line):  # type: ignore[no-untyped-def]
    """Welford's update, and Chan's merge."""
    op, a, b, c, stride = line[OP], line[A], line[B], line[C], line[STRIDE]
    kind, at, shift = line[VALIDITY], line[VALID_AT], line[VALID_SHIFT]
    second, third = word + np.uint64(1), word + np.uint64(2)
    for i in range(start, end):
        if not _is_valid(kind, at, shift, stride, i):
            continue
        slot, more, more_squares = np.uint32(slots[i]), np.int64(1), 0.0
        value = as_f64(load_i64(a + i * stride))
        if op == ADD_SPREAD:
            more = load_i64(a + i * stride)
            if more == 0:
                continue
            value, more_squares = as_f64(load_i64(b + i * stride)), as_f64(load_i64(c + i * stride))
        count = rows[slot, word]
        mean = as_f64(rows[slot, second])
        delta, total = value - mean, count + more
        squares = as_f64(rows[slot, third]) + more_squares + delta * delta * (count * more / total)
        rows[slot, word] = total
        rows[slot, second] = as_i64(mean + delta * (more / total))
        rows[slot, third] = as_i64(squares)
    return True


@inlined
def _run(rows, slots, start, end, flag_word, line):  # type: ignore[no-untyped-def]
    op, word = line[OP], np.uint64(line[WORD])
    if op == ADD_ONE:
        for i in range(start, end):
            rows[np.uint32(slots[i]), word] += 1
        return True
    a, stride = line[A], line[STRIDE]
    if op == ADD:
        for i in range(start, end):
            rows[np.uint32(slots[i]), word] += load_i64(a + i * stride)
        return True
    if op == SET_FLAGS:
        for i in range(start, end):
            rows[np.uint32(slots[i]), word] |= a
        return True
    kind, at, shift = line[VALIDITY], line[VALID_AT], line[VALID_SHIFT]
    if op == ADD_VALID:
        for i in range(start, end):
            rows[np.uint32(slots[i]), word] += 1 if _is_valid(kind, at, shift, stride, i) else 0
        return True
    if op in (ADD_SPREAD, SPREAD):
        return _run_spread(rows, slots, start, end, word, line)
    if op in (MIN, MAX):
        return _run_extreme(rows, slots, start, end, flag_word, word, line)
    if op >= FIRST:
        return _run_choice(rows, slots, start, end, flag_word, word, line)
    return _run_sum(rows, slots, start, end, flag_word, word, line)


@inlined
def _shift(program, distance, lines):  # type: ignore[no-untyped-def]
    """The program with its inputs elsewhere."""
    lines[:] = program
    for line in range(program.shape[0]):
        if program[line, OP] != SET_FLAGS:
            lines[line, A] += distance
            lines[line, B] += distance
            lines[line, C] += distance
        if program[line, VALIDITY] == FLAG:
            lines[line, VALID_AT] += distance


@njit([types.int64(I8_ROWS, RO_I4, I8_ROWS, types.int64, I8_ROWS, types.int64, I4, I8, I8_ROWS)], nogil=True, cache=True)
def accumulate(rows, slots, segments, flag_word, program, generation, touched, failed, each):  # type: ignore[no-untyped-def]
    """Folds input row i into `rows[slots[i]]`, for i from start to stop of each segment (start, stop, what is added to the addresses of
    the program; not 0 for accumulators only, which have no bitmaps). With a generation above 0 stamps the rows, collects in `touched`
    each slot stamped for the first time and returns how many. `failed[0]` becomes the line of a sum that overflowed. `each[w, i]`, unless
    empty, becomes word w + 1 of the accumulator right after input row i."""
    count = 0
    base, width_bytes = rows.ctypes.data, rows.shape[1] * 8
    large = rows.shape[0] * width_bytes > _PREFETCH_ABOVE
    step = BLOCK if each.shape[0] == 0 else 1
    lines = np.empty_like(program)
    for segment in segments:
        _shift(program, segment[2], lines)
        for start in range(segment[0], segment[1], step):
            end = min(start + step, segment[1])
            if large:
                for i in range(start, end):
                    prefetch(base + slots[i] * width_bytes)
            if generation > 0:
                count = _touch(rows, slots, start, end, generation, touched, count)
            for line in range(lines.shape[0]):
                if not _run(rows, slots, start, end, flag_word, lines[line]):
                    failed[0] = line
            for w in range(each.shape[0]):
                each[w, start] = rows[np.uint32(slots[start]), w + 1]
    return count


@njit([types.void(I8_ROWS, RO_I4, I8_ROWS)], nogil=True, cache=True)
def gather_words(rows, slots, columns):  # type: ignore[no-untyped-def]
    """`columns[w, i] = rows[slots[i], w + 1]`: words of some rows, column by column."""
    for start in range(0, slots.size, BLOCK):
        end = min(start + BLOCK, slots.size)
        for w in range(columns.shape[0]):
            for i in range(start, end):
                columns[w, i] = rows[np.uint32(slots[i]), w + 1]
