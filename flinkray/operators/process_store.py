"""The slots of a process function's keys, and snapshots of state and timers.

Each state is a keyed state of its own: `_kg`, the key columns as `_key<i>`, `_live`, `value`. A row that is not live says that the key
has no value any more. State with a time to live has `_used` besides. Timers are written in full: `_kg`, keys, `time`. What watermark and largest event time were is a list state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import MIN_WATERMARK
from flinkray.errors import RestoreError
from flinkray.operators.base import OperatorContext, RestoredState, StateCapture
from flinkray.operators.deltas import DeltaHistory
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.process_backlog import Backlog
from flinkray.operators.process_cells import CellsCopy
from flinkray.operators.process_state import BoundState
from flinkray.operators.process_timers import Int64Array, Timers
from flinkray.operators.restore import KEY_GROUP, TableCapture, begun_anew
from flinkray.state.frozen import StillRows
from flinkray.state.growth import grown
from flinkray.state.key_encoding import Keys
from flinkray.state.key_hash import key_groups
from flinkray.state.key_index import KeyCopy, KeyIndex, StillKeys
from flinkray.state.memory import current, passed_over

STATE, TIMERS, CLOCK = "state:", "timers:", "clock"
USED = "_used"
"""int64 column of state that does not live for ever: when it was last used, in microseconds."""
_FEW_KEYS = 1 << 16
_ROW_BYTES = 64
"""Of a row of a chunk, without its value where that is an object; about."""


class ProcessStore:
    """`index` finds the slot of a key. Keys without state and timers are forgotten now and then, once no snapshot needs to tell of it."""

    def __init__(
        self,
        context: OperatorContext,
        keys: Sequence[str],
        kinds: Sequence[pa.DataType],
        states: Sequence[BoundState],
        timers: Mapping[str, Timers],
        input_schema: pa.Schema,
    ) -> None:
        self.backlog = Backlog(context, keys, input_schema)
        self.index = KeyIndex(kinds, context.hash_seed)
        self.history = DeltaHistory()
        self.watermark = self.largest_us = MIN_WATERMARK
        self.keys, self.states = tuple(keys), tuple(states)
        self._context, self._timers = context, dict(timers)
        self._used = np.zeros(0, np.bool_)
        self._kept_by_sweep = 0

    # --- slots

    def slots(self, batch: pa.RecordBatch) -> npt.NDArray[np.int32]:
        """The slots of a batch's keys, with room in every state."""
        return self._slots_of(self.index.keys(batch, self.keys))

    def _slots_of(self, keys: Keys) -> npt.NDArray[np.int32]:
        slots = self.index.lookup_or_insert(keys)
        self._used = grown(self._used, self.index.high, 1 << 14)
        self._used[slots] = True
        for state in self.states:
            state.cells.make_room(self.index.high)
        return slots

    def expire(self) -> None:
        """Values whose time to live is over give their memory back, some time after that."""
        for state in self.states:
            cells = state.cells
            if cells.expiry is not None and cells.expiry.due():
                cells.forget(cells.expiry.over(cells.live(self.index.high)), self.history.generation)

    def sweep(self) -> None:
        """Forgets keys without state and timers, when there are twice as many keys as the last time."""
        if len(self.index) < 2 * self._kept_by_sweep + _FEW_KEYS:
            return
        high, oldest = self.index.high, self.history.oldest
        gone = self._used[:high].copy()
        for state in self.states:
            gone &= ~state.cells.live(high) & (state.cells.stamps[:high] <= oldest)
        for timers in self._timers.values():
            gone[timers.snapshot()[1]] = False
        slots = np.flatnonzero(gone)
        self._used[slots] = False
        for state in self.states:
            state.cells.stamps[slots] = 0
        self.index.remove(slots.astype(np.int32))
        self._kept_by_sweep = len(self.index)

    def measure(self) -> None:
        metrics = self._context.metrics
        metrics.state_rows = len(self.index)
        timers = sum(timers.memory_bytes for timers in self._timers.values())
        metrics.state_bytes = self.index.memory_bytes + timers + sum(state.cells.memory_bytes for state in self.states)

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        history = self.history
        since = history.changed_since(base_id)
        slots = [self._changed(state, since) for state in self.states]
        count, live = sum(map(len, slots)), len(self.index) * len(self.states)
        if since is not None and base_id is not None and not history.worth_a_delta(base_id, count, live):
            since, slots = None, [self._changed(state, None) for state in self.states]
            count = sum(map(len, slots))
        full = since is None
        history.close(checkpoint_id, count, None if full else base_id)
        captures: list[StateCapture] = [self._capture(state, at, full) for state, at in zip(self.states, slots, strict=True)]
        captures += [self._capture_timers(domain, timers) for domain, timers in self._timers.items()]
        clock = pa.table({"watermark": pa.array([self.watermark], pa.int64()), "largest": pa.array([self.largest_us], pa.int64())})
        return [*captures, ListCapture(CLOCK, clock), *self.backlog.captures()]

    def _changed(self, state: BoundState, since: int | None) -> Int64Array:
        high = self.index.high
        if since is None:
            return np.flatnonzero(state.cells.live(high))
        return np.flatnonzero(np.concatenate([stamps > since for stamps in passed_over(state.cells.stamps[:high])]))

    def _capture(self, state: BoundState, slots: Int64Array, full: bool) -> TableCapture:
        memory, groups, count = current(), self._context.max_parallelism, len(slots)
        keys = self.index.copy_keys(slots) if memory is None else self.index.still_keys(slots)
        copy, schema = state.cells.copy(slots), self._schema(state)
        used = None if state.cells.expiry is None else StillRows(state.cells.expiry.used, slots)

        def encode() -> pa.Table | None:
            return _chunk(keys, copy, used, schema, groups, 0, count) if full or count else None

        def parts() -> Iterator[pa.Table]:
            step = count if memory is None else memory.rows_of(_ROW_BYTES + 2 * copy.bytes_each)
            for start in range(0, count or full, max(step, 1)):
                yield _chunk(keys, copy, used, schema, groups, start, min(start + step, count))

        return TableCapture(STATE + state.name, "keyed", full, encode, parts)

    def _capture_timers(self, domain: str, timers: Timers) -> TableCapture:
        times, slots = timers.snapshot()
        unique, index = np.unique(slots, return_inverse=True)  # a copy of keys knows each key once
        keys, schema = self.index.copy_keys(unique), self._timer_schema()

        def encode() -> pa.Table:
            groups = key_groups(keys.hashes, self._context.max_parallelism)[index]
            order = np.argsort(groups, kind="stable")
            columns = [column.take(pa.array(index[order])) for column in keys.columns()]
            return pa.table([pa.array(groups[order]), *columns, pa.array(times[order])], schema=schema)

        return TableCapture(TIMERS + domain, "keyed", True, encode)

    def _key_fields(self) -> list[pa.Field]:
        return [pa.field(KEY_GROUP, pa.uint16()), *(pa.field(f"_key{i}", kind) for i, kind in enumerate(self.index.codec.kinds))]

    def _schema(self, state: BoundState) -> pa.Schema:
        used = [] if state.cells.expiry is None else [pa.field(USED, pa.int64())]
        return pa.schema([*self._key_fields(), pa.field("_live", pa.bool_()), pa.field("value", state.arrow), *used])

    def _timer_schema(self) -> pa.Schema:
        return pa.schema([*self._key_fields(), pa.field("time", pa.int64())])

    # --- restore

    def restore(self, restored: Sequence[RestoredState], checkpoint_id: int | None) -> None:
        by_name = {state.name: state for state in restored}
        self.backlog.restore(restored)
        clocks = origin_tables(restored, CLOCK)
        self.watermark = begun_anew(min((table["watermark"][0].as_py() for table in clocks), default=MIN_WATERMARK))
        self.largest_us = max((table["largest"][0].as_py() for table in clocks), default=MIN_WATERMARK)
        for state in self.states:
            for chain in by_name[STATE + state.name].chains if STATE + state.name in by_name else ():
                for chunk in chain:
                    self._load(state, chunk)
        for domain, timers in self._timers.items():
            for chain in by_name[TIMERS + domain].chains if TIMERS + domain in by_name else ():
                self._check(chain[-1], self._timer_schema(), f"{domain} timers")
                for batch in chain[-1].combine_chunks().to_batches():
                    timers.register_many(batch.column("time").to_numpy(), self._slots_of(self._keys_of(batch)).astype(np.int64))
        mine = [state for state in restored if state.name.startswith(STATE)]
        if mine and all(state.continues for state in mine):
            self.history.restored(checkpoint_id, *(state.chains[0] for state in mine))

    def _load(self, state: BoundState, chunk: pa.Table) -> None:
        self._check(chunk.select([name for name in chunk.column_names if name != USED]), self._schema(state), f"state {state.name!r}")
        expiry = state.cells.expiry
        for batch in chunk.combine_chunks().to_batches():
            slots = self._slots_of(self._keys_of(batch)).astype(np.int64)
            state.cells.load(slots, batch.column("value"), batch.column("_live").to_numpy(zero_copy_only=False))
            if expiry is not None and USED in batch.schema.names:
                expiry.used[slots] = batch.column(USED).to_numpy()
            elif expiry is not None:
                expiry.renew(slots)
            if (memory := current()) is not None:
                memory.keep()

    def _keys_of(self, batch: pa.RecordBatch) -> Keys:
        return self.index.keys(batch, [f"_key{i}" for i in range(len(self.keys))])

    def _check(self, chunk: pa.Table, schema: pa.Schema, what: str) -> None:
        if not chunk.schema.equals(pa.schema([field for field in schema if field.name != USED])):
            raise RestoreError(
                f"{self._context.uid!r}: {what} was saved with other keys or types; restore with --restore none, or with the job as "
                f"it was\nsaved:\n{chunk.schema}\nnow:\n{schema}"
            )


def _chunk(
    keys: KeyCopy | StillKeys, copy: CellsCopy, used: StillRows | None, schema: pa.Schema, max_parallelism: int, start: int, stop: int
) -> pa.Table:
    """Of the slots from one position to another."""
    keys = keys.part(start, stop)
    groups = key_groups(keys.hashes, max_parallelism)
    order = np.argsort(groups, kind="stable")
    valid, values = copy.part(start, stop)
    columns = [pa.array(groups[order]), *keys.columns(order), pa.array(valid[order]), values.take(pa.array(order))]
    columns += [] if used is None else [pa.array(used.part(start, stop)[order])]
    return pa.table(columns, schema=schema)
