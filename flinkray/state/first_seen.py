"""The kernel of exact counts of distinct values: what a row adds to what was seen of its value."""

from __future__ import annotations

from flinkray.state.jit import I4, I8, I8_ROWS, RO_I4, RO_I8, njit, types


@njit([types.int64(RO_I4, RO_I8, I8_ROWS, types.int64, I4, I8)], nogil=True, cache=True)
def mark_seen(slots, bits, rows, generation, first, new):  # type: ignore[no-untyped-def]
    """Sets the bits of row i at `rows[slots[i], 1]`. `first[:returned]`: the rows that set a bit that was not there, or are the first of a slot
    (whose word 0 is zero before); `new`: the bits that each has set. What changes is stamped with the generation in word 0."""
    count = 0
    for i in range(slots.size):
        slot = slots[i]
        added = bits[i] & ~rows[slot, 1]
        if added != 0 or rows[slot, 0] == 0:
            rows[slot, 1] |= added
            rows[slot, 0] = generation
            first[count] = i
            new[count] = added
            count += 1
    return count
