"""Session windows by key: rows no further apart than the gap belong together, and answer when event time has reached their end.

A session ends `gap` after its last row. Two that touch, the gap exactly reached, are one. Rows come in any order and may join sessions
that were apart. Each batch is sorted by key and time, and placed as a whole by kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK, TIMESTAMP
from flinkray.errors import PlanError
from flinkray.graph.aggregates import WINDOW_END, WINDOW_START, Aggregate, result_schema
from flinkray.graph.windows import SessionWindow, Window
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.deltas import DeltaHistory
from flinkray.operators.restore import TableCapture, capture_watermark, restored_watermark, unfinished
from flinkray.operators.session_chunks import SessionChunks
from flinkray.state.growth import grown
from flinkray.state.layout import AggregateLayout
from flinkray.state.session_kernels import begin_rows
from flinkray.state.sessions import STEP_IDS, Placement, SessionStore

Int64Array = npt.NDArray[np.int64]

_SESSIONS = "sessions"


class SessionAggregateOperator(Operator):
    """Aggregates of the rows of each session, with `window_start`, its first row's time, and `window_end`, its last row's time + gap.

    A session answers when the watermark reaches its end (not a microsecond before: a row at its very end would still join it, and the
    answer must not hang on which came first). Rows are late when the session they form ended `lateness_us` or more before
    the watermark, and reaches none that is still there: they go to `late_tag`, or are counted. Late but allowed ones let
    their session answer again.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str],
        aggregates: Sequence[Aggregate],
        window: Window,
        lateness_us: int = 0,
        late_tag: str | None = None,
        pre_aggregated: bool = False,
    ) -> None:
        if not isinstance(window, SessionWindow):
            raise PlanError(f"session aggregate: its window is {window.describe()}, which is no session")
        if pre_aggregated:
            raise PlanError("session aggregate: rows cannot be pre-aggregated; a session is known when its key's rows are together")
        self._keys, self._aggregates, self._window = tuple(keys), tuple(aggregates), window
        self._lateness_us, self._late_tag = lateness_us, late_tag
        self._history = DeltaHistory()

    # --- open

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        restored = unfinished(restored)
        schema = context.input_schema()
        schema_of_results = result_schema(self._keys, self._aggregates, self._window, schema)  # checks columns and types, too
        self._schema = context.output_schema or schema_of_results
        self._layout = AggregateLayout.of_rows(self._aggregates, schema)
        kinds = [schema.field(key).type for key in self._keys]
        self._store = SessionStore(kinds, context.hash_seed, self._window.gap_us, self._lateness_us)
        self._chunks = SessionChunks(self._store.index.codec.kinds, tuple(self._layout.names), context.max_parallelism)
        self._rows = np.zeros((STEP_IDS, self._layout.width), np.int64)
        self._store.watermark = restored_watermark(restored)
        for state in restored:
            if state.name == _SESSIONS:
                self._restore(state, restored_checkpoint)
        self._measure()

    def _restore(self, state: RestoredState, checkpoint_id: int | None) -> None:
        store, names = self._store, self._layout.names
        for chain in state.chains:
            for chunk in chain:
                (gone, of_gone), (keys, of) = self._chunks.decode(chunk, store.index, self.context.uid)
                store.forget(gone, of_gone["_start"])
                ids = store.restore(keys, of["_start"], of["_last"], of["_state"])
                self._make_room()
                for word, name in enumerate(names, start=1):
                    self._rows[ids, word] = of[name]
        store.register_timers()
        if state.continues:
            self._history.restored(checkpoint_id, state.chains[0])

    # --- rows and time

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        store, generation = self._store, self._history.generation
        keys = store.index.keys(batch, self._keys)
        placement = store.place(keys, batch.column(EVENT_TIME).to_numpy(), generation)
        self._merge(placement)
        ids = placement.of_row
        if len(ids) and ids.min() < 0:
            self._too_late(batch.filter(pa.array(ids < 0)), out)
            batch, ids = batch.filter(pa.array(ids >= 0)), ids[ids >= 0]
        self._layout.run(self._layout.update(batch), self._rows, ids.astype(np.int32))
        self._answer(placement.answered, out)
        self._measure()

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._store.watermark:
            return
        due = self._store.advance(watermark_us, self._history.generation)
        self._answer(due.answered, out)
        self._store.close(due.over, self._history.generation)
        self._measure()

    def output_watermark_us(self, input_us: int) -> int:
        """One microsecond behind: sessions that end after `input_us` are still to come, with an event time of end - 1."""
        return input_us if input_us in (MIN_WATERMARK, MAX_WATERMARK) else input_us - 1

    def _merge(self, placement: Placement) -> None:
        """New sessions begin with nothing, and those that were merged away give theirs to the one that they went into."""
        self._make_room()
        begin_rows(self._rows, placement.opened, self._layout.initial)
        if len(placement.merged):
            program = self._layout.merge_rows(self._rows[placement.merged])
            self._layout.run(program, self._rows, placement.targets.astype(np.int32))
            self._store.release(placement.merged)

    def _make_room(self) -> None:
        self._rows = grown(self._rows, self._store.high, STEP_IDS)

    def _too_late(self, rows: pa.RecordBatch, out: Output) -> None:
        if self._late_tag is not None:
            out.emit(rows, self._late_tag)
        else:
            self.context.metrics.late_rows += rows.num_rows

    def _answer(self, ids: Int64Array, out: Output) -> None:
        for offset in range(0, len(ids), self.context.batch_rows):
            out.emit(self._results(ids[offset : offset + self.context.batch_rows]))

    def _results(self, ids: Int64Array) -> pa.RecordBatch:
        sessions = self._store.copy(ids)
        ends = sessions.lasts + self._window.gap_us
        columns = dict(zip(self._keys, sessions.keys.columns(), strict=True))
        columns[WINDOW_START] = pa.array(sessions.starts, TIMESTAMP)
        columns[WINDOW_END] = pa.array(ends, TIMESTAMP)
        results = self._layout.results(self._layout.gather(self._rows, ids.astype(np.int32)))
        columns |= zip((aggregate.output for aggregate in self._aggregates), results, strict=True)
        columns[EVENT_TIME] = pa.array(ends - 1)
        return pa.RecordBatch.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)

    def _measure(self) -> None:
        self.context.metrics.state_rows = len(self._store)
        self.context.metrics.state_bytes = self._store.memory_bytes + self._rows.nbytes

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        store, history = self._store, self._history
        since = history.changed_since(base_id)
        store.gone = [gone for gone in store.gone if gone.generation > history.oldest]
        gone = [names for names in store.gone if since is not None and names.generation > since]
        ids = store.changed_since(since)
        count = len(ids) + sum(len(names.starts) for names in gone)
        if since is not None and base_id is not None and not history.worth_a_delta(base_id, count, len(store)):
            since, gone, ids, count = None, [], store.changed_since(None), len(store)
        full = since is None
        history.close(checkpoint_id, count, None if full else base_id)
        sessions, words = store.copy(ids), self._layout.gather(self._rows, ids.astype(np.int32))
        chunks = self._chunks

        def encode() -> pa.Table | None:
            return chunks.encode(sessions, words, gone) if full or count else None

        return [TableCapture(_SESSIONS, "keyed", full, encode), capture_watermark(store.watermark)]
