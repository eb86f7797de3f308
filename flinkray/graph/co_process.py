"""What a user writes to handle two connected streams: rows of both with the same keyed state, or rows and what is broadcast to all of them; with
keys, or without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NoReturn, Protocol

import pyarrow as pa

from flinkray.errors import PlanError, UsageError
from flinkray.expressions.types import parse_type
from flinkray.graph.process import KeyedProcessFunction
from flinkray.graph.row_process import ProcessFunction


class KeyedCoProcessFunction(KeyedProcessFunction):
    """Write `process1(row, ctx)` for rows of the first stream and `process2(row, ctx)` for rows of the second; state and timers of a key are the
    same in both. `on_timer`, `open`, `close`, `output_schema` and `side_outputs` as in a KeyedProcessFunction."""

    modes: ClassVar[tuple[str, ...]] = ("process1",)


class BroadcastContext(Protocol):
    """What `process_broadcast` may know. Times are int microseconds, UTC."""

    timestamp: int | None
    watermark: int

    def output(self, tag: str, row: Mapping[str, Any]) -> None: ...


class KeyedBroadcastProcessFunction(KeyedProcessFunction):
    """Write `process(row, ctx)` for rows of the keyed stream, and `process_broadcast(row, ctx)`, which is called in every subtask with every row
    of the broadcast stream. Only it may change a BroadcastState; it has no key, and gives no rows."""

    modes: ClassVar[tuple[str, ...]] = ("process",)


class CoProcessFunction(ProcessFunction):
    """For streams without keys: `process1(row, ctx)` for rows of the first stream and `process2(row, ctx)` for rows of the second. `open`, `close`,
    `output_schema` and `side_outputs` as in a ProcessFunction."""

    modes: ClassVar[tuple[str, ...]] = ("process1",)


class BroadcastProcessFunction(ProcessFunction):
    """For a stream without keys: `process(row, ctx)` for its rows, and `process_broadcast(row, ctx)` and BroadcastStates as in a
    KeyedBroadcastProcessFunction."""

    modes: ClassVar[tuple[str, ...]] = ("process",)


class BroadcastState:
    """A map that is the same in every subtask: read anywhere, changed in `process_broadcast` only. Types as for MapState."""

    def __init__(self, name: str, key_type: Any, value_type: Any) -> None:
        if not isinstance(name, str) or not name:
            raise PlanError(f"BroadcastState: name {name!r}: a string")
        self.name = name
        try:
            self.key_type, self.value_type = parse_type(key_type), self._value_type(value_type)
        except PlanError as error:
            raise PlanError(f"BroadcastState {name!r}: {error}") from None

    @staticmethod
    def _value_type(value_type: Any) -> pa.DataType:
        if isinstance(value_type, Mapping):
            return pa.struct([pa.field(name, parse_type(kind)) for name, kind in value_type.items()])
        return parse_type(value_type)

    def describe(self) -> list[str]:
        return [self.name, "broadcast", str(self.key_type), str(self.value_type)]

    def __getitem__(self, key: Any) -> Any:
        self._outside()

    def __setitem__(self, key: Any, value: Any) -> None:
        self._outside()

    def __delitem__(self, key: Any) -> None:
        self._outside()

    def __contains__(self, key: object) -> bool:
        self._outside()

    def __len__(self) -> int:
        self._outside()

    def __iter__(self) -> Iterator[Any]:
        self._outside()

    def get(self, key: Any, default: Any = None) -> Any:
        self._outside()

    def items(self) -> Any:
        self._outside()

    def _outside(self) -> NoReturn:
        raise UsageError(
            f"broadcast state {self.name!r} is a declaration: it can be used in process and process_broadcast, when the job runs"
        )


def broadcast_states_of(function: object) -> dict[str, BroadcastState]:
    """The declarations by attribute, in the order of their names. Raises PlanError when two have one name."""
    found = {attribute: getattr(type(function), attribute, None) for attribute in dir(type(function))}
    states = {attribute: value for attribute, value in found.items() if isinstance(value, BroadcastState)}
    names = [state.name for state in states.values()]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"connect: {type(function).__name__} has two broadcast states named {name!r}")
    return dict(sorted(states.items(), key=lambda item: item[1].name))
