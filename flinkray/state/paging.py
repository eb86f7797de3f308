"""Which pages of state give way when memory is short: the least recently used, decided here without touching any of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PAGE = 4096
NEVER = 0
"""Stamp of a page that nobody has said to use."""
USED = 1 << 62
"""Stamps from here on are of pages that are used; below are those that something passed over. Both count up."""


def pages_of(rows: npt.NDArray[np.integer], row_bytes: int, pages: int) -> Int64Array:
    """The pages that hold the first and the last byte of these rows, ascending, each once. Rows are larger than a page rarely, and a page in the middle
    that is not told of costs time only."""
    if not len(rows):
        return np.empty(0, np.int64)
    marked = np.zeros(pages, np.bool_)
    first_byte = rows.astype(np.int64) * row_bytes
    marked[first_byte // PAGE] = True
    marked[(first_byte + (row_bytes - 1)) // PAGE] = True
    return np.flatnonzero(marked)


def pages_between(start_byte: int, stop_byte: int) -> Int64Array:
    """The pages of a range of bytes."""
    return np.arange(start_byte // PAGE, -(-stop_byte // PAGE), dtype=np.int64)


def runs(pages: Int64Array) -> list[tuple[int, int]]:
    """(first page, how many) of neighbours among ascending pages."""
    if not len(pages):
        return []
    breaks = np.flatnonzero(np.diff(pages) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(pages)]])
    return list(zip(pages[starts].tolist(), (stops - starts).tolist(), strict=True))


def coldest(stamps: Sequence[Int64Array], candidates: Sequence[Mask], count: int) -> list[Int64Array]:
    """Of each file the pages that give way: `count` of all candidates together (or all there are), those with the smallest stamps."""
    positions = [np.flatnonzero(mask) for mask in candidates]
    total = sum(map(len, positions))
    if count <= 0:
        return [pages[:0] for pages in positions]
    if count >= total:
        return positions
    ages = np.concatenate([stamp[pages] for stamp, pages in zip(stamps, positions, strict=True)])
    chosen = np.zeros(total, np.bool_)
    chosen[np.argpartition(ages, count - 1)[:count]] = True
    bounds = np.cumsum([0, *map(len, positions)])
    return [pages[chosen[bounds[i] : bounds[i + 1]]] for i, pages in enumerate(positions)]


def to_give_up(resident: int, wanted: int, limit: int) -> int:
    """How many pages must go before `wanted` more may come: none while they fit, else a sixteenth more than needed, so that it is not asked at every step."""
    excess = resident + wanted - limit
    return min(resident, excess + limit // 16) if excess > 0 else 0
