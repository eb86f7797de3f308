"""Grouping of one batch by (pane, key), in a small hash table that stays in the cache and is never cleared.

Buckets carry the epoch of the batch that wrote them; those of earlier batches count as empty. The table starts at the size that the last
batch needed, and doubles within a batch when groups are many.
"""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import bit_at, load_i64, load_u8, mix64
from flinkray.state.jit import I4, I8, I8_ROWS, RO_I8, RO_U1, RO_U8, inlined, njit, types
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
        self._groups = self._firsts = np.empty(0, np.int32)
        self._known = np.empty((0, 2), np.int64)

    def group(self, keys: Keys, panes: np.ndarray, by_words: bool) -> tuple[np.ndarray, np.ndarray]:
        """(int32[n]: each row's group, dense in order of appearance; int32[g]: the first row of each group), valid until
        the next call."""
        rows = len(keys)
        largest = max(_SMALLEST, 1 << (2 * rows - 1).bit_length())
        if largest > len(self._buckets):
            self._buckets = np.zeros((largest, 2), np.int64)
        if rows > len(self._firsts):
            self._groups, self._firsts, self._known = np.empty(rows, np.int32), np.empty(rows, np.int32), np.empty((rows, 2), np.int64)
        count = _group(
            keys.hashes, panes, keys.bitmap.bits, keys.bitmap.offset, keys.offsets, keys.data, by_words,
            self._buckets, self._state, self._groups, self._firsts, self._known,
        )  # fmt: skip
        return self._groups[:rows], self._firsts[:count]


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
def _same_key(i, j, bits, shift, offsets, data, wordy):  # type: ignore[no-untyped-def]
    """Whether two rows have the same key, given that their hashes are equal."""
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
    [types.int64(RO_U8, RO_I8, RO_U1, types.int64, RO_I8, RO_U1, types.boolean, I8_ROWS, I8, I4, I4, I8_ROWS)],
    nogil=True,
    cache=True,
)
def _group(  # type: ignore[no-untyped-def]
    hashes, panes, bits, shift, offsets, data, wordy, buckets, state, groups, firsts, known
):
    """A bucket is (hash of key and pane, epoch and group); `known` has each group's (hash of the key, pane)."""
    state[_EPOCH] += 1
    tag = state[_EPOCH] << _GROUP_BITS
    size = state[_SIZE]
    mask, one = np.uint64(size - 1), np.uint64(1)
    count = 0
    paned, simple = panes.size != 0, wordy and bits.size == 0
    pane, mixed = np.int64(0), mix64(np.uint64(0))
    for i in range(hashes.size):
        if paned and panes[i] != pane:
            pane = panes[i]
            mixed = mix64(np.uint64(pane) * _ODD)
        h = hashes[i] ^ mixed
        at = h & mask
        while True:
            entry = buckets[at, 1]
            if entry < tag:
                break
            if np.uint64(buckets[at, 0]) == h:
                group = np.uint32(entry & _GROUP_MASK)
                same = known[group, 1] == pane and np.uint64(known[group, 0]) == hashes[i]
                if same and (simple or _same_key(i, np.int64(firsts[group]), bits, shift, offsets, data, wordy)):
                    break
            at = (at + one) & mask
        if entry >= tag:
            groups[i] = np.int32(entry & _GROUP_MASK)
            continue
        buckets[at, 0] = np.int64(h)
        buckets[at, 1] = tag | count
        groups[i] = count
        firsts[count] = i
        known[count, 0] = np.int64(hashes[i])
        known[count, 1] = pane
        count += 1
        if 2 * count > size:
            size *= 2
            mask = np.uint64(size - 1)
            state[_EPOCH] += 1
            tag = state[_EPOCH] << _GROUP_BITS
            for g in range(count):
                h = np.uint64(known[g, 0]) ^ (mix64(np.uint64(known[g, 1]) * _ODD) if paned else mixed)
                at = h & mask
                while buckets[at, 1] >= tag:
                    at = (at + one) & mask
                buckets[at, 0] = np.int64(h)
                buckets[at, 1] = tag | g
    state[_SIZE] = size
    if 8 * count < size and size > _SMALLEST:
        state[_SIZE] = size // 2
    return count
