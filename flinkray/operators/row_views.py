"""Rows that operators keep by key (joins, rankings, deduplication) and timers of process functions, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import EVENT_TIME, HIDDEN, TIMESTAMP
from flinkray.errors import RestoreError
from flinkray.operators.interval_join import NAME, last_of_each
from flinkray.operators.process_store import TIMERS
from flinkray.operators.restore import KEY_GROUP
from flinkray.operators.row_states import LIVE, NUMBER, WORD
from flinkray.operators.window_panes import PANE

Chain = tuple[int, tuple[pa.Table, ...]]

SIDE, TIME, PARTNERS, MET = "side", "event_time", "partners", "has_partner"
"""Columns beside those of the rows."""

ROW_KINDS = frozenset({"interval_join", "window_join", "regular_join", "asof_join", "rank", "first"})
"""Kinds of operators whose state `rows_table` decodes."""

_SHOWN_WORDS = {"time": TIME, "partners": PARTNERS}


def rows_table(uid: str, states: Mapping[str, Sequence[Chain]]) -> pa.Table:
    """The kept rows under the names that they came with. Of two inputs with a column `side`, and nulls where the other side has a column of its own (with
    `_right` behind a name that both have with different types); `event_time` where it is kept, `partners` or `has_partner` where that is known.

    Rows that the operator will not look at any more may be among them until its next full snapshot. Raises RestoreError when the chunks are not rows.
    """
    tables = {name: _rows(uid, chains) for name, chains in states.items() if any(KEY_GROUP in t.column_names for _, c in chains for t in c)}
    if not tables:
        raise RestoreError(f"the checkpoint holds no state of {uid!r} yet")
    if len(tables) == 1:
        return next(iter(tables.values()))
    sides = [tables[name].add_column(0, SIDE, pa.array([name] * tables[name].num_rows, pa.string())) for name in sorted(tables)]
    taken = {field.name: field.type for field in sides[0].schema}
    sides[1] = sides[1].rename_columns([f"{f.name}_right" if taken.get(f.name, f.type) != f.type else f.name for f in sides[1].schema])
    return pa.concat_tables(sides, promote_options="default")


def _rows(uid: str, chains: Sequence[Chain]) -> pa.Table:
    parts = [_of_chain(uid, pa.concat_tables(chain)) for _, chain in chains if chain]
    return pa.concat_tables(parts).combine_chunks()


def _of_chain(uid: str, chunks: pa.Table) -> pa.Table:
    """Of one subtask: what its deltas have left."""
    names = chunks.column_names
    if NUMBER in names:
        last = last_of_each(chunks.column(NUMBER).to_numpy())
        chunks = chunks.take(pa.array(last))
        chunks = chunks.filter(chunks.column(LIVE))
    elif NAME in names:
        chunks = chunks.take(pa.array(last_of_each(chunks.column(NAME).to_numpy() >> 1)))
    elif PANE not in names:
        raise RestoreError(f"the state of {uid!r} has the columns {names}, and is none of rows")
    return _shown(chunks)


def _shown(rows: pa.Table) -> pa.Table:
    own = {KEY_GROUP, NUMBER, LIVE, NAME, PANE, *HIDDEN}
    columns = {name: rows.column(name) for name in rows.column_names if name not in own and not name.startswith(WORD)}
    words = {shown: rows.column(WORD + word) for word, shown in _SHOWN_WORDS.items() if WORD + word in rows.column_names}
    if EVENT_TIME in rows.column_names:
        words[TIME] = rows.column(EVENT_TIME)
    if TIME in words:
        words[TIME] = words[TIME].cast(pa.int64()).cast(TIMESTAMP)
    if NAME in rows.column_names:
        words[MET] = pc.equal(pc.bit_wise_and(rows.column(NAME), 1), 1)
    return pa.table(columns | {name: column for name, column in words.items() if name not in columns})


def timers_table(uid: str, states: Mapping[str, Sequence[Chain]]) -> pa.Table:
    """The timers that wait, of a process function: `key` (or `key0`, `key1`, ...), `time`, and `domain`, "event" or "processing"; in order of time.
    Raises RestoreError when there is no such state."""
    parts = []
    for name, chains in sorted(states.items()):
        for _, chain in chains:
            if not name.startswith(TIMERS) or not chain:
                continue
            *keys, time = chain[-1].column_names[1:]
            shown = ["key"] if len(keys) == 1 else [f"key{number}" for number in range(len(keys))]
            columns = dict(zip(shown, (chain[-1].column(key) for key in keys), strict=True))
            columns["time"] = chain[-1].column(time).cast(TIMESTAMP)
            columns["domain"] = pa.array(np.full(chain[-1].num_rows, name.removeprefix(TIMERS)), pa.string())
            parts.append(pa.table(columns))
    if not parts:
        raise RestoreError(f"the checkpoint holds no timers of {uid!r}")
    return pa.concat_tables(parts).sort_by("time")
