"""The first row of each key, and no other: `distinct`, and `deduplicate(keep="first")`.

By arrival a row passes at once when its key is new. By event time the earliest row of a key waits until the watermark says that none
before it will come; so the answer does not depend on the order of arrival. Keys that have had their row are kept, for ever or for a time
to live after that row's time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import PlanError
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.join_rows import plain_columns
from flinkray.operators.restore import capture_watermark, restored_watermark
from flinkray.operators.row_states import RowStates
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows
from flinkray.state.row_buffer import plain_schema

Int64Array = npt.NDArray[np.int64]
DONE, WAITING = "done", "waiting"
TIME = "time"


class FirstOperator(Operator):
    """Emits the input's columns. `by_time`: the first by event time, else the first to come. `ttl_us` counts by event time where rows have
    one, else by the clock."""

    def __init__(self, *, keys: Sequence[str], by_time: bool, ttl_us: int | None = None) -> None:
        self._keys, self._by_time, self._ttl_us = tuple(keys), by_time, ttl_us
        self._watermark = MIN_WATERMARK
        self._cleaned = MIN_WATERMARK

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schema()
        self._has_time = EVENT_TIME in schema.names
        if self._by_time and not self._has_time:
            raise PlanError(f"{context.name}: the first row by event time, but the rows have none; give the source a watermark")
        self._schema = context.output_schema or schema
        index = KeyIndex(KeyCodec([schema.field(key).type for key in self._keys]), context.hash_seed)
        self._done = KeyedRows(index, plain_schema(pa.schema([schema.field(key) for key in self._keys])), (TIME,))
        self._waiting = KeyedRows(index, plain_schema(schema), (TIME,))
        states, keys = {DONE: self._done, WAITING: self._waiting}, {DONE: self._keys, WAITING: self._keys}
        self._states = RowStates(context, index, states, keys)
        self._watermark = restored_watermark(restored)
        self._states.restore(restored, restored_checkpoint)
        self._states.measure()

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        batch = plain_columns(batch, self._waiting.schema)
        times = words_of(batch.column(EVENT_TIME)) if self._has_time else np.full(batch.num_rows, self._clock_us, np.int64)
        slots = self._states.slots(batch, WAITING)
        unique, first = np.unique(slots, return_index=True)
        if self._by_time:
            order = np.lexsort((np.arange(len(slots)), times, slots))
            first = order[np.flatnonzero(np.diff(slots[order], prepend=-1))]
        new = np.ones(len(unique), np.bool_)
        own, done = self._done.of(unique)
        new[own[self._done.word(TIME, done) > self._cutoff]] = False
        over = done[~np.isin(own, np.flatnonzero(~new))]
        self._done.remove(over, self._states.history.generation)
        if self._by_time:
            self._wait(batch, first[new], times, slots)
        else:
            chosen = np.sort(first[new])
            self._finish(batch.take(pa.array(chosen)), slots[chosen], times[chosen], self._watermark, out)
        self._states.tidy()
        self._states.measure()

    def _wait(self, batch: pa.RecordBatch, chosen: Int64Array, times: Int64Array, slots: npt.NDArray[np.int32]) -> None:
        """Rows of keys without a row, one for each key, take the place of later ones that wait."""
        own, waiting = self._waiting.of(slots[chosen])
        earlier = times[chosen][own] < self._waiting.word(TIME, waiting)
        self._waiting.remove(waiting[earlier], self._states.history.generation)
        beaten = np.zeros(len(chosen), np.bool_)
        beaten[own[~earlier]] = True
        chosen = chosen[~beaten]
        self._waiting.add(batch, chosen, slots[chosen], self._states.history.generation, **{TIME: times[chosen]})

    def _finish(self, rows: pa.RecordBatch, slots: npt.NDArray[np.int32], times: Int64Array, after_us: int, out: Output) -> None:
        """These rows go out, none behind the watermark `after_us` that was passed on."""
        if not rows.num_rows:
            return
        keys = rows.select(list(self._keys))
        self._done.add(keys, np.arange(rows.num_rows), slots, self._states.history.generation, **{TIME: times})
        columns = {name: rows.column(name) for name in rows.schema.names}
        if self._has_time and after_us not in (MIN_WATERMARK, MAX_WATERMARK):
            columns[EVENT_TIME] = pa.array(np.maximum(times, after_us + 1))
        arrays = [columns[field.name].cast(field.type) for field in self._schema]
        for start in range(0, rows.num_rows, self.context.batch_rows):
            out.emit(pa.RecordBatch.from_arrays(arrays, schema=self._schema).slice(start, self.context.batch_rows))

    # --- time

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._watermark:
            return
        passed_on, self._watermark = self._watermark, watermark_us
        if len(self._waiting):
            waiting = self._waiting.live()
            times = self._waiting.word(TIME, waiting)
            due = np.flatnonzero(times <= watermark_us)
            due = due[np.argsort(times[due], kind="stable")]
            self._finish(self._waiting.take(waiting[due]), self._waiting.slots_of(waiting[due]), times[due], passed_on, out)
            self._waiting.remove(waiting[due], self._states.history.generation)
        self._clean_up()

    def on_processing_time(self, now_s: float, out: Output) -> None:
        if not self._has_time:
            self._clean_up()

    @property
    def _clock_us(self) -> int:
        return int(self.context.clock() * 1e6)

    @property
    def _cutoff(self) -> int:
        """Keys whose row was at or before this time are forgotten."""
        now = self._watermark if self._has_time else self._clock_us
        return MIN_WATERMARK if self._ttl_us is None or now in (MIN_WATERMARK, MAX_WATERMARK) else now - self._ttl_us

    def _clean_up(self) -> None:
        if self._ttl_us is not None and self._cutoff > self._cleaned + self._ttl_us // 4:
            self._cleaned = self._cutoff
            positions = self._done.live()
            self._done.remove(positions[self._done.word(TIME, positions) <= self._cutoff], self._states.history.generation)
        self._states.tidy()
        self._states.measure()

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [*self._states.snapshot(checkpoint_id, base_id), capture_watermark(self._watermark)]
