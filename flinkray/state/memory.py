"""Arrays of state within a budget of memory: where there is one, every larger array is a mapped file without a name, and pages that were not used for long
are written to it and given back.

Mapped from the first row on, not only above the budget: which array is cold is known later, and ordinary memory cannot be given back without swap. While all
of state fits, nothing is given back and nothing is looked up. The files have no names (O_TMPFILE), so that none is left behind by a kill. Their blocks are
reserved before they are mapped (a full disk is an error here, and not a SIGBUS at some write later).

Who uses rows by position says so (`touch`): what is missing is then read at once, with many requests under way, and what was used least recently makes room for
it. What is read without a word is paid for by page faults, and gives way in the order in which it was first seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flinkray.errors import ConfigError, ResourceError
from flinkray.state.paging import NEVER, PAGE, USED, Int64Array, Mask, coldest, pages_between, pages_of, runs, to_give_up

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_libc.statfs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]

_READ_WRITE, _SHARED, _FAILED = 3, 1, ctypes.c_void_p(-1).value
_RANDOM, _WILL_NEED, _DONT_NEED = 1, 3, 4
_WAIT, _WRITE = 1, 2
LOOK_AFTER_STEPS = 32
_IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}


def _sync_file_range(fd: int, at: int, size: int, how: int) -> None:
    _libc.sync_file_range(fd, ctypes.c_int64(at), ctypes.c_int64(size), ctypes.c_uint(how))


class _Mapping:
    """Memory of a file, mapped as long as an array over it lives. One file may have several: an array that has grown, and views of what it was."""

    def __init__(self, extent: _Extent, size: int) -> None:
        address = _libc.mmap(None, size, _READ_WRITE, _SHARED, extent.fd, 0)
        if address == _FAILED:
            raise _no_room(extent.memory.folder, os.strerror(ctypes.get_errno()))
        self.extent, self.address, self.size, self._unmap = extent, address, size, _libc.munmap
        _libc.madvise(address, size, _RANDOM)  # no reading around: rows lie anywhere
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (address, False)}

    def __del__(self) -> None:
        if hasattr(self, "_unmap"):
            self._unmap(self.address, self.size)


class _Extent:
    """The file of one array, and what is known of its pages."""

    def __init__(self, memory: StateMemory) -> None:
        self.memory, self.fd, self.size = memory, _nameless(memory.folder), 0
        self.stamps = np.zeros(0, np.int64)
        """By page: when it was last used, or passed over, in steps of all state."""
        self.generations = np.zeros(0, np.int64)
        """By page: the newest generation that a row in it was stamped with by those who say so."""
        self.present = np.zeros(0, np.bool_)
        """By page: it takes memory, as far as is known; true when it was last looked, and of what was asked for or given up since."""
        self._coming = np.zeros(0, np.bool_)
        """By page: asked for, and not seen in memory yet."""
        self._mapping: weakref.ref[_Mapping] | None = None

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    @property
    def mapping(self) -> _Mapping | None:
        """The newest; held by the caller, it stays."""
        return None if self._mapping is None else self._mapping()

    def extend(self, size: int) -> np.ndarray:
        """All of the file, with `size` bytes at least, new ones zero."""
        size = -(-size // PAGE) * PAGE
        if size > self.size:
            try:
                os.posix_fallocate(self.fd, self.size, size - self.size)
            except OSError as error:
                raise _no_room(self.memory.folder, error.strerror or str(error)) from error
            more = size // PAGE - len(self.stamps)
            self.stamps = np.concatenate([self.stamps, np.zeros(more, np.int64)])
            self.generations = np.concatenate([self.generations, np.zeros(more, np.int64)])
            self.present, self._coming = (np.concatenate([known, np.zeros(more, np.bool_)]) for known in (self.present, self._coming))
            self.size = size
        mapping = _Mapping(self, self.size)
        self._mapping = weakref.ref(mapping)
        return np.asarray(mapping)

    def resident(self) -> Mask:
        """Which pages are in memory, whether or not they are in a page table of this process. (Takes up to 15 ms for a GB.)"""
        mapping = self.mapping
        found = np.zeros(self.size // PAGE, np.uint8)
        if mapping is not None and len(found):
            _libc.mincore(mapping.address, mapping.size, found.ctypes.data)
        return (found & 1).view(np.bool_)

    def look(self) -> None:
        """Pages may have come and gone without a word."""
        resident = self.resident()
        self._coming &= ~resident
        self.present = resident | self._coming

    def ask_for(self, pages: Int64Array) -> None:
        """Begins to read them."""
        mapping = self.mapping
        assert mapping is not None
        self._coming[pages] = self.present[pages] = True
        for first, count in runs(pages):
            _libc.madvise(mapping.address + first * PAGE, count * PAGE, _WILL_NEED)

    def give_up(self, pages: Int64Array) -> None:
        """Writes them, and lets the memory go. Of a page that is used meanwhile nothing is lost; it stays."""
        mapping = self.mapping
        if mapping is None:
            return
        self._coming[pages] = self.present[pages] = False
        pieces = [(first * PAGE, count * PAGE) for first, count in runs(pages)]
        for at, size in pieces:
            _libc.madvise(mapping.address + at, size, _DONT_NEED)
        for at, size in pieces:
            _sync_file_range(self.fd, at, size, _WRITE)
        _sync_file_range(self.fd, pieces[0][0], pieces[-1][0] + pieces[-1][1] - pieces[0][0], _WAIT)
        for at, size in pieces:
            os.posix_fadvise(self.fd, at, size, os.POSIX_FADV_DONTNEED)


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
        self._extents: weakref.WeakSet[_Extent] = weakref.WeakSet()
        self._lock = threading.RLock()
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

    def keep_bytes(self, data: bytes) -> bytes | memoryview:
        """The same bytes; large ones are given back at once, and read again by whom they are used."""
        if len(data) < self.smallest_bytes:
            return data
        array = self.zeros(len(data), np.uint8)
        self.pass_over(array, 0, len(array))
        array[:] = np.frombuffer(data, np.uint8)
        return memoryview(array.data).toreadonly()

    def _new_extent(self) -> _Extent:
        try:
            extent = _Extent(self)
        except OSError as error:
            raise _no_room(self.folder, error.strerror or str(error)) from error
        self._extents.add(extent)
        return extent

    def _shaped(self, extent: _Extent, shape: Sequence[int], kind: np.dtype) -> np.ndarray:
        size = int(np.prod(shape)) * kind.itemsize
        with self._lock:
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
        about = (ctypes.c_long * 32)()
        if _libc.statfs(os.fsencode(self.folder), about) == 0 and (name := _IN_MEMORY.get(int(about[0]))):
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
        """These rows of an array are used now; `generation`: what they are stamped with; `used`: false where a snapshot reads them, which says nothing of
        whether they will be needed again. Of an array that is ordinary memory: nothing."""
        extent = extent_of(array)
        if extent is not None:
            pages = pages_of(rows, array.strides[0], len(extent.stamps))
            if generation:
                extent.generations[pages] = generation
            self._bring(extent, pages, used)

    def pass_over(self, array: np.ndarray, start: int, stop: int) -> None:
        """Rows from `start` to `stop` are read or written once and not soon again: they are the first to give way."""
        extent = extent_of(array)
        if extent is not None:
            self._bring(extent, pages_between(start * array.strides[0], min(stop * array.strides[0], extent.size)), used=False)

    def stamped_after(self, array: np.ndarray, generation: int, rows: int) -> list[tuple[int, int]]:
        """Ranges of the first `rows` rows outside of which no row was touched with a greater generation."""
        extent = extent_of(array)
        if extent is None:
            return [(0, rows)]
        width, found = array.strides[0], runs(np.flatnonzero(extent.generations > generation))
        return [
            (first * PAGE // width, min(rows, -(-(first + count) * PAGE // width))) for first, count in found if first * PAGE < rows * width
        ]

    def keep(self) -> None:
        """Looks what is in memory, and goes back to the budget."""
        with self._lock:
            for _ in range(2):  # the disk may have been too busy for some pages
                self._look()
                if not self.tight or not self._make_room(0, None, None):
                    return

    def step(self) -> None:
        """A batch is done: now and then `keep`."""
        self._steps += 1
        if self._steps % LOOK_AFTER_STEPS == 0:
            self.keep()

    @property
    def disk_used_bytes(self) -> int:
        return sum(extent.size for extent in list(self._extents))

    def resident_bytes(self) -> int:
        """Of the arrays in files: in memory now."""
        return PAGE * sum(int(np.count_nonzero(extent.resident())) for extent in list(self._extents))

    @property
    def spilled_bytes(self) -> int:
        """Of the arrays in files: not in memory now."""
        extents = list(self._extents)
        return PAGE * sum(len(extent.present) - int(np.count_nonzero(extent.present)) for extent in extents) if self.tight else 0

    def _bring(self, extent: _Extent, pages: Int64Array, used: bool = True) -> None:
        with self._lock:
            self._clock += 1
            now = self._clock
            extent.stamps[pages] = USED + now if used else np.where(extent.stamps[pages] < USED, now, extent.stamps[pages])
            if not self.tight:
                self._looked = False
                return
            if not self._looked:
                self._look()
            missing = pages[~extent.present[pages]]
            if len(missing):
                self._make_room(len(missing), extent, pages)
                extent.ask_for(missing)

    def _look(self) -> None:
        for extent in list(self._extents):
            extent.look()
        self._looked = True

    def _make_room(self, wanted: int, spared: _Extent | None, pages: Int64Array | None) -> bool:
        """False: there was enough."""
        extents = list(self._extents)
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


def _nameless(folder: str) -> int:
    with contextlib.suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fd, name = tempfile.mkstemp(prefix="flinkray-state-", dir=folder)  # the file system knows none without a name
    os.unlink(name)
    return fd


def _no_room(folder: str, reason: str) -> ResourceError:
    return ResourceError(
        f"state larger than its memory cannot be kept in {folder}: {reason}; free disk there, give another folder with Resources(spill_folder=...), more memory with "
        "Resources(state_memory_mb=...), or raise the parallelism"
    )


def extent_of(array: np.ndarray) -> _Extent | None:
    """The file of an array, or of the array that it is a view of; None: ordinary memory."""
    base: Any = array.base
    while type(base) is np.ndarray:
        base = base.base
    return base.extent if type(base) is _Mapping else None


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


def copied(array: np.ndarray, rows: npt.NDArray[np.integer]) -> np.ndarray:
    """These rows, as a copy in the same memory."""
    extent = extent_of(array)
    return array[rows] if extent is None else extent.memory.copy(array, rows)
