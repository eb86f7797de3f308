"""How what a process function gives becomes batches, each row with its event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.operators.base import OperatorContext, Output
from flinkray.operators.functions import batch_columns
from flinkray.operators.process_timers import Int64Array
from flinkray.operators.rows import BatchBuilder, with_event_times

SideRows = Mapping[str, tuple[list[Mapping[str, Any]], list[int]]]


class ProcessOutput:
    """The main output, of a declared schema or that of the first batch, and side outputs by tag."""

    def __init__(
        self, context: OperatorContext, declared: pa.Schema | None, sides: Mapping[str, pa.Schema], has_time: bool, who: str
    ) -> None:
        self._builder = BatchBuilder(declared, context)
        self._sides = {tag: BatchBuilder(side, context) for tag, side in sides.items()}
        self._has_time, self._batch_rows, self._who = has_time, context.batch_rows, who

    def rows(self, rows: Sequence[Mapping[str, Any]], times: Sequence[Any], out: Output) -> None:
        """Dicts, with the event time of each. Raises TypeError for anything else."""
        for start in range(0, len(rows), self._batch_rows):
            part = rows[start : start + self._batch_rows]
            for row in part:
                if not isinstance(row, Mapping):
                    raise TypeError(f"{self._who} gave {row!r:.80} among its rows, not a dict")
            stamps = pa.array(times[start : start + len(part)], pa.int64()) if self._has_time else None
            out.emit(with_event_times(self._builder.from_rows(part), stamps))

    def result(self, result: Any, times: Int64Array | None, out: Output) -> None:
        """A batch, or rows. With as many rows as came, each has its row's event time, else all have the largest."""
        if result is None:
            return
        if not isinstance(result, pa.RecordBatch | pa.Table | Mapping) and type(result).__module__.partition(".")[0] != "pandas":
            rows = list(result)
            self.rows(rows, [None] * len(rows) if times is None else _stamps(len(rows), times).tolist(), out)
            return
        columns = batch_columns(result)
        count = len(next(iter(columns.values()))) if columns else 0
        if count:
            stamps = None if times is None else pa.array(_stamps(count, times))
            out.emit(with_event_times(self._builder.from_columns(columns), stamps))

    def sides(self, given: SideRows, out: Output) -> None:
        """What was given to side outputs; the lists are emptied."""
        for tag, (rows, times) in given.items():
            if rows:
                stamps = pa.array(times, pa.int64()) if self._has_time else None
                out.emit(with_event_times(self._sides[tag].from_rows(rows), stamps), tag)
                rows.clear()
                times.clear()


def _stamps(count: int, times: Int64Array) -> Int64Array:
    return times if count == len(times) else np.full(count, times.max(), np.int64)
