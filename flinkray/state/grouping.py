"""Grouping of one batch by (pane, key), in a small hash table that stays in the cache and is never cleared.

Buckets carry the epoch of the batch that wrote them; those of earlier batches count as empty. The table starts at the size that the last
batch needed, and doubles within a batch when groups are many.
"""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import bit_at, load_i64, load_u8, mix64
from flinkray.state.jit import I4, I8, I8_ROWS, RO_I8, RO_U1, RO_U8, U8, inlined, njit, types
from flinkray.state.key_encoding import Keys

MAX_ROWS = 1 << 20
"""Rows of a batch that `group` takes at once."""

_SMALLEST = 1 << 12
_EPOCH, _SIZE = range(2)
_GROUP_BITS = 24
_GROUP_MASK = (1 << _GROUP_BITS) - 1
_ODD = np.uint64(0x9E3779B97F4A7C15)

NO_PANES = np.empty(0, np.int64)


class BatchGrouper:
    """Reused from batch to batch."""

    def __init__(self) -> None:
        self._buckets = np.zeros((_SMALLEST, 2), np.int64)
        self._state = np.array([1, _SMALLEST], np.int64)

    def group(self, keys: Keys, panes: np.ndarray, by_words: bool) -> tuple[np.ndarray, np.ndarray]:
        """(int32[n]: each row's group, dense in order of appearance; int32[g]: the first row of each group)."""
        rows = len(keys)
        largest = max(_SMALLEST, 1 << (2 * rows - 1).bit_length())
        if largest > len(self._buckets):
            self._buckets = np.zeros((largest, 2), np.int64)
        groups, firsts, hashes = np.empty(rows, np.int32), np.empty(rows, np.int32), np.empty(rows, np.uint64)
        count = _group(
            keys.hashes, panes, keys.bitmap.bits, keys.bitmap.offset, keys.offsets, keys.data, by_words,
            self._buckets, self._state, groups, firsts, hashes,
        )  # fmt: skip
        return groups, firsts[:count]


def pane_starts(times: np.ndarray, pane_us: int, offset_us: int) -> np.ndarray:
    """int64[n]: start of the pane of each time, also before the epoch."""
    starts = np.empty(len(times), np.int64)
    _pane_starts(times, pane_us, offset_us, starts)
    return starts


def sort_by_pane(panes: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """(order or None when the rows are sorted already, the panes that occur, bounds: pane p's rows are `order[bounds[p]:bounds[p + 1]]`)."""
    order = None
    steps = np.flatnonzero(panes[1:] != panes[:-1])
    if len(steps) and np.any(panes[steps + 1] < panes[steps]):
        order = np.argsort(panes, kind="stable")
        panes = panes[order]
        steps = np.flatnonzero(panes[1:] != panes[:-1])
    bounds = np.concatenate(([0], steps + 1, [len(panes)]))
    return order, panes[bounds[:-1]], bounds


@njit([types.void(RO_I8, types.int64, types.int64, I8)], nogil=True, cache=True)
def _pane_starts(times, pane_us, offset_us, starts):  # type: ignore[no-untyped-def]
    """Division is slow: the quotient is guessed by a multiplication with doubles, and put right by one."""
    if times.size == 0:
        return
    low, high = times[0], times[0]
    for i in range(times.size):
        low, high = min(low, times[i]), max(high, times[i])
    base = (low - offset_us) // pane_us * pane_us + offset_us
    if high - base < pane_us:
        starts[:] = base
        return
    if high - base < 0 or high - base > 1 << 50:
        for i in range(times.size):
            starts[i] = (times[i] - offset_us) // pane_us * pane_us + offset_us
        return
    inverse = 1.0 / pane_us
    for i in range(times.size):
        past = times[i] - base
        start = np.int64(past * inverse) * pane_us
        start -= pane_us if start > past else 0
        start += pane_us if past - start >= pane_us else 0
        starts[i] = base + start


@inlined
def _same_key(i, j, hashes, bits, shift, offsets, data, wordy):  # type: ignore[no-untyped-def]
    if hashes[i] != hashes[j]:
        return False
    if bits.size != 0:
        valid = bit_at(bits, shift + i)
        if valid != bit_at(bits, shift + j):
            return False
        if not valid:
            return True
    if wordy:
        return True
    length = offsets[i + 1] - offsets[i]
    if length != offsets[j + 1] - offsets[j]:
        return False
    a, b, at = data.ctypes.data + offsets[i], data.ctypes.data + offsets[j], 0
    while at + 8 <= length:
        if load_i64(a + at) != load_i64(b + at):
            return False
        at += 8
    while at < length:
        if load_u8(a + at) != load_u8(b + at):
            return False
        at += 1
    return True


@njit(
    [types.int64(RO_U8, RO_I8, RO_U1, types.int64, RO_I8, RO_U1, types.boolean, I8_ROWS, I8, I4, I4, U8)], nogil=True, cache=True
)
def _group(  # type: ignore[no-untyped-def]
    hashes, panes, bits, shift, offsets, data, wordy, buckets, state, groups, firsts, group_hashes
):
    state[_EPOCH] += 1
    tag = state[_EPOCH] << _GROUP_BITS
    size = state[_SIZE]
    mask = np.uint64(size - 1)
    one = np.uint64(1)
    count = 0
    paned = panes.size != 0
    for i in range(hashes.size):
        h = hashes[i]
        if paned:
            h ^= mix64(np.uint64(panes[i]) * _ODD)
        at = h & mask
        while True:
            entry = buckets[at, 1]
            if entry < tag:
                break
            if np.uint64(buckets[at, 0]) == h:
                group = entry & _GROUP_MASK
                first = np.int64(firsts[group])
                if (not paned or panes[first] == panes[i]) and _same_key(i, first, hashes, bits, shift, offsets, data, wordy):
                    break
            at = (at + one) & mask
        if entry >= tag:
            groups[i] = np.int32(entry & _GROUP_MASK)
            continue
        buckets[at, 0] = np.int64(h)
        buckets[at, 1] = tag | count
        groups[i] = count
        firsts[count] = i
        group_hashes[count] = h
        count += 1
        if 2 * count > size:
            size *= 2
            mask = np.uint64(size - 1)
            state[_EPOCH] += 1
            tag = state[_EPOCH] << _GROUP_BITS
            for group in range(count):
                at = group_hashes[group] & mask
                while buckets[at, 1] >= tag:
                    at = (at + one) & mask
                buckets[at, 0] = np.int64(group_hashes[group])
                buckets[at, 1] = tag | group
    state[_SIZE] = size
    if 8 * count < size and size > _SMALLEST:
        state[_SIZE] = size // 2
    return count
