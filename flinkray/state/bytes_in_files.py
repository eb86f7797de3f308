"""Values as bytes by slot, within a budget of memory: written one behind the other, into the room of the value before where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from flinkray.state.bits import copy_bytes
from flinkray.state.bytes_by_slot import Int64Array, compacted, touch_pieces
from flinkray.state.frozen import StillPieces, StillRows
from flinkray.state.growth import grown
from flinkray.state.jit import I8, RO_U1, U1, njit, types
from flinkray.state.key_encoding import gathered
from flinkray.state.memory import StateMemory

STEP_SLOTS = 1 << 14
STEP_BYTES = 1 << 20
_START, _LENGTH, _ROOM = range(3)


class BytesInFiles:
    """No bytes at all are no value."""

    def __init__(self, memory: StateMemory) -> None:
        self.memory = memory
        self._entries = memory.zeros((STEP_SLOTS, 3), np.int64)
        self._arena = memory.zeros(max(STEP_BYTES, memory.smallest_bytes), np.uint8)  # a file from the beginning
        self._end = self._garbage = 0
        self._live = np.zeros(STEP_SLOTS, np.bool_)
        """In ordinary memory: what has a value is told without reading."""

    def __len__(self) -> int:
        """Slots that there is room for."""
        return len(self._entries)

    @property
    def memory_bytes(self) -> int:
        return self._entries.nbytes + self._arena.nbytes + self._live.nbytes

    def make_room(self, slots: int) -> None:
        self._entries = grown(self._entries, slots, STEP_SLOTS)
        if len(self._live) < len(self._entries):
            self._live = np.concatenate([self._live, np.zeros(len(self._entries) - len(self._live), np.bool_)])

    def get(self, slots: Int64Array) -> list[bytes]:
        found: list[bytes] = []
        for start in range(0, len(slots), self.memory.rows_at_once):
            mine = self._entries_of(slots[start : start + self.memory.rows_at_once])
            offsets, data = gathered(self._arena, np.ascontiguousarray(mine[:, _START]), mine[:, _LENGTH])
            together, ends = data.tobytes(), offsets.tolist()
            found += [together[begin:end] for begin, end in pairwise(ends)]
        return found

    def put(self, slots: Int64Array, values: Sequence[bytes]) -> None:
        """Each slot once."""
        for start in range(0, len(slots), self.memory.rows_at_once):
            stop = start + self.memory.rows_at_once
            self._put(slots[start:stop], values[start:stop])

    def live(self, high: int) -> np.ndarray:
        """bool[high]: which slots have a value."""
        return self._live[:high].copy()

    def live_at(self, slots: Int64Array) -> np.ndarray:
        return self._live[slots]

    def still(self, slots: Int64Array) -> StillPieces:
        """These slots' values (`slots` ascend), which later changes leave alone."""
        return StillPieces(StillRows(self._entries, slots), self._arena)

    def _entries_of(self, slots: Int64Array) -> np.ndarray:
        """Of slots whose values are asked for, too."""
        self.memory.touch(self._entries, slots)
        mine = self._entries[slots]
        touch_pieces(self._arena, mine)
        return mine

    def _put(self, slots: Int64Array, values: Sequence[bytes]) -> None:
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        mine, words = self._entries_of(slots), (lengths + 7) & ~7
        if self._end + int(words.sum()) > len(self._arena):
            self._make_room(int(words.sum()))
            mine = self._entries[slots]
        moved = np.flatnonzero(lengths > mine[:, _ROOM])
        rooms = words[moved]
        more = int(rooms.sum())
        self._garbage += int(mine[moved, _ROOM].sum())
        mine[moved, _START] = self._end + np.cumsum(rooms) - rooms
        mine[moved, _ROOM] = rooms
        mine[:, _LENGTH] = lengths
        self._live[slots] = lengths > 0
        self.memory.pass_over(self._arena, self._end, self._end + more)
        self._end += more
        self._entries[slots] = mine
        _scatter(np.frombuffer(b"".join(values), np.uint8), lengths, np.ascontiguousarray(mine[:, _START]), self._arena)

    def _make_room(self, more: int) -> None:
        """Without what lies between the values, where that is most of it."""
        if 2 * self._garbage > self._end:
            self._arena = compacted(self._entries, self._arena, len(self._entries))
            self._end, self._garbage = len(self._arena), 0
        self._arena = grown(self._arena, self._end + more, STEP_BYTES)


@njit([types.void(RO_U1, I8, I8, U1)], nogil=True, cache=True)
def _scatter(data, lengths, starts, arena):  # type: ignore[no-untyped-def]
    """Pieces that lie one behind the other, each to its place."""
    source, target = data.ctypes.data, arena.ctypes.data
    for i in range(lengths.size):
        copy_bytes(source, target + starts[i], lengths[i])
        source += lengths[i]
