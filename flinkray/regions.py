"""Large arrays that grow where they are: address space is reserved, and memory comes when it is first touched, in huge pages where the system has them.

A page that is touched for the first time is cleared by the kernel, which for small pages costs more than anything that is done with what is written to them
(2 µs for 4 KiB; half of the time of a join that keeps all its rows); in pages of 2 MiB the same memory costs a fifth.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np

LARGE_BYTES = 8 << 20
"""Smaller arrays come from the allocator: a region rounds what it uses up to 2 MiB."""
_LEAST_RESERVED_BYTES = 1 << 30
_RESERVED_FACTOR = 16
_NO_RESERVE = 0x4000
"""MAP_NORESERVE of Linux: address space, which is not counted as memory."""


class Region(mmap.mmap):
    """Zeros, until something is written."""

    @classmethod
    def of_bytes(cls, size_bytes: int) -> Region | None:
        """None: the system gives no address space for it (a limit, or no overcommitment), or there is no such thing."""
        try:
            region = cls(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        except (OSError, ValueError, AttributeError):
            return None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                region.madvise(mmap.MADV_HUGEPAGE)
        return region


def regrown(array: np.ndarray, rows: int) -> np.ndarray | None:
    """A large array with more rows, all new ones zero; in the region where it is, or in a new one. None: there is no region for it, and the array is as it was.

    Views of the array stay what they are, of the same memory while it fits the region.
    """
    row_bytes = array.itemsize * int(np.prod(array.shape[1:]))
    region = _region_of(array)
    if region is None or rows * row_bytes > len(region):
        region = Region.of_bytes(max(_LEAST_RESERVED_BYTES, _RESERVED_FACTOR * rows * row_bytes))
        if region is None:
            return None
        _rows_of(region, array, len(array))[:] = array
    return _rows_of(region, array, rows)


def _rows_of(region: Region, like: np.ndarray, rows: int) -> np.ndarray:
    shape = (rows, *like.shape[1:])
    return np.frombuffer(region, like.dtype, int(np.prod(shape))).reshape(shape)


def _region_of(array: np.ndarray) -> Region | None:
    base: Any = array.base
    while type(base) is np.ndarray:
        base = base.base
    if type(base) is memoryview:
        base = base.obj
    return base if type(base) is Region else None
