"""Saved state as a person reads it: keys, window and aggregates under the names that the job gave them.

What a chunk holds is the operators' own business (see `state.table`, `session_chunks`, `window_panes`); here it is replayed and decoded
without an operator or a job script, by the layout that the manifest keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flinkray.columns import HIDDEN, TIMESTAMP
from flinkray.errors import RestoreError
from flinkray.graph.aggregates import PANE, WINDOW_END, WINDOW_START
from flinkray.graph.state_layout import StateLayout
from flinkray.graph.windows import SessionWindow, SlidingWindow
from flinkray.operators.keyed_aggregate import ROWS_STATE
from flinkray.operators.restore import KEY_GROUP, WATERMARK
from flinkray.operators.window_aggregate import PANES_STATE
from flinkray.operators.window_panes import replay_panes
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.layout import AggregateLayout
from flinkray.state.table import KeyedTable, read_rows

SUBTASK = "_subtask"
"""Column of raw tables: who wrote the row."""
CHUNK = "_chunk"
"""Column of raw tables: position in the chain of that subtask; 0 is the full chunk, others are deltas on it."""

_SESSIONS, _TOP_ROWS = "sessions", "rows"

Chain = tuple[int, tuple[pa.Table, ...]]
"""The subtask that wrote it, and its chunks in replay order."""


@dataclass(frozen=True)
class SavedOperator:
    """All states of one operator as a checkpoint holds them."""

    uid: str
    layout: StateLayout
    states: Mapping[str, Sequence[Chain]]
    """By state name."""
    hash_seed: int

    def chunks(self, name: str) -> list[pa.Table]:
        """Of all subtasks, each one's in replay order; the keys of two subtasks never meet."""
        return [chunk for _, chain in self.states.get(name, ()) for chunk in chain]

    @property
    def watermark_us(self) -> int | None:
        """None for an operator that keeps none."""
        return min((chain[-1].column(WATERMARK)[0].as_py() for _, chain in self.states.get(WATERMARK, ())), default=None)


@dataclass(frozen=True)
class StateView:
    """A table of state, and the columns that name a row; none where only the whole row does."""

    table: pa.Table
    identity: tuple[str, ...]


def view(kind: str, saved: SavedOperator) -> StateView:
    """The state of an operator of this kind, decoded. Raises RestoreError when the chunks are not what the layout says."""
    if kind == "keyed_aggregate":
        return _running(saved)
    if kind == "window_top_n":
        return _top_rows(saved)
    return _sessions(saved) if isinstance(saved.layout.window, SessionWindow) else _windows(saved)


def raw_table(chains: Sequence[Chain]) -> pa.Table:
    """The chunks as they were written, one below the other, with the subtask and the position of each."""
    parts = []
    for subtask, chain in chains:
        for position, chunk in enumerate(chain):
            numbers = (np.full(chunk.num_rows, number, np.int32) for number in (subtask, position))
            columns = [*map(pa.array, numbers), *chunk.columns]
            parts.append(pa.table(columns, schema=pa.schema([(SUBTASK, pa.int32()), (CHUNK, pa.int32()), *chunk.schema])))
    return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})


# --- running aggregates


def _running(saved: SavedOperator) -> StateView:
    chunks, keys = saved.chunks(ROWS_STATE), list(saved.layout.keys)
    words = _words(saved.layout, chunks, 1 + len(keys))
    table = KeyedTable(_kinds(chunks, keys), words.initial, saved.hash_seed)
    for chunk in chunks:
        table.load(*read_rows(chunk, keys, words.names, saved.uid))
    return StateView(_table(saved.layout, table.index.copy_keys().columns(), _results(words, table), {}), tuple(keys))


# --- windows


def _windows(saved: SavedOperator) -> StateView:
    """One row for each key and window that has not fired for good: what its answer would be now."""
    layout, chunks = saved.layout, saved.chunks(PANES_STATE)
    keys = [PANE, *layout.keys]
    words = _words(layout, chunks, 1 + len(keys))
    kinds = _kinds(chunks, keys)
    panes = KeyedTable(kinds, words.initial, saved.hash_seed)
    for chunk in chunks:
        panes.load(*read_rows(chunk, keys, words.names, saved.uid))
    merged = _merged(saved, words, panes, kinds)
    ends, *key_columns = merged.index.copy_keys().columns()
    return StateView(_table(layout, key_columns, _results(words, merged), _bounds(layout, words_of(ends))), (*layout.keys, WINDOW_START))


def _merged(saved: SavedOperator, words: AggregateLayout, panes: KeyedTable, kinds: Sequence[pa.DataType]) -> KeyedTable:
    """Accumulators by (end of the window, keys): every pane goes into each of its windows that is not over."""
    window, watermark = saved.layout.window, saved.watermark_us
    assert window is not None
    assert not isinstance(window, SessionWindow)
    slide = window.slide_us if isinstance(window, SlidingWindow) else window.size_us
    starts, *key_columns = panes.index.copy_keys().columns()
    starts = words_of(starts)
    newest = (starts - window.offset_us) // slide * slide + window.offset_us + window.size_us
    merged = KeyedTable(kinds, words.initial, saved.hash_seed)
    for step in range(-(-window.size_us // slide)):
        ends = newest - step * slide
        open_ = ends > starts
        if watermark is not None:
            open_ &= ends - 1 + saved.layout.lateness_us > watermark
        chosen = np.flatnonzero(open_).astype(np.int32)
        if len(chosen):
            columns = [pa.array(ends[chosen]), *(column.take(pa.array(chosen)) for column in key_columns)]
            slots = merged.slots(merged.index.codec.encode(columns, len(chosen), saved.hash_seed))
            words.run(words.merge_rows(panes.rows[chosen]), merged.rows, slots)
    return merged


def _bounds(layout: StateLayout, ends: np.ndarray) -> dict[str, pa.Array]:
    assert layout.window is not None
    assert not isinstance(layout.window, SessionWindow)
    return {WINDOW_START: pa.array(ends - layout.window.size_us, TIMESTAMP), WINDOW_END: pa.array(ends, TIMESTAMP)}


# --- sessions


def _sessions(saved: SavedOperator) -> StateView:
    layout, chunks = saved.layout, saved.chunks(_SESSIONS)
    keys = ["_start", *(f"_key{i}" for i in range(len(layout.keys)))]
    words = _words(layout, chunks, 2 + len(layout.keys) + 3)
    table = KeyedTable(_kinds(chunks, keys), np.zeros(3 + len(words.names), np.int64), saved.hash_seed)
    for chunk in chunks:
        gone = chunk.column("_op").to_numpy() == 1
        for rows in (chunk.filter(pa.array(gone)), chunk.filter(pa.array(~gone))):  # a name that is gone may be there anew
            key_columns, word_columns = read_rows(rows, keys, ["_last", *words.names], saved.uid)
            table.load(key_columns, [rows.column("_op").combine_chunks().cast(pa.int64()), *word_columns])
    alive = np.flatnonzero(table.rows[: len(table), 1] == 0).astype(np.int32)
    starts, *key_columns = table.index.copy_keys(alive).columns()
    assert isinstance(layout.window, SessionWindow)
    ends = table.rows[alive, 2] + layout.window.gap_us
    bounds = {WINDOW_START: pa.array(words_of(starts), TIMESTAMP), WINDOW_END: pa.array(ends, TIMESTAMP)}
    results = words.results(np.ascontiguousarray(table.rows[alive, 3:].T))
    return StateView(_table(layout, key_columns, results, bounds), (*layout.keys, WINDOW_START))


# --- top rows


def _top_rows(saved: SavedOperator) -> StateView:
    """Rows that can still be among the best, as the operator was given them."""
    kept = []
    for _, chain in saved.states.get(_TOP_ROWS, ()):
        schema = pa.schema([field for field in chain[0].schema if field.name not in (KEY_GROUP, PANE)])
        for start, rows in sorted(replay_panes(chain, schema).items()):
            if saved.watermark_us is None or _last_end(saved.layout, start) - 1 + saved.layout.lateness_us > saved.watermark_us:
                kept.append(pa.Table.from_batches([rows]))
        kept.append(schema.empty_table())
    table = pa.concat_tables(kept).combine_chunks() if kept else saved.layout.schema.empty_table()
    return StateView(table.select([name for name in table.column_names if name not in HIDDEN]), ())


def _last_end(layout: StateLayout, pane: int) -> int:
    window = layout.window
    assert window is not None
    assert not isinstance(window, SessionWindow)
    slide = window.slide_us if isinstance(window, SlidingWindow) else window.size_us
    return (pane - window.offset_us) // slide * slide + window.offset_us + window.size_us


# --- words and columns


def _words(layout: StateLayout, chunks: Sequence[pa.Table], before: int) -> AggregateLayout:
    """The words of the accumulators are the columns after the first `before`."""
    kinds = [layout.schema.field(aggregate.output).type for aggregate in layout.aggregates]
    names = chunks[0].column_names[before:] if chunks else []
    needed = [f"_a{index}_0" for index in range(len(layout.aggregates))]
    if chunks and not set(needed) <= set(names):
        raise RestoreError(f"saved state has the columns {chunks[0].column_names}, which are not those of {layout.aggregates}")
    return AggregateLayout(layout.aggregates, kinds, names or needed)


def _kinds(chunks: Sequence[pa.Table], keys: Sequence[str]) -> list[pa.DataType]:
    if not chunks:
        raise RestoreError("the checkpoint holds no state of this operator yet")
    return [contiguous(chunks[0].column(key)).type for key in keys]


def _results(words: AggregateLayout, table: KeyedTable) -> list[pa.Array]:
    return words.results(words.gather(table.rows, np.arange(len(table), dtype=np.int32)))


def _table(layout: StateLayout, keys: Sequence[pa.Array], results: Sequence[pa.Array], bounds: Mapping[str, pa.Array]) -> pa.Table:
    columns = dict(zip(layout.keys, keys, strict=True)) | dict(bounds)
    columns |= zip((aggregate.output for aggregate in layout.aggregates), results, strict=True)
    return pa.table(columns)


KINDS: frozenset[str] = frozenset({"keyed_aggregate", "window_aggregate", "window_top_n"})
"""Kinds of operators whose state `view` decodes."""
