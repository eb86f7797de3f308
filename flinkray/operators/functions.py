"""User code on rows and batches: map, flat_map, filter by a function, map_batches.

Each output row has the event time of the input row that it came from.
"""

from __future__ import annotations

import copy
import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import EVENT_TIME
from flinkray.errors import FlinkrayError, OperatorError
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState
from flinkray.operators.error_policy import FAIL, Rejects, piecewise
from flinkray.operators.rows import BatchBuilder, to_rows, visible_batch, with_event_times

BatchFormat = Literal["pyarrow", "pandas", "numpy"]


class user_errors:
    """`with user_errors(context):` around user code: what it raises becomes OperatorError with the operator and the user's traceback.

    Errors of flinkray itself pass as they are.
    """

    __slots__ = ("_context",)

    def __init__(self, context: OperatorContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, FlinkrayError):
            what = f"{type(error).__name__}: {error}"
            raise OperatorError(what, self._context.uid, self._context.subtask, _user_traceback(error)) from error


def _user_traceback(error: Exception) -> str:
    """The traceback from the first frame that is not an operator's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("flinkray.operators."):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


class _FunctionOperator(Operator):
    """What the four have in common: a function of this subtask's own, and how its results become batches."""

    def __init__(self, function: Callable[..., Any] | type, output_schema: pa.Schema | None = None, on_error: str = FAIL) -> None:
        self._given = function
        self._declared = output_schema
        self._rejects = Rejects(on_error)

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._builder = BatchBuilder(self._declared, context)
        with user_errors(context):
            self._function = own(self._given)

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if self._rejects.fails:
            made = self._made_of(batch)
            if made is not None:
                out.emit(made)
            return
        parts, rejected = piecewise(batch.num_rows, lambda start, stop: self._made_of(batch.slice(start, stop - start)))
        self._rejects.put(batch, rejected, self.context, out)
        for _, _, part in parts:
            if part is not None:
                out.emit(part)

    @abstractmethod
    def _made_of(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        """What is given on; raises OperatorError."""


def own(function: Callable[..., Any] | type) -> Callable[..., Any]:
    """A class is instantiated and an object copied, since each subtask needs its own; a plain function has nothing of its own."""
    if isinstance(function, type):
        made: Callable[..., Any] = function()
        return made
    return copy.deepcopy(function)


class MapOperator(_FunctionOperator):
    """`function(row) -> row`, both dicts."""

    def _made_of(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        function = self._function
        with user_errors(self.context):
            results = [function(row) for row in to_rows(batch)]
            for result in results:
                if not isinstance(result, Mapping):
                    raise TypeError(f"map: the function returned {_short(result)}, not a dict")
        return with_event_times(self._builder.from_rows(results), event_times(batch))


class FlatMapOperator(_FunctionOperator):
    """`function(row) -> iterable of rows` (or None): a list, or a generator function."""

    def _made_of(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        function = self._function
        results: list[Mapping[str, Any]] = []
        counts = np.empty(batch.num_rows, np.int64)
        with user_errors(self.context):
            for index, row in enumerate(to_rows(batch)):
                before = len(results)
                results.extend(function(row) or ())
                counts[index] = len(results) - before
            for result in results:
                if not isinstance(result, Mapping):
                    raise TypeError(f"flat_map: the function gave {_short(result)} among its rows, not a dict")
        if not results:
            return None
        times = event_times(batch)
        if times is not None:
            times = pa.array(np.repeat(times.to_numpy(), counts))
        return with_event_times(self._builder.from_rows(results), times)


class FilterFunctionOperator(_FunctionOperator):
    """Keeps the rows for which `function(row)` is true."""

    def _made_of(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        function = self._function
        with user_errors(self.context):
            kept = pa.array([bool(function(row)) for row in to_rows(batch)], pa.bool_())
        return batch if kept.true_count == batch.num_rows else batch.filter(kept)


class MapBatchesOperator(_FunctionOperator):
    """`function(batch) -> batch` in Arrow (RecordBatch), pandas (DataFrame) or numpy (dict of arrays); the result may be any of them.

    With as many rows as it was given, each row keeps its event time; with another number all of them get the largest of the batch, so
    that none of them is earlier than the rows it was made of.
    """

    def __init__(
        self,
        function: Callable[..., Any] | type,
        batch_format: BatchFormat = "pyarrow",
        output_schema: pa.Schema | None = None,
        on_error: str = FAIL,
    ) -> None:
        super().__init__(function, output_schema, on_error)
        self._format = batch_format

    def _made_of(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        with user_errors(self.context):
            columns = batch_columns(self._function(formatted(visible_batch(batch), self._format)))
        rows = len(next(iter(columns.values()))) if columns else 0
        if not rows:
            return None
        made = self._builder.from_columns(columns)
        times = event_times(batch)
        if times is not None and rows != batch.num_rows:
            times = pa.repeat(pc.max(times), rows)
        return with_event_times(made, times)


def formatted(batch: pa.RecordBatch, batch_format: BatchFormat) -> Any:
    """The batch as user code wants it."""
    if batch_format == "pandas":
        return batch.to_pandas()
    if batch_format == "numpy":
        columns = zip(batch.schema.names, batch.columns, strict=True)
        return {name: column.to_numpy(zero_copy_only=False) for name, column in columns}
    return batch


def batch_columns(result: Any) -> dict[str, pa.Array]:
    """The columns of whatever kind of batch the function returned."""
    if isinstance(result, pa.Table):
        return {name: _one_array(column) for name, column in zip(result.column_names, result.columns, strict=True)}
    if isinstance(result, Mapping):
        columns = {str(name): _one_array(values) for name, values in result.items()}
    elif isinstance(result, pa.RecordBatch):
        columns = dict(zip(result.schema.names, result.columns, strict=True))
    elif type(result).__module__.partition(".")[0] == "pandas":
        return batch_columns(pa.Table.from_pandas(result, preserve_index=False))
    else:
        kinds = "a RecordBatch, a Table, a DataFrame or a dict of arrays"
        raise TypeError(f"map_batches: the function returned {_short(result)}, not {kinds}")
    if len({len(column) for column in columns.values()}) > 1:
        lengths = {name: len(column) for name, column in columns.items()}
        raise ValueError(f"map_batches: the columns returned have different numbers of rows: {lengths}")
    return columns


def _one_array(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    return values if isinstance(values, pa.Array) else pa.array(values)


def event_times(batch: pa.RecordBatch) -> pa.Array | None:
    """None where rows have no event time."""
    return batch.column(EVENT_TIME) if EVENT_TIME in batch.schema.names else None


def _short(value: object) -> str:
    text = repr(value)
    return f"{text[:80]}... ({type(value).__name__})" if len(text) > 80 else f"{text} ({type(value).__name__})"
