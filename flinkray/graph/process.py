"""What a user writes to handle the rows of a key one by one: `KeyedProcessFunction` and the declarations of its state.

Declarations are class attributes. In each subtask the function is copied, and its declarations are replaced by bound state of the
same interface; on a declaration itself every access raises UsageError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol

import pyarrow as pa

from flinkray.config import Duration, duration_us
from flinkray.errors import ConfigError, PlanError, UsageError
from flinkray.expressions.types import engine_type, parse_type, type_name

if TYPE_CHECKING:
    import numpy as np

PICKLED = pa.binary()
"""How values of type `object` are stored: pickled. The last resort: they cannot be read by other programs or typed later."""


@dataclass(frozen=True)
class StateTtl:
    """How long a key's state lives after it was last written (`refresh="read"`: or read).

    `time="event"`: until the watermark is `after` behind the event time of the row or timer at work then. `"processing"`: by the
    clock, which also runs while the job is down. None: event time where rows have one.
    """

    after: Duration
    time: Literal["event", "processing"] | None = None
    refresh: Literal["write", "read"] = "write"

    def __post_init__(self) -> None:
        try:
            micros = duration_us(self.after, "ttl")
        except ConfigError as error:
            raise PlanError(f"StateTtl: {error}") from None
        if micros <= 0:
            raise PlanError(f"StateTtl: {self.after!r} is not above zero")
        if self.time not in (None, "event", "processing") or self.refresh not in ("write", "read"):
            raise PlanError(f"StateTtl: time={self.time!r}, refresh={self.refresh!r}; 'event' or 'processing', 'write' or 'read'")

    @property
    def after_us(self) -> int:
        return duration_us(self.after, "ttl")


class State:
    """What all declarations have in common: a name that is unique in the function, types, and how long values live (`ttl`, a StateTtl
    or its duration; None: for ever)."""

    kind: ClassVar[str]

    def __init__(self, name: str, ttl: StateTtl | Duration | None = None, **types: Any) -> None:
        if not isinstance(name, str) or not name:
            raise PlanError(f"{type(self).__name__}: {name!r} is no name; give the state one, like {type(self).__name__}('total', int)")
        self.name = name
        self.ttl = ttl if ttl is None or isinstance(ttl, StateTtl) else StateTtl(ttl)
        self.types: dict[str, pa.DataType | None] = {role: self._type(role, kind) for role, kind in types.items()}

    def _type(self, role: str, kind: Any) -> pa.DataType | None:
        """None: pickled objects. A dict of names and types is a struct."""
        if kind is object:
            return None
        try:
            if isinstance(kind, dict):
                return pa.struct([(name, engine_type(parse_type(inner))) for name, inner in kind.items()])
            return engine_type(parse_type(kind))
        except PlanError as error:
            raise PlanError(f"state {self.name!r}: {role}: {error}; a dict of names and types is a struct, object is pickled") from None

    def describe(self) -> list[str]:
        """Name, kind and types: what a restore must fit."""
        types = ["object" if kind is None else type_name(kind) for kind in self.types.values()]
        return [self.name, self.kind, *types]

    def _outside(self) -> NoReturn:
        raise UsageError(f"state {self.name!r} has a value only inside process(), on_timer() and the like, where there is a key")


class ValueState(State):
    """One value per key: `.value` (None when empty; None set is empty), `.clear()`; `read` and `write` in `process_keys`."""

    kind = "value"

    def __init__(self, name: str, type: Any, *, ttl: StateTtl | Duration | None = None) -> None:
        super().__init__(name, ttl, type=type)

    @property
    def value(self) -> Any:
        self._outside()

    @value.setter
    def value(self, value: Any) -> None:
        self._outside()

    def clear(self) -> None:
        self._outside()

    def read(self, keys: Keys) -> Values:
        """The values of all keys of a batch at once; where a key has none, `.valid` is False and the value zero (or None)."""
        self._outside()

    def write(self, keys: Keys, values: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Sets the values of all keys of a batch at once; where `valid` is False the key has none from then on."""
        self._outside()


class ListState(State):
    """A list per key: `add`, `extend`, iteration, `len`, `clear`."""

    kind = "list"

    def __init__(self, name: str, type: Any, *, ttl: StateTtl | Duration | None = None) -> None:
        super().__init__(name, ttl, type=type)

    def add(self, value: Any) -> None:
        self._outside()

    def extend(self, values: Iterable[Any]) -> None:
        self._outside()

    def __iter__(self) -> Iterator[Any]:
        self._outside()

    def __len__(self) -> int:
        self._outside()

    def clear(self) -> None:
        self._outside()


class MapState(State):
    """A dict per key: `state[k]`, `state[k] = v`, `del state[k]`, `in`, `len`, iteration, `get pop keys values items clear`."""

    kind = "map"

    def __init__(self, name: str, key_type: Any, value_type: Any, *, ttl: StateTtl | Duration | None = None) -> None:
        super().__init__(name, ttl, key_type=key_type, value_type=value_type)
        if not _hashable(self.types["key_type"]):
            raise PlanError(f"state {name!r}: a map's keys are numbers, strings, bytes, booleans, dates or times, not {key_type!r}")

    def __getitem__(self, key: Any) -> Any:
        self._outside()

    def __setitem__(self, key: Any, value: Any) -> None:
        self._outside()

    def __delitem__(self, key: Any) -> None:
        self._outside()

    def __contains__(self, key: Any) -> bool:
        self._outside()

    def __iter__(self) -> Iterator[Any]:
        self._outside()

    def __len__(self) -> int:
        self._outside()

    def get(self, key: Any, default: Any = None) -> Any:
        self._outside()

    def pop(self, key: Any, *default: Any) -> Any:
        self._outside()

    def keys(self) -> Iterable[Any]:
        self._outside()

    def values(self) -> Iterable[Any]:
        self._outside()

    def items(self) -> Iterable[tuple[Any, Any]]:
        self._outside()

    def clear(self) -> None:
        self._outside()


class ReducingState(State):
    """One value per key, into which `add(value)` puts another by `reduce(old, new) -> value`. `.value` is None when empty."""

    kind = "reducing"

    def __init__(self, name: str, type: Any, reduce: Callable[[Any, Any], Any], *, ttl: StateTtl | Duration | None = None) -> None:
        super().__init__(name, ttl, type=type)
        self.reduce = reduce

    @property
    def value(self) -> Any:
        self._outside()

    def add(self, value: Any) -> None:
        self._outside()

    def clear(self) -> None:
        self._outside()


class AggregateFunction(Protocol):
    """How an AggregatingState goes on, as in PyFlink."""

    def create_accumulator(self) -> Any: ...

    def add(self, value: Any, accumulator: Any) -> Any:
        """The accumulator with the value in it."""

    def get_result(self, accumulator: Any) -> Any: ...


class AggregatingState(State):
    """An accumulator of `type` per key, into which `add(value)` puts a value; `.value` is the function's result, None when empty."""

    kind = "aggregating"

    def __init__(self, name: str, type: Any, function: AggregateFunction, *, ttl: StateTtl | Duration | None = None) -> None:
        super().__init__(name, ttl, type=type)
        self.function = function

    @property
    def value(self) -> Any:
        self._outside()

    def add(self, value: Any) -> None:
        self._outside()

    def clear(self) -> None:
        self._outside()


class Keys(Protocol):
    """The keys of a batch in `process_keys`: `index[i]` is the place of row i's key in `unique` (an array; of several key columns a
    struct array)."""

    index: np.ndarray
    unique: pa.Array

    def __len__(self) -> int: ...


class Values(Protocol):
    """A numpy array with one value per key of the batch, that knows which keys have a value."""

    valid: np.ndarray


class ProcessContext(Protocol):
    """What a process function may know and do. Times are int microseconds, UTC."""

    key: Any
    """A tuple where there are several key columns."""
    timestamp: int | None
    """Event time of the row, or of the timer (then also of rows that are given); None where rows have none."""
    watermark: int
    time_domain: str
    """In `on_timer`: "event" or "processing"."""
    timestamps: np.ndarray | None
    """In `process_keys` and `process_batch`: the rows' event times."""

    def register_event_timer(self, time: int) -> None: ...
    def delete_event_timer(self, time: int) -> None: ...
    def register_processing_timer(self, time: int) -> None: ...
    def delete_processing_timer(self, time: int) -> None: ...
    def register_event_timers(self, keys: Keys, times: np.ndarray, valid: np.ndarray | None = None) -> None: ...
    def processing_time(self) -> int: ...
    def output(self, tag: str, row: Mapping[str, Any]) -> None: ...


MODES = ("process", "process_batch", "process_keys")


class KeyedProcessFunction:
    """Write one of `process(row, ctx)` (a dict per row), `process_batch(rows, ctx)` (a RecordBatch with the rows of one key) and
    `process_keys(batch, keys, ctx)` (rows of all keys, for numpy); and `on_timer(timestamp, ctx)`, or `on_timers(keys, times, ctx)`
    beside `process_keys`.

    `process` and `on_timer` give rows as an iterable of dicts, mostly by `yield`; the others a RecordBatch, a dict of arrays, or
    None. `open(ctx)` and `close()` are called once in each subtask, without a key. Attributes: `output_schema`, `side_outputs`
    (`{tag: schema}`), `input_columns` (what of the input is wanted; all where it is None).
    """

    output_schema: ClassVar[Any] = None
    side_outputs: ClassVar[Mapping[str, Any]] = {}
    input_columns: ClassVar[tuple[str, ...] | None] = None
    modes: ClassVar[tuple[str, ...]] = MODES

    def open(self, ctx: ProcessContext) -> None: ...

    def close(self) -> None: ...


def mode_of(function: Any) -> str:
    """Which of the three ways the function is written for. Raises PlanError."""
    written = [mode for mode in function.modes if callable(getattr(function, mode, None))]
    name = type(function).__name__
    if len(written) != 1:
        raise PlanError(f"process: {name} has {' and '.join(written) or 'none'} of {', '.join(function.modes)}; write exactly one of them")
    timer = "on_timer" if written[0] == "process_keys" else "on_timers"
    if hasattr(function, timer):
        wanted = "on_timers(keys, times, ctx)" if timer == "on_timer" else "on_timer(timestamp, ctx)"
        raise PlanError(f"process: {name} has {written[0]} and {timer}; with {written[0]} timers come to {wanted}")
    return written[0]


def states_of(function: Any) -> dict[str, State]:
    """The declarations by attribute, in the order of their names. Raises PlanError when two have one name."""
    found: dict[str, State] = {}
    for attribute in dir(type(function)):
        value = getattr(type(function), attribute, None)
        if isinstance(value, State):
            found[attribute] = value
    found |= {attribute: value for attribute, value in vars(function).items() if isinstance(value, State)}
    names: dict[str, str] = {}
    for attribute, state in found.items():
        if state.name in names:
            raise PlanError(f"process: {type(function).__name__} has two states named {state.name!r}: {names[state.name]} and {attribute}")
        names[state.name] = attribute
    return dict(sorted(found.items(), key=lambda item: item[1].name))


def _hashable(kind: pa.DataType | None) -> bool:
    return kind is not None and not pa.types.is_nested(kind)
