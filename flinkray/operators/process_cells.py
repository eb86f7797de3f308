"""State by slot, and the part of it that a batch works on.

Before a batch the values of its keys are gathered into `cells`, a Python list by the number of the key in the batch; what was changed
goes back at its end. Outside of a batch cells are `OUTSIDE`, which raises. `stamps[slot]` is the generation of the last change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.errors import UsageError
from flinkray.operators.process_expiry import Expiry
from flinkray.operators.process_objects import PICKLED, Codec, ToArrow, objects
from flinkray.operators.process_values import ValueKind
from flinkray.state.frozen import StillRows
from flinkray.state.growth import grown
from flinkray.state.memory import touch

Int64Array = npt.NDArray[np.int64]
STEP = 1 << 14


class _Outside(list[Any]):
    """Cells when there is no key: every access raises."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise UsageError("state was used where there is no key: it has values only inside process(), on_timer() and the like")

    __getitem__ = __setitem__ = _refuse


OUTSIDE = _Outside()


@dataclass(frozen=True)
class CellsCopy:
    """The values of some slots; nobody changes them any more."""

    part: Callable[[int, int], tuple[npt.NDArray[np.bool_], pa.Array]]
    """From one position to another: which are there, and the values."""
    bytes_each: int = 0
    """About so many, where they are objects in files."""


class WordCells:
    """Numbers: a word for each slot."""

    def __init__(self, kind: ValueKind, expiry: Expiry | None = None) -> None:
        self.kind = kind
        self.expiry = expiry
        self.cells: list[Any] = OUTSIDE
        self.changed: list[int] = []
        self.stamps = np.zeros(STEP, np.int64)
        self.words = np.zeros(STEP, np.int64)
        self.valid = np.zeros(STEP, np.bool_)

    @property
    def memory_bytes(self) -> int:
        expiry = 0 if self.expiry is None else self.expiry.used.nbytes
        return self.stamps.nbytes + self.words.nbytes + self.valid.nbytes + expiry

    def make_room(self, high: int) -> None:
        if self.expiry is not None:
            self.expiry.make_room(high)
        self.stamps = grown(self.stamps, high, STEP)
        self.words = grown(self.words, high, STEP)
        self.valid = grown(self.valid, high, STEP)

    def begin(self, slots: Int64Array, generation: int) -> None:
        for array in (self.words, self.valid, self.stamps):
            touch(array, slots)
        if self.expiry is not None:
            self.forget(self.expiry.begin(slots, self.valid[slots]), generation)
        self.cells = self.kind.words_to_list(self.words[slots])
        for empty in np.flatnonzero(~self.valid[slots]).tolist():
            self.cells[empty] = None

    def end(self, slots: Int64Array, generation: int) -> None:
        if self.changed:
            places = np.unique(np.array(self.changed, np.int64))
            values = [self.cells[place] for place in places.tolist()]
            valid = np.array([value is not None for value in values])
            if not valid.all():
                values = [0 if value is None else value for value in values]
            changed = slots[places]
            self.words[changed], self.valid[changed] = self.kind.list_to_words(values), valid
            self.stamps[changed] = generation
            self.changed = []
        if self.expiry is not None:
            self.expiry.end(slots)
        self.cells = OUTSIDE

    def forget(self, slots: Int64Array, generation: int) -> None:
        """These slots have no value any more."""
        for array in (self.words, self.valid, self.stamps):
            touch(array, slots)
        self.words[slots], self.valid[slots], self.stamps[slots] = 0, False, generation

    def live(self, high: int) -> npt.NDArray[np.bool_]:
        return self.valid[:high].copy()

    def live_at(self, slots: Int64Array) -> npt.NDArray[np.bool_]:
        return self.valid[slots]

    def copy(self, slots: Int64Array) -> CellsCopy:
        all_words, all_valid = StillRows(self.words, slots), StillRows(self.valid, slots)

        def part(start: int, stop: int) -> tuple[npt.NDArray[np.bool_], pa.Array]:
            valid = all_valid.part(start, stop)
            return valid, self.kind.words_to_arrow(all_words.part(start, stop), valid)

        return CellsCopy(part)

    def load(self, slots: Int64Array, array: pa.Array, valid: npt.NDArray[np.bool_]) -> None:
        self.words[slots], self.valid[slots] = self.kind.arrow_to_words(array), valid


class ObjectCells:
    """Anything else: a Python object for each slot. Containers (of `to_arrow`, `from_arrow`) may be changed in place while they are
    `owned`, that is, since they were copied after the last snapshot."""

    def __init__(
        self, to_arrow: ToArrow, from_arrow: Callable[[pa.Array], list[Any]], expiry: Expiry | None = None, codec: Codec = PICKLED
    ) -> None:
        self.expiry = expiry
        self.cells: list[Any] = OUTSIDE
        self.changed: list[int] = []
        self.owned: list[bool] = []
        self.stamps = np.zeros(STEP, np.int64)
        self._objects = objects(codec)
        self._objects.make_room(STEP)
        self._to_arrow, self._from_arrow = to_arrow, from_arrow

    @property
    def memory_bytes(self) -> int:
        """Without objects in memory, which nobody can weigh quickly."""
        return self.stamps.nbytes + self._objects.memory_bytes + (0 if self.expiry is None else self.expiry.used.nbytes)

    def make_room(self, high: int) -> None:
        if self.expiry is not None:
            self.expiry.make_room(high)
        self.stamps = grown(self.stamps, high, STEP)
        self._objects.make_room(len(self.stamps))

    def begin(self, slots: Int64Array, generation: int) -> None:
        if self.expiry is not None:
            self.forget(self.expiry.begin(slots, self.live_at(slots)), generation)
        self.cells = self.get(slots)
        touch(self.stamps, slots)
        self.owned = [False] * len(slots) if self._objects.in_files else (self.stamps[slots] == generation).tolist()

    def end(self, slots: Int64Array, generation: int) -> None:
        if self.changed:
            self._objects.put_changed(slots, self.changed, self.cells)
            self.stamps[slots[self.changed]] = generation
            self.changed = []
        if self.expiry is not None:
            self.expiry.end(slots)
        self.cells = OUTSIDE

    def forget(self, slots: Int64Array, generation: int) -> None:
        """These slots have no value any more."""
        self.put(slots, [None] * len(slots))
        self.stamps[slots] = generation

    def get(self, slots: Int64Array) -> list[Any]:
        return self._objects.get(slots)

    def put(self, slots: Int64Array, values: list[Any]) -> None:
        self._objects.put(slots, values)

    def live(self, high: int) -> npt.NDArray[np.bool_]:
        return self._objects.live(high)

    def copy(self, slots: Int64Array) -> CellsCopy:
        valid, values = self.live_at(slots), self._objects.copy(slots, self._to_arrow)
        return CellsCopy(lambda start, stop: (valid[start:stop], values(start, stop)), self._objects.bytes_each())

    def load(self, slots: Int64Array, array: pa.Array, valid: npt.NDArray[np.bool_]) -> None:
        values = self._from_arrow(array)
        self.put(slots, [value if is_valid else None for value, is_valid in zip(values, valid.tolist(), strict=True)])

    def live_at(self, slots: Int64Array) -> npt.NDArray[np.bool_]:
        return self._objects.live_at(slots)


Cells = WordCells | ObjectCells
