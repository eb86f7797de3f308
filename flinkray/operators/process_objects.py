"""Python objects by slot: a list of them; or, where state has a budget of memory, their bytes in files."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.state.memory import current

if TYPE_CHECKING:
    from flinkray.state.bytes_in_files import BytesInFiles

Int64Array = npt.NDArray[np.int64]
ToArrow = Callable[[list[Any]], pa.Array]


@dataclass(frozen=True)
class Codec:
    """How a kept object becomes bytes, at least one, and is had back."""

    freeze: Callable[[Any], bytes]
    thaw: Callable[[bytes], Any]


PICKLED = Codec(pickle.dumps, pickle.loads)
AS_IT_IS = Codec(bytes, bytes)
"""Of bytes that are never empty: what is kept pickled."""
TEXT = Codec(lambda text: text.encode() + b".", lambda data: data[:-1].decode())
BINARY = Codec(lambda data: data + b".", lambda data: data[:-1])


class ObjectList:
    """All of them in memory."""

    in_files = False

    def __init__(self) -> None:
        self._objects: list[Any] = []

    @property
    def memory_bytes(self) -> int:
        """Without the objects themselves, which nobody can weigh quickly."""
        return 8 * len(self._objects)

    def make_room(self, slots: int) -> None:
        if len(self._objects) < slots:
            self._objects.extend([None] * (slots - len(self._objects)))

    def get(self, slots: Int64Array) -> list[Any]:
        objects = self._objects
        return [objects[slot] for slot in slots.tolist()]

    def put(self, slots: Int64Array, values: Sequence[Any]) -> None:
        for slot, value in zip(slots.tolist(), values, strict=True):
            self._objects[slot] = value

    def put_changed(self, slots: Int64Array, changed: Sequence[int], cells: Sequence[Any]) -> None:
        """Of a batch with these slots, the cells at the places that were changed, some perhaps several times."""
        kept, of_place = self._objects, slots.tolist()
        for place in changed:
            kept[of_place[place]] = cells[place]

    def live(self, high: int) -> npt.NDArray[np.bool_]:
        return np.array([is_live(value) for value in self._objects[:high]], np.bool_)

    def live_at(self, slots: Int64Array) -> npt.NDArray[np.bool_]:
        return np.array([is_live(value) for value in self.get(slots)], np.bool_)

    def copy(self, slots: Int64Array, to_arrow: ToArrow) -> Callable[[int, int], pa.Array]:
        """What makes an array of some of them, one after the other, as they are now."""
        values = [value if is_live(value) else None for value in self.get(slots)]
        return lambda start, stop: to_arrow(values[start:stop])

    def bytes_each(self) -> int:
        return 0


class ObjectsInFiles:
    """The same, as bytes in files. What is got is a new object each time."""

    in_files = True

    def __init__(self, store: BytesInFiles, codec: Codec) -> None:
        self._store, self._codec = store, codec

    @property
    def memory_bytes(self) -> int:
        return self._store.memory_bytes

    def make_room(self, slots: int) -> None:
        self._store.make_room(slots)

    def get(self, slots: Int64Array) -> list[Any]:
        return self._thawed(self._store.get(slots))

    def put(self, slots: Int64Array, values: Sequence[Any]) -> None:
        freeze = self._codec.freeze
        self._store.put(slots, [freeze(value) if is_live(value) else b"" for value in values])

    def put_changed(self, slots: Int64Array, changed: Sequence[int], cells: Sequence[Any]) -> None:
        places = sorted(set(changed))
        self.put(slots[places], [cells[place] for place in places])

    def live(self, high: int) -> npt.NDArray[np.bool_]:
        return self._store.live(high)

    def live_at(self, slots: Int64Array) -> npt.NDArray[np.bool_]:
        return self._store.live_at(slots)

    def copy(self, slots: Int64Array, to_arrow: ToArrow) -> Callable[[int, int], pa.Array]:
        pieces = self._store.still(slots)

        def make(start: int, stop: int) -> pa.Array:
            offsets, data = pieces.part(start, stop)
            ends = offsets.tolist()
            return to_arrow(self._thawed([data[begin:end].tobytes() for begin, end in pairwise(ends)]))

        return make

    def bytes_each(self) -> int:
        return self._store.memory_bytes // max(1, len(self._store))

    def _thawed(self, pieces: list[bytes]) -> list[Any]:
        thaw = self._codec.thaw
        return [thaw(piece) if piece else None for piece in pieces]


Objects = ObjectList | ObjectsInFiles


def objects(codec: Codec) -> Objects:
    """Where the objects of a state are kept."""
    memory = current()
    if memory is None:
        return ObjectList()
    from flinkray.state.bytes_in_files import BytesInFiles

    return ObjectsInFiles(BytesInFiles(memory), codec)


def is_live(value: Any) -> bool:
    """An empty container is no state."""
    return value is not None and not (isinstance(value, dict | list) and not value)
