"""The join of two keyed streams over tumbling or sliding windows: a left and a right row of one key meet in every window that has both.

Rows are kept in panes (the part of event time that all its windows share) and only appended to, so that a delta is what was appended.
When the watermark reaches a window's last microsecond, the right rows of its panes are put into a hash index and the left ones look
them up; small windows that end together do so in one index, by window and key. A row is late when all its windows are over: it is
counted and dropped; windows that are over do not come out again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MIN_WATERMARK
from flinkray.errors import PlanError, RestoreError
from flinkray.graph.joins import Join
from flinkray.graph.windows import SlidingWindow, TumblingWindow
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.deltas import DeltaHistory
from flinkray.operators.interval_join import NAMES
from flinkray.operators.join_rows import Int64Array, JoinResult, JoinSides, plain_columns
from flinkray.operators.pane_rows import PaneRows
from flinkray.operators.restore import KEY_GROUP, TableCapture, capture_watermark, restored_watermark, unfinished
from flinkray.operators.window_match import Matcher, WindowRows
from flinkray.operators.window_panes import PANE, encode_panes
from flinkray.state.arrow_buffers import words_of
from flinkray.state.grouping import pane_starts, sort_by_pane
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.state.row_buffer import plain_schema

_SHARED_PANES = 64
"""Panes of a batch that are no further apart are parts of one copy of it; those of rows from all times are copies of their own, lest a few
rows of a far window keep all the others in memory."""


class WindowJoinOperator(Operator):
    """Emits `join.columns` with the window's start and end; the event time is the window's end - 1 us."""

    def __init__(self, *, join: Join) -> None:
        if not isinstance(join.over, TumblingWindow | SlidingWindow):
            raise PlanError("a join over anything but windows has an operator of its own")
        self._join, self._window = join, join.over
        self._slide_us = join.over.slide_us if isinstance(join.over, SlidingWindow) else join.over.size_us
        self._watermark = MIN_WATERMARK
        self._ends: list[int] = []
        self._history = DeltaHistory()

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        restored = unfinished(restored)
        self._sides = JoinSides(self._join, context)
        self._result = JoinResult(self._join, self._sides.output_schema)
        self._panes = tuple(PaneRows(plain_schema(self._sides.kept_schema(side))) for side in (0, 1))
        self._match = Matcher(self._sides, context.hash_seed)
        self._watermark = restored_watermark(restored)
        states = {state.name: state for state in restored}
        for side, name in enumerate(NAMES):
            for chain in states[name].chains if name in states else ():
                for chunk in chain:
                    self._restore(side, chunk)
        if states and all(states[name].continues for name in NAMES):
            self._history.restored(restored_checkpoint, *(states[name].chains[0] for name in NAMES))
        self._measure()

    # --- rows and time

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        starts = pane_starts(words_of(batch.column(EVENT_TIME)), self._window.pane_us, self._window.offset_us)
        rows = plain_columns(batch, self._panes[input_index].schema)
        self.context.metrics.late_rows += self._keep(input_index, rows, starts, self._history.generation)
        self._measure()

    def _keep(self, side: int, rows: pa.RecordBatch, starts: Int64Array, generation: int) -> int:
        """Puts rows into their panes; returns how many were late."""
        order, panes, bounds = sort_by_pane(starts)
        shared = int(panes[-1] - panes[0]) <= _SHARED_PANES * self._window.pane_us
        if shared or order is not None:
            rows = rows.take(pa.array(np.arange(rows.num_rows) if order is None else order))
        late = 0
        for pane, start, stop in zip(panes.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            ends = self._ends_of(pane)
            if ends[0] <= self._over_until:
                late += stop - start
                continue
            if all(pane not in panes for panes in self._panes):
                for end in ends:
                    if end > self._over_until:
                        heapq.heappush(self._ends, end)
            part = rows.slice(start, stop - start)
            self._panes[side].add(pane, part if shared else part.take(pa.array(np.arange(stop - start))), generation)
        return late

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._watermark:
            return
        self._watermark = watermark_us
        ends = list[int]()
        while self._ends and self._ends[0] <= self._over_until:
            end = heapq.heappop(self._ends)
            if not ends or ends[-1] != end:
                ends.append(end)
        for group in self._grouped(ends):
            self._answer(group, out)
        for panes in self._panes:
            panes.drop([pane for pane in panes.starts() if self._ends_of(pane)[0] <= self._over_until])
        self._measure()

    def _grouped(self, ends: Sequence[int]) -> Iterator[list[int]]:
        """Windows, in order, together as long as they have a batch of rows at most."""
        group, total = list[int](), 0
        for end in ends:
            size = sum(panes.count(self._spans_of(end)) for panes in self._panes)
            if group and total + size > self.context.batch_rows:
                yield group
                group, total = [], 0
            group.append(end)
            total += size
        if group:
            yield group

    def _answer(self, ends: Sequence[int], out: Output) -> None:
        left, right = (self._side_of(panes, ends) for panes in self._panes)
        keep_left, keep_right = self._join.keeps
        if left.rows.num_rows and right.rows.num_rows:
            match = self._match(left, right)
            for mine, its in match.pairs(self.context.batch_rows):
                self._emit(left.take(mine), right.take(its), left.ends[mine], out)
            alone = (match.left_alone(), match.right_alone()) if keep_left or keep_right else ()
        else:
            alone = (np.arange(left.rows.num_rows), np.arange(right.rows.num_rows))
        for side, (rows, positions) in enumerate(zip((left, right), alone, strict=False)):
            if self._join.keeps[side]:
                for start in range(0, len(positions), self.context.batch_rows):
                    chosen = positions[start : start + self.context.batch_rows]
                    part = rows.take(chosen)
                    self._emit(part if side == 0 else None, part if side == 1 else None, rows.ends[chosen], out)

    def _side_of(self, panes: PaneRows, ends: Sequence[int]) -> WindowRows:
        """What a side has in these windows, window by window."""
        batches = [panes.among(self._spans_of(end)) for end in ends]
        sizes = [sum(batch.num_rows for batch in each) for each in batches]
        return WindowRows(panes.joined([batch for each in batches for batch in each]), np.repeat(np.array(ends, np.int64), sizes))

    def _spans_of(self, end: int) -> range:
        return range(end - self._window.size_us, end, self._window.pane_us)

    def _emit(self, left: pa.RecordBatch | None, right: pa.RecordBatch | None, ends: Int64Array, out: Output) -> None:
        out.emit(self._result.batch(left, right, ends - 1, (ends - self._window.size_us, ends)))

    @property
    def _over_until(self) -> int:
        """Ends up to this are over: no row at or before the watermark will come."""
        return self._watermark + 1

    def _ends_of(self, start: int) -> range:
        """Ends of the windows that hold the pane, the newest first."""
        offset = self._window.offset_us
        newest = (start - offset) // self._slide_us * self._slide_us + offset + self._window.size_us
        return range(newest, start, -self._slide_us)

    def _measure(self) -> None:
        self.context.metrics.state_rows = sum(panes.rows for panes in self._panes)
        self.context.metrics.state_bytes = sum(panes.memory_bytes for panes in self._panes) + self._match.memory_bytes

    # --- snapshot

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        since = self._history.changed_since(base_id)
        parts = [panes.appended_since(since) for panes in self._panes]
        count, live = (sum(b.num_rows for p in parts for batches in p.values() for b in batches), sum(p.rows for p in self._panes))
        if since is not None and base_id is not None and not self._history.worth_a_delta(base_id, count, live):
            since, parts, count = None, [panes.appended_since(None) for panes in self._panes], live
        full = since is None
        self._history.close(checkpoint_id, count, None if full else base_id)
        captures: list[StateCapture] = [self._capture(side, part, full) for side, part in enumerate(parts)]
        return [*captures, capture_watermark(self._watermark)]

    def _capture(self, side: int, part: dict[int, list[pa.RecordBatch]], full: bool) -> TableCapture:
        keys, schema, context = self._sides.keys[side], self._panes[side].schema, self.context

        def groups_of(rows: pa.RecordBatch) -> npt.NDArray[np.uint16]:
            return key_groups(hash_keys(rows, keys, context.hash_seed), context.max_parallelism)

        def encode() -> pa.Table | None:
            return encode_panes(part, schema, groups_of) if full or part else None

        return TableCapture(NAMES[side], "keyed", full, encode)

    def _restore(self, side: int, chunk: pa.Table) -> None:
        """Chunks only add rows. Those of panes that are over by now are left out."""
        schema = self._panes[side].schema
        if chunk.schema.names != [KEY_GROUP, PANE, *schema.names] or chunk.schema.types[2:] != schema.types:
            raise RestoreError(
                f"{self.context.uid!r}: the rows of its {NAMES[side]} side were saved with columns {chunk.schema.names[2:]}, now there "
                f"are {schema.names}; restore with --restore none, or with the job as it was"
            )
        for batch in chunk.combine_chunks().to_batches():
            self._keep(side, batch.select(schema.names), words_of(batch.column(PANE)), 0)
