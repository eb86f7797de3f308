"""What came to a process function while timers of an earlier watermark were still firing: rows, and how far event time has gone since.

Timers fire in slices, so that barriers pass in between. Rows wait until the timers that are due before them have fired; a checkpoint holds
them. A row is known to come after a watermark, by its value: so the parts of several subtasks can be put in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.columns import MIN_WATERMARK
from flinkray.operators.base import OperatorContext, RestoredState, StateCapture
from flinkray.operators.join_rows import plain_columns
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.restore import KEY_GROUP, TableCapture, begun_anew
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.state.row_buffer import plain_schema

WAITING, REACHED = "waiting", "reached"
_AFTER = "_after"
MOST_BYTES = 64 << 20
"""With so many no more rows are taken; then a barrier behind them waits."""


class Backlog:
    """Rows in order, each behind a watermark. `latest_us`: event time has come so far."""

    def __init__(self, context: OperatorContext, keys: Sequence[str], schema: pa.Schema) -> None:
        self._context, self._keys, self._schema = context, tuple(keys), plain_schema(schema)
        self._rows: deque[tuple[int, pa.RecordBatch]] = deque()
        self._bytes = 0
        self.latest_us = MIN_WATERMARK

    @property
    def empty(self) -> bool:
        return not self._rows

    @property
    def full(self) -> bool:
        return self._bytes > MOST_BYTES

    def add(self, rows: pa.RecordBatch) -> None:
        self._rows.append((self.latest_us, plain_columns(rows, self._schema)))
        self._bytes += rows.nbytes

    def first_after_us(self) -> int:
        """The watermark behind which the first rows come; without rows how far event time has come."""
        return self._rows[0][0] if self._rows else self.latest_us

    def take(self) -> pa.RecordBatch:
        """The first rows."""
        rows = self._rows.popleft()[1]
        self._bytes -= rows.nbytes
        return rows

    def captures(self) -> list[StateCapture]:
        context, keys = self._context, self._keys
        rows = [
            pa.record_batch([pa.array(np.full(part.num_rows, after)), *part.columns], schema=self._waiting()) for after, part in self._rows
        ]

        def encode() -> pa.Table:
            table = pa.Table.from_batches(rows, self._waiting()).combine_chunks()
            groups = np.empty(0, np.uint16)
            for batch in table.to_batches():
                groups = key_groups(hash_keys(batch, keys, context.hash_seed), context.max_parallelism)
            order = np.argsort(groups, kind="stable")
            return table.take(pa.array(order)).add_column(0, pa.field(KEY_GROUP, pa.uint16()), pa.array(groups[order]))

        reached = pa.table({REACHED: pa.array([self.latest_us], pa.int64())})
        return [TableCapture(WAITING, "keyed", True, encode), ListCapture(REACHED, reached)]

    def _waiting(self) -> pa.Schema:
        return self._schema.insert(0, pa.field(_AFTER, pa.int64()))

    def restore(self, restored: Sequence[RestoredState]) -> None:
        reached = min((table[REACHED][0].as_py() for table in origin_tables(restored, REACHED)), default=MIN_WATERMARK)
        self.latest_us = begun_anew(reached)
        chunks = [chain[-1] for state in restored if state.name == WAITING for chain in state.chains]
        table = pa.concat_tables([chunk.drop_columns([KEY_GROUP]) for chunk in chunks]) if chunks else self._waiting().empty_table()
        for batch in table.combine_chunks().to_batches():
            after = words_of(batch.column(_AFTER))
            for us in np.unique(after).tolist():
                part = batch.filter(pa.array(after == us)).select(self._schema.names)
                self._rows.append((us, part))
                self._bytes += part.nbytes
                self.latest_us = max(self.latest_us, us)
