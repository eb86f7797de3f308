"""What becomes of rows that user code raises on: the job fails, or they are skipped, or they go to a side output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from flinkray.connectors.base import FAILED_ROW
from flinkray.errors import OperatorError
from flinkray.graph.logical import DEAD_LETTER_TAG
from flinkray.operators.base import OperatorContext, Output
from flinkray.operators.rows import visible_batch

T = TypeVar("T")

FAIL, SKIP, DEAD_LETTER = "fail", "skip", "dead_letter"


@dataclass(frozen=True)
class Rejected:
    """A row, by its number in the batch, and what was raised."""

    index: int
    error: str


class Rejects:
    """`policy`: one of "fail", "skip", "dead_letter"."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.fails = policy == FAIL

    def put(self, batch: pa.RecordBatch, rejected: Sequence[Rejected], context: OperatorContext, out: Output) -> None:
        """Count the rejected rows of the batch, and send them where they are wanted."""
        if not rejected:
            return
        if self.policy == SKIP:
            context.metrics.skipped_rows += len(rejected)
            return
        context.metrics.dead_letter_rows += len(rejected)
        rows = visible_batch(batch).take(pa.array([one.index for one in rejected], pa.int64())).to_pylist()
        count = len(rejected)
        columns = [
            pa.array([json.dumps(row, default=str, ensure_ascii=False) for row in rows], pa.string()),
            pa.array([one.error for one in rejected], pa.string()),
            pa.repeat(pa.scalar(context.uid), count),
            pa.repeat(pa.scalar(context.subtask, pa.int32()), count),
            pa.repeat(pa.scalar(int(context.clock() * 1e6), pa.int64()), count).cast(FAILED_ROW.field("time").type),
        ]
        out.emit(pa.RecordBatch.from_arrays(columns, schema=FAILED_ROW), DEAD_LETTER_TAG)


def piecewise(rows: int, attempt: Callable[[int, int], T]) -> tuple[list[tuple[int, int, T]], list[Rejected]]:
    """`attempt(start, stop)` for all rows; where it raises, for halves of them, down to single rows. What was made, in order, and the rows on
    which it raised alone. A row is tried again at most as often as a number of `rows` can be halved."""
    made: list[tuple[int, int, T]] = []
    rejected: list[Rejected] = []
    pending = [(0, rows)]
    while pending:
        start, stop = pending.pop()
        try:
            made.append((start, stop, attempt(start, stop)))
        except Exception as error:  # noqa: BLE001 - whatever user code raises is what is asked for
            if stop - start == 1:
                rejected.append(Rejected(start, short(error)))
                continue
            middle = (start + stop) // 2
            pending += [(middle, stop), (start, middle)]
    return made, rejected


def short(error: BaseException) -> str:
    """One line; of user code's error inside of flinkray's."""
    if isinstance(error, OperatorError) and error.args:
        return str(error.args[0])
    return f"{type(error).__name__}: {error}"
