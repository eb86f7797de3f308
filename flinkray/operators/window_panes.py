"""Rows kept per pane of event time, pruned to those that can still be among the best.

A pane is the part of event time that all its windows share: the window itself when tumbling, gcd(size, slide) when sliding. A row
that is not among the best of its pane is not among the best of any window over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.operators.restore import KEY_GROUP

PANE = "_pane"
"""int64 column of a chunk: start of the pane in microseconds."""

Int64Array = npt.NDArray[np.int64]
Prune = Callable[[pa.RecordBatch], Int64Array]
"""Positions of the rows to keep."""

_PRUNE_AT_LEAST = 8192


class _Pane:
    __slots__ = ("batches", "changed", "kept", "rows")

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.rows = 0
        self.kept = 0
        self.changed = 0


class PaneBuffer:
    """Panes by their start. `prune` is called on a pane's rows when they have doubled, and whenever they are read."""

    def __init__(self, schema: pa.Schema, prune: Prune) -> None:
        self.schema = schema
        self._prune = prune
        self._panes: dict[int, _Pane] = {}

    def __contains__(self, start_us: int) -> bool:
        return start_us in self._panes

    @property
    def starts(self) -> list[int]:
        return list(self._panes)

    @property
    def rows(self) -> int:
        return sum(pane.rows for pane in self._panes.values())

    @property
    def memory_bytes(self) -> int:
        return sum(batch.nbytes for pane in self._panes.values() for batch in pane.batches)

    def add(self, start_us: int, rows: pa.RecordBatch, generation: int) -> None:
        """Rows of one pane. They are kept as they are: the caller gives a copy."""
        pane = self._panes.setdefault(start_us, _Pane())
        pane.batches.append(rows)
        pane.rows += rows.num_rows
        pane.changed = generation
        if pane.rows > max(_PRUNE_AT_LEAST, 2 * pane.kept):
            self._pruned(pane)

    def best(self, starts_us: Iterable[int]) -> pa.RecordBatch | None:
        """The best rows over the panes that there are; None when there are none."""
        panes = [self._panes[start] for start in starts_us if start in self._panes]
        if not panes:
            return None
        if len(panes) == 1:
            return self._pruned(panes[0])
        rows = one_batch([batch for pane in panes for batch in pane.batches], self.schema)
        return rows.take(pa.array(self._prune(rows)))

    def drop(self, start_us: int) -> None:
        self._panes.pop(start_us, None)

    def changed_since(self, generation: int | None) -> dict[int, list[pa.RecordBatch]]:
        """Rows of the panes with a generation above that (None: of all), for a snapshot: they never change in place."""
        return {start: list(pane.batches) for start, pane in self._panes.items() if generation is None or pane.changed > generation}

    def _pruned(self, pane: _Pane) -> pa.RecordBatch:
        if len(pane.batches) != 1 or pane.kept != pane.rows:
            rows = one_batch(pane.batches, self.schema)
            best = rows.take(pa.array(self._prune(rows)))
            pane.batches, pane.rows, pane.kept = [best], best.num_rows, best.num_rows
        return pane.batches[0]


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


def replay_panes(chain: tuple[pa.Table, ...], schema: pa.Schema) -> dict[int, pa.RecordBatch]:
    """Rows per pane after a full chunk and its deltas: a (pane, key group) in a later chunk replaces that of earlier ones."""
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
