"""Grouping of one batch by (pane, key) where keys are whole numbers that lie close together, as ids do that are given one after the other:
the key is its own place in a table, nothing is hashed (DuckDB's perfect hash aggregate does the same)."""

from __future__ import annotations

import numpy as np

from flinkray.state.jit import I4, RO_I8, njit, types

WIDEST = 2
"""Places per row above which a table would be mostly air: then hashing is cheaper."""

_TOO_WIDE = -1


class DenseGrouper:
    """Reused from batch to batch."""

    def __init__(self) -> None:
        self._places = np.empty(0, np.int32)
        self._groups = self._firsts = np.empty(0, np.int32)

    def group(self, words: np.ndarray, panes: np.ndarray, pane_us: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(int32[n]: each row's group, dense in order of appearance; int32[g]: the first row of each group), valid until the next call.
        None when the keys are too far apart. `panes`: start of each row's pane, or empty."""
        rows = len(words)
        if rows > len(self._firsts):
            self._groups, self._firsts = np.empty(rows, np.int32), np.empty(rows, np.int32)
            self._places = np.empty(WIDEST * rows, np.int32)
        count = _group_dense(words, panes, max(pane_us, 1), self._places[: WIDEST * rows], self._groups, self._firsts)
        return None if count == _TOO_WIDE else (self._groups[:rows], self._firsts[:count])


@njit([types.int64(RO_I8, RO_I8, types.int64, I4, I4, I4)], nogil=True, cache=True)
def _group_dense(words, panes, pane_us, places, groups, firsts):  # type: ignore[no-untyped-def]
    """A place holds the group of (pane, key) plus one, 0 where it has none yet."""
    if words.size == 0:
        return 0
    low, high = words[0], words[0]
    for i in range(words.size):
        low, high = min(low, words[i]), max(high, words[i])
    low_pane, high_pane = np.int64(0), np.int64(0)
    if panes.size != 0:
        low_pane, high_pane = panes[0], panes[0]
        for i in range(panes.size):
            low_pane, high_pane = min(low_pane, panes[i]), max(high_pane, panes[i])
    if high - low < 0 or high - low >= places.size or high_pane - low_pane < 0:
        return _TOO_WIDE
    width, depth = high - low + 1, (high_pane - low_pane) // pane_us + 1
    if depth > places.size or width * depth > places.size:
        return _TOO_WIDE
    places[: width * depth] = 0
    count, pane, shift = 0, low_pane, -low
    for i in range(words.size):
        if panes.size != 0 and panes[i] != pane:
            pane = panes[i]
            shift = (pane - low_pane) // pane_us * width - low
        at = np.uint64(words[i] + shift)
        group = places[at]
        if group == 0:
            firsts[count] = i
            count += 1
            group = count
            places[at] = group
        groups[i] = group - 1
    return count
