"""Keyed state: rows of int64 words by key, which know when they were changed, and how they are written and read back.

Word 0 of a row is the generation of its last change. Generations count up over the life of an operator; a snapshot notes the generation
it was taken at, so that what changed since any earlier snapshot, aborted ones between or not, is `generation > noted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from flinkray.errors import RestoreError
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.arrow_memory import rows_of
from flinkray.state.extents import extent_of
from flinkray.state.frozen import StillRows
from flinkray.state.growth import BufferedCopy, CopyBuffers, grown
from flinkray.state.jit import I8, I8_ROWS, RO_U2, U1, njit, types
from flinkray.state.key_encoding import KeyCodec, Keys
from flinkray.state.key_hash import key_groups, partition
from flinkray.state.key_index import KeyCopy, KeyIndex, StillKeys
from flinkray.state.memory import StateMemory, current, touch, zeros

KEY_GROUP = "_kg"
"""uint16, first column of keyed chunks, which are sorted by it."""

STEP_ROWS = 1 << 16
MAX_BASES = 64
"""Snapshots that are remembered while none of them becomes the base of another."""
RESTORED = 1
"""Generation of rows that were read back."""


class KeyedTable:
    """`rows[slot]` are the words of a key; `slots` finds or makes them. New rows are zero but for `initial`, where that is not."""

    def __init__(self, kinds: Sequence[pa.DataType] | KeyCodec, initial: np.ndarray, seed: int, expected: int = 0) -> None:
        self.index = KeyIndex(kinds, seed, expected)
        self.rows = zeros((max(expected, 64), len(initial)), np.int64)
        self._initial = initial if initial.any() else None
        self._copies = CopyBuffers()

    def __len__(self) -> int:
        return self.index.high

    @property
    def memory_bytes(self) -> int:
        return self.rows.nbytes + self.index.memory_bytes

    def clear(self) -> None:
        """Forgets all keys and their rows; memory stays for others."""
        self.rows[: len(self)] = 0
        self.index.clear()

    def slots(self, keys: Keys) -> np.ndarray:
        """int32[n]: the slots of keys, with rows ready. May move `rows`."""
        slots = np.empty(len(keys), np.int32)
        self.find_slots(keys, 0, len(keys), slots)
        return slots

    def find_slots(self, keys: Keys, start: int, stop: int, slots: np.ndarray) -> None:
        """The same for keys from `start` to `stop`, into the same places of `slots`."""
        known = self.index.high
        self.index.insert(keys, start, stop, slots)
        high = self.index.high
        if high > known:
            self.rows = grown(self.rows, high, min(STEP_ROWS, max(64, high)))
            if self._initial is not None:
                touch(self.rows, np.arange(known, high))
                self.rows[known:high] = self._initial

    def in_order(self, batch: pa.RecordBatch, columns: Sequence[str], memory: StateMemory) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """The rows of a batch and their slots, int32, in parts of which each must be done with before the next is asked for. Keys are looked up in the order of
        the index, and rows come in the order of `rows`, those of a key as they were: pages are needed once, and next to each other."""
        batch = batch.take(pa.array(self.index.in_order(self.index.keys(batch, columns))))
        keys, slots, step = self.index.keys(batch, columns), np.empty(batch.num_rows, np.int32), memory.rows_at_once
        for start in range(0, len(slots), step):
            self.find_slots(keys, start, min(start + step, len(slots)), slots)
            memory.step()
        order = np.argsort(slots, kind="stable")
        for start in range(0, len(order), step):
            yield batch.take(pa.array(order[start : start + step])), slots[order[start : start + step]]
            memory.step()

    def changed_after(self, generation: int) -> np.ndarray:
        """int32[m]: slots of the rows changed after a generation, which is `RESTORED` or a later one."""
        extent = extent_of(self.rows)
        if extent is not None:
            return extent.changed.after(generation, len(self)).astype(np.int32)  # no page is read
        mask = np.empty(len(self), np.uint8)
        _changed(self.rows, generation, mask)
        return np.flatnonzero(mask).astype(np.int32)

    def copy(self, slots: np.ndarray | None = None) -> Copy:
        """Rows and keys of these slots (None: all) that later changes leave alone."""
        extent = extent_of(self.rows)
        if extent is not None:
            extent.changed.close()
            slots = None if slots is None else np.sort(slots)
            return StillTable(self.index.still_keys(slots), StillRows(self.rows[: len(self)], slots), extent.memory)
        if slots is not None:
            return TableCopy(self.index.copy_keys(slots), self.rows[slots])
        rows = self._copies.copy(self.rows[: len(self)])
        return TableCopy(self.index.copy_keys(), rows.array, rows)

    def load(self, keys: Sequence[pa.Array], words: Sequence[pa.Array]) -> None:
        """Sets whole rows: `words[w]` is word w + 1. Keys that are there are overwritten."""
        memory = current()
        step = STEP_ROWS if memory is None else min(STEP_ROWS, memory.rows_of(self.rows.strides[0]))
        for start in range(0, len(keys[0]), step):
            part = [key.slice(start, step) for key in keys]
            slots = self.slots(self.index.codec.encode(part, len(part[0]), self.index.seed))
            touch(self.rows, slots)
            self.rows[slots, 0] = RESTORED
            for word, column in enumerate(words):
                self.rows[slots, word + 1] = words_of(column.slice(start, step))
            if memory is not None:
                memory.step()


@dataclass(frozen=True)
class TableCopy:
    """Some rows of a table and their keys, for an upload thread to encode."""

    keys: KeyCopy
    rows: np.ndarray
    held: BufferedCopy | None = None
    """Whose memory `rows` is."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class StillTable:
    """The same of a table within a budget of memory, read when it is encoded."""

    keys: StillKeys
    rows: StillRows
    memory: StateMemory

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Iterator[TableCopy]:
        """Pieces that take little memory to be encoded."""
        step = self.memory.rows_of(self.rows.row_bytes + 32)
        for start in range(0, len(self), step):
            yield self.part(start, min(start + step, len(self)))

    def part(self, start: int, stop: int) -> TableCopy:
        """The rows from one position to another."""
        return TableCopy(self.keys.part(start, stop), self.rows.part(start, stop))


Copy = TableCopy | StillTable


def encode_rows(
    copies: Sequence[tuple[Copy, Sequence[tuple[pa.Field, int]]]],
    key_fields: Sequence[pa.Field],
    word_names: Sequence[str],
    max_parallelism: int,
) -> pa.Table:
    """A keyed chunk: key group, columns that are the same for all rows of a copy, key columns, words; sorted by key group."""
    tables = [_encode_copy(copy, constants, key_fields, word_names, max_parallelism) for copy, constants in copies]
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables).combine_chunks()
    groups = words_of(contiguous(table.column(0))).astype(np.uint16)
    order, _ = partition(groups, max_parallelism, max_parallelism)
    return table.take(pa.array(order))


def encode_parts(
    copies: Sequence[tuple[Copy, Sequence[tuple[pa.Field, int]]]],
    key_fields: Sequence[pa.Field],
    word_names: Sequence[str],
    max_parallelism: int,
) -> Iterator[pa.Table]:
    """The same as several chunks where there is a budget of memory: each large copy in parts, small ones together."""
    small = []
    for copy, constants in copies:
        if isinstance(copy, TableCopy):
            small.append((copy, constants))
            continue
        for part in copy.parts():
            yield encode_rows([(part, constants)], key_fields, word_names, max_parallelism)
    if small:
        yield encode_rows(small, key_fields, word_names, max_parallelism)


def _encode_copy(
    copy: Copy,
    constants: Sequence[tuple[pa.Field, int]],
    key_fields: Sequence[pa.Field],
    word_names: Sequence[str],
    max_parallelism: int,
) -> pa.Table:
    copy = copy if isinstance(copy, TableCopy) else copy.part(0, len(copy))
    groups = key_groups(copy.keys.hashes, max_parallelism)
    order, bounds = partition(groups, max_parallelism, max_parallelism)
    words = np.empty((len(word_names), len(order)), np.int64)
    _partition_words(copy.rows, groups, bounds.copy(), words)
    sorted_groups = np.repeat(np.arange(max_parallelism, dtype=np.uint16), np.diff(bounds))
    arrays = [pa.array(sorted_groups), *(pa.array(np.full(len(order), value, np.int64)) for _, value in constants)]
    fields = [pa.field(KEY_GROUP, pa.uint16(), False), *(column for column, _ in constants), *key_fields]
    arrays += copy.keys.columns(order)
    arrays += [pa.array(column) for column in words]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields + [pa.field(name, pa.int64(), False) for name in word_names]))


def is_as_now(chunk: pa.Table, keys: Sequence[pa.Field], word_names: Sequence[str]) -> bool:
    """It was written with these types of keys, and by these aggregates; else `read_rows` converts it, and no delta may go on top of it."""
    fields = {field.name: field.type for field in chunk.schema}
    return all(fields.get(key.name) == key.type for key in keys) and all(word in fields for word in word_names)


def read_rows(
    chunk: pa.Table,
    keys: Sequence[str],
    word_names: Sequence[str],
    name: str,
    kinds: Sequence[pa.DataType] | None = None,
    initial: Mapping[str, int] | None = None,
) -> tuple[list[pa.Array], list[pa.Array]]:
    """Key columns and words of a chunk. With `kinds` keys are widened to these types, with `initial` words of aggregates that were added since are
    these. Raises RestoreError when it was written by other aggregates."""
    if kinds is not None:
        for key, kind in zip(keys, kinds, strict=True):
            if key in chunk.column_names and chunk.schema.field(key).type != kind:
                chunk = chunk.set_column(chunk.column_names.index(key), key, chunk.column(key).cast(kind))
    for word in word_names:
        if initial is not None and word not in chunk.column_names:
            chunk = chunk.append_column(word, pa.array(np.full(chunk.num_rows, initial[word], np.int64)))
    missing = [column for column in (*keys, *word_names) if column not in chunk.column_names]
    if missing:
        raise RestoreError(
            f"{name!r}: saved state lacks {', '.join(missing)}; keys or aggregates have changed. Restore with --restore none"
        )
    return [contiguous(chunk.column(key)) for key in keys], [contiguous(chunk.column(word)) for word in word_names]


@dataclass
class Snapshots:
    """Which earlier snapshots a delta may build on: for each the generation it was taken at, and rows of the deltas under it."""

    generation: int = RESTORED + 1
    """Stamp for what changes now."""
    _taken: dict[int, tuple[int, int]] = field(default_factory=dict)

    def base_generation(self, base_id: int | None) -> int | None:
        """What changed since the base has a greater generation; None when no delta can build on it."""
        return self._taken[base_id][0] if base_id in self._taken else None

    def worth_a_delta(self, base_id: int, rows: int, live_rows: int) -> bool:
        """False when the deltas since the last full snapshot exceed half of the live rows."""
        return 2 * (self._taken[base_id][1] + rows) <= live_rows

    def taken(self, checkpoint_id: int, base_id: int | None, delta: bool, rows: int) -> None:
        """A snapshot of so many rows, full or as a delta on its base. Bases never go back: snapshots older than this one are forgotten."""
        below = self._taken[base_id][1] + rows if delta and base_id is not None else 0
        oldest = -1 if base_id is None else base_id
        kept = sorted(taken for taken in self._taken if taken >= oldest)[-MAX_BASES:]
        self._taken = {taken: self._taken[taken] for taken in kept}
        self._taken[checkpoint_id] = (self.generation, below)
        self.generation += 1

    def restored(self, checkpoint_id: int, chain: Sequence[pa.Table], live_rows: int) -> None:
        """State goes on from this chain: a delta may build on its checkpoint. (A full snapshot may be in several parts: what lies under deltas is told by how
        many rows of the chain are there no more.)"""
        self._taken[checkpoint_id] = (RESTORED, rows_of(chain) - live_rows)


@njit([types.void(I8_ROWS, types.int64, U1)], nogil=True, cache=True)
def _changed(rows, generation, mask):  # type: ignore[no-untyped-def]
    for slot in range(mask.size):
        mask[slot] = rows[slot, 0] > generation


@njit([types.void(I8_ROWS, RO_U2, I8, I8_ROWS)], nogil=True, cache=True)
def _partition_words(rows, groups, places, words):  # type: ignore[no-untyped-def]
    """Each row's words to the next place of its key group: rows are read one after the other, and written to as many ends as there are
    groups, which the cache holds. (To read them in the order of groups misses it with every row.)"""
    for i in range(groups.size):
        place = places[groups[i]]
        places[groups[i]] = place + 1
        for w in range(words.shape[0]):
            words[w, place] = rows[i, w + 1]
