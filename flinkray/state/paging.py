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
    """The pages that hold these rows, ascending, each once."""
    if not len(rows):
        return np.empty(0, np.int64)
    marked = np.zeros(pages, np.bool_)
    first_byte = rows.astype(np.int64) * row_bytes
    for byte in (*range(0, row_bytes - 1, PAGE), row_bytes - 1):
        marked[(first_byte + byte) // PAGE] = True
    return np.flatnonzero(marked)


def pages_of_pieces(starts: Int64Array, lengths: Int64Array, pages: int) -> Int64Array:
    """The pages that hold these pieces of bytes; pieces of no bytes are nowhere."""
    some = lengths > 0
    starts, lengths = starts[some], lengths[some]
    depth = np.bincount(starts // PAGE, minlength=pages + 1) - np.bincount((starts + lengths - 1) // PAGE + 1, minlength=pages + 1)
    return np.flatnonzero(np.cumsum(depth))


def pages_between(start_byte: int, stop_byte: int) -> Int64Array:
    """The pages of a range of bytes."""
    return np.arange(start_byte // PAGE, -(-stop_byte // PAGE), dtype=np.int64)


def widened(pages: Int64Array, gap: int) -> Int64Array:
    """Ascending pages, and those between neighbours that have at most `gap` others between them: one long read instead of several short ones."""
    if len(pages) < 2:
        return pages
    far = np.flatnonzero(np.diff(pages) > gap + 1)
    first, last = pages[np.concatenate([[0], far + 1])], pages[np.concatenate([far, [-1]])]
    span = int(pages[-1] - pages[0]) + 2
    depth = np.bincount(first - pages[0], minlength=span) - np.bincount(last + 1 - pages[0], minlength=span)
    return pages[0] + np.flatnonzero(np.cumsum(depth))


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


MOST_SEGMENTS = 16


class ChangedRows:
    """Which rows of an array were changed after which generation, told without reading them. More may be told than were changed, never fewer."""

    def __init__(self) -> None:
        self._now = np.zeros(0, np.bool_)
        """Rows that were changed since the last `close`."""
        self._newest = 0
        """Generation of these."""
        self._before: list[tuple[int, int, npt.NDArray[np.uint8]]] = []
        """(newest generation, rows, a bit for each) of what was changed until an earlier `close`, in order."""

    def mark(self, rows: npt.NDArray[np.integer], generation: int, of: int) -> None:
        """These rows, of an array of so many, are stamped with a generation, which is not below an earlier one."""
        if of > len(self._now):
            self._now = np.concatenate([self._now, np.zeros(of - len(self._now), np.bool_)])
        self._now[rows] = True
        self._newest = generation

    def mark_all(self, of: int) -> None:
        """Nobody knows of these rows: they count as changed in the generation of the next `mark`."""
        self._now = np.ones(of, np.bool_)

    def after(self, generation: int, rows: int) -> Int64Array:
        """Which of the first `rows` rows have a greater generation. No later call asks for what changed after a smaller one."""
        self.close()
        self._before = [each for each in self._before if each[0] > generation]
        found = np.zeros(rows, np.bool_)
        for _, count, bits in self._before:
            found[:count] |= np.unpackbits(bits, count=count)[:rows].view(np.bool_)
        some = min(rows, len(self._now))
        found[:some] |= self._now[:some]
        return np.flatnonzero(found)

    def close(self) -> None:
        """What changes from now on has a greater generation."""
        if not self._newest:
            return
        self._before.append((self._newest, len(self._now), np.packbits(self._now)))
        self._now[:] = False
        self._newest = 0
        if len(self._before) > MOST_SEGMENTS:
            (_, _, old), (newest, many, bits) = self._before[:2]
            bits[: len(old)] |= old
            self._before[:2] = [(newest, many, bits)]
