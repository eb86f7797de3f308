"""Saved state of process functions as a person reads it: a row for each key, a column for each state; and the event timers that wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from flinkray.errors import RestoreError
from flinkray.operators.process_store import STATE
from flinkray.operators.restore import KEY_GROUP
from flinkray.state.arrow_buffers import contiguous
from flinkray.state.key_index import KeyIndex

_KEY = "_key"

Chain = tuple[int, tuple[pa.Table, ...]]


def is_process_state(names: Sequence[str]) -> bool:
    return any(name.startswith(STATE) for name in names)


def process_table(uid: str, states: Mapping[str, Sequence[Chain]], hash_seed: int) -> tuple[pa.Table, tuple[str, ...]]:
    """Columns `key` (or `key0`, `key1`, ...), then each state under its name, null where the key has none; and the names of the key columns.
    Raises RestoreError when the chunks are not those of a process function."""
    chunks = {name.removeprefix(STATE): _in_order(chains) for name, chains in states.items() if name.startswith(STATE)}
    first = next((tables[0] for tables in chunks.values() if tables), None)
    if first is None:
        raise RestoreError(f"the checkpoint holds no state of {uid!r} yet")
    keys = [name for name in first.column_names if name.startswith(_KEY)]
    if first.column_names[0] != KEY_GROUP or not keys:
        raise RestoreError(f"the state of {uid!r} has the columns {first.column_names}, and is none of a process function")
    index = KeyIndex([first.schema.field(key).type for key in keys], hash_seed)
    values = {name: _values(index, keys, tables) for name, tables in chunks.items()}
    rows = len(index)
    names = ("key",) if len(keys) == 1 else tuple(f"key{number}" for number in range(len(keys)))
    columns = dict(zip(names, index.copy_keys(np.arange(rows, dtype=np.int64)).columns(), strict=True))
    alive = np.zeros(rows, np.bool_)
    for name, (positions, table, column) in values.items():
        here = np.full(rows, -1, np.int64)
        here[: len(positions)] = positions
        alive |= here >= 0
        wanted = pa.array(here, mask=here < 0)
        columns[name] = contiguous(table.column(column)).take(wanted) if table.num_rows else pa.nulls(rows, table.schema.field(column).type)
    return pa.table(columns).filter(pa.array(alive)), names


def _in_order(chains: Sequence[Chain]) -> list[pa.Table]:
    return [chunk for _, chain in chains for chunk in chain]


def _values(index: KeyIndex, keys: Sequence[str], chunks: Sequence[pa.Table]) -> tuple[np.ndarray, pa.Table, str]:
    """For each slot the row that counts, -1 for none; the rows; and the column that is the value."""
    table = pa.concat_tables(chunks).combine_chunks()
    valid, value = table.column_names[1 + len(keys) : 3 + len(keys)]
    last = np.full(len(index), -1, np.int64)
    if table.num_rows:
        columns = [contiguous(table.column(key)) for key in keys]
        slots = index.lookup_or_insert(index.codec.encode(columns, table.num_rows, index.seed))
        last = np.full(len(index), -1, np.int64)
        last[slots] = np.arange(table.num_rows)  # of several rows of a key the last one stays
        gone = ~contiguous(table.column(valid)).to_numpy(zero_copy_only=False)
        last[(last >= 0) & gone[np.maximum(last, 0)]] = -1
    return last, table, value
