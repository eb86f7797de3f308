"""Runs a function of two connected streams: `KeyedCoProcessFunction`, `KeyedBroadcastProcessFunction`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.errors import UsageError
from flinkray.graph.co_process import BroadcastState, broadcast_states_of
from flinkray.graph.process import KeyedProcessFunction
from flinkray.operators.base import OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.functions import user_errors
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.process import ProcessOperator
from flinkray.operators.process_rows import rows_of
from flinkray.operators.rows import to_rows, visible_batch

_STATE = "broadcast:"


class CoProcessOperator(ProcessOperator):
    """`right_keys` None: the second input is broadcast."""

    def __init__(
        self,
        *,
        keys: Sequence[str],
        right_keys: Sequence[str] | None,
        function: KeyedProcessFunction,
        output_schema: pa.Schema | None,
        side_schemas: Mapping[str, pa.Schema],
    ) -> None:
        super().__init__(keys=keys, function=function, output_schema=output_schema, side_schemas=side_schemas)
        self._mode = "process"
        self._right_keys = right_keys
        self._maps: list[BroadcastMap] = []

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        self._maps = [
            BroadcastMap(state, origin_tables(restored, _STATE + state.name)) for state in broadcast_states_of(self._given).values()
        ]
        super().open(context, restored, restored_checkpoint)

    def _bind(self) -> None:
        super()._bind()
        for attribute, bound in zip(broadcast_states_of(self._given), self._maps, strict=True):
            setattr(self._function, attribute, bound)

    @property
    def accepts(self) -> bool:
        """Rows of either stream come when the timers that are due before them have fired."""
        return self.drained

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        while not self.drained:
            self.advance(out)
        self._process_of(batch, input_index, out)
        self._store.measure()

    def _process_of(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if self._right_keys is None:
            if input_index:
                self._broadcast(batch, out)
            else:
                self._runner.rows(batch, visible_batch(batch), self._function.process, out)
        elif input_index:
            self._runner.rows(self._as_left(batch), visible_batch(batch), self._function.process2, out)
        else:
            self._runner.rows(batch, visible_batch(batch), self._function.process1, out)

    def _as_left(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The right rows' keys under the names and types of the left ones, and their event times."""
        assert self._right_keys is not None
        schema = self.context.input_schema()
        columns = {key: batch.column(its).cast(schema.field(key).type) for key, its in zip(self._keys, self._right_keys, strict=True)}
        if self._has_time:
            columns[EVENT_TIME] = batch.column(EVENT_TIME)
        return pa.RecordBatch.from_pydict(columns)

    def _broadcast(self, batch: pa.RecordBatch, out: Output) -> None:
        call: Callable[..., Any] = self._function.process_broadcast
        context = _BroadcastContext(self._store.watermark, self._ctx.output)
        stamps = batch.column(EVENT_TIME).to_pylist() if self._has_time else [None] * batch.num_rows
        for bound in self._maps:
            bound.open = True
        try:
            with user_errors(self.context):
                for row, stamp in zip(rows_of(visible_batch(batch)), stamps, strict=True):
                    context.timestamp = self._ctx.timestamp = stamp
                    if call(row, context) is not None:
                        raise TypeError("process_broadcast gave something: every subtask would give it; rows are given by process only")
        finally:
            for bound in self._maps:
                bound.open = False
        self._output.sides(self._ctx.side, out)

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        """The maps are the same everywhere: the first subtask writes them, and all restore them from it."""
        whole = self.context.subtask == 0
        maps: list[StateCapture] = [
            ListCapture(_STATE + bound.name, bound.table() if whole else bound.table().slice(0, 0)) for bound in self._maps
        ]
        return [*super().snapshot(checkpoint_id, base_id), *maps]


class _BroadcastContext:
    """See `graph.co_process.BroadcastContext`."""

    def __init__(self, watermark: int, output: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.watermark, self.output = watermark, output
        self.timestamp: int | None = None


class BroadcastMap:
    """A BroadcastState at work. What is read is the value itself: do not change it in place."""

    def __init__(self, state: BroadcastState, tables: Sequence[pa.Table]) -> None:
        self.name = state.name
        self.open = False
        """It may be changed now."""
        self._schema = pa.schema([("key", state.key_type), ("value", state.value_type)])
        self._values: dict[Any, Any] = {}
        for table in tables:
            for batch in table.to_batches():
                self._values |= {row["key"]: row["value"] for row in to_rows(batch)}

    def table(self) -> pa.Table:
        keys, values = list(self._values), list(self._values.values())
        return pa.table([pa.array(keys, self._schema.field(0).type), pa.array(values, self._schema.field(1).type)], schema=self._schema)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check_open()
        for part, given in zip(self._schema, (key, value), strict=True):
            try:
                pa.scalar(given, part.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise TypeError(f"broadcast state {self.name!r}: the {part.name} {given!r} is no {part.type}: {error}") from error
        self._values[key] = value

    def __delitem__(self, key: Any) -> None:
        self._check_open()
        del self._values[key]

    def pop(self, key: Any, default: Any = None) -> Any:
        self._check_open()
        return self._values.pop(key, default)

    def clear(self) -> None:
        self._check_open()
        self._values.clear()

    def __getitem__(self, key: Any) -> Any:
        return self._values[key]

    def get(self, key: Any, default: Any = None) -> Any:
        return self._values.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def items(self) -> Any:
        return self._values.items()

    def _check_open(self) -> None:
        if not self.open:
            raise UsageError(f"broadcast state {self.name!r} is the same in every subtask: only process_broadcast may change it")
