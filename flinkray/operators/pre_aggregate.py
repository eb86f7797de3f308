"""Aggregates each batch by (pane, key) before it is sent: fewer rows cross the wire, the owner of the key merges the parts.

Where keys hardly repeat within a batch grouping saves nothing: then rows go on as parts of one row each, without being hashed, and now
and then a batch is grouped to see whether it pays again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.errors import PlanError
from flinkray.graph.aggregates import ROWS, Aggregate, partial_schema
from flinkray.graph.windows import SessionWindow, Window
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.dense_grouping import DenseGrouper
from flinkray.state.grouping import MAX_ROWS, NO_PANES, BatchGrouper, pane_starts
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_folding import KeyFolder
from flinkray.state.layout import AggregateLayout

USELESS_RATIO = 0.8
"""Groups per row above which grouping does not pay."""
USELESS_BATCHES = 4
"""So many such batches in a row turn grouping off, for SKIP_BATCHES batches."""
SKIP_BATCHES = 64
_WORD = KeyCodec([pa.int64()])
_MIN_ROWS = 1024
"""Smaller batches say nothing about how often keys repeat."""


class PreAggregateOperator(Operator):
    """Emits `aggregates.partial_schema`: keys, pane, words of accumulators. Keeps nothing from batch to batch."""

    def __init__(self, *, keys: Sequence[str], aggregates: Sequence[Aggregate], window: Window | None = None) -> None:
        if isinstance(window, SessionWindow):
            raise PlanError("sessions cannot be pre-aggregated before their key's rows are together")
        self._keys, self._aggregates, self._window = tuple(keys), tuple(aggregates), window
        self._grouper, self._dense_grouper = BatchGrouper(), DenseGrouper()
        self._useless = 0
        self._skip = 0

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schemas[0]
        if schema is None:
            raise PlanError(f"{context.name}: aggregates need to know their input's columns; declare output_schema upstream")
        self._schema = partial_schema(self._keys, self._aggregates, self._window, schema)
        extra = [name for name in (ROWS, EVENT_TIME) if name in self._schema.names]
        self._layout = AggregateLayout.of_rows(self._aggregates, schema, *extra)
        kinds = [schema.field(key).type for key in self._keys]
        self._codec = KeyCodec(kinds)
        self._folder = KeyFolder(self._codec.kinds, context.hash_seed) if len(kinds) > 1 else None
        self._rows = np.zeros((0, self._layout.width), np.int64)

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        for start in range(0, batch.num_rows, MAX_ROWS):
            out.emit(self._aggregate(batch.slice(start, MAX_ROWS)))

    def _aggregate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        panes = NO_PANES
        if self._window is not None:
            panes = pane_starts(words_of(batch.column(EVENT_TIME)), self._window.pane_us, self._window.offset_us)
        groups, firsts = self._groups(batch, panes)
        program = self._layout.update(batch, into_fresh=True)
        rows = self._fresh_rows(batch.num_rows if firsts is None else len(firsts), program.certain)
        self._layout.run(program, rows, groups)
        arrays = [batch.column(key) for key in self._keys]
        if firsts is not None:
            chosen = pa.array(firsts)
            arrays = [array.take(chosen) for array in arrays]
        if self._window is not None:
            arrays.append(pa.array(panes if firsts is None else panes[firsts]))
        everything = groups if firsts is None else np.arange(len(firsts), dtype=np.int32)
        arrays += [pa.array(column) for column in self._layout.gather(rows, everything)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _groups(self, batch: pa.RecordBatch, panes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(each row's group, first row of each group); None: every row is a group of its own."""
        if self._skip > 0:
            self._skip -= 1
            return np.arange(batch.num_rows, dtype=np.int32), None
        words = self._words(batch)
        pane_us = self._window.pane_us if self._window is not None else 0
        found = self._dense_grouper.group(words, panes, pane_us) if words is not None else None
        groups, firsts = found or self._hashed_groups(batch, words, panes)
        self._judge(len(firsts), batch.num_rows)
        return groups, firsts

    def _words(self, batch: pa.RecordBatch) -> np.ndarray | None:
        """int64[n]: words that are equal where the keys are; None where it takes more than a word."""
        if self._folder is None:
            return self._codec.whole_numbers(batch, self._keys)
        return self._folder.fold([contiguous(batch.column(key)) for key in self._keys], batch.num_rows)

    def _hashed_groups(self, batch: pa.RecordBatch, words: np.ndarray | None, panes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seed = self.context.hash_seed
        if words is not None:
            return self._grouper.group(_WORD.encode([pa.array(words)], len(words), seed), panes, by_words=True)
        return self._grouper.group(self._codec.keys(batch, self._keys, seed), panes, self._codec.by_words)

    def _judge(self, groups: int, rows: int) -> None:
        if rows < _MIN_ROWS:
            return
        self._useless = self._useless + 1 if groups > USELESS_RATIO * rows else 0
        if self._useless >= USELESS_BATCHES:
            self._useless = USELESS_BATCHES - 1  # one more useless batch after the pause is enough
            self._skip = SKIP_BATCHES

    def _fresh_rows(self, count: int, flags: int) -> np.ndarray:
        if count > len(self._rows):
            self._rows = np.empty((max(count, 2 * len(self._rows)), self._layout.width), np.int64)
        rows = self._rows[:count]
        rows[:] = self._layout.initial
        if flags:
            rows[:, self._layout.flag_word] = flags
        return rows
