"""The regular join of two keyed streams: rows meet whenever they come, in whatever order, as long as they are kept.

Each side keeps its rows by key; where that matters (outer, semi and anti joins) a kept row knows how many partners it has. What was said
and does not hold any more is taken back: a left row that came out alone is deleted when its first partner comes. Inputs may be changelogs
themselves. With a time to live rows are forgotten; what they gave stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import CHANGE, DELETE, EVENT_TIME, HIDDEN, INSERT, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import PlanError, ProtocolError
from flinkray.graph.joins import HALVES, HOWS, Join, Unbounded, check_join_keys, join_schema
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.join_rows import JoinResult, plain_columns
from flinkray.operators.restore import capture_watermark, restored_watermark
from flinkray.operators.row_states import RowStates
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_hash import hash_keys
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows, Slots
from flinkray.state.row_buffer import plain_schema

Int64Array = npt.NDArray[np.int64]

NAMES = ("left", "right")
TIME, COUNT, HASH = "time", "partners", "hash"
_CLEANED_PER_LIFE = 8
"""Rows whose life is over meet nobody; their memory comes back after at most this share of it."""


class RegularJoinOperator(Operator):
    """Emits `join.columns`; event time (the larger of both, never behind the watermark) where both inputs have it; the change where
    something may be taken back."""

    def __init__(self, *, join: Join) -> None:
        if not isinstance(join.over, Unbounded):
            raise PlanError("joins over windows and intervals have operators of their own")
        self._join, self._over = join, join.over
        self._alone, self._met, self._pairs = join.keeps, join.how == "semi", join.how not in HALVES
        self._counted = (self._alone[0] or self._met, self._alone[1])
        self._watermark = MIN_WATERMARK
        self._cleaned = [MIN_WATERMARK, MIN_WATERMARK]

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._inputs = schemas = [context.input_schema(0), context.input_schema(1)]
        join, self._keys = self._join, (self._join.left_keys, self._join.right_keys)
        check_join_keys(schemas[0], schemas[1], *self._keys, join.how, (*HOWS, *HALVES))
        self._has_time = all(EVENT_TIME in schema.names for schema in schemas)
        self._schema = context.output_schema or self._made_schema(schemas)
        self._result = JoinResult(join, pa.schema([field for field in self._schema if field.name != CHANGE]))
        index = KeyIndex(KeyCodec([schemas[0].field(key).type for key in join.left_keys]), context.hash_seed)
        kept = [plain_schema(pa.schema([field for field in schema if field.name not in HIDDEN])) for schema in schemas]
        self._rows = tuple(KeyedRows(index, schema, self._words(side)) for side, schema in enumerate(kept))
        states = dict(zip(NAMES, self._rows, strict=True))
        # rows that were saved when they had no time to live begin to age now
        self._states = RowStates(context, index, states, dict(zip(NAMES, self._keys, strict=True)), otherwise={TIME: self._clock_us})
        self._watermark = restored_watermark(restored)
        self._states.restore(restored, restored_checkpoint)
        self._states.measure()

    def _words(self, side: int) -> list[str]:
        """What this join must know of a kept row beside the row itself."""
        names = self._inputs[side].names
        wanted = {TIME: EVENT_TIME in names or self._over.ttl_us[side] is not None, COUNT: self._counted[side], HASH: CHANGE in names}
        return [word for word, is_wanted in wanted.items() if is_wanted]

    def _made_schema(self, schemas: Sequence[pa.Schema]) -> pa.Schema:
        schema = join_schema(schemas[0], schemas[1], self._join.columns)
        if self._has_time:
            schema = schema.append(pa.field(EVENT_TIME, pa.int64(), nullable=False))
        takes_back = any(self._counted) and self._join.how != "semi"
        if takes_back or any(CHANGE in each.names for each in schemas):
            schema = schema.append(pa.field(CHANGE, pa.int8(), nullable=False))
        return schema

    # --- rows

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        side = input_index
        rows = plain_columns(batch, self._rows[side].schema)
        times = words_of(batch.column(EVENT_TIME)) if EVENT_TIME in batch.schema.names else np.full(rows.num_rows, self._clock_us, np.int64)
        if CHANGE in batch.schema.names:
            added = batch.column(CHANGE).to_numpy() > 0
            if self._over.upserts[side]:
                self._replace(side, rows, times, added, out)
            else:
                self._retract(side, rows, times, added, out)
        else:
            self._add(side, rows, times, out)
        self._states.measure()

    def _replace(self, side: int, rows: pa.RecordBatch, times: Int64Array, added: npt.NDArray[np.bool_], out: Output) -> None:
        """Of an upsert stream the last change of each key counts; what is kept of the key goes first."""
        slots = self._states.slots(rows, NAMES[side])
        last = last_of_each(slots)
        _, found = self._rows[side].of(slots[last])
        self._remove(side, found, int(times.max()), out)
        chosen = last[added[last]]
        self._add(side, rows.take(pa.array(chosen)), times[chosen], out)

    def _retract(self, side: int, rows: pa.RecordBatch, times: Int64Array, added: npt.NDArray[np.bool_], out: Output) -> None:
        """What a batch adds and takes back itself is left out; the rest of what it takes back is kept, and goes first."""
        hashes = self._hashes(rows)
        _, same = np.unique(hashes, return_inverse=True)
        net = np.bincount(same, weights=np.where(added, 1, -1)).astype(np.int64)
        gone = _first_of_each(same, ~added, -net)
        if len(gone):
            self._remove(side, self._kept(side, rows.take(pa.array(gone)), hashes[gone]), int(times[gone].max()), out)
        come = _first_of_each(same, added, net)
        self._add(side, rows.take(pa.array(come)), times[come], out)

    def _kept(self, side: int, rows: pa.RecordBatch, hashes: Int64Array) -> Int64Array:
        """Positions of kept rows that are equal to these, for each another one, the oldest first. A row whose life is over is not there."""
        kept, slots = self._rows[side], self._states.slots(rows, NAMES[side])
        unique = np.unique(slots)
        _, found = kept.of(unique)
        mine = kept.word(HASH, found)
        order = np.lexsort((found, mine))
        found, mine = found[order], mine[order]
        wanted = np.sort(hashes)
        place = np.searchsorted(mine, wanted) + _number_in_run(wanted)
        within = place < len(mine)
        place = place[within]
        there = mine[place] == wanted[within]
        if np.count_nonzero(there) < len(wanted) and self._over.ttl_us[side] is None:
            raise ProtocolError(f"{self.context.uid!r}: its {NAMES[side]} input takes back a row that never came")
        return found[place[there]]

    def _add(self, side: int, rows: pa.RecordBatch, times: Int64Array, out: Output) -> None:
        if not rows.num_rows:
            return
        slots = self._states.slots(rows, NAMES[side])
        counts = self._meet(side, rows, slots, times, INSERT, out)
        self._tell_counts(side, rows, times, counts, INSERT, out)
        chosen, hashes = np.arange(rows.num_rows), np.zeros(rows.num_rows, np.int64)
        if CHANGE in self._inputs[side].names:
            hashes = self._hashes(rows)
        elif (mask := self._has_key(side, rows)) is not None:
            chosen = np.flatnonzero(mask)  # the others meet nobody, and nobody takes them back
        words = {TIME: times[chosen], COUNT: counts[chosen], HASH: hashes[chosen]}  # those that are wanted are kept
        self._rows[side].add(rows, chosen, slots[chosen], self._states.history.generation, **words)

    def _remove(self, side: int, positions: Int64Array, now_us: int, out: Output) -> None:
        """`now_us`: the event time of what takes the rows back."""
        if not len(positions):
            return
        kept = self._rows[side]
        rows, slots = kept.take(positions), kept.slots_of(positions)
        counts, times = kept.word_or(COUNT, positions, 0), np.maximum(kept.word_or(TIME, positions, now_us), now_us)
        kept.remove(positions, self._states.history.generation)
        self._meet(side, rows, slots, times, DELETE, out)
        self._tell_counts(side, rows, times, counts, DELETE, out)

    def _meet(self, side: int, rows: pa.RecordBatch, slots: Slots, times: Int64Array, change: int, out: Output) -> Int64Array:
        """Rows of a side with their partners: the pairs, and what changes for partners that had none, or have none any more. Returns how
        many partners each has."""
        other, mask = self._rows[1 - side], self._has_key(side, rows)
        having = np.arange(len(slots)) if mask is None else np.flatnonzero(mask)
        counts = np.zeros(len(slots), np.int64)
        for place, found in self._partners(side, slots[having]):
            own = having[place]
            counts += np.bincount(own, minlength=len(slots))
            if self._counted[1 - side]:
                self._change_partners(1 - side, own, found, times, change, out)
            if self._pairs:
                pair = (rows.take(pa.array(own)), other.take(found))
                left, right = pair if side == 0 else pair[::-1]
                self._emit(left, right, np.maximum(times[own], other.word_or(TIME, found, MIN_WATERMARK)), change, out)
        return counts

    def _partners(self, side: int, slots: Slots) -> Iterator[tuple[Int64Array, Int64Array]]:
        other, cutoff = self._rows[1 - side], self._cutoff(1 - side)
        for own, found in other.pairs(slots, self.context.batch_rows):
            if cutoff > MIN_WATERMARK:
                alive = other.word(TIME, found) > cutoff
                own, found = own[alive], found[alive]
            if len(own):
                yield own, found

    def _change_partners(self, side: int, own: Int64Array, found: Int64Array, times: Int64Array, change: int, out: Output) -> None:
        """Kept rows of `side` get (or lose) partners; the first one, and the last one, changes what they gave."""
        kept = self._rows[side]
        positions, number = np.unique(found, return_inverse=True)
        before = kept.word(COUNT, positions)
        after = before + np.bincount(number) * change
        kept.set_word(COUNT, positions, after, self._states.history.generation)
        turned = np.flatnonzero((before == 0) != (after == 0))
        if not len(turned):
            return
        latest = np.full(len(positions), MIN_WATERMARK, np.int64)
        np.maximum.at(latest, number, times[own])
        rows = kept.take(positions[turned])
        at = np.maximum(kept.word_or(TIME, positions[turned], MIN_WATERMARK), latest[turned])
        if self._alone[side]:
            self._emit_alone(side, rows, at, -change, out)
        elif self._met:
            self._emit(rows, None, at, change, out)

    def _tell_counts(self, side: int, rows: pa.RecordBatch, times: Int64Array, counts: Int64Array, change: int, out: Output) -> None:
        """What a row that comes, or goes, gives by itself."""
        if self._alone[side]:
            alone = np.flatnonzero(counts == 0)
            self._emit_alone(side, rows.take(pa.array(alone)), times[alone], change, out)
        elif side == 0 and self._met:
            met = np.flatnonzero(counts)
            self._emit(rows.take(pa.array(met)), None, times[met], change, out)

    def _emit_alone(self, side: int, rows: pa.RecordBatch, times: Int64Array, change: int, out: Output) -> None:
        if self._alone[side]:
            self._emit(rows if side == 0 else None, rows if side == 1 else None, times, change, out)

    def _emit(self, left: pa.RecordBatch | None, right: pa.RecordBatch | None, times: Int64Array, change: int, out: Output) -> None:
        if not len(times):
            return
        if self._watermark not in (MIN_WATERMARK, MAX_WATERMARK):
            times = np.maximum(times, self._watermark + 1)
        batch = self._result.batch(left, right, times)
        if CHANGE in self._schema.names:
            batch = pa.RecordBatch.from_arrays([*batch.columns, pa.array(np.full(len(times), change, np.int8))], schema=self._schema)
        elif change < 0:
            raise ProtocolError(f"{self.context.uid!r}: a row is taken back, but the plan says that none is")
        out.emit(batch)

    def _hashes(self, rows: pa.RecordBatch) -> Int64Array:
        """Of whole rows: equal rows have equal ones."""
        return hash_keys(rows, rows.schema.names, self.context.hash_seed).view(np.int64)

    def _has_key(self, side: int, rows: pa.RecordBatch) -> npt.NDArray[np.bool_] | None:
        """Rows without a null in their key; None: all. A null equals nothing."""
        columns = [rows.column(key) for key in self._keys[side]]
        if not any(column.null_count for column in columns):
            return None
        return np.logical_and.reduce([column.is_valid().to_numpy(zero_copy_only=False) for column in columns])

    # --- time

    @property
    def _clock_us(self) -> int:
        return int(self.context.clock() * 1e6)

    def _cutoff(self, side: int) -> int:
        """Rows of the side up to this time are forgotten."""
        ttl = self._over.ttl_us[side]
        if ttl is None:
            return MIN_WATERMARK
        now = self._watermark if EVENT_TIME in self._inputs[side].names else self._clock_us
        return MIN_WATERMARK if now == MIN_WATERMARK else now - ttl if now != MAX_WATERMARK else MIN_WATERMARK

    def _clean_up(self) -> None:
        for side, kept in enumerate(self._rows):
            ttl, cutoff = self._over.ttl_us[side], self._cutoff(side)
            if ttl is None or cutoff < self._cleaned[side] + ttl // _CLEANED_PER_LIFE:
                continue
            self._cleaned[side] = cutoff
            positions = kept.live()
            kept.remove(positions[kept.word(TIME, positions) <= cutoff], self._states.history.generation)
        self._states.tidy()
        self._states.measure()

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us > self._watermark:
            self._watermark = watermark_us
            self._clean_up()

    def on_processing_time(self, now_s: float, out: Output) -> None:
        if not self._has_time:
            self._clean_up()

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [*self._states.snapshot(checkpoint_id, base_id), capture_watermark(self._watermark)]


def last_of_each(values: np.ndarray) -> Int64Array:
    """Position of the last of each value."""
    _, first = np.unique(values[::-1], return_index=True)
    return np.sort(len(values) - 1 - first)


def _number_in_run(values: Int64Array) -> Int64Array:
    """Of sorted values: how many equal ones stand before each."""
    return np.arange(len(values)) - np.searchsorted(values, values)


def _first_of_each(same: Int64Array, mask: npt.NDArray[np.bool_], wanted: Int64Array) -> Int64Array:
    """Positions where the mask is true: of each group as many as are wanted, the first ones."""
    positions = np.flatnonzero(mask)
    order = np.argsort(same[positions], kind="stable")
    number = np.empty(len(positions), np.int64)
    number[order] = _number_in_run(same[positions][order])
    return positions[number < wanted[same[positions]]]
