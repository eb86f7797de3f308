"""What a user writes to aggregate in a way of their own: `Udaf`, over whole Arrow arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.expressions.types import engine_type, parse_type


class Groups(Protocol):
    """Which rows belong together: group g is rows `starts[g]` to `starts[g + 1]`, at least one. `starts` is int64[groups + 1]."""

    @property
    def starts(self) -> np.ndarray: ...

    def __len__(self) -> int: ...


class Udaf(ABC):
    """An aggregate of your own: what is kept of a group of rows is one value of `accumulator_type` (a type, or its name; a dict is a
    struct). Every method sees all groups of a batch at once; write it with numpy or pyarrow.compute, for example with
    `np.add.reduceat(values, groups.starts[:-1])`.

    Parts of a group may be accumulated apart, in any number, and are merged in the order in which they came. Results must not depend
    on how rows are cut into parts.
    """

    accumulator_type: ClassVar[Any]
    result_type: ClassVar[Any]

    @abstractmethod
    def accumulate(self, groups: Groups, *columns: pa.Array) -> pa.Array:
        """One accumulator for each group of rows. `columns` are those that the aggregate was given, with their nulls."""

    @abstractmethod
    def merge(self, groups: Groups, accumulators: pa.Array) -> pa.Array:
        """One accumulator for each group of accumulators."""

    @abstractmethod
    def finish(self, accumulators: pa.Array) -> pa.Array:
        """The result of each accumulator."""

    def types(self) -> tuple[pa.DataType, pa.DataType]:
        """Of accumulators and of results. Raises PlanError."""
        found = []
        for name in ("accumulator_type", "result_type"):
            declared = getattr(self, name, None)
            if declared is None:
                raise PlanError(f"{type(self).__name__} is a Udaf without {name}; give it a type, like {name} = 'float64'")
            if isinstance(declared, dict):
                found.append(pa.struct([(key, engine_type(parse_type(value))) for key, value in declared.items()]))
            else:
                found.append(engine_type(parse_type(declared)))
        return found[0], found[1]
