"""Savepoints made of tables: the state of chosen running aggregates and process functions replaced, everything else copied. To repair a job, or to begin
one with totals."""

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
from flinkray.operators.process_store import STATE, USED
from flinkray.operators.process_views import is_process_state
from flinkray.operators.restore import KEY_GROUP
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.state.key_index import KeyIndex
from flinkray.state.layout import AggregateLayout
from flinkray.state.results import ordered_words
from flinkray.state.table import KeyedTable, encode_rows

_WRITABLE = ("count", "sum", "min", "max")


def write_savepoint(saved: StateSource, savepoints: Savepoints, name: str, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Returns the new savepoint's document. Every table is checked before the name is taken. Raises UsageError, RestoreError, StorageError."""
    manifest = saved.manifest
    chunks = {uid: _chunks(saved, uid, table) for uid, table in tables.items()}
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


Chunks = Mapping[str, Mapping[str, pa.Table]]
"""What is written, by operator uid and state name."""


def _replaced(state: StateRef, chunks: Chunks) -> bool:
    """Keys of aggregates that waited to be emitted are forgotten with what they would have emitted."""
    return state.uid in chunks and (state.name in chunks[state.uid] or state.name == PENDING_STATE)


def _written(creation: Creation, manifest: Manifest, target: Target, chunks: Chunks) -> list[StateRef]:
    everything = KeyGroupRange(0, manifest.max_parallelism)
    namer = creation.object_namer(manifest.claim, manifest.checkpoint, manifest.attempt)
    states = []
    for number, (uid, named) in enumerate(sorted(chunks.items())):
        builder = ObjectBuilder(namer(number), target.origin, target.data_key, target.compress)
        for name, chunk in named.items():
            ref = builder.add(uid, name, "keyed", True, manifest.checkpoint, everything, chunk)
            states.append(StateRef(uid, 0, name, "keyed", everything.start, everything.stop, (ref,)))
        creation.store.put_parts(builder.object_name, builder.parts())
    return states


def _chunks(saved: StateSource, uid: str, table: pa.Table) -> dict[str, pa.Table]:
    names = [state.name for state in saved.manifest.states if state.uid == uid]
    return _process_chunks(saved, uid, table) if is_process_state(names) else {ROWS_STATE: _aggregate_chunk(saved, uid, table)}


def _process_chunks(saved: StateSource, uid: str, table: pa.Table) -> dict[str, pa.Table]:
    """By state: the keys that have a value of it. Timers stay as they are; what has a time to live begins it with the restore."""
    schemas = _process_schemas(saved, uid)
    key_fields = [field for field in next(iter(schemas.values())) if field.name.startswith("_key") and field.name != KEY_GROUP]
    shown = ["key"] if len(key_fields) == 1 else [f"key{number}" for number in range(len(key_fields))]
    wanted = [*shown, *(name.removeprefix(STATE) for name in schemas)]
    if sorted(table.column_names) != sorted(wanted):
        raise UsageError(f"the table for {uid!r} has the columns {', '.join(table.column_names)}; give {', '.join(wanted)}")
    keys = [_cast(uid, table, pa.field(name, field.type)) for name, field in zip(shown, key_fields, strict=True)]
    manifest = saved.manifest
    batch = pa.RecordBatch.from_arrays(list(map(contiguous, keys)), names=[field.name for field in key_fields])
    index = KeyIndex([field.type for field in key_fields], manifest.hash_seed)
    index.lookup_or_insert(index.keys(batch, batch.schema.names))
    if len(index) != table.num_rows:
        raise UsageError(f"the table for {uid!r} has {table.num_rows} rows and {len(index)} different keys: give each key once")
    groups = key_groups(hash_keys(batch, batch.schema.names, manifest.hash_seed), manifest.max_parallelism)
    order = np.argsort(groups, kind="stable")
    chunks = {}
    for name, schema in schemas.items():
        value = contiguous(_cast(uid, table, pa.field(name.removeprefix(STATE), schema.field("value").type)))
        chosen = pa.array(order[value.is_valid().to_numpy(zero_copy_only=False)[order]])
        columns = [pa.array(groups).take(chosen), *(column.take(chosen) for column in batch.columns)]
        chunks[name] = pa.table([*columns, pa.array(np.ones(len(chosen), np.bool_)), value.take(chosen)], schema=schema)
    return chunks


def _process_schemas(saved: StateSource, uid: str) -> dict[str, pa.Schema]:
    """Of the chunks of each state, without the column of its time to live."""
    found: dict[str, pa.Schema] = {}
    for state in saved.manifest.states:
        if state.uid == uid and state.name.startswith(STATE) and state.name not in found:
            for _, chain in saved.chains([replace(state, chunks=state.chunks[:1])]):
                found[state.name] = pa.schema([field for field in chain[0].schema if field.name != USED])
    if not found:
        raise RestoreError(f"checkpoint {saved.manifest.checkpoint} holds no state of {uid!r} yet")
    return found


def _aggregate_chunk(saved: StateSource, uid: str, table: pa.Table) -> pa.Table:
    """The table as the operator stores it."""
    manifest = saved.manifest
    kind, layout = manifest.operators.get(uid), manifest.layouts.get(uid)
    if kind is None:
        raise RestoreError(f"checkpoint {manifest.checkpoint} knows no operator {uid!r}; it knows: {', '.join(sorted(manifest.operators))}")
    if kind != "keyed_aggregate" or layout is None:
        raise UsageError(
            f"operator {uid!r} is a {kind}: tables are written of running aggregates (key_by().aggregate()) and process functions only"
        )
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
