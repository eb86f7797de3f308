"""Rows kept per pane of event time, pruned to those that can still be among the best.

A pane is the part of event time that all its windows share: the window itself when tumbling, gcd(size, slide) when sliding. A row
that is not among the best of its pane is not among the best of any window over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.operators.restore import KEY_GROUP
from flinkray.state.arrow_memory import settled_tables

PANE = "_pane"
"""int64 column of a chunk: start of the pane in microseconds."""

Int64Array = npt.NDArray[np.int64]
Prune = Callable[[pa.RecordBatch], Int64Array]
"""Positions of the rows to keep."""

_PRUNE_AT_LEAST = 8192


class _Pane:
    __slots__ = ("batches", "changed", "kept", "rows", "size_bytes")

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.rows = 0
        self.kept = 0
        self.changed = 0
        self.size_bytes = 0


class PaneBuffer:
    """Panes by their start. `prune` is called on a pane's rows when they have doubled."""

    def __init__(self, schema: pa.Schema, prune: Prune) -> None:
        self.schema = schema
        self.rows = 0
        self.memory_bytes = 0
        self._prune = prune
        self._panes: dict[int, _Pane] = {}
        self._plain = not any("dictionary" in str(field.type) for field in schema)

    def __contains__(self, start_us: int) -> bool:
        return start_us in self._panes

    def add(self, start_us: int, rows: pa.RecordBatch, size_bytes: int, generation: int) -> None:
        """Rows of one pane. They are kept as they are: the caller gives a copy."""
        pane = self._panes.setdefault(start_us, _Pane())
        pane.batches.append(rows)
        pane.changed = generation
        self._resize(pane, pane.rows + rows.num_rows, pane.size_bytes + size_bytes)
        if pane.rows > max(_PRUNE_AT_LEAST, 2 * pane.kept):
            together = self.joined(pane.batches)
            best = together.take(pa.array(self._prune(together)))
            pane.batches, pane.kept = [best], best.num_rows
            self._resize(pane, best.num_rows, best.nbytes)

    def among(self, starts_us: Iterable[int]) -> tuple[list[pa.RecordBatch], int]:
        """Batches over the panes that there are, and how many rows they have."""
        panes = [self._panes[start] for start in starts_us if start in self._panes]
        return [batch for pane in panes for batch in pane.batches], sum(pane.rows for pane in panes)

    def joined(self, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        """The rows of all batches (at least one) in one."""
        if self._plain and len(batches) > 1:
            return pa.concat_batches(batches)
        return one_batch(batches, self.schema)

    def drop(self, start_us: int) -> None:
        pane = self._panes.pop(start_us, None)
        if pane is not None:
            self._resize(pane, 0, 0)

    def changed_since(self, generation: int | None) -> dict[int, list[pa.RecordBatch]]:
        """Rows of the panes with a generation above that (None: of all), for a snapshot: they never change in place."""
        return {start: list(pane.batches) for start, pane in self._panes.items() if generation is None or pane.changed > generation}

    def _resize(self, pane: _Pane, rows: int, size_bytes: int) -> None:
        self.rows += rows - pane.rows
        self.memory_bytes += size_bytes - pane.size_bytes
        pane.rows, pane.size_bytes = rows, size_bytes


def one_batch(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """The rows of all batches in one."""
    if len(batches) == 1:
        return batches[0]
    combined = pa.Table.from_batches(batches, schema).unify_dictionaries().combine_chunks().to_batches()
    return combined[0] if combined else pa.RecordBatch.from_pylist([], schema)


def encode_panes(
    panes: dict[int, list[pa.RecordBatch]], schema: pa.Schema, key_groups_of: Callable[[pa.RecordBatch], np.ndarray]
) -> pa.Table:
    """A keyed chunk: `_kg`, `_pane`, then the rows' columns, sorted by key group. `key_groups_of` sees `_pane` as well."""
    starts = [np.full(batch.num_rows, start, np.int64) for start, batches in panes.items() for batch in batches]
    rows = one_batch([batch for batches in panes.values() for batch in batches], schema)
    pane = pa.array(np.concatenate([np.empty(0, np.int64), *starts]))
    rows = pa.RecordBatch.from_arrays([pane, *rows.columns], schema=schema.insert(0, pa.field(PANE, pa.int64())))
    groups = key_groups_of(rows).astype(np.uint16)
    order = np.argsort(groups, kind="stable")
    chunk = pa.table([pa.array(groups[order]), *rows.take(pa.array(order)).columns], names=[KEY_GROUP, *rows.schema.names])
    return chunk.cast(rows.schema.insert(0, pa.field(KEY_GROUP, pa.uint16())))


def replay_panes(chain: Sequence[pa.Table], schema: pa.Schema) -> dict[int, pa.RecordBatch]:
    """Rows per pane after a full chunk and its deltas: a (pane, key group) in a later chunk replaces that of earlier ones."""
    chain = settled_tables(chain)
    rows = pa.concat_tables(chain).unify_dictionaries().combine_chunks()
    if not rows.num_rows:
        return {}
    panes, pane = np.unique(rows.column(PANE).to_numpy(), return_inverse=True)
    chunk = np.repeat(np.arange(len(chain)), [table.num_rows for table in chain])
    place = pane * 65536 + rows.column(KEY_GROUP).to_numpy().astype(np.int64)
    places, place = np.unique(place, return_inverse=True)
    newest = np.zeros(len(places), np.int64)
    np.maximum.at(newest, place, chunk)
    alive = newest[place] == chunk
    restored = {}
    for index, start in enumerate(panes.tolist()):
        found = rows.filter(pa.array(alive & (pane == index))).select(schema.names)
        restored[start] = one_batch(found.combine_chunks().to_batches(), schema)
    return restored
