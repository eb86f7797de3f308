"""Aggregates over tumbling and sliding windows of event time, from rows or from pre-aggregated parts of them.

A window answers when the watermark reaches its last microsecond, before the watermark goes on. With allowed lateness it is kept, and
answers again for the keys that late rows change. A row is late when all its windows are over: end - 1 us + lateness <= watermark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MIN_WATERMARK, TIMESTAMP
from flinkray.errors import PlanError, ProtocolError
from flinkray.graph.aggregates import PANE, WINDOW_END, WINDOW_START, Aggregate, result_schema, rows_column
from flinkray.graph.windows import SessionWindow, Window
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.pane_tables import PANE_FIELD, PaneRows, PaneTables
from flinkray.operators.restore import TableCapture, capture_watermark, restored_watermark, unfinished
from flinkray.state.arrow_buffers import words_of
from flinkray.state.grouping import pane_starts, sort_by_pane
from flinkray.state.growth import rows_at_most
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.layout import AggregateLayout
from flinkray.state.table import KeyedTable, Snapshots, encode_parts, encode_rows, is_as_now, read_rows

PANES_STATE = "panes"


class WindowAggregateOperator(Operator):
    """Emits `aggregates.result_schema`: keys, window_start, window_end, aggregates, event time window_end - 1 us. Late rows go to
    `late_tag` as they came (not when pre-aggregated), or are counted as rows."""

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
        if isinstance(window, SessionWindow):
            raise PlanError("session windows have an operator of their own")
        if pre_aggregated and late_tag is not None:
            raise PlanError("late rows that are wanted one by one cannot be pre-aggregated")
        self._keys, self._aggregates, self._window = tuple(keys), tuple(aggregates), window
        self._lateness_us, self._late_tag, self._pre_aggregated = lateness_us, late_tag, pre_aggregated
        self._snapshots = Snapshots()

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        restored = unfinished(restored)
        schema = context.input_schema()
        if self._pre_aggregated:
            if context.output_schema is None:
                raise ProtocolError(f"{context.name}: the result's types are not in the plan, and cannot be told from parts")
            self._schema = context.output_schema
            self._layout = AggregateLayout.of_partials(self._aggregates, schema, self._schema)
        else:
            self._schema = context.output_schema or result_schema(self._keys, self._aggregates, self._window, schema)
            self._layout = AggregateLayout.of_rows(self._aggregates, schema)
        self._key_fields = [self._schema.field(key) for key in self._keys]
        kinds = [field.type for field in self._key_fields]
        watermark = restored_watermark(restored) if restored else MIN_WATERMARK
        self._codec = KeyCodec(kinds)
        self._panes = PaneTables(self._window, self._lateness_us, self._layout, self._codec, context.hash_seed, watermark)
        for state in restored:
            if state.name == PANES_STATE:
                self._restore(state, restored_checkpoint)
        self._measure()

    # --- rows and time

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if self._pre_aggregated:
            panes = words_of(batch.column(PANE))
        else:
            panes = pane_starts(words_of(batch.column(EVENT_TIME)), self._window.pane_us, self._window.offset_us)
        order, starts, bounds = sort_by_pane(panes)
        if order is not None:
            batch = batch.take(pa.array(order))
        program = self._layout.merge(batch) if self._pre_aggregated else self._layout.update(batch)
        rows = PaneRows(self._codec.keys(batch, self._keys, self.context.hash_seed), program)
        touched: dict[int, np.ndarray] = {}
        for pane, start, stop in zip(starts.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if self._panes.is_late(pane):
                self._late(batch.slice(start, stop - start), out)
                continue
            slots = self._panes.fold(pane, rows, start, stop, self._snapshots.generation)
            if self._lateness_us:
                touched[pane] = slots.copy()
        if self._lateness_us:
            self._refine(touched, out)
            self._snapshots.generation += 1
        self._measure()

    def _late(self, part: pa.RecordBatch, out: Output) -> None:
        if self._late_tag is not None:
            out.emit(part, self._late_tag)
        elif self._pre_aggregated:
            self.context.metrics.late_rows += int(words_of(part.column(rows_column(self._aggregates))).sum())
        else:
            self.context.metrics.late_rows += part.num_rows

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._panes.watermark_us:
            return
        for ends, merged in self._panes.windows(self._panes.advance(watermark_us), self.context.batch_rows):
            if isinstance(merged, KeyedTable):
                self._emit_table(ends[0], merged, out)
            else:
                self._emit_merged(np.repeat(ends, merged), out)
        self._panes.drop_over()
        self._measure()

    def _refine(self, touched: dict[int, np.ndarray], out: Output) -> None:
        for end, parts in self._panes.refined(touched):
            self._emit_table(end, self._panes.window_of(end, parts), out)

    def _emit_table(self, end: int, table: KeyedTable, out: Output) -> None:
        step = rows_at_most(self.context.batch_rows, table.rows)
        for start in range(0, len(table), step):
            slots = np.arange(start, min(start + step, len(table)), dtype=np.int32)
            words = self._layout.gather(table.rows, slots)
            out.emit(self._result(np.full(len(slots), end), table.index.copy_keys(slots).columns(), words))

    def _emit_merged(self, ends: np.ndarray, out: Output) -> None:
        """The rows in the merger; `ends`: the window of each."""
        merger = self._panes.merger
        for start in range(0, len(ends), self.context.batch_rows):
            stop = min(start + self.context.batch_rows, len(ends))
            out.emit(self._result(ends[start:stop], merger.keys(start, stop), merger.words(start, stop)))

    def _result(self, ends: np.ndarray, keys: list[pa.Array], words: np.ndarray) -> pa.RecordBatch:
        columns: dict[str, Any] = dict(zip(self._keys, keys, strict=True))
        columns |= zip((a.output for a in self._aggregates), self._layout.results(words), strict=True)
        columns[WINDOW_START] = pa.array(ends - self._window.size_us, TIMESTAMP)
        columns[WINDOW_END] = pa.array(ends, TIMESTAMP)
        columns[EVENT_TIME] = pa.array(ends - 1)
        return pa.RecordBatch.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)

    # --- state

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        since = self._snapshots.base_generation(base_id)
        copies = self._panes.copies(since)
        rows = sum(len(copy) for copy, _ in copies)
        if since is not None and base_id is not None and not self._snapshots.worth_a_delta(base_id, rows, len(self._panes)):
            since, copies, rows = None, self._panes.copies(None), len(self._panes)
        self._snapshots.taken(checkpoint_id, base_id, since is not None, rows)
        full = since is None

        def encode() -> pa.Table | None:
            if not copies:
                return self._empty_chunk() if full else None
            return encode_rows(copies, self._key_fields, self._layout.names, self.context.max_parallelism)

        def parts() -> Iterator[pa.Table]:
            if copies:
                yield from encode_parts(copies, self._key_fields, self._layout.names, self.context.max_parallelism)
            elif full:
                yield self._empty_chunk()

        return [TableCapture(PANES_STATE, "keyed", full, encode, parts), capture_watermark(self._panes.watermark_us)]

    def _empty_chunk(self) -> pa.Table:
        kinds = [field.type for field in self._key_fields]
        copy = KeyedTable(kinds, self._layout.initial, self.context.hash_seed).copy()
        return encode_rows([(copy, [(PANE_FIELD, 0)])], self._key_fields, self._layout.names, self.context.max_parallelism)

    def _restore(self, state: RestoredState, checkpoint_id: int | None) -> None:
        as_now = True
        for chain in state.chains:
            for chunk in chain:
                self._load(chunk)
                as_now = as_now and is_as_now(chunk, self._key_fields, self._layout.names)
        if state.continues and checkpoint_id is not None and as_now:
            self._snapshots.restored(checkpoint_id, state.chains[0], len(self._panes))

    def _load(self, chunk: pa.Table) -> None:
        """Panes that are over by now are left out: nothing says in a delta that they were dropped."""
        if not chunk.num_rows:
            return
        order, starts, bounds = sort_by_pane(chunk.column(PANE).to_numpy())
        if order is not None:
            chunk = chunk.take(pa.array(order))
        for position, pane in enumerate(starts.tolist()):
            if not self._panes.is_late(pane):
                part = chunk.slice(int(bounds[position]), int(bounds[position + 1] - bounds[position]))
                kinds = [field.type for field in self._key_fields]
                rows = read_rows(part, self._keys, self._layout.names, self.context.name, kinds, self._layout.initial_words)
                self._panes.load(pane, *rows)

    def _measure(self) -> None:
        self.context.metrics.state_rows = len(self._panes)
        self.context.metrics.state_bytes = self._panes.memory_bytes
