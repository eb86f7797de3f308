"""The kernels of the key index. A bucket is (hash, slot + 1); slot + 1 is 0 in an empty bucket, -1 in one removed while it is moved out."""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import bit_at, copy_bytes, load_i64, load_u8, prefetch, unmix64
from flinkray.state.jit import I4, I8, I8_ROWS, RO_I8, RO_U1, RO_U8, U1, U8, inlined, njit, types

KEYS, HIGH, FREE, NULL_SLOT, MOVED, ARENA, GARBAGE = range(7)
"""Counters of an index: keys; slots ever used; freed slots; slot of the null key or -1; old buckets
moved; bytes of the arena used; and of these lost to slots that were given away."""

BLOCK = 256
_PREFETCH_ABOVE = 1 << 15
"""Buckets: smaller tables stay in the cache, and prefetching would only cost."""


@inlined
def is_full(keys: int, buckets: int) -> bool:
    """Whether so many keys are too many: above 5/8 the chains of linear probing grow long."""
    return keys * 8 > buckets * 5


@inlined
def same_bytes(a: int, b: int, length: int) -> bool:
    at = 0
    while at + 8 <= length:
        if load_i64(a + at) != load_i64(b + at):
            return False
        at += 8
    while at < length:
        if load_u8(a + at) != load_u8(b + at):
            return False
        at += 1
    return True


@inlined
def _find(buckets, mask, h, wordy, entries, arena, address, length):  # type: ignore[no-untyped-def]
    """(slot or -1, bucket where the search ended)."""
    at = h & mask
    while True:
        slot = buckets[at, 1]
        if slot == 0:
            return np.int64(-1), at
        if np.uint64(buckets[at, 0]) == h and slot > 0:
            slot -= 1
            if wordy:
                return slot, at
            entry = np.uint64(slot)
            if entries[entry, 1] == length and same_bytes(arena + entries[entry, 0], address, length):
                return slot, at
        at = (at + np.uint64(1)) & mask


@inlined
def _new_slot(h, slot_hashes, free, counters):  # type: ignore[no-untyped-def]
    if counters[FREE] > 0:
        counters[FREE] -= 1
        slot = np.int64(free[counters[FREE]])
    else:
        slot = counters[HIGH]
        counters[HIGH] += 1
    counters[KEYS] += 1
    slot_hashes[slot] = h
    return slot


@inlined
def _store_bytes(slot, address, length, entries, arena, counters):  # type: ignore[no-untyped-def]
    """Into the room the slot had before when it fits, else to the end of the arena."""
    if length > entries[slot, 2]:
        counters[GARBAGE] += entries[slot, 2]
        room = (length + 7) & ~7
        entries[slot, 0] = counters[ARENA]
        entries[slot, 2] = room
        counters[ARENA] += room
    entries[slot, 1] = length
    copy_bytes(address, arena.ctypes.data + entries[slot, 0], length)


@inlined
def _prefetch_block(hashes, start, end, wordy, buckets, entries, arena):  # type: ignore[no-untyped-def]
    """What looking up a block of keys will touch, in the order of how one leads to the next: buckets, entries, bytes. Each is on its way
    while the others of the block are asked for."""
    mask, base, entry_base = np.uint64(buckets.shape[0] - 1), buckets.ctypes.data, entries.ctypes.data
    for i in range(start, end):
        prefetch(base + np.int64((hashes[i] & mask) << np.uint64(4)))
    if wordy:
        return
    for i in range(start, end):
        slot = buckets[hashes[i] & mask, 1]
        if slot > 0:
            prefetch(entry_base + (slot - 1) * 24)
    for i in range(start, end):
        slot = buckets[hashes[i] & mask, 1]
        if slot > 0:
            prefetch(arena + entries[slot - 1, 0])


@njit(
    [
        types.int64(
            RO_U8, RO_I8, RO_U1, RO_U1, types.int64, types.boolean, types.int64,
            I8_ROWS, I8_ROWS, U8, I8_ROWS, U1, I4, I8, I4,
        )
    ],
    nogil=True,
    cache=True,
)  # fmt: skip
def insert(  # type: ignore[no-untyped-def]
    hashes, offsets, data, bits, shift, wordy, start, buckets, old, slot_hashes, entries, arena, free, counters, slots
):
    """Slots of the keys from `start` on, new keys inserted; stops before a block that may not fit. Returns how far it came."""
    rows = hashes.size
    mask, old_mask = np.uint64(buckets.shape[0] - 1), np.uint64(max(old.shape[0], 1) - 1)
    moving = old.shape[0] > 0
    source, target = data.ctypes.data, arena.ctypes.data
    while start < rows:
        end = min(start + BLOCK, rows)
        if is_full(counters[KEYS] + end - start, buckets.shape[0]) or counters[HIGH] + end - start > slot_hashes.size:
            return start
        if not wordy and counters[ARENA] + offsets[end] - offsets[start] + 8 * (end - start) > arena.size:
            return start
        if buckets.shape[0] > _PREFETCH_ABOVE:
            _prefetch_block(hashes, start, end, wordy, buckets, entries, target)
            if moving:
                _prefetch_block(hashes, start, end, wordy, old, entries, target)
        for i in range(start, end):
            h = hashes[i]
            if bits.size != 0 and not bit_at(bits, shift + i):
                if counters[NULL_SLOT] < 0:
                    counters[NULL_SLOT] = _new_slot(h, slot_hashes, free, counters)
                    if not wordy:
                        entries[counters[NULL_SLOT], 1] = 0
                slots[i] = counters[NULL_SLOT]
                continue
            address, length = np.int64(0), np.int64(0)
            if not wordy:
                address, length = source + offsets[i], offsets[i + 1] - offsets[i]
            slot, at = _find(buckets, mask, h, wordy, entries, target, address, length)
            if slot < 0 and moving:
                slot, _ = _find(old, old_mask, h, wordy, entries, target, address, length)
            if slot < 0:
                slot = _new_slot(h, slot_hashes, free, counters)
                buckets[at, 0] = np.int64(h)
                buckets[at, 1] = slot + 1
                if not wordy:
                    _store_bytes(slot, address, length, entries, arena, counters)
            slots[i] = slot
        start = end
    return start


@njit(
    [types.void(RO_U8, RO_I8, RO_U1, RO_U1, types.int64, types.boolean, I8_ROWS, I8_ROWS, I8_ROWS, U1, I8, I4)],
    nogil=True,
    cache=True,
)
def lookup(  # type: ignore[no-untyped-def]
    hashes, offsets, data, bits, shift, wordy, buckets, old, entries, arena, counters, slots
):
    """Slots of the keys, -1 where unknown."""
    mask, old_mask = np.uint64(buckets.shape[0] - 1), np.uint64(max(old.shape[0], 1) - 1)
    source, target = data.ctypes.data, arena.ctypes.data
    for start in range(0, hashes.size, BLOCK):
        end = min(start + BLOCK, hashes.size)
        if buckets.shape[0] > _PREFETCH_ABOVE:
            _prefetch_block(hashes, start, end, wordy, buckets, entries, target)
        for i in range(start, end):
            if bits.size != 0 and not bit_at(bits, shift + i):
                slots[i] = counters[NULL_SLOT]
                continue
            address, length = np.int64(0), np.int64(0)
            if not wordy:
                address, length = source + offsets[i], offsets[i + 1] - offsets[i]
            slot, _ = _find(buckets, mask, hashes[i], wordy, entries, target, address, length)
            if slot < 0 and old.shape[0] > 0:
                slot, _ = _find(old, old_mask, hashes[i], wordy, entries, target, address, length)
            slots[i] = slot


@njit([types.void(I8_ROWS, types.int64, I8_ROWS, I8)], nogil=True, cache=True)
def move(old, limit, buckets, counters):  # type: ignore[no-untyped-def]
    """Copies the keys of the next `limit` old buckets to the new table. They stay in the old one, whose chains must not break."""
    mask = np.uint64(buckets.shape[0] - 1)
    end = min(old.shape[0], counters[MOVED] + limit)
    for b in range(counters[MOVED], end):
        if old[b, 1] > 0:
            at = np.uint64(old[b, 0]) & mask
            while buckets[at, 1] != 0:
                at = (at + np.uint64(1)) & mask
            buckets[at, 0] = old[b, 0]
            buckets[at, 1] = old[b, 1]
    counters[MOVED] = end


@inlined
def _bucket_of(buckets, mask, h, slot):  # type: ignore[no-untyped-def]
    """(whether the slot is in this table, its bucket)."""
    at = h & mask
    while buckets[at, 1] != 0:
        if buckets[at, 1] == slot + 1:
            return True, at
        at = (at + np.uint64(1)) & mask
    return False, at


@njit([types.void(I4, U8, I8_ROWS, I8_ROWS, I4, I8)], nogil=True, cache=True)
def remove(slots, slot_hashes, buckets, old, free, counters):  # type: ignore[no-untyped-def]
    """Takes the slots' keys out: the new table's chain closes up behind one, in the old table it is only marked."""
    mask, old_mask = np.uint64(buckets.shape[0] - 1), np.uint64(max(old.shape[0], 1) - 1)
    one = np.uint64(1)
    for slot in slots:
        free[counters[FREE]] = slot
        counters[FREE] += 1
        counters[KEYS] -= 1
        if counters[NULL_SLOT] == slot:
            counters[NULL_SLOT] = -1
            continue
        h = slot_hashes[slot]
        if old.shape[0] > 0:
            found, at = _bucket_of(old, old_mask, h, np.int64(slot))
            if found:
                old[at, 1] = -1
        found, hole = _bucket_of(buckets, mask, h, np.int64(slot))
        if not found:
            continue
        at = (hole + one) & mask
        while buckets[at, 1] != 0:
            home = np.uint64(buckets[at, 0]) & mask
            if (at - home) & mask >= (at - hole) & mask:
                buckets[hole, 0] = buckets[at, 0]
                buckets[hole, 1] = buckets[at, 1]
                hole = at
            at = (at + one) & mask
        buckets[hole, 1] = 0


@njit([U1(U1, I8_ROWS, I8)], nogil=True, cache=True)
def compact(arena, entries, counters):  # type: ignore[no-untyped-def]
    """A new arena without the bytes that were lost to slots given away."""
    high = counters[HIGH]
    kept = np.int64(0)
    for slot in range(high):
        kept += (entries[slot, 1] + 7) & ~7
    packed = np.empty(kept, np.uint8)
    total = np.int64(0)
    for slot in range(high):
        start, length = entries[slot, 0], entries[slot, 1]
        for i in range(length):
            packed[total + i] = arena[start + i]
        entries[slot, 0] = total
        entries[slot, 2] = (length + 7) & ~7
        total += entries[slot, 2]
    counters[ARENA] = total
    counters[GARBAGE] = 0
    return packed


@njit([types.void(RO_U8, types.uint64, I8)], nogil=True, cache=True)
def hashes_to_words(hashes, seed, words):  # type: ignore[no-untyped-def]
    """Word keys from their hashes (see `key_hash`): the mixing is undone."""
    for i in range(hashes.size):
        words[i] = np.int64(unmix64(hashes[i]) ^ seed)
