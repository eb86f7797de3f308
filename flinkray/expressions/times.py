"""`.dt`: functions of timestamps and dates, in UTC whatever the column's zone (inside the engine all times are UTC)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import TIMESTAMP
from flinkray.config import Duration, duration_us
from flinkray.errors import ConfigError, PlanError
from flinkray.expressions.binding import Bound, Value, apply, binds
from flinkray.expressions.buffers import reinterpret
from flinkray.expressions.casts import coerce, floor_to, to_utc_us
from flinkray.expressions.integers import divide_by
from flinkray.expressions.tree import Call, Expression, call
from flinkray.expressions.types import family, type_name

_FIELDS = {
    "year": pc.year,
    "quarter": pc.quarter,
    "month": pc.month,
    "week": pc.iso_week,
    "day": pc.day,
    "day_of_week": pc.day_of_week,
    "day_of_year": pc.day_of_year,
    "hour": pc.hour,
    "minute": pc.minute,
    "second": pc.second,
}
_CALENDAR = ("week", "month", "quarter", "year")
_EPOCH_SIZES_US = {"epoch_us": 1, "epoch_ms": 1_000, "epoch_s": 1_000_000}
_DATE_ONLY = re.compile(r"(?:[^%]|%[YymdejbBaAhuwVGgUWCDFnt%])*")
_NAIVE_US = pa.timestamp("us")


@dataclass(frozen=True)
class TimeMethods:
    """`col("date_time").dt`: functions of a timestamp or date. Fields are int64."""

    expression: Expression

    def year(self) -> Expression:
        return self._call("year")

    def quarter(self) -> Expression:
        return self._call("quarter")

    def month(self) -> Expression:
        return self._call("month")

    def week(self) -> Expression:
        """The ISO week, 1 to 53."""
        return self._call("week")

    def day(self) -> Expression:
        """The day of the month, from 1."""
        return self._call("day")

    def day_of_week(self) -> Expression:
        """Monday is 0, as in Python's `weekday()`."""
        return self._call("day_of_week")

    def day_of_year(self) -> Expression:
        """From 1."""
        return self._call("day_of_year")

    def hour(self) -> Expression:
        return self._call("hour")

    def minute(self) -> Expression:
        return self._call("minute")

    def second(self) -> Expression:
        return self._call("second")

    def microsecond(self) -> Expression:
        """Microseconds of the second, 0 to 999999."""
        return self._call("microsecond")

    def truncate(self, size: Duration) -> Expression:
        """Floored to a multiple of a duration since the epoch (`"10s"`, `"1h"`), or to `"week"` (Monday) `"month"` `"quarter"` `"year"`."""
        return self._call("truncate", size if size in _CALENDAR else _checked_size(size))

    def strftime(self, format: str) -> Expression:
        """As text, in UTC; the directives of `strftime`, `%S` without a fraction."""
        if not isinstance(format, str):
            raise PlanError(f".dt.strftime({format!r}): give a string like '%Y-%m-%d %H:%M'")
        return self._call("strftime", format)

    def epoch_us(self) -> Expression:
        """int64 microseconds since 1970-01-01 UTC."""
        return self._call("epoch_us")

    def epoch_ms(self) -> Expression:
        """int64 milliseconds since 1970-01-01 UTC, floored."""
        return self._call("epoch_ms")

    def epoch_s(self) -> Expression:
        """int64 seconds since 1970-01-01 UTC, floored."""
        return self._call("epoch_s")

    def _call(self, function: str, *options: object) -> Expression:
        return call(f"dt.{function}", self.expression, options=options)


def to_datetime(micros: int | None) -> datetime | None:
    """The datetime (UTC) of the int microseconds in which times appear in rows and in `ctx.timestamp`; None of None."""
    return None if micros is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def _checked_size(size: Duration) -> Duration:
    try:
        micros = duration_us(size)
    except ConfigError as error:
        raise PlanError(f".dt.truncate: {error}; or 'week', 'month', 'quarter', 'year'") from None
    if micros == 0:
        raise PlanError(f".dt.truncate({size!r}): the size is zero")
    return size


def _operand(node: Call, schema: pa.Schema) -> Bound:
    """The operand; a date as its midnight."""
    operand = node.operands[0].bind(schema)
    if family(operand.type) not in ("timestamp", "date"):
        raise PlanError(f'{node}: {operand.text} is {type_name(operand.type)}, and .dt takes a timestamp or date; cast("timestamp") first')
    return operand if pa.types.is_timestamp(operand.type) and not operand.is_literal else to_utc_us(operand, node)


@binds(*(f"dt.{name}" for name in _FIELDS))
def _bind_field(node: Call, schema: pa.Schema) -> Bound:
    operand = _operand(node, schema)
    field, naive = _FIELDS[node.function.removeprefix("dt.")], pa.timestamp(operand.type.unit)
    return apply(node, pa.int64(), lambda value: field(reinterpret(value, naive)), operand)


@binds("dt.microsecond")
def _bind_microsecond(node: Call, schema: pa.Schema) -> Bound:
    operand = to_utc_us(_operand(node, schema), node)
    return apply(node, pa.int64(), lambda value: divide_by("mod", reinterpret(value, pa.int64()), 1_000_000), operand)


@binds(*(f"dt.{name}" for name in _EPOCH_SIZES_US))
def _bind_epoch(node: Call, schema: pa.Schema) -> Bound:
    operand = to_utc_us(_operand(node, schema), node)
    size = _EPOCH_SIZES_US[node.function.removeprefix("dt.")]
    if size == 1:
        return apply(node, pa.int64(), lambda value: reinterpret(value, pa.int64()), operand)
    return apply(node, pa.int64(), lambda value: divide_by("floordiv", reinterpret(value, pa.int64()), size), operand)


@binds("dt.truncate")
def _bind_truncate(node: Call, schema: pa.Schema) -> Bound:
    operand = to_utc_us(_operand(node, schema), node)
    size = node.options[0]
    floor = partial(_floor_calendar, unit=size) if size in _CALENDAR else partial(_floor_duration, size_us=duration_us(size))
    return apply(node, TIMESTAMP, floor, operand, fallible="the result is before the first timestamp")


def _floor_duration(value: Value, size_us: int) -> Value:
    return reinterpret(floor_to(reinterpret(value, pa.int64()), size_us), TIMESTAMP)


def _floor_calendar(value: Value, unit: str) -> Value:
    # the zone makes Arrow look up each value's offset; without one the same floor is ten times faster
    return reinterpret(pc.floor_temporal(reinterpret(value, _NAIVE_US), unit=unit), TIMESTAMP)


@binds("dt.strftime")
def _bind_strftime(node: Call, schema: pa.Schema) -> Bound:
    # whole seconds, since Arrow's %S writes the fraction of a finer unit
    operand = coerce(_operand(node, schema), pa.timestamp("s", tz="UTC"), node)
    return apply(node, pa.string(), partial(_format, format=node.options[0]), operand)


def _format(value: Value, format: str) -> Value:
    """Formatting takes near a microsecond, so each distinct time (or day, where only that is written) is formatted once."""
    if isinstance(value, pa.Scalar):
        return pc.strftime(value, format=format)
    if _DATE_ONLY.fullmatch(format):
        value = pc.cast(value, pa.date32())
    distinct = value.dictionary_encode()
    texts = pc.strftime(pc.cast(distinct.dictionary, pa.timestamp("s")).cast(pa.timestamp("s", tz="UTC")), format=format)
    return texts.take(distinct.indices)
