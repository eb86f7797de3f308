"""Columns of files and batches made one: engine types, the rules by which files of one input may differ, and conversion.

The rules (docs: "columns by name"): the wanted schema is declared or that of the first non-empty file. In another file a column may be
missing (`missing="null"`), have a narrower integer or float type, be an integer where a float is wanted, or be all null. Extra columns
are ignored. Anything else is an error that names the file and the column.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from flinkray.columns import HIDDEN, TIMESTAMP
from flinkray.errors import PlanError, SourceError
from flinkray.expressions.types import engine_type, schema_from

_LOG = logging.getLogger("flinkray")

SchemaLike: TypeAlias = "pa.Schema | Mapping[str, pa.DataType | str | type]"
"""A pyarrow schema, or names and types (also by name: see `expressions.types.parse_type`)."""


def declared_schema(schema: SchemaLike | None) -> pa.Schema | None:
    """What the user gave as `schema=`, in engine types."""
    return None if schema is None else engine_schema(schema_from(schema), "schema")


def engine_schema(schema: pa.Schema, where: str) -> pa.Schema:
    """The schema in engine types, without metadata. PlanError names `where` and the column."""
    twice = [name for name, times in Counter(schema.names).items() if times > 1]
    if twice:
        raise PlanError(f"{where}: column {twice[0]!r} occurs more than once; rename one of the two")
    fields = []
    for field in schema:
        if field.name in HIDDEN:
            raise PlanError(f"{where}: column {field.name!r} has a name that flinkray keeps for itself; rename it")
        try:
            fields.append(pa.field(field.name, engine_type(field.type)))
        except PlanError as error:
            raise PlanError(f"{where}: column {field.name!r}: {error}; convert it, or leave it out with schema=") from None
    return pa.schema(fields)


def choose(schema: pa.Schema, columns: tuple[str, ...] | None) -> pa.Schema:
    """The schema of these columns. At least one column is always read, so that rows can be counted: the narrowest first one."""
    if columns is None:
        return schema
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        raise PlanError(f"no column {unknown[0]!r}; there are {', '.join(schema.names)}")
    if not columns and len(schema):
        columns = (min(schema, key=_width).name,)
    return pa.schema([schema.field(name) for name in columns])


def file_columns(found: pa.Schema, wanted: pa.Schema, missing: str, path: str) -> tuple[str, ...]:
    """The wanted columns that the file has, after checking that their types fit; SourceError names file and column."""
    have = Counter(found.names)
    present = []
    for field in wanted:
        if have[field.name] > 1:
            raise SourceError(f"{path}: column {field.name!r} occurs more than once")
        if have[field.name]:
            check_widens(found.field(field.name).type, field.type, f"{path}: column {field.name!r}")
            present.append(field.name)
        elif missing == "error":
            raise SourceError(
                f"{path}: column {field.name!r} is missing; the file has {', '.join(found.names) or 'none'}. "
                'Fix the file, or read such columns as null with missing="null"'
            )
    return tuple(present)


def check_widens(found: pa.DataType, wanted: pa.DataType, where: str) -> None:
    """Raise SourceError unless values of `found` become `wanted` without loss."""
    if not widens(found, wanted):
        raise SourceError(
            f"{where} is {found}, and {wanted} is expected (declared, or of the first file); declare one that fits all files with schema="
        )


def widens(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a file's type may stand where the engine type `wanted` is expected."""
    types = pa.types
    if types.is_null(found) or _is_engine_type(found, wanted):
        return True
    if types.is_integer(found):
        if types.is_floating(wanted):
            return True
        if not types.is_integer(wanted):
            return False
        if types.is_signed_integer(found) == types.is_signed_integer(wanted):
            return found.bit_width <= wanted.bit_width
        return types.is_unsigned_integer(found) and found.bit_width < wanted.bit_width
    return types.is_floating(found) and types.is_floating(wanted) and found.bit_width <= wanted.bit_width


def conform(batch: pa.RecordBatch, wanted: pa.Schema, where: str) -> pa.RecordBatch:
    """The batch with exactly the wanted columns: converted where needed, null where missing. Types were checked before."""
    arrays = []
    for field in wanted:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        array = batch.column(index)
        arrays.append(array if array.type == field.type else convert(array, field.type, f"{where}: column {field.name!r}"))
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def convert(array: pa.Array, wanted: pa.DataType, where: str) -> pa.Array:
    """The array as `wanted`; nanoseconds that are not whole microseconds are floored, which is said once per place."""
    try:
        return array.cast(wanted)
    except pa.ArrowInvalid as error:
        if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
            _say_floored(where)
            return _floor_to_micros(array)
        raise SourceError(f"{where}: {error}; declare a type that holds the values with schema=") from error


def _floor_to_micros(array: pa.Array) -> pa.Array:
    nanos = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    mask = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    return pa.array(np.floor_divide(nanos, 1000), pa.int64(), mask=mask).cast(TIMESTAMP)


_FLOORED: set[str] = set()


def _say_floored(where: str) -> None:
    if where not in _FLOORED:
        _FLOORED.add(where)
        _LOG.warning("%s: nanoseconds are floored to microseconds, the engine's unit of time", where)


def _is_engine_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    try:
        return engine_type(found) == wanted
    except PlanError:
        return False


def _width(field: pa.Field) -> int:
    try:
        return int(field.type.bit_width)
    except ValueError:
        return 1 << 20
