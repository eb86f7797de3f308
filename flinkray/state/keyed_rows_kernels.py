"""Kernels of rows chained by key: the newest row of a key first, rows that were removed are left out on the way."""

from __future__ import annotations

from flinkray.state.jit import I4, I4_ROWS, I8, RO_I4, njit, types

SLOT, NEXT, STAMP = range(3)
"""Of a row, 32 bits each. NEXT: position + 1 of the next older row of its key, 0 for none. STAMP: twice the generation of its last change, and one
as long as it was not removed."""
LINK_WORDS = 3
MOST_ROWS = (1 << 31) - 2


@njit([types.void(RO_I4, types.int64, I4, I4_ROWS)], nogil=True, cache=True)
def push_rows(slots, first, heads, links):  # type: ignore[no-untyped-def]
    """Rows `first` and following become the newest of their keys."""
    for i in range(slots.size):
        position, slot = first + i, slots[i]
        links[position, SLOT] = slot
        links[position, NEXT] = heads[slot]
        heads[slot] = position + 1


@njit([types.void(RO_I4, I4, I4_ROWS, I8)], nogil=True, cache=True)
def count_rows(slots, heads, links, starts):  # type: ignore[no-untyped-def]
    """`starts[i + 1] - starts[i]`: how many rows slot i has. Removed rows leave the chains."""
    total = 0
    for i in range(slots.size):
        before, at = 0, heads[slots[i]]
        while at > 0:
            following = links[at - 1, NEXT]
            if links[at - 1, STAMP] & 1:
                total += 1
                before = at
            elif before > 0:
                links[before - 1, NEXT] = following
            else:
                heads[slots[i]] = following
            at = following
        starts[i + 1] = total


@njit([types.void(RO_I4, I4, I4_ROWS, I8, types.int64, I8, I8)], nogil=True, cache=True)
def gather_rows(slots, heads, links, starts, first, owner, found):  # type: ignore[no-untyped-def]
    """After `count_rows`: the rows of slots `first` and following, in order of arrival, as (number of the slot in `slots`, position)."""
    base = starts[first]
    i = first
    while i < slots.size and starts[i + 1] - base <= owner.size:
        at, place = heads[slots[i]], starts[i + 1] - base
        while at > 0:
            place -= 1
            owner[place] = i
            found[place] = at - 1
            at = links[at - 1, NEXT]
        i += 1
