"""Files without names in which arrays of state lie, mapped into memory: what the kernel is told and asked about their pages.

The files have no names (O_TMPFILE), so that none is left behind by a kill. Their blocks are reserved before they are mapped (a full disk is an error here,
and not a SIGBUS at some write later).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from flinkray.errors import SpillError
from flinkray.state.paging import PAGE, ChangedRows, Int64Array, Mask, runs

if TYPE_CHECKING:
    from flinkray.state.frozen import Frozen
    from flinkray.state.memory import StateMemory

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
_IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}


def _sync_file_range(fd: int, at: int, size: int, how: int) -> int:
    """0, or the errno."""
    return ctypes.get_errno() if _libc.sync_file_range(fd, ctypes.c_int64(at), ctypes.c_int64(size), ctypes.c_uint(how)) else 0


class Mapping:
    """Memory of a file, mapped as long as an array over it lives. One file may have several: an array that has grown, and views of what it was."""

    def __init__(self, extent: Extent, size: int) -> None:
        address = _libc.mmap(None, size, _READ_WRITE, _SHARED, extent.fd, 0)
        if address == _FAILED:
            raise no_room(extent.memory.folder, os.strerror(ctypes.get_errno()))
        self.extent, self.address, self.size, self._unmap = extent, address, size, _libc.munmap
        _libc.madvise(address, size, _RANDOM)  # no reading around: rows lie anywhere
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (address, False)}

    def __del__(self) -> None:
        if hasattr(self, "_unmap"):
            self._unmap(self.address, self.size)


class Extent:
    """The file of one array, and what is known of its pages."""

    def __init__(self, memory: StateMemory) -> None:
        """Raises OSError."""
        self.memory, self.fd, self.size = memory, _nameless(memory.folder), 0
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
        self.stamps = np.zeros(0, np.int64)
        """By page: when it was last used, or passed over, in steps of all state."""
        self.present = np.zeros(0, np.bool_)
        """By page: it takes memory, as far as is known; true when it was last looked, and of what was asked for or given up since."""
        self.changed = ChangedRows()
        """Rows, of an array whose user says what they are stamped with."""
        self.frozen: weakref.WeakSet[Frozen] = weakref.WeakSet()
        """Who wants pages as they were."""
        self._coming = np.zeros(0, np.bool_)
        """By page: asked for, and not seen in memory yet."""
        self._lost = 0
        """Why something of it did not get to the disk (an errno); 0 as long as everything did."""
        self._mapping: weakref.ref[Mapping] | None = None

    def __del__(self) -> None:
        if hasattr(self, "fd"):  # while it is closed, another thread may still find this object in a weak set: it is `gone`
            fd, self.fd = self.fd, -1
            os.close(fd)

    @property
    def gone(self) -> bool:
        """Nobody has anything of it."""
        return self.fd < 0

    @property
    def mapping(self) -> Mapping | None:
        """The newest; held by the caller, it stays."""
        return None if self._mapping is None else self._mapping()

    def extend(self, size: int) -> np.ndarray:
        """All of the file, with `size` bytes at least, new ones zero."""
        size = -(-size // PAGE) * PAGE
        if size > self.size:
            try:
                os.posix_fallocate(self.fd, self.size, size - self.size)
            except OSError as error:
                raise no_room(self.memory.folder, error.strerror or str(error)) from error
            more = size // PAGE - len(self.stamps)
            self.stamps = np.concatenate([self.stamps, np.zeros(more, np.int64)])
            self.present, self._coming = (np.concatenate([known, np.zeros(more, np.bool_)]) for known in (self.present, self._coming))
            self.size = size
        mapping = Mapping(self, self.size)
        self._mapping = weakref.ref(mapping)
        return np.asarray(mapping)

    def resident(self) -> Mask:
        """Which pages are in memory, whether or not they are in a page table of this process; as far as is known, where no array is over them any more.
        (Takes up to 15 ms for a GB.)"""
        mapping = self.mapping
        if mapping is None:
            return self.present
        found = np.zeros(self.size // PAGE, np.uint8)
        if len(found):
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
        """Writes them, and lets the memory go. Of a page that is used meanwhile nothing is lost; it stays. Raises SpillError where they did not get to the disk."""
        mapping = self.mapping
        self._coming[pages] = self.present[pages] = False
        pieces = [(first * PAGE, count * PAGE) for first, count in runs(pages)]
        if mapping is not None:
            for at, size in pieces:
                _libc.madvise(mapping.address + at, size, _DONT_NEED)
        for at, size in pieces:
            self._lost = self._lost or _sync_file_range(self.fd, at, size, _WRITE)
        self._lost = self._lost or _sync_file_range(self.fd, pieces[0][0], pieces[-1][0] + pieces[-1][1] - pieces[0][0], _WAIT)
        self.check()
        for at, size in pieces:
            os.posix_fadvise(self.fd, at, size, os.POSIX_FADV_DONTNEED)

    def check(self) -> None:
        """Raises SpillError where something of it did not get to the disk, whoever wrote it: the kernel, too, which says so once, and forgets what it was."""
        self._lost = self._lost or _sync_file_range(self.fd, self.size, PAGE, _WAIT)  # no page is there to wait for
        if self._lost:
            raise lost(self.memory.folder, os.strerror(self._lost))

    def read(self, pages: Int64Array) -> np.ndarray:
        """uint8: these pages (ascending) as they are in the file, one behind the other, in ordinary memory; those that were not in memory before are not
        afterwards. From any thread; a page that is being changed may be half of each."""
        data = np.empty(len(pages) * PAGE, np.uint8)
        view, at, pieces = memoryview(data.data), 0, runs(pages)
        if len(pieces) > 1:
            for first, count in pieces:  # all at once
                os.posix_fadvise(self.fd, first * PAGE, count * PAGE, os.POSIX_FADV_WILLNEED)
        for first, count in pieces:
            stop, offset = at + count * PAGE, first * PAGE
            while at < stop:
                try:
                    got = os.preadv(self.fd, [view[at:stop]], offset)
                except OSError as error:
                    raise lost(self.memory.folder, error.strerror or str(error)) from error
                if got <= 0:
                    raise lost(self.memory.folder, f"a file ends at byte {offset:,} of {self.size:,}")
                at, offset = at + got, offset + got
        for first, count in runs(pages[~self.present[pages]]):
            os.posix_fadvise(self.fd, first * PAGE, count * PAGE, os.POSIX_FADV_DONTNEED)
        return data


def in_memory(folder: str) -> str | None:
    """The kind of file system, where it is memory itself."""
    about = (ctypes.c_long * 32)()
    return _IN_MEMORY.get(int(about[0])) if _libc.statfs(os.fsencode(folder), about) == 0 else None


def _nameless(folder: str) -> int:
    with contextlib.suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fd, name = tempfile.mkstemp(prefix="flinkray-state-", dir=folder)  # the file system knows none without a name
    os.unlink(name)
    return fd


def lost(folder: str, reason: str) -> SpillError:
    return SpillError(
        f"state larger than its memory, kept in {folder}, was lost by the disk or its file system ({reason}); the job goes on from its newest checkpoint. Look at "
        "the kernel's log and replace the disk, or give another folder with Resources(spill_folder=...)"
    )


def no_room(folder: str, reason: str) -> SpillError:
    return SpillError(
        f"state larger than its memory cannot be kept in {folder}: {reason}; free disk there, give another folder with Resources(spill_folder=...), more memory with "
        "Resources(state_memory_mb=...), or raise the parallelism"
    )


def extent_of(array: np.ndarray) -> Extent | None:
    """The file of an array, or of the array that it is a view of; None: ordinary memory."""
    base: Any = array.base
    while type(base) is np.ndarray:
        base = base.base
    return base.extent if type(base) is Mapping else None
