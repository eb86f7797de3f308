"""Joins as frozen values: which rows meet, and where each column of the result comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from flinkray.columns import TIMESTAMP
from flinkray.errors import PlanError
from flinkray.graph.aggregates import WINDOW_END, WINDOW_START
from flinkray.graph.windows import SlidingWindow, TumblingWindow

How = Literal["inner", "left", "right", "full"]
HOWS = ("inner", "left", "right", "full")
HALVES = ("semi", "anti")
"""Of regular joins besides: left rows that have a partner, left rows that have none."""
SUFFIX = "_right"


@dataclass(frozen=True)
class JoinColumn:
    """`left` and `right`: columns of the inputs. A key has both: the left value, or the right one where there is no left row. A
    column with neither is the start or the end of the window."""

    name: str
    left: str | None
    right: str | None


@dataclass(frozen=True)
class Interval:
    """A right row joins a left one when `left time + lower_us <= right time <= left time + upper_us`."""

    lower_us: int
    upper_us: int

    def describe(self) -> str:
        return f"right time from left time {self.lower_us:+d} us to {self.upper_us:+d} us"


@dataclass(frozen=True)
class Unbounded:
    """Rows of both sides meet whenever they come, as long as they are kept. `ttl_us`: how long that is, of each side (None: for ever);
    `upserts`: whether a row of the side replaces the one before of its key."""

    ttl_us: tuple[int | None, int | None] = (None, None)
    upserts: tuple[bool, bool] = (False, False)

    def describe(self) -> str:
        lives = ["for ever" if us is None else f"{us} us" for us in self.ttl_us]
        return "rows kept for ever" if lives == ["for ever"] * 2 else f"left rows kept {lives[0]}, right rows kept {lives[1]}"


@dataclass(frozen=True)
class AsOf:
    """A left row meets the newest right row that is not later. `tolerance_us`: and at most so much earlier (None: however old).
    `broadcast`: all right rows are in every subtask, left rows stay where they are."""

    tolerance_us: int | None = None
    broadcast: bool = False

    def describe(self) -> str:
        where = ", the right side in every subtask" if self.broadcast else ""
        return "newest right row" + ("" if self.tolerance_us is None else f" of the last {self.tolerance_us} us") + where


@dataclass(frozen=True)
class Join:
    """All that a joining operator must know. `over`: the same window, an interval of time, or how else rows meet."""

    left_keys: tuple[str, ...]
    right_keys: tuple[str, ...]
    how: str
    columns: tuple[JoinColumn, ...]
    over: TumblingWindow | SlidingWindow | Interval | Unbounded | AsOf

    @property
    def keeps(self) -> tuple[bool, bool]:
        """Whether rows of the left and of the right side come out also when they find no partner."""
        return self.how in ("left", "full", "anti"), self.how in ("right", "full")


def join_columns(
    left: pa.Schema, right: pa.Schema, left_keys: Sequence[str], right_keys: Sequence[str], windowed: bool
) -> tuple[JoinColumn, ...]:
    """Keys under their left names, the window's start and end, the other columns of the left side, then those of the right; a right
    column whose name is taken gets the suffix `_right`. Raises PlanError where that is taken as well."""
    columns = [JoinColumn(name, name, other) for name, other in zip(left_keys, right_keys, strict=True)]
    taken = {column.name for column in columns}
    for name in (WINDOW_START, WINDOW_END) if windowed else ():
        if name in taken:
            raise PlanError(f"join: key {name!r} has the name of a column of the result's window; rename it")
        columns.append(JoinColumn(name, None, None))
        taken.add(name)
    for name in (name for name in left.names if name not in left_keys):
        if name in taken:
            raise PlanError(f"join: the left rows have a column {name!r}, which is a column of the result's window; rename it")
        columns.append(JoinColumn(name, name, None))
        taken.add(name)
    for name in (name for name in right.names if name not in right_keys):
        output = name if name not in taken else name + SUFFIX
        if output in taken:
            raise PlanError(f"join: the column {name!r} of the right rows would become {output!r}, which is there too; rename it")
        columns.append(JoinColumn(output, None, name))
        taken.add(output)
    return tuple(columns)


def half_columns(left: pa.Schema) -> tuple[JoinColumn, ...]:
    """Of a semi or anti join: the left rows as they are."""
    return tuple(JoinColumn(name, name, None) for name in left.names)


def join_schema(left: pa.Schema, right: pa.Schema, columns: Sequence[JoinColumn]) -> pa.Schema:
    """Types of the result: dictionaries as their values, everything nullable but the window."""
    fields = []
    for column in columns:
        if column.left is not None:
            fields.append(pa.field(column.name, plain_type(left.field(column.left).type)))
        elif column.right is not None:
            fields.append(pa.field(column.name, plain_type(right.field(column.right).type)))
        else:
            fields.append(pa.field(column.name, TIMESTAMP, nullable=False))
    return pa.schema(fields)


def check_join_keys(
    left: pa.Schema, right: pa.Schema, left_keys: Sequence[str], right_keys: Sequence[str], how: str, hows: Sequence[str] = HOWS
) -> None:
    """Raises PlanError when keys cannot be equal: not as many, or of different kinds."""
    if how not in hows:
        raise PlanError(f"join: how={how!r}; one of {', '.join(hows)}")
    if not left_keys or len(left_keys) != len(right_keys):
        raise PlanError(
            f"join: the left side is keyed by {_listed(left_keys)}, the right by {_listed(right_keys)}; "
            "give both key_by(...) as many columns, at least one"
        )
    for name, other in zip(left_keys, right_keys, strict=True):
        mine, its = left.field(name).type, right.field(other).type
        if _kind(mine) != _kind(its):
            raise PlanError(f"join: key {name!r} of the left side is {mine}, {other!r} of the right is {its}; cast one of them")
        if how in ("right", "full") and plain_type(mine) != plain_type(its):
            raise PlanError(
                f"join: with how={how!r} key {name!r} may come from either side, and is {mine} on the left and {its} on the right; "
                "cast one of them"
            )


def _kind(kind: pa.DataType) -> str:
    """Types whose equal values have equal hashes."""
    kind = plain_type(kind)
    if pa.types.is_integer(kind):
        return "uint64" if pa.types.is_uint64(kind) else "integer"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "binary"
    return str(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Of a dictionary its values'."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
