"""The kernels that bring the panes of windows together: many windows one behind the other in one call.

Each window groups its panes' keys in a small hash table that is never cleared: buckets carry the epoch of the window that wrote them.
Rows of accumulators and keys are written to memory that is used again.
"""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import load_i64, load_u8, prefetch
from flinkray.state.index_kernels import is_full, same_bytes
from flinkray.state.jit import I4, I8, I8_ROWS, U1, U8, inlined, njit, types

HASHES, ENTRIES, ARENA, ROWS, KEYS, NULL = range(6)
"""Fields of a pane: addresses of its keys' hashes, of their places in the arena, of the arena and of the accumulators; number of keys;
slot of the null key or -1."""
PANE_FIELDS = 6

WINDOW, PANE, ROW, COUNT, DONE, SEGMENT, EPOCH = range(7)
"""How far it has come (PANE -1: the window is not begun); rows made; keys placed; panes placed; the window's epoch."""
STATE_FIELDS = 7

BLOCK = 256
_PREFETCH_ABOVE = 1 << 15
_SLOT_BITS = 32
_SLOT_MASK = (1 << _SLOT_BITS) - 1


@inlined
def _find(buckets, mask, epoch, h, wordy, places, address, length):  # type: ignore[no-untyped-def]
    """(row or -1, bucket where the search ended)."""
    at = h & mask
    while True:
        tag = buckets[at, 1]
        if tag >> _SLOT_BITS != epoch:
            return np.int64(-1), at
        if np.uint64(buckets[at, 0]) == h:
            row = tag & _SLOT_MASK
            if wordy or (places[row, 1] == length and same_bytes(places[row, 0], address, length)):
                return row, at
        at = (at + np.uint64(1)) & mask


@njit(
    [
        types.boolean(
            I8_ROWS, I8_ROWS, types.boolean, I8, I8_ROWS, U8, I8_ROWS, I8_ROWS, I4, I8_ROWS, I8, I8, I8,
        )
    ],
    nogil=True,
    cache=True,
)  # fmt: skip
def place_panes(  # type: ignore[no-untyped-def]
    panes, windows, wordy, initial, buckets, hashes, places, rows, slots, segments, bounds, nulls, state
):
    """Makes rows `bounds[w]` and following for the keys of panes `windows[w, 0]` to `windows[w, 1]`; `nulls[w]`: the null key's or -1.
    The row of each key of each pane of each window, one behind the other, comes to `slots`, and `segments` says which are a pane's,
    for `accumulate`.
    Goes on from `state`; False when buckets or rows may not be enough for the next block."""
    mask = np.uint64(buckets.shape[0] - 1)
    while state[WINDOW] < windows.shape[0]:
        window = state[WINDOW]
        if state[PANE] < 0:
            state[PANE], state[ROW] = windows[window, 0], 0
            state[EPOCH] += 1
            bounds[window], nulls[window] = state[COUNT], -1
        epoch, single = state[EPOCH], windows[window, 1] - windows[window, 0] == 1
        while state[PANE] < windows[window, 1]:
            pane = panes[state[PANE]]
            base = state[DONE] - state[ROW]
            while state[ROW] < pane[KEYS]:
                start, count = state[ROW], state[COUNT]
                end = min(start + BLOCK, pane[KEYS])
                if count + end - start > hashes.size or (not single and is_full(count - bounds[window] + end - start, buckets.shape[0])):
                    return False
                if not single and buckets.shape[0] > _PREFETCH_ABOVE:
                    for i in range(start, end):
                        h = np.uint64(load_i64(pane[HASHES] + 8 * i))
                        prefetch(buckets.ctypes.data + np.int64((h & mask) << np.uint64(4)))
                for i in range(start, end):
                    h = np.uint64(load_i64(pane[HASHES] + 8 * i))
                    address, length = np.int64(0), np.int64(0)
                    if not wordy:
                        address = pane[ARENA] + load_i64(pane[ENTRIES] + 24 * i)
                        length = load_i64(pane[ENTRIES] + 24 * i + 8)
                    row, at = np.int64(-1), np.uint64(0)
                    if i == pane[NULL]:
                        length, row = np.int64(0), nulls[window]
                    elif not single:
                        row, at = _find(buckets, mask, epoch, h, wordy, places, address, length)
                    if row < 0:
                        row = count
                        count += 1
                        hashes[row] = h
                        rows[row] = initial
                        if not wordy:
                            places[row, 0], places[row, 1] = address, length
                        if i == pane[NULL]:
                            nulls[window] = row
                        elif not single:
                            buckets[at, 0] = np.int64(h)
                            buckets[at, 1] = (epoch << _SLOT_BITS) | row
                    slots[base + i] = row
                state[COUNT], state[ROW], state[DONE] = count, end, base + end
            segment = segments[state[SEGMENT]]
            segment[0], segment[1] = base, state[DONE]
            segment[2] = pane[ROWS] - 8 * rows.shape[1] * base
            state[SEGMENT] += 1
            state[PANE] += 1
            state[ROW] = 0
        state[WINDOW] += 1
        state[PANE] = -1
    bounds[windows.shape[0]] = state[COUNT]
    return True


@njit([types.void(I8_ROWS, U8, types.int64, types.int64, types.int64, types.int64)], nogil=True, cache=True)
def refill(buckets, hashes, start, stop, null, epoch):  # type: ignore[no-untyped-def]
    """Puts the keys of a window that has been begun into new buckets."""
    mask = np.uint64(buckets.shape[0] - 1)
    for row in range(start, stop):
        if row == null:
            continue
        at = hashes[row] & mask
        while buckets[at, 1] != 0:
            at = (at + np.uint64(1)) & mask
        buckets[at, 0] = np.int64(hashes[row])
        buckets[at, 1] = (epoch << _SLOT_BITS) | row


@njit([types.void(I8_ROWS, I8, U1)], nogil=True, cache=True)
def gather_places(places, offsets, data):  # type: ignore[no-untyped-def]
    """Copies bytes by address and length, one behind the other."""
    for i in range(places.shape[0]):
        start, at = places[i, 0], offsets[i]
        for j in range(places[i, 1]):
            data[at + j] = load_u8(start + j)
