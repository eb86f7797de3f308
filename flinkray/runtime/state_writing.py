"""Savepoints made of tables: the state of chosen running aggregates replaced, everything else copied. To repair a job, or to begin one with totals."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray import __version__
from flinkray.checkpoint.chunk_writer import ObjectBuilder
from flinkray.checkpoint.manifest import CheckpointStats, Manifest
from flinkray.checkpoint.repack import Target, repack, sealed_bytes
from flinkray.checkpoint.savepoint_format import SavepointFacts
from flinkray.checkpoint.savepoints import Creation, Savepoints
from flinkray.checkpoint.state_source import StateSource
from flinkray.core.messages import StateRef
from flinkray.errors import FlinkrayError, RestoreError, StorageError, UsageError
from flinkray.graph.aggregates import FLAGS, Aggregate, has_flag
from flinkray.graph.state_layout import StateLayout
from flinkray.ids import KeyGroupRange
from flinkray.operators.keyed_aggregate import PENDING_STATE, ROWS_STATE
from flinkray.operators.restore import KEY_GROUP
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.layout import AggregateLayout
from flinkray.state.results import ordered_words
from flinkray.state.table import KeyedTable, encode_rows

_WRITABLE = ("count", "sum", "min", "max")


def write_savepoint(saved: StateSource, savepoints: Savepoints, name: str, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Returns the new savepoint's document. Every table is checked before the name is taken. Raises UsageError, RestoreError, StorageError."""
    manifest = saved.manifest
    chunks = {uid: _chunk(saved, uid, table) for uid, table in tables.items()}
    creation = savepoints.begin(name, by_run=False)
    try:
        data_key = savepoints.new_key(creation)
        namer = creation.object_namer(manifest.claim, manifest.checkpoint, manifest.attempt)
        target = Target(creation.store, data_key, manifest.origin, manifest.checkpoint, namer, "zstd")
        others = tuple(state for state in manifest.states if not _replaced(state, chunks))
        kept = repack(StateSource(replace(manifest, states=others), saved.store, saved.ring), target)
        states = (*kept, *_written(creation, manifest, target, chunks))
        rows = sum(chunk.rows for state in states for chunk in state.chunks)
        stats = CheckpointStats(sealed_bytes(states), 0, rows, 0.0, 0.0, True)
        facts = SavepointFacts(manifest.checkpoint, manifest.claim, manifest.fingerprint, "", __version__)
        savepoints.complete(creation, replace(manifest, states=states, transactions={}, stats=stats), data_key, facts)
    except FlinkrayError as error:
        with suppress(StorageError):
            savepoints.fail(creation, str(error))
        raise
    return savepoints.describe(name).document()


def _replaced(state: StateRef, chunks: Mapping[str, pa.Table]) -> bool:
    """Keys that waited to be emitted are forgotten with what they would have emitted."""
    return state.uid in chunks and state.name in (ROWS_STATE, PENDING_STATE)


def _written(creation: Creation, manifest: Manifest, target: Target, chunks: Mapping[str, pa.Table]) -> list[StateRef]:
    everything = KeyGroupRange(0, manifest.max_parallelism)
    namer = creation.object_namer(manifest.claim, manifest.checkpoint, manifest.attempt)
    states = []
    for number, (uid, chunk) in enumerate(sorted(chunks.items())):
        builder = ObjectBuilder(namer(number), target.origin, target.data_key, target.compress)
        ref = builder.add(uid, ROWS_STATE, "keyed", True, manifest.checkpoint, everything, chunk)
        creation.store.put_parts(builder.object_name, builder.parts())
        states.append(StateRef(uid, 0, ROWS_STATE, "keyed", everything.start, everything.stop, (ref,)))
    return states


def _chunk(saved: StateSource, uid: str, table: pa.Table) -> pa.Table:
    """The table as the operator stores it."""
    manifest = saved.manifest
    kind, layout = manifest.operators.get(uid), manifest.layouts.get(uid)
    if kind is None:
        raise RestoreError(f"checkpoint {manifest.checkpoint} knows no operator {uid!r}; it knows: {', '.join(sorted(manifest.operators))}")
    if kind != "keyed_aggregate" or layout is None:
        raise UsageError(f"operator {uid!r} is a {kind}: tables are written of running aggregates (key_by().aggregate()) only")
    _check_columns(uid, layout, table)
    key_fields = [layout.schema.field(key) for key in layout.keys]
    names = _word_names(saved, uid, len(key_fields))
    words = AggregateLayout(layout.aggregates, [layout.schema.field(a.output).type for a in layout.aggregates], names)
    keys = [contiguous(_cast(uid, table, field)) for field in key_fields]
    rows = KeyedTable([field.type for field in key_fields], words.initial, manifest.hash_seed)
    if table.num_rows:
        rows.load(keys, [pa.array(column) for column in _words(uid, layout, words, table)])
    if len(rows) != table.num_rows:
        raise UsageError(f"the table for {uid!r} has {table.num_rows} rows and {len(rows)} different keys: give each key once")
    return encode_rows([(rows.copy(), ())], key_fields, words.names, manifest.max_parallelism)


def _check_columns(uid: str, layout: StateLayout, table: pa.Table) -> None:
    wanted = [*layout.keys, *(aggregate.output for aggregate in layout.aggregates)]
    if sorted(table.column_names) != sorted(wanted):
        raise UsageError(f"the table for {uid!r} has the columns {', '.join(table.column_names)}; give {', '.join(wanted)}")
    for aggregate in layout.aggregates:
        kind = layout.schema.field(aggregate.output).type
        if aggregate.function not in _WRITABLE or not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
        ):
            raise UsageError(
                f"{uid!r}: {aggregate.describe()} cannot be written from its result; {', '.join(_WRITABLE)} of numbers and times can"
            )


def _word_names(saved: StateSource, uid: str, keys: int) -> list[str]:
    states = [state for state in saved.manifest.states if state.uid == uid and state.name == ROWS_STATE]
    chunks = [chunk for _, chain in saved.chains(states) for chunk in chain]
    if not chunks or chunks[0].column_names[0] != KEY_GROUP:
        raise RestoreError(f"checkpoint {saved.manifest.checkpoint} holds no state of {uid!r} yet")
    return list(chunks[0].column_names[1 + keys :])


def _words(uid: str, layout: StateLayout, words: AggregateLayout, table: pa.Table) -> list[np.ndarray]:
    """A column for each word, in order."""
    columns = {name: np.full(table.num_rows, value, np.int64) for name, value in words.initial_words.items()}
    for index, aggregate in enumerate(layout.aggregates):
        array = contiguous(_cast(uid, table, layout.schema.field(aggregate.output)))
        valid = pc.is_valid(array).to_numpy(zero_copy_only=False)
        value = ordered_words(array) if aggregate.function in ("min", "max") else words_of(array)
        first = f"_a{index}_0"
        _check_width(aggregate, words.widths[index])
        columns[first] = np.where(valid, value, columns[first])
        if has_flag(aggregate) and FLAGS in columns:
            columns[FLAGS] |= valid.astype(np.int64) << index
    return [columns[name] for name in words.names]


def _check_width(aggregate: Aggregate, width: int) -> None:
    if width != 1:
        raise UsageError(f"{aggregate.describe()} is kept in {width} words, and cannot be written from its result")


def _cast(uid: str, table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    try:
        return table.column(field.name).cast(field.type)
    except pa.ArrowException as error:
        raise UsageError(f"the table for {uid!r}: column {field.name!r} is no {field.type}: {error}") from None
