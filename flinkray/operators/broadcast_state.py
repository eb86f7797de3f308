"""Broadcast state at work: maps that every subtask changes alike, by the rows that go to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.errors import UsageError
from flinkray.graph.co_process import BroadcastState, broadcast_states_of
from flinkray.operators.base import RestoredState, StateCapture
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.process_context import Context
from flinkray.operators.process_rows import rows_of
from flinkray.operators.rows import to_rows, visible_batch

_STATE = "broadcast:"


class Broadcasts:
    """The broadcast states that a function declares, and calls of its `process_broadcast`, which alone may change them."""

    def __init__(self, declared: object, restored: Sequence[RestoredState]) -> None:
        """`declared`: the function as the user gave it."""
        states = broadcast_states_of(declared)
        self._maps = {name: BroadcastMap(state, origin_tables(restored, _STATE + state.name)) for name, state in states.items()}

    def bind(self, function: object) -> None:
        for attribute, bound in self._maps.items():
            setattr(function, attribute, bound)

    def take(self, function: Any, batch: pa.RecordBatch, ctx: Context, watermark: int) -> None:
        """Calls `function.process_broadcast` with each row; what it gives to side outputs is in `ctx`. Raises what it raises."""
        call: Callable[..., Any] = function.process_broadcast
        context = _BroadcastContext(watermark, ctx.output)
        timed = EVENT_TIME in batch.schema.names
        stamps = batch.column(EVENT_TIME).to_pylist() if timed else [None] * batch.num_rows
        self._open(True)
        try:
            for row, stamp in zip(rows_of(visible_batch(batch)), stamps, strict=True):
                context.timestamp = ctx.timestamp = stamp
                if call(row, context) is not None:
                    raise TypeError("process_broadcast gave something: every subtask would give it; rows are given by process only")
        finally:
            self._open(False)

    def _open(self, is_open: bool) -> None:
        for bound in self._maps.values():
            bound.open = is_open

    def captures(self, subtask: int) -> list[StateCapture]:
        """The maps are the same everywhere: the first subtask writes them, and all restore them from it."""
        maps = self._maps.values()
        return [ListCapture(_STATE + bound.name, bound.table() if subtask == 0 else bound.table().slice(0, 0)) for bound in maps]


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
