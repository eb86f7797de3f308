"""The best n rows of every window: `RANK() <= n` within the window (and within keys), ties kept.

Mostly the rows are results of a window aggregate, whose event time is their window's end - 1. In two stages: before the shuffle each
subtask keeps what can still be among the best and lets it go on with its own event time; after it the final stage ranks over all.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME, HIDDEN, MIN_WATERMARK, TIMESTAMP
from flinkray.errors import PlanError, RestoreError
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow, Window
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.deltas import DeltaHistory
from flinkray.operators.ranking import Int64Array, OrderBy, order_codes, top_rows
from flinkray.operators.restore import TableCapture, capture_watermark, restored_watermark, unfinished
from flinkray.operators.window_panes import PANE, PaneBuffer, encode_panes, replay_panes
from flinkray.state.arrow_buffers import words_of
from flinkray.state.grouping import pane_starts, sort_by_pane
from flinkray.state.key_hash import hash_keys, key_groups

_ROWS = "rows"


class WindowTopNOperator(Operator):
    """`final=False` prunes only: rows leave when their pane is over, unchanged, and those of a pane that is over pass at once.

    The final stage emits a window when the watermark reaches its last microsecond, as input columns and, where the input has
    none of that name, `window_start` and `window_end`; the event time is the window's end - 1 µs. A row is late when all its
    windows are over: end - 1 µs + lateness <= watermark. It goes to `late_tag`, or is counted. One that is late but allowed
    lets its windows come out again.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str],
        by: OrderBy,
        n: int,
        window: Window,
        lateness_us: int = 0,
        late_tag: str | None = None,
        final: bool = True,
    ) -> None:
        if isinstance(window, SessionWindow):
            raise PlanError("top_n over session windows has no meaning without their keys; aggregate sessions, then use top_n")
        if n < 1 or not by:
            raise PlanError(f"top_n: n={n} and {len(by)} columns to order by; both must be at least 1")
        self._keys, self._by, self._n = tuple(keys), tuple(by), n
        self._window: TumblingWindow | SlidingWindow = window
        self._lateness_us, self._late_tag, self._final = lateness_us, late_tag, final
        self._slide_us = window.slide_us if isinstance(window, SlidingWindow) else window.size_us
        self._watermark = MIN_WATERMARK
        self._pending_ends: list[int] = []
        self._pending_drops: list[tuple[int, int]] = []
        self._history = DeltaHistory()

    # --- open

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        restored = unfinished(restored)
        schema = context.input_schema()
        self._check_columns(schema)
        self._panes = PaneBuffer(schema, self._best)
        states = {state.name: state for state in restored}
        self._watermark = restored_watermark(restored)
        if _ROWS in states:
            self._restore_rows(states[_ROWS], restored_checkpoint)
        self._measure()

    def _check_columns(self, schema: pa.Schema) -> None:
        needed = {EVENT_TIME, *self._keys, *(name for name, _ in self._by)}
        missing = sorted(needed - set(schema.names))
        if missing:
            raise PlanError(f"{self.context.uid!r}: top_n needs the columns {missing}; its input has {schema.names}")
        for name, direction in self._by:
            if direction not in ("asc", "desc"):
                raise PlanError(f"{self.context.uid!r}: order {direction!r} of {name!r} is neither 'asc' nor 'desc'")
            order_codes(pa.array([], schema.field(name).type), direction)

    def _restore_rows(self, state: RestoredState, checkpoint_id: int | None) -> None:
        context = self.context
        mine = state.chains if self._final else state.chains[context.subtask :: context.parallelism]
        for chain in mine:
            if chain[0].schema.names[2:] != self._panes.schema.names:
                raise RestoreError(
                    f"{context.uid!r}: its rows were saved with columns {chain[0].schema.names[2:]}, "
                    f"its input now has {self._panes.schema.names}; restore with --restore none"
                )
            for start, rows in replay_panes(chain, self._panes.schema).items():
                if self._dropped_at(start) > self._over_until:
                    self._keep(start, rows, rows.nbytes, generation=0)
        if state.continues:
            self._history.restored(checkpoint_id, state.chains[0])

    # --- rows and time

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        starts, pane = self._panes_of(words_of(batch.column(EVENT_TIME)))
        best = top_rows(batch, self._keys, self._by, self._n, pane)
        late = [number for number, start in enumerate(starts) if self._dropped_at(start) <= self._over_until]
        for number in late:
            self._too_late(batch.take(pa.array(np.flatnonzero(pane == number))), out)
        if late:
            best = best[~np.isin(pane[best], late)]
        self._keep_all(batch.take(pa.array(best)), starts, np.bincount(pane[best], minlength=len(starts)).tolist())
        if self._lateness_us:
            touched = [start for number, start in enumerate(starts) if number not in late]
            self._fire(self._ended_windows_of(touched), out)
        self._measure()

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._watermark:
            return
        self._watermark = watermark_us
        ends: list[int] = []
        while self._pending_ends and self._pending_ends[0] <= self._over_until:
            end = heapq.heappop(self._pending_ends)
            if not ends or ends[-1] != end:
                ends.append(end)
        self._fire(ends, out)
        while self._pending_drops and self._pending_drops[0][0] <= self._over_until:
            self._panes.drop(heapq.heappop(self._pending_drops)[1])
        self._measure()

    def _too_late(self, rows: pa.RecordBatch, out: Output) -> None:
        if not self._final:
            out.emit(rows)
        elif self._late_tag is not None:
            out.emit(rows, self._late_tag)
        else:
            self.context.metrics.late_rows += rows.num_rows

    def _keep_all(self, rows: pa.RecordBatch, starts: Sequence[int], counts: Sequence[int]) -> None:
        """Rows in order of their panes: so many of each."""
        row_bytes, first = rows.nbytes / max(1, rows.num_rows), 0
        for start, count in zip(starts, counts, strict=True):
            if count:
                self._keep(start, rows.slice(first, count), round(row_bytes * count), self._history.generation)
                first += count

    def _keep(self, start: int, rows: pa.RecordBatch, size_bytes: int, generation: int) -> None:
        if start not in self._panes:
            heapq.heappush(self._pending_drops, (self._dropped_at(start), start))
            for end in self._ends_of(start):
                if end > self._over_until:
                    heapq.heappush(self._pending_ends, end)
        self._panes.add(start, rows, size_bytes, generation)

    def _fire(self, ends: Sequence[int], out: Output) -> None:
        """Windows come out in the order given, several in a batch."""
        batches: list[pa.RecordBatch] = []
        fired: list[int] = []
        counts: list[int] = []
        for end in ends:
            found, rows = self._panes.among(range(end - self._span_us, end, self._window.pane_us))
            if counts and sum(counts) + rows > self.context.batch_rows:
                self._emit_best(batches, np.array(fired), counts, out)
                batches, fired, counts = [], [], []
            if rows:
                batches += found
                fired.append(end)
                counts.append(rows)
        if counts:
            self._emit_best(batches, np.array(fired), counts, out)

    def _emit_best(self, batches: list[pa.RecordBatch], ends: Int64Array, counts: Sequence[int], out: Output) -> None:
        """The best of each window; so many of the batches' rows are of each."""
        rows, window = self._panes.joined(batches), np.repeat(np.arange(len(ends)), counts)
        best = top_rows(rows, self._keys, self._by, self._n, window)
        rows = rows.take(pa.array(best))
        if self._final:
            rows = self._result(rows, ends[window[best]])
        for offset in range(0, rows.num_rows, self.context.batch_rows):
            out.emit(rows.slice(offset, self.context.batch_rows))

    def _result(self, rows: pa.RecordBatch, ends: Int64Array) -> pa.RecordBatch:
        columns = {name: rows.column(name) for name in rows.schema.names if name not in HIDDEN}
        for name, at in (("window_start", ends - self._window.size_us), ("window_end", ends)):
            if name not in columns:
                columns[name] = pa.array(at, TIMESTAMP)
        columns[EVENT_TIME] = pa.array(ends - 1)
        schema = self.context.output_schema
        if schema is None:
            return pa.RecordBatch.from_pydict(columns)
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _best(self, rows: pa.RecordBatch) -> Int64Array:
        return top_rows(rows, self._keys, self._by, self._n)

    def _measure(self) -> None:
        self.context.metrics.state_rows = self._panes.rows
        self.context.metrics.state_bytes = self._panes.memory_bytes

    # --- panes and windows; the local stage has no windows but its panes

    @property
    def _over_until(self) -> int:
        """Ends up to this are over: no row at or before the watermark will come."""
        return self._watermark + 1

    @property
    def _span_us(self) -> int:
        return self._window.size_us if self._final else self._window.pane_us

    def _panes_of(self, times: Int64Array) -> tuple[list[int], Int64Array]:
        """(Starts of the panes in order, each row's pane as a position in them.)"""
        order, starts, bounds = sort_by_pane(pane_starts(times, self._window.pane_us, self._window.offset_us))
        in_order = np.repeat(np.arange(len(starts)), np.diff(bounds))
        if order is None:
            return starts.tolist(), in_order
        pane = np.empty(len(times), np.int64)
        pane[order] = in_order
        return starts.tolist(), pane

    def _ends_of(self, start: int) -> range:
        """Ends of the windows that hold the pane."""
        if not self._final:
            return range(start + self._window.pane_us, start + self._window.pane_us + 1)
        first_us = (start - self._window.offset_us) // self._slide_us * self._slide_us + self._window.offset_us
        newest_end = first_us + self._window.size_us
        return range(newest_end, start, -self._slide_us)

    def _dropped_at(self, start: int) -> int:
        """The time at which the last of the pane's windows is over for good."""
        return self._ends_of(start)[0] + (self._lateness_us if self._final else 0)

    def _ended_windows_of(self, starts: Sequence[int]) -> list[int]:
        """Windows that have come out already, and were given rows that are late but allowed."""
        ends = {end for start in starts for end in self._ends_of(start)}
        return sorted(end for end in ends if end <= self._over_until < end + self._lateness_us)

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        since = self._history.changed_since(base_id) if self._final else None
        panes = self._panes.changed_since(since)
        rows = sum(batch.num_rows for batches in panes.values() for batch in batches)
        if since is not None and base_id is not None and not self._history.worth_a_delta(base_id, rows, self._panes.rows):
            since, panes, rows = None, self._panes.changed_since(None), self._panes.rows
        full = since is None
        self._history.close(checkpoint_id, rows, None if full else base_id)
        schema, context = self._panes.schema, self.context
        columns = self._keys or (PANE,)

        def groups_of(batch: pa.RecordBatch) -> np.ndarray:
            return key_groups(hash_keys(batch, columns, context.hash_seed), context.max_parallelism)

        def encode() -> pa.Table | None:
            return encode_panes(panes, schema, groups_of) if full or panes else None

        rows_captured = TableCapture(_ROWS, "keyed" if self._final else "list", full, encode)
        return [rows_captured, capture_watermark(self._watermark)]
