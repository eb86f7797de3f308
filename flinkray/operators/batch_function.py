"""A user's function of batches: made once for each worker, given a batch, gives columns. On request it finds out which rows it raises on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flinkray.operators.calls import UserFunction
from flinkray.operators.error_policy import Rejected, piecewise
from flinkray.operators.functions import BatchFormat, batch_columns, formatted, own


@dataclass
class Parts:
    """What was made of a batch piece by piece: (first row, row after the last, what was made of them)."""

    made: list[tuple[int, int, pa.RecordBatch]]
    rejected: list[Rejected]


class BatchFunction(UserFunction):
    """Takes visible columns, gives visible columns. `halving`: a batch that it raises on is given again in halves, down to single rows, and
    Parts come back."""

    def __init__(self, function: Callable[..., Any] | type, batch_format: BatchFormat, halving: bool = False) -> None:
        self._given, self._format, self._halving = function, batch_format, halving

    def for_worker(self) -> Callable[[pa.RecordBatch], pa.RecordBatch | Parts]:
        function, batch_format = own(self._given), self._format

        def whole(batch: pa.RecordBatch) -> pa.RecordBatch:
            columns = batch_columns(function(formatted(batch, batch_format)))
            return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

        if not self._halving:
            return whole

        def halved(batch: pa.RecordBatch) -> Parts:
            return Parts(*piecewise(batch.num_rows, lambda start, stop: whole(batch.slice(start, stop - start))))

        return halved
