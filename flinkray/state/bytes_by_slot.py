"""Pieces of bytes by slot: `entries[slot]` is (start, length, room) of a piece in `arena`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flinkray.state.extents import extent_of
from flinkray.state.key_encoding import gathered
from flinkray.state.memory import StateMemory

Int64Array = npt.NDArray[np.int64]


def touch_pieces(arena: np.ndarray, entries: np.ndarray) -> None:
    """These pieces of an arena are used now, and may be replaced within their room."""
    extent = extent_of(arena)
    if extent is not None:
        extent.memory.touch_pieces(arena, np.ascontiguousarray(entries[:, 0]), np.ascontiguousarray(entries[:, 1]))


def pieces_of(entries: np.ndarray, arena: np.ndarray, chosen: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, data): the pieces of some slots one behind the other, as a copy; within a budget of memory where the arena is."""
    extent = extent_of(arena)
    if extent is None:
        found = entries[chosen]
        return gathered(arena, np.ascontiguousarray(found[:, 0]), found[:, 1])
    return _within(extent.memory, entries, arena, np.arange(len(entries))[chosen] if isinstance(chosen, slice) else chosen)


def _within(memory: StateMemory, entries: np.ndarray, arena: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    offsets = memory.zeros(len(slots) + 1, np.int64)
    steps = [(start, min(start + memory.rows_at_once, len(slots))) for start in range(0, len(slots), memory.rows_at_once)]
    for start, stop in steps:
        memory.touch(entries, slots[start:stop], used=False)
        offsets[start + 1 : stop + 1] = entries[slots[start:stop], 1]
    np.cumsum(offsets, out=offsets)
    data = memory.zeros(int(offsets[-1]), np.uint8)
    for start, stop in steps:
        memory.touch(entries, slots[start:stop], used=False)
        mine = entries[slots[start:stop]]
        memory.touch(arena, mine[:, 0], used=False)
        first, last = int(offsets[start]), int(offsets[stop])
        memory.pass_over(data, first, last)
        data[first:last] = gathered(arena, np.ascontiguousarray(mine[:, 0]), mine[:, 1])[1]
    return offsets, data


def compacted(entries: np.ndarray, arena: np.ndarray, high: int) -> np.ndarray:
    """A new arena, without what lies between the pieces of the slots below `high`; `entries` say where they are now. Each has the room that it needs,
    rounded up to words. Of an arena within a budget of memory."""
    extent = extent_of(arena)
    assert extent is not None
    memory, end = extent.memory, 0
    packed = memory.zeros(int(((entries[:high, 1] + 7) & ~7).sum()), np.uint8)
    for start in range(0, high, memory.rows_at_once):
        slots = np.arange(start, min(start + memory.rows_at_once, high))
        memory.touch(entries, slots)
        mine = entries[slots]
        memory.touch(arena, mine[:, 0], used=False)
        room = (mine[:, 1] + 7) & ~7
        _, data = gathered(arena, np.ascontiguousarray(mine[:, 0]), room)  # what is behind a piece, within its room, does not matter
        memory.pass_over(packed, end, end + len(data))
        packed[end : end + len(data)] = data
        entries[slots, 0] = end + np.cumsum(room) - room
        entries[slots, 2] = room
        end += len(data)
    return packed
