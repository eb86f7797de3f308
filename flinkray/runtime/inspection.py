"""Looking into stored state: as tables, as a list, and as the difference of two checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.checkpoint.state_reader import StateReader
from flinkray.checkpoint.state_source import StateSource
from flinkray.config import KeyConfig
from flinkray.core.messages import StateRef
from flinkray.errors import RestoreError, UsageError
from flinkray.graph.state_layout import StateLayout
from flinkray.ids import KeyGroupRange
from flinkray.operators.process_views import is_process_state, process_table
from flinkray.operators.restore import cut_to_key_groups
from flinkray.operators.row_views import ROW_KINDS, rows_table, timers_table
from flinkray.operators.state_views import KINDS, SavedOperator, StateView, raw_table, view
from flinkray.state.key_hash import hash_keys, key_groups

TIMERS = "timers"
"""What `state` names to see the timers of a process function, decoded."""

_LIST_SCHEMA = pa.schema(
    [
        pa.field("operator", pa.string(), False),
        pa.field("kind", pa.string(), False),
        pa.field("state", pa.string(), False),
        pa.field("state_kind", pa.string(), False),
        pa.field("subtask", pa.int32(), False),
        pa.field("key_group_start", pa.int32()),
        pa.field("key_group_stop", pa.int32()),
        pa.field("chunks", pa.int32(), False),
        pa.field("rows", pa.int64(), False),
        pa.field("bytes", pa.int64(), False),
    ]
)


def open_saved(
    storage: str, application: str, at: str | int, key: KeyConfig | None = None, storage_options: Mapping[str, Any] | None = None
) -> StateSource:
    """What `at` names: "latest", the id of a checkpoint as a number or in digits, or "savepoint:NAME"."""
    reader = StateReader(storage, application, key, storage_options)
    if isinstance(at, str) and at.startswith("savepoint:"):
        return reader.savepoints.read(at.removeprefix("savepoint:"))[1]
    if isinstance(at, str) and at != "latest":
        if not at.isdecimal():
            raise UsageError(f"at={at!r}: give 'latest', the id of a checkpoint, or 'savepoint:NAME'")
        at = int(at)
    return reader.checkpoint(at)


def list_state(saved: StateSource) -> pa.Table:
    """A row for each operator, state and subtask; `rows` counts stored rows, deltas included, `bytes` what they take sealed."""
    rows = []
    for state in saved.manifest.states:
        keyed = state.kind == "keyed"
        rows.append(
            {
                "operator": state.uid,
                "kind": saved.manifest.operators.get(state.uid, ""),
                "state": state.name,
                "state_kind": state.kind,
                "subtask": state.subtask,
                "key_group_start": state.key_group_start if keyed else None,
                "key_group_stop": state.key_group_stop if keyed else None,
                "chunks": len(state.chunks),
                "rows": sum(chunk.rows for chunk in state.chunks),
                "bytes": sum(chunk.sealed_bytes for chunk in state.chunks),
            }
        )
    rows.sort(key=lambda row: (row["operator"], row["state"], row["subtask"]))
    return pa.Table.from_pylist(rows, schema=_LIST_SCHEMA)


def read_state(saved: StateSource, operator: str, key: Any = None, state: str | None = None) -> pa.Table:
    """The decoded state of an operator, or with `state` the chunks of that named state as they were written."""
    if state == TIMERS:
        if key is not None:
            raise UsageError("state= and key= do not go together; filter the table of timers")
        return timers_table(operator, _by_state(saved, operator))
    if state is not None:
        if key is not None:
            raise UsageError("state= gives raw chunks; key= works on decoded tables only")
        named = [ref for ref in _states_of(saved, operator) if ref.name == state]
        if not named:
            names = sorted({ref.name for ref in _states_of(saved, operator)})
            raise RestoreError(
                f"operator {operator!r} has no state {state!r} in checkpoint {saved.manifest.checkpoint}; it has: {', '.join(names)}"
            )
        return raw_table(saved.chains(named))
    if operator not in saved.manifest.layouts and is_decodable(saved, operator):
        if key is not None:
            raise UsageError(f"key= finds keys of aggregates; filter the table of {operator!r} by its key columns")
        return decoded(saved, operator).table
    wanted = None if key is None else _Key.of(_layout(saved, operator), operator, key)
    table = decoded(saved, operator, wanted.group(saved) if wanted else None).table
    return wanted.rows(table) if wanted else table


def decoded(saved: StateSource, operator: str, key_group: int | None = None) -> StateView:
    """Raises RestoreError for an unknown operator, or one whose state has no decoded form."""
    states, manifest = _states_of(saved, operator), saved.manifest
    if operator not in manifest.layouts and is_process_state([state.name for state in states]):
        return StateView(*process_table(operator, _by_state(saved, operator), manifest.hash_seed))
    if manifest.operators.get(operator) in ROW_KINDS:
        return StateView(rows_table(operator, _by_state(saved, operator)), ())
    kind, layout = manifest.operators.get(operator, ""), _layout(saved, operator)
    chains: dict[str, list[tuple[int, tuple[pa.Table, ...]]]] = {}
    for state in states:
        for subtask, tables in saved.chains([state], key_group):
            if key_group is not None and state.kind == "keyed":
                tables = tuple(cut_to_key_groups(table, KeyGroupRange(key_group, key_group + 1)) for table in tables)
            chains.setdefault(state.name, []).append((subtask, tables))
    return view(kind, SavedOperator(operator, layout, chains, manifest.hash_seed))


def is_decodable(saved: StateSource, operator: str) -> bool:
    """As a table, and by key in a diff."""
    if operator not in saved.manifest.layouts:
        rows = saved.manifest.operators.get(operator) in ROW_KINDS
        return rows or is_process_state([state.name for state in saved.manifest.states if state.uid == operator])
    return saved.manifest.operators.get(operator) in KINDS


def _states_of(saved: StateSource, operator: str) -> list[StateRef]:
    states = [state for state in saved.manifest.states if state.uid == operator]
    if not states:
        known = sorted({state.uid for state in saved.manifest.states})
        raise RestoreError(
            f"checkpoint {saved.manifest.checkpoint} holds no state of an operator {operator!r}; it holds state of: {', '.join(known) or 'none'}"
        )
    return states


def _by_state(saved: StateSource, operator: str) -> dict[str, list[tuple[int, tuple[pa.Table, ...]]]]:
    states = _states_of(saved, operator)
    return {state.name: list(saved.chains([other for other in states if other.name == state.name])) for state in states}


def _layout(saved: StateSource, operator: str) -> StateLayout:
    names = sorted({state.name for state in _states_of(saved, operator)})
    if not is_decodable(saved, operator):
        kind = saved.manifest.operators.get(operator, "unknown")
        raise RestoreError(
            f"operator {operator!r} ({kind}) has no decoded table; read its chunks as they were written with state={' or '.join(map(repr, names))}"
        )
    return saved.manifest.layouts[operator]


@dataclass(frozen=True)
class _Key:
    """One key of an operator, as a row of its types."""

    columns: pa.RecordBatch

    @classmethod
    def of(cls, layout: StateLayout, operator: str, key: Any) -> _Key:
        """`key`: a value, a tuple for several key columns, or a dict by column. Raises UsageError."""
        names = layout.keys
        if isinstance(key, Mapping):
            if set(key) != set(names):
                raise UsageError(f"key={dict(key)!r}: the keys of {operator!r} are {', '.join(names)}")
            values: Sequence[Any] = [key[name] for name in names]
        else:
            values = list(key) if isinstance(key, tuple) else [key]
        if len(values) != len(names):
            raise UsageError(f"key={key!r} has {len(values)} values; the keys of {operator!r} are {', '.join(names)}")
        fields = [layout.schema.field(name) for name in names]
        try:
            arrays = [pa.array([value], field.type) for value, field in zip(values, fields, strict=True)]
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            types = ", ".join(f"{field.name} {field.type}" for field in fields)
            raise UsageError(f"key={key!r} does not fit the keys of {operator!r} ({types}): {error}") from None
        return cls(pa.RecordBatch.from_arrays(arrays, names=list(names)))

    def group(self, saved: StateSource) -> int | None:
        names = self.columns.schema.names
        return int(key_groups(hash_keys(self.columns, names, saved.manifest.hash_seed), saved.manifest.max_parallelism)[0])

    def rows(self, table: pa.Table) -> pa.Table:
        """Null is a key, NaN equals NaN."""
        mask = np.ones(table.num_rows, np.bool_)
        for name in self.columns.schema.names:
            column, wanted = table.column(name), self.columns.column(name)[0]
            if not wanted.is_valid:
                same = pc.is_null(column)
            elif pa.types.is_floating(column.type) and np.isnan(wanted.as_py()):
                same = pc.fill_null(pc.is_nan(column), False)
            else:
                same = pc.fill_null(pc.equal(column, wanted), False)
            mask &= same.to_numpy()
        return table.filter(pa.array(mask))
