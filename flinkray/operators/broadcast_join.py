"""The as-of join with the right side in every subtask: left rows stay where they are, and wait there for the watermark.

The right rows are the same in all subtasks, but for those that are over, which depends on each one's watermark. A restore takes the right
rows of the subtask that was least far, which lacks nothing that another needs, and deals out the left rows that waited.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.errors import RestoreError
from flinkray.operators.asof_join import GONE, NAMES, TIME, AsOfJoinOperator
from flinkray.operators.base import RestoredState, StateCapture
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.restore import WATERMARK, capture_watermark
from flinkray.state.arrow_buffers import words_of
from flinkray.state.keyed_rows import KeyedRows


class BroadcastJoinOperator(AsOfJoinOperator):
    """State is written in full: the right side is small, and of the left one only what waits is kept."""

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        captures: list[StateCapture] = [
            ListCapture(name, _table(rows)) for name, rows in zip(NAMES, (self._left, self._right), strict=True)
        ]
        return [*captures, capture_watermark(self._watermark)]

    def _restore(self, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        left, right = (origin_tables(restored, name) for name in NAMES)
        for table in left[self.context.subtask :: self.context.parallelism]:
            self._load(0, self._left, table)
        reached = [table.column(WATERMARK)[0].as_py() for table in origin_tables(restored, WATERMARK)]
        if right:
            self._load(1, self._right, right[int(np.argmin(reached))])

    def _load(self, side: int, rows: KeyedRows, table: pa.Table) -> None:
        if (
            table.schema.names != [*map(_word, rows.words), *rows.schema.names]
            or table.schema.types[len(rows.words) :] != rows.schema.types
        ):
            raise RestoreError(
                f"{self.context.uid!r}: the rows of its {NAMES[side]} side were saved with columns {table.schema.names}, now there are "
                f"{rows.schema.names}; restore with --restore none, or with the job as it was"
            )
        for batch in table.combine_chunks().to_batches():
            kept = batch.select(rows.schema.names)
            words = {word: words_of(batch.column(_word(word))) for word in rows.words}
            rows.add(kept, np.arange(kept.num_rows), self._states.slots(kept, NAMES[side]), 0, **words)


def _word(name: str) -> str:
    return {TIME: "_time", GONE: "_gone"}[name]


def _table(rows: KeyedRows) -> pa.Table:
    """All rows with their words, in order of arrival."""
    live = rows.live()
    columns = {_word(word): pa.array(rows.word(word, live)) for word in rows.words}
    kept = rows.take(live)
    return pa.table(columns | {name: kept.column(name) for name in kept.schema.names})
