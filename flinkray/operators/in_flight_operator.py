"""What operators have in common whose rows are answered by calls beside the mailbox.

Such an operator is the head of its chain. Its checkpoint holds the rows that were not given on yet; a restore sends them again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from flinkray.errors import OperatorError
from flinkray.operators.base import OperatorContext, Output, RestoredState, StateCapture, SteppingOperator
from flinkray.operators.calls import NO_UNIT, Calls, CallSpec, Failure
from flinkray.operators.error_policy import Rejected, Rejects
from flinkray.operators.in_flight import InFlight, Unit, UnitSize
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.rows import BatchBuilder

STATE = "in_flight"


class InFlightOperator(SteppingOperator):
    """`advance` gives on what was answered, and sends what waits; the task calls it in every turn."""

    generates_watermarks = True
    needs_answers = True

    def __init__(
        self, *, size: UnitSize, ordered: bool, most_units: int, most_waiting: int, output_schema: pa.Schema | None, on_error: str
    ) -> None:
        """`most_units`: handed out, or answered and not given on; `most_waiting`: rows in none yet before no more are taken."""
        self._size, self._ordered, self._most_units, self._most_waiting = size, ordered, most_units, most_waiting
        self._declared = output_schema
        self._rejects = Rejects(on_error)
        self._flush = False

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._builder = BatchBuilder(self._declared, context)
        self._rows = InFlight(self._size, self._ordered)
        self._schema = context.input_schemas[0]
        self._calls: Calls = context.open_calls(self._spec(context))
        for table in self._mine(restored):
            for batch in table.to_batches():
                self._rows.add(batch, context.clock())

    def _mine(self, restored: Sequence[RestoredState]) -> list[pa.Table]:
        """Rows of one origin stay together, in order."""
        mine = origin_tables(restored, STATE)[self.context.subtask :: self.context.parallelism]
        return [table for table in mine if table.num_rows]

    # -- for the task ---------------------------------------------------------------------------------------------

    @property
    def accepts(self) -> bool:
        """More rows may come."""
        return self._rows.waiting_rows < self._most_waiting and self._rows.units < self._most_units

    @property
    def drained(self) -> bool:
        """Everything that came was given on."""
        return self._rows.empty

    @property
    def wait_s(self) -> float | None:
        """When `advance` should be called, if nothing else happens; None: there is no hurry."""
        if not self._calls.free or self._rows.units >= self._most_units or not self._rows.waiting_rows:
            return None
        return max(self._rows.due_s - self.context.clock(), 0.001)

    def advance(self, out: Output) -> bool:
        """True when anything was done."""
        now_s = self.context.clock()
        worked = False
        for answer in self._calls.take(now_s):
            if answer.number == NO_UNIT:
                raise self._error(answer.result)
            unit = self._rows.answer(answer.number, answer.result)
            if unit is not None:
                self._rows.size.answered(unit.batch.num_rows, answer.took_s)
        for unit in self._rows.finished():
            worked, self.offending = True, unit.batch
            if isinstance(unit.answer, Failure) and not self._rejects.fails:
                rejected = [Rejected(row, unit.answer.message) for row in range(unit.batch.num_rows)]
                self._rejects.put(unit.batch, rejected, self.context, out)
                continue
            self._check(unit)
            self._give_on(unit, out)
        self._emit_rest(out)
        return self._send(now_s) or worked

    def _check(self, unit: Unit) -> None:
        if isinstance(unit.answer, Failure):
            raise self._error(unit.answer)

    def _error(self, failure: Failure) -> OperatorError:
        return OperatorError(failure.message, self.context.uid, self.context.subtask, failure.trace)

    def _send(self, now_s: float) -> bool:
        free = min(self._calls.free, self._most_units - self._rows.units)
        units: list[Unit] = []
        while len(units) < free and (unit := self._rows.cut(now_s, self._flush)) is not None:
            units.append(unit)
        if units:
            self._calls.send([(unit.number, payload) for unit, payload in zip(units, self._payloads(units), strict=True)])
        return bool(units)

    # -- the operator ---------------------------------------------------------------------------------------------

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        now_s = self.context.clock()
        self._flush = False
        self._rows.add(batch, now_s)
        self._send(now_s)

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        self._rows.mark(watermark_us)

    def output_watermark_us(self, input_us: int) -> int:
        return self._rows.watermark_us

    def on_end(self, out: Output) -> None:
        self._flush = True

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        batches = self._rows.batches()
        schema = batches[0].schema if batches else self._schema
        return [ListCapture(STATE, pa.Table.from_batches(batches, schema) if schema is not None else pa.table({}))]

    def close(self) -> None:
        if hasattr(self, "_calls"):
            self._calls.close()

    # -- for subclasses -------------------------------------------------------------------------------------------

    @abstractmethod
    def _spec(self, context: OperatorContext) -> CallSpec: ...

    @abstractmethod
    def _payloads(self, units: Sequence[Unit]) -> list[Any]:
        """What is sent for each."""

    @abstractmethod
    def _give_on(self, unit: Unit, out: Output) -> None: ...

    def _emit_rest(self, out: Output) -> None:
        """What `_give_on` has gathered."""
