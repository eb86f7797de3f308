"""Snapshots and restores of an operator's `KeyedRows`: a keyed state for each, deltas, any parallelism.

A chunk has `_kg`, `_number` (names the row; the last one of a name counts), `_live` (false: the row was removed), the words, the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.errors import RestoreError
from flinkray.operators.base import OperatorContext, RestoredState, StateCapture
from flinkray.operators.deltas import DeltaHistory
from flinkray.operators.restore import KEY_GROUP, TableCapture
from flinkray.state.arrow_buffers import words_of
from flinkray.state.arrow_memory import settled_table
from flinkray.state.growth import grown
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows, RowsCopy, Slots
from flinkray.state.memory import current

NUMBER, LIVE = "_number", "_live"
WORD = "_word_"
"""How the names of the words' columns begin."""
_FEW_KEYS = 1 << 14
_PART_BYTES = 8 << 20
"""About what a chunk is encoded from at once, so that the next part takes the memory of the one before: fresh memory costs more than encoding does."""


class RowStates:
    """Named `KeyedRows` over one index; `keys`: the key columns of each, by name. `partitioned_by`: those of them by which rows are
    dealt out to subtasks (None: all). `otherwise`: words that a snapshot may lack, and what they are then."""

    def __init__(
        self,
        context: OperatorContext,
        index: KeyIndex,
        states: Mapping[str, KeyedRows],
        keys: Mapping[str, Sequence[str]],
        partitioned_by: Sequence[str] | None = None,
        otherwise: Mapping[str, int] | None = None,
    ) -> None:
        self.index, self.history = index, DeltaHistory()
        self._context, self._states, self._keys, self._partitioned_by = context, dict(states), dict(keys), partitioned_by
        self._otherwise = dict(otherwise or {})
        self._used = np.zeros(0, np.bool_)
        self._keys_kept = 0

    def slots(self, rows: pa.RecordBatch, name: str) -> Slots:
        """The slots of the rows' keys, which are known from now on."""
        slots = self.index.lookup_or_insert(self.index.keys(rows, self._keys[name]))
        self._used = grown(self._used, self.index.high, _FEW_KEYS)
        self._used[slots] = True
        return slots

    def tidy(self) -> None:
        """Gives back the memory of rows that were removed, and forgets keys without rows."""
        for rows in self._states.values():
            rows.tidy(self.history.oldest)
        if len(self.index) > 2 * self._keys_kept + _FEW_KEYS:
            high = self.index.high
            empty = self._used[:high].copy()
            for rows in self._states.values():
                empty &= ~rows.has_rows(high)
            gone = np.flatnonzero(empty).astype(np.int32)
            self._used[gone] = False
            self.index.remove(gone)
            self._keys_kept = len(self.index)

    def measure(self) -> None:
        metrics = self._context.metrics
        metrics.state_rows = sum(map(len, self._states.values()))
        metrics.state_bytes = self.index.memory_bytes + sum(rows.memory_bytes for rows in self._states.values())

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        history = self.history
        since = history.changed_since(base_id)
        chosen = self._changed(since)
        count = sum(map(len, chosen.values()))
        if since is not None and base_id is not None and not history.worth_a_delta(base_id, count, sum(map(len, self._states.values()))):
            since, chosen = None, self._changed(None)
            count = sum(map(len, chosen.values()))
        full = since is None
        history.close(checkpoint_id, count, None if full else base_id)
        return [self._capture(name, self._states[name].copy(positions), full) for name, positions in chosen.items()]

    def _changed(self, since: int | None) -> dict[str, npt.NDArray[np.int64]]:
        return {name: rows.changed_since(since) for name, rows in self._states.items()}

    def _capture(self, name: str, copy: RowsCopy, full: bool) -> TableCapture:
        keys = self._partitioned_by or self._keys[name]
        seed, max_parallelism = self._context.hash_seed, self._context.max_parallelism
        schema = self._chunk_schema(name)

        def part(start: int, stop: int) -> pa.Table:
            rows = copy.view.take(copy.positions[start:stop])
            groups = key_groups(hash_keys(rows, keys, seed), max_parallelism)
            order = np.argsort(groups, kind="stable")
            arrays = [groups[order], *(words[start:stop][order] for words in (copy.numbers, copy.alive, *copy.words.T))]
            return pa.table([*map(pa.array, map(np.ascontiguousarray, arrays)), *rows.take(pa.array(order)).columns], schema=schema)

        def encode() -> pa.Table | None:
            return part(0, len(copy)) if full or len(copy) else None

        memory, row_bytes = current(), 64 + self._states[name].rows.memory_bytes // max(1, len(self._states[name].rows))

        def parts() -> Iterator[pa.Table]:
            step = _PART_BYTES // row_bytes if memory is None else memory.rows_of(2 * row_bytes)
            for start in range(0, len(copy) or full, max(1, step)):
                yield part(start, start + step)

        return TableCapture(name, "keyed", full, encode, parts)

    def _chunk_schema(self, name: str) -> pa.Schema:
        rows = self._states[name]
        own = [pa.field(KEY_GROUP, pa.uint16()), pa.field(NUMBER, pa.int64()), pa.field(LIVE, pa.bool_())]
        return pa.schema([*own, *(pa.field(_word(word), pa.int64()) for word in rows.words), *rows.schema])

    # --- restore

    def restore(self, restored: Sequence[RestoredState], checkpoint_id: int | None) -> None:
        mine = {state.name: state for state in restored if state.name in self._states}
        for name, state in mine.items():
            for chain in state.chains:
                self._load(name, chain, state.continues)
        if mine and all(state.continues for state in mine.values()):
            self.history.restored(checkpoint_id, *(state.chains[0] for state in mine.values()))

    def _load(self, name: str, chain: Sequence[pa.Table], continues: bool) -> None:
        rows, schema = self._states[name], self._chunk_schema(name)
        found = [settled_table(self._with_wanted_words(chunk, schema)) for chunk in chain]
        for chunk in found:
            if not chunk.schema.equals(schema):
                raise RestoreError(
                    f"{self._context.uid!r}: {name!r} was saved with other columns; restore with --restore none, or with the job as it "
                    f"was\nsaved:\n{chunk.schema}\nnow:\n{schema}"
                )
        table = pa.concat_tables(found)
        numbers = table.column(NUMBER).to_numpy()
        last = _last_of_each(numbers)  # in order of the numbers
        if continues and len(numbers):
            rows.next_number = int(numbers.max()) + 1
        last = last[table.column(LIVE).to_numpy(zero_copy_only=False)[last]]
        if not len(last):
            return
        (batch,) = table.take(pa.array(last)).combine_chunks().to_batches()
        kept = batch.select(rows.schema.names)
        words = {word: words_of(batch.column(_word(word))) for word in rows.words}
        rows.load(kept, self.slots(kept, name), words_of(batch.column(NUMBER)) if continues else None, words)

    def _with_wanted_words(self, chunk: pa.Table, schema: pa.Schema) -> pa.Table:
        """A job that changed may want other words than were saved: more that have a value without it, or fewer."""
        for word, value in self._otherwise.items():
            if _word(word) in schema.names and _word(word) not in chunk.schema.names:
                chunk = chunk.append_column(pa.field(_word(word), pa.int64()), pa.array(np.full(chunk.num_rows, value, np.int64)))
        names = [name for name in chunk.schema.names if not name.startswith(WORD) or name in schema.names]
        return chunk.select(schema.names if set(names) == set(schema.names) else names)


def _word(name: str) -> str:
    return f"{WORD}{name}"


def _last_of_each(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions of the last of each number, in order of the numbers."""
    _, first = np.unique(numbers[::-1], return_index=True)
    return len(numbers) - 1 - first
