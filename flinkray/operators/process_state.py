"""Bound state: what the declarations of a process function become in a subtask. The interfaces are those of `graph.process`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.errors import UsageError
from flinkray.graph import process as declared
from flinkray.operators.process_cells import Cells, Int64Array, ObjectCells, WordCells
from flinkray.operators.process_expiry import Expiry
from flinkray.operators.process_loans import Loans
from flinkray.operators.process_objects import AS_IT_IS, BINARY, PICKLED, TEXT, Codec
from flinkray.operators.process_values import ValueKind, value_kind

Touch = Callable[[int], None]


class Cursor:
    """Which key of the batch is at work: its number among them; the slots of all, and the largest event time of each key's rows."""

    __slots__ = ("at", "slots", "times")

    def __init__(self) -> None:
        self.at = 0
        self.slots: Int64Array | None = None
        self.times: Int64Array | None = None


class BatchValues(np.ndarray[Any, Any]):
    """What `ValueState.read` gives."""

    valid: np.ndarray


def _as_it_is(value: Any) -> Any:
    return value


def _or_none(thaw: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else thaw(value)


class _Bound:
    """What bound states have in common; `cells` hold what is kept."""

    name: str
    cells: Cells
    arrow: pa.DataType
    """Of the column in a chunk."""
    _cursor: Cursor
    _taken: Callable[[Any], None] | None = None
    """Told of what is assigned, where somebody looks after it."""
    _written: Touch | None = None
    _read: Touch | None = None
    """Called with the place of the key whose state is written or read, where state does not live for ever."""

    def _lives(self, expiry: Expiry | None) -> Expiry | None:
        if expiry is not None:
            self._written = expiry.touch
            self._read = expiry.touch if expiry.refreshed_by_reads else None
        return expiry

    def clear(self) -> None:
        cells, at = self.cells, self._cursor.at
        cells.cells[at] = None
        cells.changed.append(at)

    def _fitted(self, kind: ValueKind, value: Any, role: str = "value") -> Any:
        if self._taken is not None:
            self._taken(value)
        try:
            return kind.fit(value)
        except (TypeError, OverflowError, ValueError, pa.ArrowException) as error:
            raise type(error)(f"state {self.name!r}: {role} {value!r:.80} is not {kind.arrow}: {error}") from None


class _BoundSingle(_Bound):
    def __init__(self, state: declared.State, cursor: Cursor, expiry: Expiry | None = None) -> None:
        self.name, self._cursor = state.name, cursor
        self._kind = value_kind(state.types["type"])
        self._lives(expiry)
        self.arrow, self._thaw = self._kind.arrow, self._kind.thaw
        self._fit = self._kind.fit
        is_word = self._kind.dtype is not None
        self.cells = (
            WordCells(self._kind, expiry)
            if is_word
            else ObjectCells(self._kind.to_arrow, self._kind.from_arrow, expiry, codec_of(self._kind))
        )

    def _get(self) -> Any:
        value = self.cells.cells[self._cursor.at]
        if self._read is not None:
            self._read(self._cursor.at)
        return value if value is None or self._thaw is None else self._thaw(value)

    def _set(self, value: Any) -> None:
        cells, at = self.cells, self._cursor.at
        if value is not None:
            if self._taken is not None:
                self._taken(value)
            try:
                value = self._fit(value)
            except (TypeError, OverflowError, ValueError, pa.ArrowException):
                self._fitted(self._kind, value)
                raise
        cells.cells[at] = value
        cells.changed.append(at)
        if self._written is not None:
            self._written(at)


class BoundValue(_BoundSingle, declared.ValueState):
    value = property(_BoundSingle._get, _BoundSingle._set)

    def read(self, keys: declared.Keys) -> Any:
        slots, expiry = self._slots(keys), self.cells.expiry
        if expiry is not None:
            self.cells.forget(expiry.begin(slots, self.cells.live_at(slots)), self.generation())
            if self._read is not None:
                expiry.touch_many(slots, self._cursor.times)
        if isinstance(self.cells, WordCells):
            words = self.cells.words[slots]
            dtype = self._kind.dtype
            values = (words.view(np.float64) if dtype is np.float64 else words.astype(dtype, copy=False)).view(BatchValues)
            values.valid = self.cells.valid[slots]
            return values
        kept = self.cells.get(slots)
        found = np.empty(len(kept), object)
        found[:] = kept if self._thaw is None else [None if value is None else self._thaw(value) for value in kept]
        values = found.view(BatchValues)
        values.valid = np.array([value is not None for value in kept], np.bool_)
        return values

    def write(self, keys: declared.Keys, values: np.ndarray, valid: np.ndarray | None = None) -> None:
        slots = self._slots(keys)
        if len(values) != len(slots):
            raise UsageError(f"state {self.name!r}: write() got {len(values)} values for {len(slots)} keys")
        self.cells.stamps[slots] = self.generation()
        if self.cells.expiry is not None:
            self.cells.expiry.begin(slots, self.cells.live_at(slots))
            self.cells.expiry.touch_many(slots, self._cursor.times)
        if isinstance(self.cells, WordCells):
            array = np.asarray(values).astype(self._kind.dtype, casting="same_kind", copy=False)
            words = array.view(np.int64) if self._kind.dtype is np.float64 else array.astype(np.int64, copy=False)
            if self._kind.dtype is np.int64 and self._kind.arrow.bit_width < 64 and len(words):
                self._fitted(self._kind, int(words.min()))
                self._fitted(self._kind, int(words.max()))
            self.cells.words[slots] = words
            self.cells.valid[slots] = True if valid is None else valid
            return
        given = [None if value is None else self._fitted(self._kind, value) for value in values]
        if valid is not None:
            given = [value if ok else None for value, ok in zip(given, valid, strict=True)]
        self.cells.put(slots, given)

    generation: Callable[[], int]

    def _slots(self, keys: declared.Keys) -> Int64Array:
        slots = self._cursor.slots
        if slots is None or len(keys) != len(slots):
            raise UsageError(f"state {self.name!r}: read() and write() take the keys that process_keys() or on_timers() was given")
        return slots


class BoundReducing(_BoundSingle, declared.ReducingState):
    def __init__(self, state: declared.ReducingState, cursor: Cursor, expiry: Expiry | None = None) -> None:
        super().__init__(state, cursor, expiry)
        self.reduce = state.reduce

    value = property(_BoundSingle._get)

    def add(self, value: Any) -> None:
        old = self._get()
        self._set(value if old is None else self.reduce(old, value))


class BoundAggregating(_BoundSingle, declared.AggregatingState):
    def __init__(self, state: declared.AggregatingState, cursor: Cursor, expiry: Expiry | None = None) -> None:
        super().__init__(state, cursor, expiry)
        self.function = state.function

    @property
    def value(self) -> Any:
        accumulator = self._get()
        return None if accumulator is None else self.function.get_result(accumulator)

    def add(self, value: Any) -> None:
        accumulator = self._get()
        if accumulator is None:
            accumulator = self.function.create_accumulator()
        self._set(self.function.add(value, accumulator))


class _BoundContainer(_Bound):
    """A dict or a list per key. What is kept at a snapshot is not changed: the first change after it makes a copy."""

    cells: ObjectCells
    _new: Callable[..., Any]

    def _mine(self) -> Any:
        """The key's container, to be changed."""
        cells, at = self.cells, self._cursor.at
        if self._written is not None:
            self._written(at)
        kept = cells.cells[at]
        if kept is None or not cells.owned[at]:
            kept = cells.cells[at] = self._new() if kept is None else self._new(kept)
            cells.owned[at] = True
            cells.changed.append(at)
        return kept

    def _kept(self) -> Any:
        if self._read is not None:
            self._read(self._cursor.at)
        return self.cells.cells[self._cursor.at]


class BoundList(_BoundContainer, declared.ListState):
    _new = list

    def __init__(self, state: declared.ListState, cursor: Cursor, expiry: Expiry | None = None) -> None:
        self.name, self._cursor = state.name, cursor
        kind = self._kind = value_kind(state.types["type"])
        self.arrow = pa.list_(kind.arrow)
        self._thaw = kind.thaw
        self.cells = ObjectCells(self._to_arrow, self._from_arrow, self._lives(expiry))

    def _to_arrow(self, lists: list[Any]) -> pa.Array:
        offsets = np.cumsum([0, *(len(values or ()) for values in lists)])
        flat = self._kind.to_arrow([value for values in lists for value in values or ()])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)

    def _from_arrow(self, array: pa.Array) -> list[Any]:
        flat, ends = self._kind.from_arrow(array.flatten()), np.cumsum(array.value_lengths().fill_null(0).to_numpy())
        return [flat[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]

    def add(self, value: Any) -> None:
        self._mine().append(self._fitted(self._kind, value))

    def extend(self, values: Iterable[Any]) -> None:
        fitted = [self._fitted(self._kind, value) for value in values]
        if fitted:
            self._mine().extend(fitted)

    def __iter__(self) -> Iterator[Any]:
        kept = list(self._kept() or ())
        return iter(kept if self._thaw is None else [self._thaw(value) for value in kept])

    def __len__(self) -> int:
        return len(self._kept() or ())


_EMPTY: dict[Any, Any] = {}


class BoundMap(_BoundContainer, declared.MapState):
    _new = dict

    def __init__(self, state: declared.MapState, cursor: Cursor, expiry: Expiry | None = None) -> None:
        self.name, self._cursor = state.name, cursor
        self._key_kind, self._value_kind = value_kind(state.types["key_type"]), value_kind(state.types["value_type"])
        self.arrow = pa.map_(self._key_kind.arrow, self._value_kind.arrow)
        self._thaw = self._release = _as_it_is if self._value_kind.thaw is None else _or_none(self._value_kind.thaw)
        self._fit_key, self._fit_value = self._key_kind.fit, self._value_kind.fit
        self.cells = ObjectCells(self._to_arrow, self._from_arrow, self._lives(expiry))

    def _to_arrow(self, maps: list[Any]) -> pa.Array:
        offsets = np.cumsum([0, *(len(each or ()) for each in maps)])
        keys = self._key_kind.to_arrow([key for each in maps for key in each or ()])
        values = self._value_kind.to_arrow([value for each in maps for value in (each or _EMPTY).values()])
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, values)

    def _from_arrow(self, array: pa.Array) -> list[Any]:
        lengths = np.diff(array.offsets.to_numpy())
        first, stop = (array.offsets[0].as_py(), array.offsets[len(array)].as_py()) if len(array) else (0, 0)
        keys = self._key_kind.from_arrow(array.keys.slice(first, stop - first))
        values = self._value_kind.from_arrow(array.items.slice(first, stop - first))
        ends = np.cumsum(lengths).tolist()
        pairs = list(zip(keys, values, strict=True))
        return [dict(pairs[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]

    def _kept(self) -> dict[Any, Any]:
        return super()._kept() or _EMPTY

    def __getitem__(self, key: Any) -> Any:
        return self._thaw(self._kept()[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._taken is not None:
            self._taken(value)
        try:
            key, value = self._fit_key(key), None if value is None else self._fit_value(value)
        except (TypeError, OverflowError, ValueError, pa.ArrowException):
            self._fitted(self._key_kind, key, "key")
            self._fitted(self._value_kind, value)
            raise
        self._mine()[key] = value

    def __delitem__(self, key: Any) -> None:
        if key not in self._kept():
            raise KeyError(key)
        del self._mine()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._kept()

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._kept()))

    def __len__(self) -> int:
        return len(self._kept())

    def get(self, key: Any, default: Any = None) -> Any:
        kept = self._kept()
        return self._thaw(kept[key]) if key in kept else default

    def pop(self, key: Any, *default: Any) -> Any:
        if key not in self._kept():
            if default:
                return default[0]
            raise KeyError(key)
        return self._release(self._mine().pop(key))

    def keys(self) -> list[Any]:
        return list(self._kept())

    def values(self) -> list[Any]:
        return [self._thaw(value) for value in self._kept().values()]

    def items(self) -> list[tuple[Any, Any]]:
        return [(key, self._thaw(value)) for key, value in self._kept().items()]


_BOUND: dict[str, Callable[..., Any]] = {
    "value": BoundValue,
    "list": BoundList,
    "map": BoundMap,
    "reducing": BoundReducing,
    "aggregating": BoundAggregating,
}

BoundState = BoundValue | BoundList | BoundMap | BoundReducing | BoundAggregating


def codec_of(kind: ValueKind) -> Codec:
    """How single values of a kind become bytes."""
    if kind.thaw is not None:
        return AS_IT_IS
    if pa.types.is_string(kind.arrow):
        return TEXT
    return BINARY if pa.types.is_binary(kind.arrow) else PICKLED


def bind(
    state: declared.State, cursor: Cursor, generation: Callable[[], int], expiry: Expiry | None = None, loans: Loans | None = None
) -> BoundState:
    """The state of a subtask; `generation` tells with what changes are stamped now; `loans` looks after values that are read."""
    bound: BoundState = _BOUND[state.kind](state, cursor, expiry)
    if loans is not None and isinstance(bound, BoundValue | BoundList | BoundMap) and bound._thaw not in (None, _as_it_is):
        bound._thaw, bound._taken = loans.lend(bound.name, bound._thaw), loans.taken
    if isinstance(bound, BoundValue):
        bound.generation = generation
    return bound
