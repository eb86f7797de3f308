"""The interval join of two keyed streams: a left and a right row of one key meet when the right one's event time lies in an interval
around the left one's.

Every row that comes looks for partners among the kept rows of the other side and is then kept itself, until the watermark says that
no partner can come. Rows of an outer join that found none come out then, with their own event time; the watermark goes on so much
behind. A row is late when its event time is at or before the watermark: it is counted and dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import PlanError, RestoreError
from flinkray.graph.joins import Interval, Join
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.deltas import DeltaHistory
from flinkray.operators.join_rows import Int64Array, JoinResult, JoinSides, all_rows, plain_columns
from flinkray.operators.restore import KEY_GROUP, TableCapture, capture_watermark, restored_watermark, unfinished
from flinkray.state.arrow_buffers import words_of
from flinkray.state.arrow_memory import settled_tables
from flinkray.state.interval_rows import IntervalRows, SideCopy
from flinkray.state.join_kernels import NAME as ENTRY_NAME
from flinkray.state.join_kernels import TIME
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.state.key_index import KeyIndex
from flinkray.state.row_buffer import RowView, plain_schema

NAMES = ("left", "right")
"""The two states."""

NAME = "_name"
"""int64 column of a chunk: twice the row's number, plus one when it has found a partner. The last row of a number counts."""


class IntervalJoinOperator(Operator):
    """Emits `join.columns`, the event time is the larger of the two (of a row without a partner its own)."""

    def __init__(self, *, join: Join) -> None:
        if not isinstance(join.over, Interval):
            raise PlanError("window joins have an operator of their own")
        if join.over.lower_us > join.over.upper_us:
            raise PlanError(f"interval_join: lower {join.over.lower_us} us lies above upper {join.over.upper_us} us")
        self._join, self._interval = join, join.over
        self._watermark = MIN_WATERMARK
        self._history = DeltaHistory()

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        restored = unfinished(restored)
        self._sides = JoinSides(self._join, context)
        self._result = JoinResult(self._join, self._sides.output_schema)
        kept = [plain_schema(self._sides.kept_schema(side)) for side in (0, 1)]
        self._rows = IntervalRows(KeyIndex(self._sides.codec, context.hash_seed), kept, self._join.keeps)
        self._watermark = restored_watermark(restored)
        for side in (0, 1):
            self._rows.expire(side, self._cutoff(side))
        states = {state.name: state for state in restored}
        for side, name in enumerate(NAMES):
            for chain in states[name].chains if name in states else ():
                self._restore(side, chain, states[name].continues)
        if states and all(states[name].continues for name in NAMES):
            self._history.restored(restored_checkpoint, *(states[name].chains[0] for name in NAMES))
        self._measure()

    # --- rows and time

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        side = input_index
        batch, times = self._in_order(batch)
        rows = plain_columns(batch, self._rows.sides[side].rows.schema)
        has_key = self._sides.has_key(side, rows)
        if has_key is not None:
            self._emit_padded(side, rows, np.flatnonzero(~has_key), times, out)
            chosen = np.flatnonzero(has_key)
            rows, times = rows.take(pa.array(chosen)), times[chosen]
        if not rows.num_rows:
            return
        slots = self._rows.slots(self._sides.codec.keys(rows, self._sides.keys[side], self.context.hash_seed))
        hits = np.zeros(rows.num_rows, np.uint8)
        for own, found in self._rows.pairs(side, slots, times, self._bounds(side), self._history.generation, hits, self.context.batch_rows):
            self._emit_pairs(side, rows, times, own, found, out)
        alive = times > self._cutoff(side)
        if not alive.all():
            self._emit_padded(side, rows, np.flatnonzero(~alive & (hits == 0)), times, out)
        kept = all_rows(len(times), None if alive.all() else alive)
        self._rows.add(side, rows, kept, slots[kept], times[kept], hits[kept], self._history.generation)
        self._measure()

    def _in_order(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Int64Array]:
        """The rows in order of their event times, without late ones."""
        times = words_of(batch.column(EVENT_TIME))
        if np.any(times[1:] < times[:-1]):
            order = np.argsort(times, kind="stable")
            batch, times = batch.take(pa.array(order)), times[order]
        late = int(np.searchsorted(times, self._watermark, side="right"))
        self.context.metrics.late_rows += late
        return batch.slice(late), times[late:]

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._watermark:
            return
        self._watermark = watermark_us
        for side in (0, 1):
            lonely = self._rows.expire(side, self._cutoff(side))
            kept = self._rows.sides[side]
            for start in range(0, len(lonely), self.context.batch_rows):
                part = lonely[start : start + self.context.batch_rows]
                rows, times = kept.rows.view().take(part), kept.entries[part, TIME]
                self._emit_padded(side, rows, np.arange(len(part)), times, out)
        self._rows.tidy()
        self._measure()

    def output_watermark_us(self, input_us: int) -> int:
        """Rows without a partner come out when their interval is over, with event times before that."""
        if input_us in (MIN_WATERMARK, MAX_WATERMARK):
            return input_us
        left, right = self._join.keeps
        behind = max(self._interval.upper_us if left else 0, -self._interval.lower_us if right else 0, 0)
        return max(input_us - behind, MIN_WATERMARK)

    def _bounds(self, side: int) -> tuple[int, int]:
        """From when to when the other side's row may be, seen from a row of this side."""
        lower, upper = self._interval.lower_us, self._interval.upper_us
        return (lower, upper) if side == 0 else (-upper, -lower)

    def _cutoff(self, side: int) -> int:
        """Rows of the side up to this event time can find no partner among rows that are still to come."""
        if self._watermark in (MIN_WATERMARK, MAX_WATERMARK):
            return self._watermark
        return min(max(self._watermark - self._bounds(side)[1], MIN_WATERMARK), MAX_WATERMARK)

    def _emit_pairs(self, side: int, rows: pa.RecordBatch, times: Int64Array, own: Int64Array, found: Int64Array, out: Output) -> None:
        other = self._rows.sides[1 - side]
        pair = (rows.take(pa.array(own)), other.rows.view().take(found))
        left, right = pair if side == 0 else pair[::-1]
        out.emit(self._result.batch(left, right, np.maximum(times[own], other.entries[found, TIME])))

    def _emit_padded(self, side: int, rows: pa.RecordBatch, chosen: Int64Array, times: Int64Array, out: Output) -> None:
        if self._join.keeps[side] and len(chosen):
            alone = rows.take(pa.array(chosen))
            left, right = (alone, None) if side == 0 else (None, alone)
            out.emit(self._result.batch(left, right, times[chosen]))

    def _measure(self) -> None:
        self.context.metrics.state_rows = len(self._rows)
        self.context.metrics.state_bytes = self._rows.memory_bytes

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        since = self._history.changed_since(base_id)
        copies = [side.copy(since) for side in self._rows.sides]
        count = sum(map(len, copies))
        if since is not None and base_id is not None and not self._history.worth_a_delta(base_id, count, len(self._rows)):
            since, copies = None, [side.copy(None) for side in self._rows.sides]
            count = sum(map(len, copies))
        full = since is None
        self._history.close(checkpoint_id, count, None if full else base_id)
        captures: list[StateCapture] = [self._capture(side, copy, full) for side, copy in enumerate(copies)]
        return [*captures, capture_watermark(self._watermark)]

    def _capture(self, side: int, copy: SideCopy, full: bool) -> TableCapture:
        keys, seed, max_parallelism = self._sides.keys[side], self.context.hash_seed, self.context.max_parallelism

        def encode() -> pa.Table | None:
            if not full and not len(copy):
                return None
            rows = copy.view.take(copy.positions)
            groups = key_groups(hash_keys(rows, keys, seed), max_parallelism)
            order = np.argsort(groups, kind="stable")
            arrays = [groups[order], copy.names[order], copy.times[order]]
            return pa.table([*map(pa.array, arrays), *rows.take(pa.array(order)).columns], schema=chunk_schema(copy.view))

        return TableCapture(NAMES[side], "keyed", full, encode)

    def _restore(self, side: int, chain: Sequence[pa.Table], continues: bool) -> None:
        schema = chunk_schema(self._rows.sides[side].rows.view())
        chain = settled_tables(chain)
        for chunk in chain:
            if not chunk.schema.equals(schema):
                raise RestoreError(
                    f"{self.context.uid!r}: the rows of its {NAMES[side]} side were saved with other columns; restore with "
                    f"--restore none, or with the job as it was\nsaved:\n{chunk.schema}\nnow:\n{schema}"
                )
        table = pa.concat_tables(chain).combine_chunks()
        if not table.num_rows:
            return
        numbers = words_of(table.column(NAME).chunk(0))
        self._load(side, table.take(pa.array(last_of_each(numbers >> 1))), int(numbers.max() >> 1) + 1 if continues else None)

    def _load(self, side: int, table: pa.Table, next_number: int | None) -> None:
        """Rows that are over by now are left out. With `next_number` rows keep their numbers, since a delta may follow on the chain."""
        kept, batch = self._rows.sides[side], table.combine_chunks().to_batches()[0]
        times = words_of(batch.column(EVENT_TIME))
        order = np.argsort(times, kind="stable")
        order = order[times[order] > kept.cutoff]
        rows = batch.select(kept.rows.schema.names).take(pa.array(order))
        names, times = words_of(batch.column(NAME))[order], times[order]
        slots = self._rows.slots(self._sides.codec.keys(rows, self._sides.keys[side], self.context.hash_seed))
        hits = (names & 1).astype(np.uint8)
        positions = self._rows.add(side, rows, np.arange(len(order)), slots, times, hits, 0)
        if next_number is not None:
            kept.entries[positions, ENTRY_NAME] = names
            kept.next_name = next_number


def chunk_schema(view: RowView) -> pa.Schema:
    numbers = [pa.field(KEY_GROUP, pa.uint16()), pa.field(NAME, pa.int64()), pa.field(EVENT_TIME, pa.int64())]
    return pa.schema([*numbers, *view.schema])


def last_of_each(numbers: Int64Array) -> npt.NDArray[np.int64]:
    """Positions of the last of each number."""
    _, first = np.unique(numbers[::-1], return_index=True)
    return len(numbers) - 1 - first
