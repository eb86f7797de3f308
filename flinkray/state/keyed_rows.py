"""Rows by key, of which there may be many and which may be removed: what joins, rankings and general windows keep.

Columns lie in a `RowBuffer` by position, and beside them the links of `keyed_rows_kernels` and the words that the user names. A row costs twelve bytes
more than what it holds, since fresh memory is what keeping rows costs most. The rows of a key are chained. A row that was removed stays where it is until
no delta must tell of it; then the rest moves up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.errors import ResourceError
from flinkray.state.growth import grown
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows_kernels import LINK_WORDS, MOST_ROWS, NEXT, SLOT, STAMP, count_rows, gather_rows, push_rows
from flinkray.state.memory import touch
from flinkray.state.row_buffer import RowBuffer, RowView

Int64Array = npt.NDArray[np.int64]
Slots = npt.NDArray[np.int32]

STEP = 1 << 14
_FEW = 1 << 14


@dataclass(frozen=True)
class RowsCopy:
    """Some rows, for an upload thread: positions in `view`, and their words."""

    view: RowView
    positions: Int64Array
    numbers: Int64Array
    alive: npt.NDArray[np.bool_]
    words: Int64Array
    """One row for each position, one column for each word of the user."""

    def __len__(self) -> int:
        return len(self.positions)


class KeyedRows:
    """Rows of `schema` (see `row_buffer.plain_schema`) by the slots of an index, which several of these may share."""

    def __init__(self, index: KeyIndex, schema: pa.Schema, words: Sequence[str] = ()) -> None:
        self.index, self.words = index, tuple(words)
        self.rows = RowBuffer(schema)
        self.next_number = 0
        self._dead = 0
        self._links = np.zeros((STEP, LINK_WORDS), np.int32)
        self._words = np.zeros((STEP if words else 0, len(words)), np.int64)
        self._numbers: Int64Array | None = None
        """What rows are called in snapshots; None: `next_number` less how far they are from the end."""
        self._heads = np.zeros(STEP, np.int32)

    def __len__(self) -> int:
        """Rows that were not removed."""
        return len(self.rows) - self._dead

    @property
    def schema(self) -> pa.Schema:
        return self.rows.schema

    @property
    def memory_bytes(self) -> int:
        numbers = 0 if self._numbers is None else self._numbers.nbytes
        return self._links.nbytes + self._words.nbytes + numbers + self._heads.nbytes + self.rows.memory_bytes

    # --- rows

    def add(self, rows: pa.RecordBatch, chosen: Int64Array, slots: Slots, generation: int, /, **words: Int64Array | int) -> Int64Array:
        """Keeps copies of the chosen rows of a batch; `slots` and `words` are those of the chosen ones (more words than are kept may be given).
        Returns their positions."""
        first, count = len(self.rows), len(chosen)
        self._heads = grown(self._heads, self.index.high, STEP)
        if not count:
            return np.empty(0, np.int64)
        if first + count > MOST_ROWS:
            raise ResourceError(f"{first + count:,} rows in one subtask; keep fewer, with a ttl, or use a larger parallelism")
        self._links = grown(self._links, first + count, STEP)
        self.rows.append(rows, chosen)
        self._links[first : first + count, STAMP] = 2 * generation + 1
        if self._numbers is not None:
            self._numbers = grown(self._numbers, first + count, STEP)
            self._numbers[first : first + count] = np.arange(self.next_number, self.next_number + count)
        if self.words:
            self._words = grown(self._words, first + count, STEP)
            for place, name in enumerate(self.words):
                self._words[first : first + count, place] = words[name]
        push_rows(np.ascontiguousarray(slots, np.int32), first, self._heads, self._links)
        self.next_number += count
        return np.arange(first, first + count)

    def of(self, slots: Slots) -> tuple[Int64Array, Int64Array]:
        """(place in `slots`, position) of all rows of these keys, key by key in order of arrival."""
        parts = list(self.pairs(slots, max(1, len(self))))
        if len(parts) == 1:
            return parts[0]
        empty = np.empty(0, np.int64)
        return (np.concatenate([empty, *(own for own, _ in parts)]), np.concatenate([empty, *(found for _, found in parts)]))

    def pairs(self, slots: Slots, at_most: int) -> Iterator[tuple[Int64Array, Int64Array]]:
        """The same, some keys at a time: at most so many rows, unless one key alone has more."""
        self._heads = grown(self._heads, self.index.high, STEP)
        slots = np.ascontiguousarray(slots, np.int32)
        touch(self._heads, slots)
        starts = np.zeros(len(slots) + 1, np.int64)
        count_rows(slots, self._heads, self._links, starts)
        first = 0
        while first < len(slots):
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + at_most, side="right")) - 1)
            total = int(starts[last] - starts[first])
            if total:
                own, found = np.empty(total, np.int64), np.empty(total, np.int64)
                gather_rows(slots, self._heads, self._links, starts, first, own, found)
                yield own, found
            first = last

    def live(self) -> Int64Array:
        """Positions of all rows, in order of arrival."""
        return np.flatnonzero(self._links[: len(self.rows), STAMP] & 1)

    def slots_of(self, positions: Int64Array) -> Slots:
        return self._links[positions, SLOT]

    def word(self, name: str, positions: Int64Array) -> Int64Array:
        return self._words[positions, self.words.index(name)]

    def word_or(self, name: str, positions: Int64Array, otherwise: int) -> Int64Array:
        """The same, where it may be that this word is not kept."""
        return self.word(name, positions) if name in self.words else np.full(len(positions), otherwise, np.int64)

    def set_word(self, name: str, positions: Int64Array, values: Int64Array | int, generation: int) -> None:
        """Rows that were removed stay so."""
        self._words[positions, self.words.index(name)] = values
        self._links[positions, STAMP] = 2 * generation + (self._links[positions, STAMP] & 1)

    def is_live(self, positions: Int64Array) -> npt.NDArray[np.bool_]:
        return self._links[positions, STAMP] & 1 != 0

    def remove(self, positions: Int64Array, generation: int) -> None:
        """Each of them is there, none twice."""
        self._links[positions, STAMP] = 2 * generation
        self._dead += len(positions)

    def take(self, positions: Int64Array, names: Sequence[str] | None = None) -> pa.RecordBatch:
        """`names`: only these columns."""
        view = self.rows.view()
        return (view if names is None else view.select(names)).take(positions)

    # --- snapshots

    def changed_since(self, generation: int | None) -> Int64Array:
        """Positions of rows that came, changed or were removed after a generation; None: all that are there."""
        stamps = self._links[: len(self.rows), STAMP]
        return np.flatnonzero(stamps & 1 if generation is None else stamps > 2 * generation + 1)

    def copy(self, positions: Int64Array) -> RowsCopy:
        numbers = self._first_number + positions if self._numbers is None else self._numbers[positions]
        return RowsCopy(self.rows.view(), positions, numbers, self.is_live(positions), self._words[positions if self.words else slice(0)])

    @property
    def _first_number(self) -> int:
        return self.next_number - len(self.rows)

    def load(self, rows: pa.RecordBatch, slots: Slots, numbers: Int64Array | None, words: Mapping[str, Int64Array]) -> None:
        """Rows of a snapshot in order of their numbers; with `numbers` they keep them, since a delta may follow."""
        if numbers is not None and self._numbers is None:
            self._numbers = self._first_number + np.arange(len(self.rows))
        positions = self.add(rows, np.arange(rows.num_rows), slots, 0, **words)
        if numbers is not None and self._numbers is not None and len(numbers):
            self._numbers[positions] = numbers
            self.next_number = max(self.next_number, int(numbers.max()) + 1)

    # --- memory

    def tidy(self, oldest: int) -> bool:
        """Gives back what removed rows hold, when they are most; those stay that were removed after the generation `oldest`."""
        if self._dead <= len(self) + _FEW:
            return False
        links = self._links[: len(self.rows)]
        gone = links[:, STAMP] & 1 == 0
        kept = ~gone | (links[:, STAMP] > 2 * oldest + 1)
        if 2 * np.count_nonzero(kept) > len(kept):
            return False
        slots = np.unique(links[gone, SLOT])
        count_rows(slots, self._heads, self._links, np.zeros(len(slots) + 1, np.int64))  # takes them out of their chains
        place = np.zeros(len(kept) + 1, np.int32)  # by position + 1: the new position + 1
        place[1:] = np.where(kept, np.cumsum(kept), 0)
        numbers = self.copy(np.flatnonzero(kept)).numbers
        moved = links[kept]
        moved[:, NEXT] = place[moved[:, NEXT]]
        self._heads = place[self._heads]
        self._words = self._words[: len(kept)][kept] if self.words else self._words
        self._links, self._numbers = moved, numbers
        self.rows.keep(kept)
        self._dead = int(np.count_nonzero(moved[:, STAMP] & 1 == 0))
        return True

    def has_rows(self, high: int) -> npt.NDArray[np.bool_]:
        """Slots below `high` that may have rows."""
        self._heads = grown(self._heads, high, STEP)
        return self._heads[:high] != 0
