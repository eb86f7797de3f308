"""Arrays of state within a budget of memory: where there is one, every larger array is a mapped file without a name, and pages that were not used for long
are written to it and given back.

Mapped from the first row on, not only above the budget: which array is cold is known later, and ordinary memory cannot be given back without swap. While all
of state fits, nothing is given back and nothing is looked up.

Who uses rows by position says so (`touch`): what is missing is then read at once, with many requests under way, and what was used least recently makes room for
it. What is read without a word is paid for by page faults, and gives way in the order in which it was first seen.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from flinkray.errors import ConfigError, ResourceError
from flinkray.state.extents import Extent, extent_of, in_memory, no_room
from flinkray.state.paging import NEVER, PAGE, USED, Int64Array, coldest, pages_between, pages_of, pages_of_pieces, to_give_up, widened

LOOK_AFTER_STEPS = 32
READ_BETWEEN = 3
"""Pages that nobody needs are read, too, where so few lie between two that are needed: on an NVMe disk four pages in a row take as long as one."""


class StateMemory:
    """The arrays of one TaskManager. Used by its mailbox thread and its upload thread."""

    def __init__(self, budget_bytes: int, folder: str = "", disk_bytes: int | None = None) -> None:
        """`folder`: on a local disk, that of temporary files where none is given; `disk_bytes`: of it at most. Raises ConfigError where the folder cannot be
        written, or is memory itself."""
        self.budget_bytes, self.disk_bytes = budget_bytes, disk_bytes
        self.folder = folder or tempfile.gettempdir()
        self.smallest_bytes = min(1 << 20, max(PAGE, budget_bytes // 256))
        """Arrays below are ordinary memory."""
        self.given_up_bytes = 0
        """Written and let go, in all."""
        self._limit = max(16, budget_bytes // PAGE * 15 // 16)
        """Pages; the rest is for what comes without a word between two looks."""
        self._steps = 0
        self._looked = False
        """Since state is larger than the budget."""
        self._clock = NEVER
        self._extents: weakref.WeakSet[Extent] = weakref.WeakSet()
        self.lock = threading.RLock()
        """Of what is known of pages."""
        self._check_folder()

    # -- arrays ---------------------------------------------------------------------------------------------------

    def zeros(self, shape: int | Sequence[int], dtype: npt.DTypeLike) -> np.ndarray:
        """Of the budget where it is large."""
        shape = (shape,) if isinstance(shape, int) else shape
        kind, count = np.dtype(dtype), int(np.prod(shape))
        if count * kind.itemsize < self.smallest_bytes:
            return np.zeros(shape, kind)
        return self._shaped(self._new_extent(), shape, kind)

    def resized(self, array: np.ndarray, rows: int) -> np.ndarray:
        """The array with so many rows, new ones zero: in the same file where it has one, without a copy. Views of what it was stay good."""
        shape = (rows, *array.shape[1:])
        extent = extent_of(array)
        if extent is None:
            if rows * array.strides[0] < self.smallest_bytes:
                array.resize(shape, refcheck=False)
                return array
            longer = self.zeros(shape, array.dtype)
            longer[: len(array)] = array
            extent = extent_of(longer)
            if extent is not None:
                extent.changed.mark_all(len(array))
            return longer
        return self._shaped(extent, shape, array.dtype)

    def copy(self, array: np.ndarray, rows: npt.NDArray[np.integer] | None = None) -> np.ndarray:
        """A copy of these rows (None: all), made piece by piece: reading what is cold drives out nothing that is in use."""
        count, width = len(array) if rows is None else len(rows), array.strides[0]
        if count * width < self.smallest_bytes:
            self.touch(array, np.arange(count) if rows is None else rows, used=False)
            return array.copy() if rows is None else array[rows]
        target = self.zeros((count, *array.shape[1:]), array.dtype)
        step = max(1, self._limit // 16 * PAGE // width) if rows is None else self.rows_at_once
        for start in range(0, count, step):
            stop = min(start + step, count)
            if rows is None:
                self.pass_over(array, start, stop)
            else:
                self.touch(array, rows[start:stop], used=False)
            self.pass_over(target, start, stop)
            target[start:stop] = array[start:stop] if rows is None else array[rows[start:stop]]
        self.keep()
        return target

    def keep_bytes(self, data: bytes | memoryview) -> bytes | memoryview:
        """The same bytes; large ones are given back at once, and read again by whom they are used."""
        if len(data) < self.smallest_bytes:
            return data
        array = self.zeros(len(data), np.uint8)
        self.pass_over(array, 0, len(array))
        array[:] = np.frombuffer(data, np.uint8)
        return memoryview(array.data).toreadonly()

    def _new_extent(self) -> Extent:
        try:
            extent = Extent(self)
        except OSError as error:
            raise no_room(self.folder, error.strerror or str(error)) from error
        with self.lock:
            self._extents.add(extent)
        return extent

    def _all(self) -> list[Extent]:
        with self.lock:  # an upload thread may add one
            return [extent for extent in self._extents if not extent.gone]

    def _shaped(self, extent: Extent, shape: Sequence[int], kind: np.dtype) -> np.ndarray:
        size = int(np.prod(shape)) * kind.itemsize
        with self.lock:
            self._check_disk(size - extent.size)
            return extent.extend(size)[:size].view(kind).reshape(shape)

    def _check_disk(self, more: int) -> None:
        if self.disk_bytes is not None and more > 0 and self.disk_used_bytes + more > self.disk_bytes:
            raise ResourceError(
                f"state needs {self.disk_used_bytes + more >> 20:,} MiB of local disk, and {self.disk_bytes >> 20:,} MiB are allowed; raise "
                "Resources(state_disk_mb=...), or the parallelism"
            )

    def _check_folder(self) -> None:
        if not os.path.isdir(self.folder) or not os.access(self.folder, os.W_OK):
            raise ConfigError(f"Resources.spill_folder: {self.folder!r} is no folder on this node that can be written to")
        if name := in_memory(self.folder):
            raise ConfigError(f"Resources.spill_folder: {self.folder!r} is a {name}, which is memory; give a folder on a local disk")

    # -- pages ----------------------------------------------------------------------------------------------------

    @property
    def tight(self) -> bool:
        """State is larger than the budget."""
        return self.disk_used_bytes > self._limit * PAGE

    @property
    def rows_at_once(self) -> int:
        """So many rows that lie anywhere in some arrays may be in use at the same time."""
        return max(64, self._limit // 16)

    def rows_of(self, row_bytes: int) -> int:
        """So many rows of that size may be worked on in ordinary memory."""
        return max(256, self._limit // 16 * PAGE // row_bytes)

    def touch(self, array: np.ndarray, rows: npt.NDArray[np.integer], generation: int = 0, used: bool = True) -> None:
        """These rows of an array are used now, and may be changed; `generation`: what they are stamped with; `used`: false where a snapshot reads them, which
        says nothing of whether they will be needed again, and changes none. Of an array that is ordinary memory: nothing."""
        extent = extent_of(array)
        if extent is not None:
            if generation:
                extent.changed.mark(rows, generation, len(array))
            self._bring(extent, pages_of(rows, array.strides[0], len(extent.stamps)), used)

    def touch_pieces(self, array: np.ndarray, starts: Int64Array, lengths: Int64Array) -> None:
        """The same of pieces of bytes."""
        extent = extent_of(array)
        if extent is not None:
            self._bring(extent, pages_of_pieces(starts, lengths, len(extent.stamps)))

    def pass_over(self, array: np.ndarray, start: int, stop: int) -> None:
        """Rows from `start` to `stop` are read, or are new and written, once and not soon again: they are the first to give way."""
        extent = extent_of(array)
        if extent is not None:
            self._bring(extent, pages_between(start * array.strides[0], min(stop * array.strides[0], extent.size)), used=False)

    def keep(self) -> None:
        """Looks what is in memory, and goes back to the budget. Raises SpillError where something did not get to the disk."""
        with self.lock:
            for extent in self._all():
                extent.check()
            for _ in range(2):  # the disk may have been too busy for some pages
                self._look()
                if not self.tight or not self._make_room(0, None, None):
                    return

    def kept(self, parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """The parts, and back to the budget after each: whoever takes them reads them without a word."""
        for part in parts:
            yield part
            self.keep()

    def step(self) -> None:
        """A batch is done: now and then `keep`."""
        self._steps += 1
        if self._steps % LOOK_AFTER_STEPS == 0:
            self.keep()

    @property
    def disk_used_bytes(self) -> int:
        return sum(extent.size for extent in self._all())

    def resident_bytes(self) -> int:
        """Of the arrays in files: in memory now."""
        return PAGE * sum(int(np.count_nonzero(extent.resident())) for extent in self._all())

    @property
    def spilled_bytes(self) -> int:
        """Of the arrays in files: not in memory now."""
        extents = self._all()
        return PAGE * sum(len(extent.present) - int(np.count_nonzero(extent.present)) for extent in extents) if self.tight else 0

    def _bring(self, extent: Extent, pages: Int64Array, used: bool = True) -> None:
        with self.lock:
            self._clock += 1
            now = self._clock
            extent.stamps[pages] = USED + now if used else np.where(extent.stamps[pages] < USED, now, extent.stamps[pages])
            if self.tight:
                self._ask_for(extent, pages)
            else:
                self._looked = False
            if used:
                for frozen in list(extent.frozen):
                    frozen.save(pages)

    def _ask_for(self, extent: Extent, pages: Int64Array) -> None:
        if not self._looked:
            self._look()
        missing = pages[~extent.present[pages]]
        if len(missing):
            wider = widened(missing, READ_BETWEEN)
            wider = wider[~extent.present[wider]]
            missing = wider if len(wider) <= self._limit // 8 else missing
            self._make_room(len(missing), extent, pages)
            extent.ask_for(missing)

    def _look(self) -> None:
        for extent in self._all():
            extent.look()
        self._looked = True

    def _make_room(self, wanted: int, spared: Extent | None, pages: Int64Array | None) -> bool:
        """False: there was enough."""
        extents = self._all()
        taken = [extent.present.copy() for extent in extents]
        count = to_give_up(sum(int(np.count_nonzero(mask)) for mask in taken), wanted, self._limit)
        if not count:
            return False
        for extent, mask in zip(extents, taken, strict=True):
            extent.stamps[mask & (extent.stamps == NEVER)] = USED + self._clock
            if extent is spared:
                mask[pages] = False
        for extent, gone in zip(extents, coldest([extent.stamps for extent in extents], taken, count), strict=True):
            if len(gone):
                extent.give_up(gone)
                self.given_up_bytes += len(gone) * PAGE
        return True


class _Active(threading.local):
    memory: StateMemory | None = None


_active = _Active()


def use(memory: StateMemory | None) -> None:
    """Where arrays of state lie that this thread makes from now on; None: in ordinary memory."""
    _active.memory = memory


def current() -> StateMemory | None:
    return _active.memory


def zeros(shape: int | Sequence[int], dtype: npt.DTypeLike) -> np.ndarray:
    """An array for state."""
    memory = _active.memory
    return np.zeros(shape, dtype) if memory is None else memory.zeros(shape, dtype)


def touch(array: np.ndarray, rows: npt.NDArray[np.integer], generation: int = 0) -> None:
    """`StateMemory.touch` of the memory that the array is of."""
    extent = extent_of(array)
    if extent is not None:
        extent.memory.touch(array, rows, generation)


def passed_over(array: np.ndarray) -> Iterator[np.ndarray]:
    """All of it, piece by piece, to be read once and not soon again; at least one piece."""
    extent = extent_of(array)
    step = len(array) if extent is None else extent.memory.rows_of(array.strides[0])
    for start in range(0, max(1, len(array)), max(1, step)):
        if extent is not None:
            extent.memory.pass_over(array, start, start + step)
        yield array[start : start + step]


def copied(array: np.ndarray, rows: npt.NDArray[np.integer]) -> np.ndarray:
    """These rows, as a copy in the same memory."""
    extent = extent_of(array)
    return array[rows] if extent is None else extent.memory.copy(array, rows)
