"""Types by name, schemas from what a user declares, and the families that types fall into."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types as python_types
import typing
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from flinkray.columns import TIMESTAMP
from flinkray.errors import PlanError

TypeLike = pa.DataType | str | type

_PYTHON_TYPES: dict[Any, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    datetime: TIMESTAMP,
    date: pa.date32(),
    time: pa.time64("us"),
    timedelta: pa.duration("us"),
    Decimal: pa.decimal128(38, 18),
    type(None): pa.null(),
}

_NAMES: dict[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),  # Python's float, not pyarrow's alias of float32
    "str": pa.string(),
    "bytes": pa.binary(),
    "timestamp": TIMESTAMP,
    "datetime": TIMESTAMP,
    "date": pa.date32(),
    "time": pa.time64("us"),
    "duration": pa.duration("us"),
    "timedelta": pa.duration("us"),
    "decimal": pa.decimal128(38, 18),
    "string_view": pa.string_view(),
    "binary_view": pa.binary_view(),
}

_COMMON_NAMES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
_COMMON_NAMES += ["double", "bool", "string", "large_string", "binary", "date32", "list[int64]", "decimal(38,2)", *_NAMES]

_TIMESTAMP = re.compile(r"timestamp\[\s*(s|ms|us|ns)\s*(?:,\s*(?:tz\s*=\s*)?([A-Za-z0-9_+:/-]+)\s*)?\]")
_DECIMAL = re.compile(r"decimal(\d*)\s*\(\s*(\d+)\s*,\s*(-?\d+)\s*\)")
_LIST = re.compile(r"list\s*[\[<]\s*(?:item\s*:)?\s*(.+?)\s*[\]>]", re.DOTALL)
_MAP = re.compile(r"map\s*[\[<]\s*([^,\[\]<>()]+?)\s*,\s*(.+?)\s*[\]>]", re.DOTALL)


def parse_type(name_or_type: Any) -> pa.DataType:
    """A pyarrow type from itself, its name, or a Python type.

    Names are pyarrow's and `"int" "float" "str" "timestamp" "timestamp[us, UTC]" "date" "decimal(p,s)" "list[T]" "map[K, V]"`; `"int"` is
    int64, `"float"` float64, `"timestamp"` timestamp[us, UTC]. Python types are `int float str bool bytes datetime date time timedelta
    Decimal`, `list[T]`, `dict[K, V]` and `T | None`. Raises PlanError for anything else, with the nearest name.
    """
    if isinstance(name_or_type, pa.DataType):
        return _supported(name_or_type)
    if isinstance(name_or_type, str):
        return _supported(_named(name_or_type))
    return _from_python(name_or_type)


def schema_from(output_schema: Any) -> pa.Schema:
    """A schema from what a user declares: a pyarrow schema, a dict of names and types, a TypedDict or a dataclass.

    The types are those the engine has inside (see `engine_type`). Raises PlanError naming the column.
    """
    if isinstance(output_schema, pa.Schema):
        fields: list[tuple[str, Any]] = [(field.name, field.type) for field in output_schema]
    elif isinstance(output_schema, Mapping):
        fields = list(output_schema.items())
    elif isinstance(output_schema, type) and (typing.is_typeddict(output_schema) or dataclasses.is_dataclass(output_schema)):
        hints = typing.get_type_hints(output_schema)
        names = [f.name for f in dataclasses.fields(output_schema)] if dataclasses.is_dataclass(output_schema) else list(hints)
        fields = [(name, hints[name]) for name in names]
    else:
        raise PlanError(f"{output_schema!r} is no schema: give a pyarrow schema, a dict of names and types, a TypedDict or a dataclass")
    return pa.schema([pa.field(name, _column_type(name, kind)) for name, kind in fields])


def _column_type(name: Any, kind: Any) -> pa.DataType:
    if not isinstance(name, str) or not name:
        raise PlanError(f"{name!r} is no column name: write a string that is not empty")
    try:
        return engine_type(parse_type(kind))
    except PlanError as error:
        raise PlanError(f"column {name!r}: {error}") from None


def engine_type(kind: pa.DataType) -> pa.DataType:
    """The one type that the engine has inside for each family: `string`, timestamp[us, UTC], date32, decimal128, list.

    Raises PlanError for decimal256 and unions.
    """
    types = pa.types
    _supported(kind)
    if types.is_timestamp(kind):
        return TIMESTAMP
    if types.is_dictionary(kind):
        return engine_type(kind.value_type)
    if family(kind) in ("string", "null"):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_date64(kind):
        return pa.date32()
    if types.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_map(kind):
        return pa.map_(engine_type(kind.key_type), engine_type(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind):
        return pa.list_(engine_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, engine_type(field.type)) for field in kind])
    return kind


def family(kind: pa.DataType) -> str:
    """The family that decides what an operation does: null bool int float decimal string binary timestamp date time duration other."""
    types = pa.types
    if types.is_dictionary(kind):
        return family(kind.value_type)
    for name, test in _FAMILIES:
        if test(kind):
            return name
    return "other" if not types.is_null(kind) else "null"


_FAMILIES = (
    ("bool", pa.types.is_boolean),
    ("int", pa.types.is_integer),
    ("float", pa.types.is_floating),
    ("decimal", pa.types.is_decimal),
    ("string", lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)),
    ("timestamp", pa.types.is_timestamp),
    ("date", pa.types.is_date),
    ("time", pa.types.is_time),
    ("duration", pa.types.is_duration),
    (
        "binary",
        lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t) or pa.types.is_fixed_size_binary(t),
    ),
)


def type_name(kind: pa.DataType) -> str:
    """The name that `parse_type` reads back (pyarrow prints float32 as `float`)."""
    if pa.types.is_floating(kind):
        return f"float{kind.bit_width}"
    if pa.types.is_date(kind):
        return f"date{kind.bit_width}"
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.unit}, {kind.tz}]" if kind.tz else f"timestamp[{kind.unit}]"
    if pa.types.is_decimal128(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return f"list[{type_name(kind.value_type)}]"
    if pa.types.is_map(kind):
        return f"map[{type_name(kind.key_type)}, {type_name(kind.item_type)}]"
    if pa.types.is_dictionary(kind):
        return f"dictionary[{type_name(kind.value_type)}]"
    return str(kind)


def _named(name: str) -> pa.DataType:
    text = name.strip()
    if text in _NAMES:
        return _NAMES[text]
    if match := _TIMESTAMP.fullmatch(text):
        return pa.timestamp(match[1], tz=match[2])
    if match := _DECIMAL.fullmatch(text):
        return _decimal(name, int(match[1] or 128), int(match[2]), int(match[3]))
    if match := _LIST.fullmatch(text):
        return pa.list_(parse_type(match[1]))
    if match := _MAP.fullmatch(text):
        return pa.map_(parse_type(match[1]), parse_type(match[2]))
    try:
        return pa.type_for_alias(text)
    except ValueError:
        near = difflib.get_close_matches(text, _COMMON_NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "write one like 'int64', 'float64', 'string', 'timestamp' or 'list[int64]'"
        raise PlanError(f"{name!r} is no type name; {hint}") from None


def _decimal(name: str, bits: int, precision: int, scale: int) -> pa.DataType:
    if bits == 256 or precision > 38:
        raise PlanError(f"{name!r}: decimals have at most 38 digits here; use decimal(38,{min(scale, 38)}) or 'float64'")
    if precision < 1 or not 0 <= scale <= precision:
        raise PlanError(f"{name!r}: write decimal(digits, digits after the point) with 1 to 38 digits")
    return pa.decimal128(precision, scale)


def _from_python(kind: Any) -> pa.DataType:
    if kind in _PYTHON_TYPES:
        return _PYTHON_TYPES[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return parse_type(arguments[0])
    if origin in (typing.Union, python_types.UnionType):
        kept = [argument for argument in arguments if argument is not type(None)]
        if len(kept) == 1:
            return parse_type(kept[0])
    if origin is list:
        return pa.list_(parse_type(arguments[0]))
    if origin is dict:
        return pa.map_(parse_type(arguments[0]), parse_type(arguments[1]))
    raise PlanError(
        f"{kind!r} is no type for a column; write a pyarrow type, a name like 'int64', or one of int float str bool bytes datetime date "
        "Decimal list[T]"
    )


def _supported(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal256(kind):
        raise PlanError(f"type {kind} is not supported: decimals have at most 38 digits here; use decimal(38,{min(kind.scale, 38)})")
    if pa.types.is_union(kind):
        raise PlanError(f"type {kind} is not supported: a column holds values of one type")
    return kind
