"""The lookup join with a table that is asked: once a batch for all its keys that are not remembered. Nothing is in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.connectors.base import Lookups, LookupTable
from flinkray.graph.joins import JoinColumn
from flinkray.operators.base import OperatorContext, Output, RestoredState
from flinkray.operators.lookup_cache import LookupCache
from flinkray.operators.lookup_join import LookupJoinOperator, Table, has_key
from flinkray.state.grouping import MAX_ROWS, NO_PANES, BatchGrouper
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.row_buffer import plain_schema

AT_ONCE = 10_000
"""Keys of one query at most."""


class AskedLookupJoinOperator(LookupJoinOperator):
    """`cache_us`: how old a remembered answer may be (None: nothing is remembered)."""

    def __init__(
        self,
        *,
        table: LookupTable,
        keys: Sequence[str],
        table_keys: Sequence[str],
        how: str,
        columns: Sequence[JoinColumn],
        cache_us: int | None = None,
    ) -> None:
        self._keys, self._table_keys, self._how = tuple(keys), tuple(table_keys), how
        self._columns, self._cache_us = tuple(columns), cache_us
        self._asks = table
        self._lookups: Lookups | None = None
        self._grouper = BatchGrouper()

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._codec = KeyCodec([self._input.field(key).type for key in self._keys])

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        for start in range(0, batch.num_rows, MAX_ROWS):
            super().process(batch.slice(start, MAX_ROWS), input_index, out)

    def _read(self) -> None:
        """Nothing yet: what rows ask for."""
        self._schema = plain_schema(self._asks.schema())
        lives_s = (self._cache_us or 0) / 1e6
        self._cache = LookupCache(self._schema, self._table_keys, self.context.hash_seed, self._asks.cached_keys, lives_s)
        self._lookups = self._asks.open()

    def _find_table(self, rows: pa.RecordBatch) -> None:
        """The rows of the table that this batch meets."""
        found = [pa.RecordBatch.from_pylist([], self._schema), *self._rows_of(self._distinct(rows))]
        self._table = Table(pa.concat_batches(found), self._table_keys, self.context.hash_seed)
        self.context.metrics.state_rows, self.context.metrics.state_bytes = len(self._cache), self._cache.memory_bytes

    def _distinct(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        keys = self._codec.keys(rows, self._keys, self.context.hash_seed)
        firsts = self._grouper.group(keys, NO_PANES, self._codec.by_words)[1]
        chosen = rows.select(list(self._keys)).take(pa.array(firsts))
        return chosen.filter(pa.array(has_key(chosen, self._keys)))

    def _rows_of(self, keys: pa.RecordBatch) -> list[pa.RecordBatch]:
        now_s = self.context.clock()
        found, missing = self._cache.look(keys, now_s)
        asked = keys.take(pa.array(np.flatnonzero(missing)))
        for start in range(0, asked.num_rows, AT_ONCE):
            some = asked.slice(start, AT_ONCE)
            assert self._lookups is not None
            answer = self._lookups.find(some, self._table_keys)
            found.append(pa.RecordBatch.from_arrays(answer.columns, schema=self._schema))
            if self._cache_us:
                self._cache.put(some, answer, now_s)
        return found

    def close(self) -> None:
        if self._lookups is not None:
            self._lookups.close()
