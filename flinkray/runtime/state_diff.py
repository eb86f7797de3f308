"""What changed between two checkpoints: keys added, changed and removed, operator by operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.checkpoint.state_source import StateSource
from flinkray.operators.state_views import StateView
from flinkray.runtime.inspection import decoded, is_decodable
from flinkray.state.arrow_buffers import contiguous
from flinkray.state.key_index import KeyIndex


@dataclass(frozen=True)
class OperatorDiff:
    """Tables of the columns that name a row. `comparable` False: the state has no decoded form, and nothing is known of its keys."""

    operator: str
    added: pa.Table
    changed: pa.Table
    removed: pa.Table
    same: int
    comparable: bool = True


def diff(before: StateSource, after: StateSource) -> list[OperatorDiff]:
    """Operators with keyed state in either, by uid. Windows that have closed count as removed."""
    keyed = {state.uid for saved in (before, after) for state in saved.manifest.states if state.kind == "keyed"}
    return [_of_operator(before, after, uid) for uid in sorted(keyed)]


def _of_operator(before: StateSource, after: StateSource, uid: str) -> OperatorDiff:
    there = [saved for saved in (before, after) if any(state.uid == uid for state in saved.manifest.states)]
    nothing = pa.table({})
    if not all(is_decodable(saved, uid) for saved in there):
        return OperatorDiff(uid, nothing, nothing, nothing, 0, comparable=False)
    views = [decoded(saved, uid) if saved in there else None for saved in (before, after)]
    old, new = views
    if old is None or new is None:
        whole = old or new
        assert whole is not None
        names = whole.table.select(_identity(whole))
        empty = names.schema.empty_table()
        return OperatorDiff(uid, empty if old else names, empty, names if old else empty, 0)
    if old.identity != new.identity or old.table.schema != new.table.schema:
        return OperatorDiff(uid, new.table.select(_identity(new)), nothing, old.table.select(_identity(old)), 0)
    return _by_identity(uid, old, new) if old.identity else _by_row(uid, old, new)


def _identity(view: StateView) -> list[str]:
    return list(view.identity or view.table.column_names)


def _by_identity(uid: str, old: StateView, new: StateView) -> OperatorDiff:
    names = _identity(old)
    index = KeyIndex([old.table.schema.field(name).type for name in names], 0)
    slots = _slots(index, old.table, names)
    row_of = np.full(max(index.high, 1), -1, np.int64)
    row_of[slots] = np.arange(old.table.num_rows)
    known = index.high
    found = _slots(index, new.table, names)
    there = np.flatnonzero(found < known)
    at = row_of[found[there]]
    equal = np.ones(len(there), np.bool_)
    for name in (column for column in old.table.column_names if column not in names):
        equal &= _same(_comparable(old.table.column(name)).take(pa.array(at)), _comparable(new.table.column(name)).take(pa.array(there)))
    gone = np.ones(old.table.num_rows, np.bool_)
    gone[at] = False
    keys = new.table.select(names)
    return OperatorDiff(
        uid,
        keys.take(pa.array(np.flatnonzero(found >= known))),
        keys.take(pa.array(there[~equal])),
        old.table.select(names).take(pa.array(np.flatnonzero(gone))),
        int(equal.sum()),
    )


def _by_row(uid: str, old: StateView, new: StateView) -> OperatorDiff:
    """Rows without a name of their own: the same row may be there several times, and none is ever changed."""
    names = _identity(old)
    index = KeyIndex([_comparable(old.table.column(name)).type for name in names], 0)
    before, after = _slots(index, old.table, names), _slots(index, new.table, names)
    counts = [np.bincount(slots, minlength=index.high) for slots in (before, after)]
    added = _surplus(after, counts[1] - counts[0])
    removed = _surplus(before, counts[0] - counts[1])
    return OperatorDiff(
        uid,
        new.table.take(pa.array(added)),
        new.table.schema.empty_table(),
        old.table.take(pa.array(removed)),
        new.table.num_rows - len(added),
    )


def _surplus(slots: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Positions of as many rows of each slot as there are more of it."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < more[ordered]])


def _slots(index: KeyIndex, table: pa.Table, names: list[str]) -> np.ndarray:
    columns = [_comparable(table.column(name)) for name in names]
    return index.lookup_or_insert(index.codec.encode(columns, table.num_rows, index.seed))


def _comparable(column: pa.ChunkedArray) -> pa.Array:
    """Values of nested types as text: Arrow does not compare them, and they are no keys."""
    if not pa.types.is_nested(column.type):
        return contiguous(column)
    return pa.array([None if value is None else repr(value) for value in column.to_pylist()], pa.string())


def _same(old: pa.Array, new: pa.Array) -> np.ndarray:
    """Row by row; nulls are equal, and so are NaNs."""
    equal = pc.or_(pc.fill_null(pc.equal(old, new), False), pc.and_(pc.is_null(old), pc.is_null(new)))
    if pa.types.is_floating(old.type):
        equal = pc.or_(equal, pc.fill_null(pc.and_(pc.is_nan(old), pc.is_nan(new)), False))
    return np.asarray(equal)
