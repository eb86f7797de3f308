"""Kernels that group the rows of a batch by slot."""

from __future__ import annotations

from flinkray.state.jit import I4, I8, RO_I4, njit, types


@njit([types.void(RO_I4, I8, I8)], nogil=True, cache=True)
def group_rows(slots, starts, order):  # type: ignore[no-untyped-def]
    """Rows of slot s become `order[starts[s]:starts[s + 1]]`, in their old order; rows with a slot below zero are left out. `starts` is
    zero before, and has one more than there are slots."""
    for i in range(slots.size):
        if slots[i] >= 0:
            starts[slots[i] + 1] += 1
    for slot in range(starts.size - 1):
        starts[slot + 1] += starts[slot]
    place = starts.copy()
    for i in range(slots.size):
        if slots[i] >= 0:
            order[place[slots[i]]] = i
            place[slots[i]] += 1


@njit([types.int64(RO_I4, I8, types.int64, I4, I4)], nogil=True, cache=True)
def number_slots(slots, marks, epoch, index, firsts):  # type: ignore[no-untyped-def]
    """`index[i]`: the number of row i's slot, in order of appearance; `firsts`: the first row of each. Returns how many there are.
    `marks[slot]` is scratch memory that need not be cleared: it carries the epoch, which no other batch may have."""
    count = 0
    base = epoch << 32
    for i in range(slots.size):
        mark = marks[slots[i]]
        if mark < base:
            mark = base | count
            marks[slots[i]] = mark
            firsts[count] = i
            count += 1
        index[i] = mark - base
    return count
