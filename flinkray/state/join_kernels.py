"""The kernels of joins: rows chained by key and ordered by time, probed by batches of the other side."""

from __future__ import annotations

from flinkray.columns import MAX_WATERMARK
from flinkray.state.bits import prefetch
from flinkray.state.jit import I8, I8_ROWS, RO_I4, RO_I8, U1, njit, types

TIME, NEXT, GENERATION, NAME = range(4)
"""Words of a kept row. NEXT: position + 1 of the next older row of its key, 0 for none. NAME: twice a number that names the row in
snapshots, plus one when the row has found a partner."""
ENTRY_WORDS = 4

USED = 2
"""`heads[slot]`: position + 1 of the newest row of the left side, of the right side, and whether the slot has a key."""
HEAD_WORDS = 3

ROW, CURSOR = range(2)
"""How far a probe has come: the row, and where in its chain (-1: not begun)."""

BLOCK = 4096
"""Kept rows whose smallest time is known together."""

_AHEAD = 8
_HEAD_BYTES, _ENTRY_BYTES = 8 * HEAD_WORDS, 8 * ENTRY_WORDS


@njit(
    [types.int64(RO_I4, RO_I8, types.int64, types.int64, types.int64, types.int64, types.boolean, I8_ROWS, I8_ROWS, U1, I8, I8, I8)],
    nogil=True,
    cache=True,
)
def probe(slots, times, below, above, side, generation, mark, heads, entries, hits, state, own, found):  # type: ignore[no-untyped-def]
    """Pairs (own[k], found[k]) of probing rows with kept rows of `side` whose time is from `times[i] + below` to `times[i] + above`.
    `hits[i]` becomes 1 for a row that finds one; with `mark` kept rows know that they were found, stamped with the generation the first
    time. Goes on from `state`, ends when all are done or `own` is full; returns how many."""
    count, rows, room = 0, slots.size, own.size
    heads_at, entries_at = heads.ctypes.data, entries.ctypes.data
    while state[ROW] < rows:
        i = state[ROW]
        if i + 2 * _AHEAD < rows:
            prefetch(heads_at + slots[i + 2 * _AHEAD] * _HEAD_BYTES)
        if i + _AHEAD < rows:
            ahead = heads[slots[i + _AHEAD], side]
            if ahead > 0:
                prefetch(entries_at + (ahead - 1) * _ENTRY_BYTES)
        at = state[CURSOR]
        if at < 0:
            heads[slots[i], USED] = 1
            at = heads[slots[i], side]
        low, high = times[i] + below, times[i] + above
        while at > 0:
            time = entries[at - 1, TIME]
            if time < low:
                break
            if time <= high:
                if count == room:
                    state[CURSOR] = at
                    return count
                own[count], found[count] = i, at - 1
                count += 1
                hits[i] = 1
                if mark and entries[at - 1, NAME] & 1 == 0:
                    entries[at - 1, NAME] |= 1
                    entries[at - 1, GENERATION] = generation
            at = entries[at - 1, NEXT]
        state[ROW], state[CURSOR] = i + 1, -1
    return count


@njit(
    [types.void(RO_I4, RO_I8, U1, types.int64, types.int64, types.int64, types.int64, I8_ROWS, I8_ROWS, I8)],
    nogil=True,
    cache=True,
)
def link(slots, times, hits, side, first, name, generation, heads, entries, floors):  # type: ignore[no-untyped-def]
    """Makes rows `first` and following of `entries`, each in its key's chain behind those with a larger time."""
    for i in range(slots.size):
        position, slot, time = first + i, slots[i], times[i]
        entries[position, TIME], entries[position, GENERATION] = time, generation
        entries[position, NAME] = 2 * (name + i) + hits[i]
        before, at = 0, heads[slot, side]
        while at > 0 and entries[at - 1, TIME] > time:
            before, at = at, entries[at - 1, NEXT]
        entries[position, NEXT] = at
        if before > 0:
            entries[before - 1, NEXT] = position + 1
        else:
            heads[slot, side] = position + 1
        heads[slot, USED] = 1
        floors[position // BLOCK] = min(floors[position // BLOCK], time)


@njit([types.int64(I8_ROWS, types.int64, I8, types.int64, types.int64, I8, I8)], nogil=True, cache=True)
def expire(entries, rows, floors, before, until, lonely, told):  # type: ignore[no-untyped-def]
    """Rows with `before < time <= until` are over: `told[0]` counts them, those that found no partner come to `lonely`, unless that
    is empty; returns how many these are. Blocks whose smallest time (`floors`) is later are not looked at."""
    count = 0
    for block in range(floors.size):
        if floors[block] > until or block * BLOCK >= rows:
            continue
        floor = MAX_WATERMARK
        for position in range(block * BLOCK, min(rows, (block + 1) * BLOCK)):
            time = entries[position, TIME]
            if time > until:
                floor = min(floor, time)
            elif time > before:
                told[0] += 1
                if lonely.size > 0 and entries[position, NAME] & 1 == 0:
                    lonely[count] = position
                    count += 1
        floors[block] = floor
    return count
