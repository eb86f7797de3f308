"""What general windows answer: the results of aggregates, or what a user's function gives of the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import CHANGE, DELETE, EVENT_TIME, INSERT, MAX_WATERMARK, MIN_WATERMARK, TIMESTAMP, UPDATE_AFTER
from flinkray.graph.aggregates import WINDOW_END, WINDOW_START
from flinkray.graph.general_windows import Windows
from flinkray.operators.base import OperatorContext, Output
from flinkray.operators.functions import user_errors
from flinkray.operators.process_output import ProcessOutput
from flinkray.operators.process_rows import key_values
from flinkray.operators.rows import visible_batch
from flinkray.operators.window_cells import WindowCells, WindowParts
from flinkray.operators.window_contents import PartialAggregates

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WindowContext:
    """What a function over a window's rows is told. `start`, `end` (int microseconds): None where windows have none."""

    key: Any
    start: int | None
    end: int | None
    watermark: int


class WindowAnswers:
    """`give` sends the answers of windows. A subclass for what is asked of them."""

    def __init__(self, context: OperatorContext, windows: Windows, keys: Sequence[str], rows: pa.Schema, cells: WindowCells) -> None:
        """`rows`: columns of the input."""
        self._context, self._windows, self._keys, self._rows, self._cells = context, windows, tuple(keys), rows, cells
        self._has_time = EVENT_TIME in rows.names

    def give(self, windows: WindowParts, watermark_us: int, out: Output) -> None:
        """Of windows that have ended, or answer early. Those with an evictor forget rows first."""
        if not len(windows.groups):
            return
        if self._windows.evictor is not None:
            windows = self._cells.evict(windows)
        if self._windows.bounded and not self._windows.by_clock:
            times = windows.ends - 1
        else:
            times = _after(watermark_us, self._cells.newest(windows))
        self._send(windows, self._cells.starts(windows), times, watermark_us, out)

    def _send(self, windows: WindowParts, starts: Int64Array, times: Int64Array, watermark_us: int, out: Output) -> None:
        """`starts`, `times`: when each window begins, the event time of its answer."""
        raise NotImplementedError


class AggregateAnswers(WindowAnswers):
    """A row for each window. `kept_rows`: rows were kept, not parts of aggregates."""

    def __init__(
        self,
        context: OperatorContext,
        windows: Windows,
        keys: Sequence[str],
        rows: pa.Schema,
        cells: WindowCells,
        aggregates: PartialAggregates,
        kept_rows: bool,
    ) -> None:
        super().__init__(context, windows, keys, rows, cells)
        self._aggregates, self._kept_rows = aggregates, kept_rows

    def _send(self, windows: WindowParts, starts: Int64Array, times: Int64Array, watermark_us: int, out: Output) -> None:
        told = self._cells.told_before(windows)
        for begin in range(0, len(starts), self._context.batch_rows):
            part = np.zeros(len(starts), np.bool_)
            part[begin : begin + self._context.batch_rows] = True
            chosen = windows.choose(part)
            if self._windows.takes_back:
                self._take_back(chosen, times[part], out)
                out.emit(self._batch(chosen, starts[part], times[part], np.full(len(chosen.ends), INSERT)))
            else:
                out.emit(self._batch(chosen, starts[part], times[part], np.where(told[part], UPDATE_AFTER, INSERT)))

    def _take_back(self, windows: WindowParts, times: Int64Array, out: Output) -> None:
        """What was answered before of these windows, which may have been several then."""
        parts, inside = self._cells.answered(windows)
        if len(inside):
            out.emit(self._batch(parts, self._cells.starts(parts), times[inside], np.full(len(inside), DELETE)))

    def _batch(self, windows: WindowParts, starts: Int64Array, times: Int64Array, changes: Int64Array) -> pa.RecordBatch:
        kept, aggregates = self._cells.take(windows), self._aggregates
        if self._kept_rows:
            whole = aggregates.parts(kept.select(self._rows.names), windows.ends, windows.groups)
        else:
            whole = aggregates.merged(kept, windows.groups)
        columns: dict[str, Any] = {key: whole.column(key) for key in self._keys} | aggregates.results(whole)
        columns[WINDOW_START], columns[WINDOW_END] = pa.array(starts, TIMESTAMP), pa.array(windows.ends, TIMESTAMP)
        columns[EVENT_TIME] = pa.array(times)
        columns[CHANGE] = pa.array(changes.astype(np.int8))
        schema = self._context.output_schema or self._made_schema(columns)
        return pa.RecordBatch.from_arrays([columns[field.name].cast(field.type) for field in schema], schema=schema)

    def _made_schema(self, columns: dict[str, pa.Array]) -> pa.Schema:
        left_out = set() if self._windows.bounded else {WINDOW_START, WINDOW_END}
        left_out |= set() if self._has_time else {EVENT_TIME}
        left_out |= set() if self._windows.refines else {CHANGE}
        return pa.schema([(name, array.type) for name, array in columns.items() if name not in left_out])


class FunctionAnswers(WindowAnswers):
    """What `function(rows, window)` gives. `output_schema`: its columns (None: what its first batch has)."""

    def __init__(
        self,
        context: OperatorContext,
        windows: Windows,
        keys: Sequence[str],
        rows: pa.Schema,
        cells: WindowCells,
        function: Callable[..., Any],
        output_schema: pa.Schema | None,
    ) -> None:
        super().__init__(context, windows, keys, rows, cells)
        self._function = function
        self._output = ProcessOutput(context, output_schema, {}, self._has_time, "the window's function")

    def _send(self, windows: WindowParts, starts: Int64Array, times: Int64Array, watermark_us: int, out: Output) -> None:
        rows = self._cells.take(windows)
        keys = key_values([rows.column(key).take(pa.array(windows.groups.starts[:-1])) for key in self._keys])
        shown = visible_batch(rows.select(self._rows.names))
        bounds, bounded, ends = windows.groups.starts.tolist(), self._windows.bounded, windows.ends
        for number, key in enumerate(keys):
            first, stop = bounds[number], bounds[number + 1]
            window = WindowContext(key, int(starts[number]) if bounded else None, int(ends[number]) if bounded else None, watermark_us)
            with user_errors(self._context):
                given = self._function(shown.slice(first, stop - first), window)
            self._output.result(given, np.full(1, times[number]) if self._has_time else None, out)


def _after(watermark_us: int, times: Int64Array) -> Int64Array:
    """No row goes out behind the watermark."""
    return times if watermark_us in (MIN_WATERMARK, MAX_WATERMARK) else np.maximum(times, watermark_us + 1)
