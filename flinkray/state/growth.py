"""Memory that is not paid for twice: arrays that grow in place, and buffers for copies that are used again.

The first touch of fresh memory costs several times what copying into it does, most of all on a virtual machine.
"""

from __future__ import annotations

import numpy as np

from flinkray.regions import LARGE_BYTES, regrown
from flinkray.state.extents import extent_of
from flinkray.state.memory import StateMemory, current


def grown(array: np.ndarray, size: int, step: int) -> np.ndarray:
    """The array with at least `size` rows (new ones zero), in steps of `step` rows or a sixteenth, whichever is more.

    Large ones lie in regions of their own (`regions.py`). `ndarray.resize` pulls the memory from under every view, so nobody keeps views of an
    array that grows; the array must own its memory, or come from here, or be one of `memory`, whose file gets longer.
    """
    if size <= len(array):
        return array
    step = max(step, len(array) // 16)
    rows = -(-size // step) * step
    memory = memory_of(array)
    if memory is not None:
        return memory.resized(array, rows)
    if rows * array.itemsize * int(np.prod(array.shape[1:])) >= LARGE_BYTES:
        larger = regrown(array, rows)
        if larger is not None:
            return larger
        array = array if array.flags.owndata else array.copy()  # from a region that is full
    array.resize((rows, *array.shape[1:]), refcheck=False)
    return array


def memory_of(array: np.ndarray) -> StateMemory | None:
    """The budget that an array counts against, or would if it were larger."""
    extent = extent_of(array)
    return current() if extent is None else extent.memory


def rows_at_most(rows: int, array: np.ndarray) -> int:
    """So many rows of an array may be in ordinary memory at once, where more than `rows` need not be: they are given away as results, which take as much again."""
    extent = extent_of(array)
    return rows if extent is None else min(rows, extent.memory.rows_of(array.strides[0]))


class CopyBuffers:
    """Copies of an array that changes, made into memory of earlier copies that nobody holds any more."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def copy(self, source: np.ndarray) -> BufferedCopy:
        extent = extent_of(source)
        if extent is not None:
            return BufferedCopy(extent.memory.copy(source), len(source), None)
        if source.nbytes < RECYCLED_BYTES:
            return BufferedCopy(source.copy(), len(source), None)
        buffer = self._free.pop() if self._free else np.empty((0, *source.shape[1:]), source.dtype)
        if len(buffer) < len(source):
            buffer.resize(
                (len(source) + len(source) // 16, *source.shape[1:]), refcheck=False
            )  # no region: a task stands still, and small pages come sooner
        buffer[: len(source)] = source
        return BufferedCopy(buffer, len(source), self._free)


RECYCLED_BYTES = 1 << 20
"""Smaller copies come from the allocator's own stock."""


class BufferedCopy:
    """`array` is good as long as this object lives; then its memory goes back (from whatever thread)."""

    def __init__(self, buffer: np.ndarray, rows: int, free: list[np.ndarray] | None) -> None:
        self.array = buffer[:rows]
        self._buffer, self._free = buffer, free

    def __del__(self) -> None:
        if self._free is not None and not self._free:
            del self.array
            self._free.append(self._buffer)
