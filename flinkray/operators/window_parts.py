"""Aggregates each batch for general windows before it is sent: by key and pane, or by the sessions within the batch. The owner of the key
merges the parts into its windows.

A part has, beside the accumulators (`window_contents`), from when to when its rows reach, their largest event time and how many they are:
all that the windows need to know of rows. Keeps nothing from batch to batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.errors import PlanError
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.general_windows import CountWindow, CumulativeWindow, DynamicSessionWindow, Windows
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow
from flinkray.operators.array_aggregates import RowGroups
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState
from flinkray.operators.join_rows import plain_columns
from flinkray.operators.window_assign import session_gaps, sessions
from flinkray.operators.window_contents import END, PartialAggregates
from flinkray.state.arrow_buffers import words_of
from flinkray.state.grouping import MAX_ROWS, NO_PANES, BatchGrouper, pane_starts
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.row_buffer import plain_schema

Int64Array = npt.NDArray[np.int64]

LOW, HIGH, TOP, ROWS = "_low", "_high", "_top", "_rows"
"""int64 columns of parts: when the first of their rows is, to when they reach, the largest event time, and how many they are."""
SPANS = (LOW, HIGH, TOP, ROWS)


class WindowPartsOperator(Operator):
    """Emits keys, accumulators and SPANS."""

    def __init__(self, *, keys: Sequence[str], windows: Windows, aggregates: Sequence[Aggregate]) -> None:
        if windows.by_clock or windows.evictor is not None or isinstance(windows.assigner, CountWindow):
            raise PlanError(f"windows of {windows.describe()} need each row by itself")
        self._keys, self._windows, self._aggregates = tuple(keys), windows, tuple(aggregates)
        self._grouper = BatchGrouper()

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._rows = plain_schema(context.input_schema())
        self._folds = PartialAggregates(self._keys, self._aggregates, self._rows)
        kept = [field for field in self._folds.schema if field.name != END]
        self._schema = pa.schema([*kept, *(pa.field(name, pa.int64()) for name in SPANS)])
        self._codec = KeyCodec([self._rows.field(key).type for key in self._keys])

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        rows = plain_columns(batch, self._rows)
        for start in range(0, rows.num_rows, MAX_ROWS):
            out.emit(self._parts(rows.slice(start, MAX_ROWS)))

    def _parts(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        timed = EVENT_TIME in rows.schema.names
        low: Int64Array = words_of(rows.column(EVENT_TIME)) if timed else np.zeros(rows.num_rows, np.int64)
        high: Int64Array = low + session_gaps(self._windows.assigner, rows, self.context.name) if self._windows.sessions else low
        group = self._groups(rows, low, high)
        order = np.argsort(group, kind="stable")
        firsts = np.flatnonzero(np.diff(group[order], prepend=-1))
        groups = RowGroups(np.append(firsts, len(order)))
        parts = self._folds.parts(rows.take(pa.array(order)), np.zeros(len(firsts), np.int64), groups)
        top = np.maximum.reduceat(low[order], firsts)
        spans = [np.minimum.reduceat(low[order], firsts), np.maximum.reduceat(high[order], firsts), top, np.diff(groups.starts)]
        columns = [parts.column(name) for name in self._schema.names[: -len(SPANS)]]
        return pa.RecordBatch.from_arrays([*columns, *map(pa.array, spans)], schema=self._schema)

    def _groups(self, rows: pa.RecordBatch, low: Int64Array, high: Int64Array) -> Int64Array:
        """Which rows make one part: those of a key whose windows are the same."""
        panes, window = NO_PANES, self._windows.assigner
        if isinstance(window, TumblingWindow | SlidingWindow | CumulativeWindow):
            size = window.step_us if isinstance(window, CumulativeWindow) else window.pane_us
            panes = pane_starts(low, size, window.offset_us)
        keys = self._codec.keys(rows, self._keys, self.context.hash_seed)
        found, _ = self._grouper.group(keys, panes, self._codec.by_words)
        if isinstance(window, SessionWindow | DynamicSessionWindow):
            return sessions(found, low, high)
        return found.astype(np.int64)
