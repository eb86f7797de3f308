"""A user's function of batches as it runs on a worker of its own: made once for each worker, given a batch, gives columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from flinkray.operators.calls import UserFunction
from flinkray.operators.functions import BatchFormat, batch_columns, formatted, own


class BatchFunction(UserFunction):
    """Takes visible columns, gives visible columns."""

    def __init__(self, function: Callable[..., Any] | type, batch_format: BatchFormat) -> None:
        self._given, self._format = function, batch_format

    def for_worker(self) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        function, batch_format = own(self._given), self._format

        def call(batch: pa.RecordBatch) -> pa.RecordBatch:
            columns = batch_columns(function(formatted(batch, batch_format)))
            return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

        return call
