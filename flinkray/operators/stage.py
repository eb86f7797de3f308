"""`map_batches` on workers of its own (Ray actors, perhaps with GPUs): batches go out, columns come back, rows stay in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.operators.base import OperatorContext, Output
from flinkray.operators.batch_function import BatchFunction, Parts
from flinkray.operators.calls import CallSpec
from flinkray.operators.error_policy import FAIL
from flinkray.operators.functions import BatchFormat, event_times
from flinkray.operators.in_flight import Unit, UnitSize
from flinkray.operators.in_flight_operator import InFlightOperator
from flinkray.operators.rows import BatchBuilder, visible_batch, with_event_times

QUEUED = 2
"""Batches at a worker: one at work, one on its way."""


class StageOperator(InFlightOperator):
    """`workers`: of all subtasks together, at least and at most; each subtask has its share."""

    def __init__(
        self,
        *,
        function: Callable[..., Any] | type,
        output_schema: pa.Schema | None,
        batch_format: BatchFormat,
        workers: tuple[int, int],
        batch_size: int,
        max_latency_s: float | None = None,
        timeout_s: float | None = None,
        cpus: float = 0.0,
        gpus: float = 0.0,
        on_error: str = FAIL,
    ) -> None:
        size = UnitSize(batch_size, max_latency_s)
        super().__init__(size=size, ordered=True, most_units=0, most_waiting=batch_size, output_schema=output_schema, on_error=on_error)
        self._function = BatchFunction(function, batch_format, halving=not self._rejects.fails)
        self._workers, self._timeout_s, self._cpus, self._gpus = workers, timeout_s, cpus, gpus

    def _spec(self, context: OperatorContext) -> CallSpec:
        least, most = (share_of(count, context) for count in self._workers)
        self._most_units = 2 * QUEUED * most
        return CallSpec(
            uid=context.uid,
            subtask=context.subtask,
            function=self._function,
            kind="stage",
            workers=(max(least, 1), most),
            cpus=self._cpus,
            gpus=self._gpus,
            timeout_s=self._timeout_s,
        )

    def _payloads(self, units: Sequence[Unit]) -> list[Any]:
        return [visible_batch(unit.batch) for unit in units]

    def _give_on(self, unit: Unit, out: Output) -> None:
        if isinstance(unit.answer, Parts):
            self._rejects.put(unit.batch, unit.answer.rejected, self.context, out)
        emit_made(unit.batch, unit.answer, self._builder, out)


def emit_made(batch: pa.RecordBatch, answer: pa.RecordBatch | Parts, builder: BatchBuilder, out: Output) -> None:
    """What a BatchFunction made of the batch."""
    parts = answer.made if isinstance(answer, Parts) else [(0, batch.num_rows, answer)]
    for start, stop, made in parts:
        if made.num_rows:
            rows = builder.from_columns(dict(zip(made.schema.names, made.columns, strict=True)))
            out.emit(with_event_times(rows, times_of(batch.slice(start, stop - start), made.num_rows)))


def times_of(batch: pa.RecordBatch, rows: int) -> pa.Array | None:
    """Event times of so many rows made of the batch: each its own row's where there are as many, else all the largest."""
    times = event_times(batch)
    if times is None or rows == batch.num_rows:
        return times
    return pa.array(np.full(rows, pc.max(times).as_py(), np.int64))


def share_of(count: int, context: OperatorContext) -> int:
    """This subtask's part of `count` things."""
    return count // context.parallelism + (context.subtask < count % context.parallelism)
