"""The as-of join: each left row meets the newest right row of its key that is not later.

Left rows wait for the watermark, which says that no right row before them will come; so the answer does not depend on the order of
arrival. Of the right rows those are kept that a later left row may still meet: the ones after the watermark, and of each key the newest
one before. A right row that deletes (of a changelog) ends what was before it. Late left rows meet what is kept at their arrival; late
right rows count from then on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import CHANGE, EVENT_TIME, HIDDEN, MAX_WATERMARK, MIN_WATERMARK, UPDATE_BEFORE
from flinkray.errors import PlanError
from flinkray.graph.joins import AsOf, Join
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.join_rows import JoinResult, JoinSides, plain_columns
from flinkray.operators.restore import capture_watermark, restored_watermark
from flinkray.operators.row_states import RowStates
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows, Slots
from flinkray.state.row_buffer import plain_schema

Int64Array = npt.NDArray[np.int64]

NAMES = ("left", "right")
TIME, GONE = "time", "gone"
_FEW = 1 << 14


class AsOfJoinOperator(Operator):
    """Emits `join.columns`, with the left row's event time (of a late one: just after the watermark)."""

    def __init__(self, *, join: Join) -> None:
        if not isinstance(join.over, AsOf) or join.how not in ("inner", "left"):
            raise PlanError(f"asof_join: how={join.how!r}; 'inner' or 'left'")
        self._join, self._tolerance_us = join, join.over.tolerance_us
        self._watermark = MIN_WATERMARK
        self._kept_by_prune = 0

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        sides = JoinSides(self._join, context)
        self._sides, self._result = sides, JoinResult(self._join, sides.output_schema)
        index = KeyIndex(sides.codec, context.hash_seed)
        kept = [plain_schema(pa.schema([field for field in schema if field.name not in HIDDEN])) for schema in sides.schemas]
        self._left, self._right = KeyedRows(index, kept[0], (TIME,)), KeyedRows(index, kept[1], (TIME, GONE))
        states = dict(zip(NAMES, (self._left, self._right), strict=True))
        self._states = RowStates(context, index, states, dict(zip(NAMES, sides.keys, strict=True)))
        self._watermark = restored_watermark(restored)
        self._restore(restored, restored_checkpoint)
        self._waiting_us = int(self._left.word(TIME, self._left.live()).min(initial=MAX_WATERMARK))
        self._states.measure()

    def _restore(self, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        self._states.restore(restored, restored_checkpoint)

    # --- rows and time

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        kept = (self._left, self._right)[input_index]
        gone = batch.column(CHANGE).to_numpy() if CHANGE in batch.schema.names else np.ones(batch.num_rows, np.int8)
        rows, times = plain_columns(batch, kept.schema), words_of(batch.column(EVENT_TIME))
        mask = self._sides.has_key(input_index, rows)
        if input_index == 0:
            if mask is not None:
                self._emit(rows.filter(pa.array(~mask)), self._on_time(times[~mask]), None, out)
            chosen = np.arange(rows.num_rows) if mask is None else np.flatnonzero(mask)
            more = {}
            self._waiting_us = min(self._waiting_us, int(times[chosen].min(initial=MAX_WATERMARK)))
        else:
            chosen = np.flatnonzero(gone != UPDATE_BEFORE) if mask is None else np.flatnonzero(mask & (gone != UPDATE_BEFORE))
            more = {GONE: (gone[chosen] < 0).astype(np.int64)}
        slots = self._states.slots(rows, NAMES[input_index])
        kept.add(rows, chosen, slots[chosen], self._states.history.generation, **{TIME: times[chosen], **more})
        if self._waiting_us <= self._watermark:
            self._answer(out, late=True)
        self._prune_all()
        self._states.measure()

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._watermark:
            return
        self._watermark = watermark_us
        if self._waiting_us <= watermark_us:
            self._answer(out)
        self._states.tidy()
        self._states.measure()

    def _on_time(self, times: Int64Array) -> Int64Array:
        """No row goes out behind the watermark."""
        return times if self._watermark in (MIN_WATERMARK, MAX_WATERMARK) else np.maximum(times, self._watermark + 1)

    def _answer(self, out: Output, late: bool = False) -> None:
        """Left rows up to the watermark, in order of time."""
        waiting = self._left.live()
        times = self._left.word(TIME, waiting)
        due = times <= self._watermark
        self._waiting_us = int(times[~due].min(initial=MAX_WATERMARK))
        waiting, times = waiting[due], times[due]
        order = np.argsort(times, kind="stable")
        waiting, times = waiting[order], times[order]
        told = self._on_time(times) if late else times
        slots = self._left.slots_of(waiting)
        unique, number = np.unique(slots, return_inverse=True)
        found = self._newest(number, times, unique)
        for start in range(0, len(waiting), self.context.batch_rows):
            part = slice(start, start + self.context.batch_rows)
            met = np.flatnonzero(found[part] >= 0)
            rows = self._left.take(waiting[part])
            if self._join.how == "left" and len(met) < rows.num_rows:
                alone = np.flatnonzero(found[part] < 0)
                self._emit(rows.take(pa.array(alone)), told[part][alone], None, out)
            if len(met):
                right = self._right.take(found[part][met])
                self._emit(rows.take(pa.array(met)), told[part][met], right, out)
        self._left.remove(waiting, self._states.history.generation)

    def _newest(self, number: npt.NDArray[np.intp], times: Int64Array, slots: Slots) -> Int64Array:
        """For each left row, of key `slots[number]`, the position of the right row that it meets; -1: none. Right rows of these keys that
        nobody can meet any more are removed."""
        own, positions = self._right.of(slots)
        at = self._right.word(TIME, positions)
        keys, moments = np.concatenate([own, number]), np.concatenate([at, times])
        side = np.repeat([0, 1], [len(own), len(number)])
        order = np.lexsort((np.arange(len(keys)), side, moments, keys))  # right rows before left ones of their time, in order of arrival
        place = np.where(side[order] == 0, np.arange(len(order)), -1)
        newest = np.maximum.accumulate(place) if len(place) else place
        last = order[newest]
        known = (newest >= 0) & (keys[last] == keys[order])
        if self._tolerance_us is not None:
            known &= moments[last] >= moments[order] - self._tolerance_us
        result = np.full(len(keys), -1, np.int64)
        result[order[known]] = last[known]
        found = result[len(own) :]
        known_left = found >= 0
        answer = np.where(known_left, positions[found] if len(positions) else -1, -1)
        answer[known_left & (self._right.word(GONE, np.maximum(answer, 0)) != 0)] = -1
        self._prune(own, positions, at)
        return answer

    def _prune(self, own: Int64Array, positions: Int64Array, times: Int64Array) -> None:
        """Of these right rows (in order of arrival in each key) only those stay that a left row after the watermark may meet."""
        before = np.flatnonzero(times <= self._watermark)
        order = before[np.lexsort((before, times[before], own[before]))]
        replaced = np.zeros(len(order), np.bool_)
        replaced[:-1] = own[order[1:]] == own[order[:-1]]
        over = replaced | (self._right.word(GONE, positions[order]) != 0)
        if self._tolerance_us is not None and self._watermark != MAX_WATERMARK:
            over |= times[order] <= self._watermark - self._tolerance_us
        self._right.remove(positions[order[over]], self._states.history.generation)

    def _prune_all(self) -> None:
        """Keys that no left row asks for are looked through when there are twice as many right rows."""
        if len(self._right) < 2 * self._kept_by_prune + _FEW:
            return
        positions = self._right.live()
        self._prune(self._right.slots_of(positions).astype(np.int64), positions, self._right.word(TIME, positions))
        self._kept_by_prune = len(self._right)

    def _emit(self, left: pa.RecordBatch, times: Int64Array, right: pa.RecordBatch | None, out: Output) -> None:
        if not left.num_rows or (right is None and self._join.how != "left"):
            return
        out.emit(self._result.batch(left, right, times))

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [*self._states.snapshot(checkpoint_id, base_id), capture_watermark(self._watermark)]
