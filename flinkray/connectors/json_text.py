"""Arrow to JSON text in pyarrow's kernels: one object per row and line. Floats that JSON lacks (NaN, infinities) become null."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MUST_ESCAPE = r'[\\"\x00-\x1f]'
_ESCAPES = {"\\": "\\\\", '"': '\\"', **{chr(code): json.dumps(chr(code))[1:-1] for code in range(32)}}
_CONTROL = "[\\x00-\\x1f]"


def json_lines(batch: pa.RecordBatch) -> pa.Buffer:
    """The rows as UTF-8 text, each ending with a newline. Raises TypeError for a type that JSON cannot hold."""
    if not batch.num_columns:
        return pa.py_buffer(b"{}\n" * batch.num_rows)
    values = [json_value(column) for column in batch.columns]
    text = _join([*_members(batch.schema.names, values), "}\n"])
    if not len(text):
        return pa.py_buffer(b"")
    return text.buffers()[2].slice(0, pc.sum(pc.binary_length(text)).as_py())


def _members(names: Iterable[str], values: Iterable[pa.Array]) -> list[pa.Array | str]:
    """`{"a":`, values, `,"b":`, values ... to be joined row by row."""
    parts: list[pa.Array | str] = []
    for name, value in zip(names, values, strict=True):
        parts += [("," if parts else "{") + json.dumps(name, ensure_ascii=False) + ":", value]
    return parts or ["{"]


def _join(parts: list[pa.Array | str]) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="null")


def json_value(array: pa.Array) -> pa.Array:
    """Each value as JSON text; nulls stay null."""
    types, kind = pa.types, array.type
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_decimal(kind):
        return array.cast(pa.string())
    if types.is_floating(kind):
        finite = pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind))
        return finite.cast(pa.string())
    if types.is_string(kind):
        return _quoted(_escaped(array))
    if types.is_timestamp(kind):
        return _quoted(pc.replace_substring(array.cast(pa.string()), " ", "T"))
    if types.is_date(kind) or types.is_time(kind):
        return _quoted(array.cast(pa.string()))
    if types.is_null(kind):
        return array.cast(pa.string())
    if types.is_list(kind):
        return _list_text(array)
    if types.is_struct(kind):
        return _struct_text(array)
    raise TypeError(f"JSON cannot hold {kind}")


def _quoted(text: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', text, '"', "")


def _escaped(text: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring_regex(text, _MUST_ESCAPE)).as_py():
        return text
    for char in '\\"':
        text = pc.replace_substring(text, char, _ESCAPES[char])
    if pc.any(pc.match_substring_regex(text, _CONTROL)).as_py():
        for code in range(32):
            text = pc.replace_substring(text, chr(code), _ESCAPES[chr(code)])
    return text


def _list_text(array: pa.Array) -> pa.Array:
    values = pc.fill_null(json_value(array.flatten()), "null")
    sizes = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), values), ",")
    text = pc.binary_join_element_wise("[", joined, "]", "")
    return pc.if_else(pc.is_valid(array), text, pa.scalar(None, pa.string()))


def _struct_text(array: pa.Array) -> pa.Array:
    names = [field.name for field in array.type]
    if not names:
        return pc.if_else(pc.is_valid(array), "{}", pa.scalar(None, pa.string()))
    text = _join([*_members(names, [json_value(values) for values in array.flatten()]), "}"])
    return pc.if_else(pc.is_valid(array), text, pa.scalar(None, pa.string()))
