"""Rows of state as they are at one moment, for an upload thread to read one part after the other, made without reading or copying them.

Whoever changes an array within a budget of memory says so before (`StateMemory.touch`): pages that are about to change are saved as they were, once, unless
all of their rows have been read. What nobody changes is read from the file of the array itself. Arrays in ordinary memory are copied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flinkray.state.extents import Extent, extent_of
from flinkray.state.key_encoding import gathered
from flinkray.state.paging import PAGE, Int64Array, pages_between, pages_of, pages_of_pieces

_LIVE, _READ = -1, -2
"""Of pages that are not saved: whose bytes are those in the file still, and that nobody asks for any more."""


class Frozen:
    """The pages of an extent as they were. `save` is called by the thread that changes them, with the memory's lock; `read` by an upload thread."""

    def __init__(self, extent: Extent, size: int) -> None:
        """`size`: bytes from the beginning that matter."""
        self._extent, self._memory = extent, extent.memory
        self._places = np.full(-(-size // PAGE), _LIVE, np.int32)
        """By page: where it is saved, or one of the above."""
        self._saved = np.empty((0, PAGE), np.uint8)
        self._count = 0
        with self._memory.lock:
            extent.frozen.add(self)

    def __len__(self) -> int:
        """Pages."""
        return len(self._places)

    def save(self, pages: Int64Array) -> None:
        """These pages (ascending) are about to change."""
        pages = pages[: np.searchsorted(pages, len(self._places))]
        new = pages[self._places[pages] == _LIVE]
        if not len(new):
            return
        mapping = self._extent.mapping
        assert mapping is not None, "who changes an array holds it"
        stop = self._count + len(new)
        if stop > len(self._saved):
            self._saved = self._memory.resized(self._saved, max(stop, min(2 * len(self._saved), len(self._places))))
        self._memory.pass_over(self._saved, self._count, stop)
        self._saved[self._count : stop] = np.asarray(mapping).reshape(-1, PAGE)[new]
        self._places[new] = np.arange(self._count, stop)
        self._count = stop

    def read(self, pages: Int64Array, read_until: int = 0) -> np.ndarray:
        """uint8: these pages (ascending) one behind the other, in ordinary memory. `read_until`: pages below are not asked for again."""
        data = self._extent.read(pages)
        with self._memory.lock:  # a page that changed meanwhile was saved before
            places = self._places[pages]
            saved = np.flatnonzero(places >= 0)
            if len(saved):
                self._memory.touch(self._saved, places[saved], used=False)
                data.reshape(-1, PAGE)[saved] = self._saved[places[saved]]
            self._places[:read_until][self._places[:read_until] == _LIVE] = _READ
        return data


class StillRows:
    """Some rows of an array, as they were. Read in order, each part once."""

    def __init__(self, array: np.ndarray, rows: npt.NDArray[np.integer] | None = None) -> None:
        """`rows`: None: all; else ascending, and not changed by anybody."""
        self._rows, self._count = rows, len(array) if rows is None else len(rows)
        extent = extent_of(array)
        self._copy = None if extent is not None else array.copy() if rows is None else array[rows]
        self._frozen = None if extent is None else Frozen(extent, array.nbytes)
        self._dtype, self._shape, self.row_bytes = array.dtype, array.shape[1:], array.strides[0]

    def __len__(self) -> int:
        return self._count

    def part(self, start: int, stop: int) -> np.ndarray:
        """The rows from one position to another, in ordinary memory."""
        if self._frozen is None:
            assert self._copy is not None
            return self._copy[start:stop]
        if start >= stop:
            return np.empty((0, *self._shape), self._dtype)
        if self._rows is None:
            data = self._frozen.read(pages_between(start * self.row_bytes, stop * self.row_bytes), stop * self.row_bytes // PAGE)
            begin = start * self.row_bytes % PAGE
            return self._shaped(data[begin : begin + (stop - start) * self.row_bytes])
        first_byte = self._rows[start:stop].astype(np.int64) * self.row_bytes
        pages = pages_of(self._rows[start:stop], self.row_bytes, len(self._frozen))
        data = self._frozen.read(pages, int(first_byte[-1]) // PAGE)
        at = np.searchsorted(pages, first_byte // PAGE) * PAGE + first_byte % PAGE
        return self._shaped(gathered(data, at, np.full(len(at), self.row_bytes, np.int64))[1])

    def _shaped(self, data: np.ndarray) -> np.ndarray:
        return data.view(self._dtype).reshape(-1, *self._shape)


class StillPieces:
    """Pieces of bytes, as they were: `entries` are (start, length, room) of each in `arena`."""

    def __init__(self, entries: StillRows, arena: np.ndarray) -> None:
        self._entries = entries
        extent = extent_of(arena)
        self._arena = arena.copy() if extent is None else Frozen(extent, arena.nbytes)

    def part(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(offsets, data) of the pieces from one position to another, one behind the other."""
        mine = self._entries.part(start, stop)
        starts, lengths = np.ascontiguousarray(mine[:, 0]), np.ascontiguousarray(mine[:, 1])
        if not isinstance(self._arena, Frozen):
            return gathered(self._arena, starts, lengths)
        pages = pages_of_pieces(starts, lengths, len(self._arena))
        at = np.searchsorted(pages, starts // PAGE) * PAGE + starts % PAGE
        return gathered(self._arena.read(pages), at, lengths)
