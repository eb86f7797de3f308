"""`.str`: functions of strings. Lengths and positions count characters. Of a dictionary column each distinct value is computed once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError
from flinkray.expressions.binding import Bound, Kernel, Value, apply, bind_all, binds, over_dictionary
from flinkray.expressions.casts import coerce
from flinkray.expressions.text_search import FEW_ROWS, count_byte, is_byte, part_of_each
from flinkray.expressions.tree import Call, Expression, call
from flinkray.expressions.types import family, type_name


@dataclass(frozen=True)
class StringMethods:
    """`col("url").str`: functions of a string expression."""

    expression: Expression

    def len(self) -> Expression:
        """Number of characters, int64."""
        return self._call("len")

    def length(self) -> Expression:
        """The same as `len`."""
        return self._call("len")

    def byte_len(self) -> Expression:
        """Number of bytes in UTF-8, int64."""
        return self._call("byte_len")

    def upper(self) -> Expression:
        return self._call("upper")

    def lower(self) -> Expression:
        return self._call("lower")

    def capitalize(self) -> Expression:
        return self._call("capitalize")

    def title(self) -> Expression:
        return self._call("title")

    def reverse(self) -> Expression:
        return self._call("reverse")

    def strip(self, characters: str | None = None) -> Expression:
        """Without these characters (or white space) at both ends."""
        return self._call("strip", *_given(characters))

    def lstrip(self, characters: str | None = None) -> Expression:
        return self._call("lstrip", *_given(characters))

    def rstrip(self, characters: str | None = None) -> Expression:
        return self._call("rstrip", *_given(characters))

    def contains(self, pattern: str, *, regex: bool = False) -> Expression:
        """Whether the text occurs, or with `regex` a match of the RE2 pattern."""
        return self._call("contains", _text(pattern, "contains"), regex=regex)

    def starts_with(self, prefix: str) -> Expression:
        return self._call("starts_with", _text(prefix, "starts_with"))

    def ends_with(self, suffix: str) -> Expression:
        return self._call("ends_with", _text(suffix, "ends_with"))

    def like(self, pattern: str) -> Expression:
        """SQL's LIKE: `%` for any text, `_` for one character."""
        return self._call("like", _text(pattern, "like"))

    def find(self, text: str) -> Expression:
        """Byte position of the first occurrence, -1 where there is none; int64."""
        return self._call("find", _text(text, "find"))

    def count(self, text: str) -> Expression:
        """Number of occurrences, int64."""
        return self._call("count", _text(text, "count"))

    def replace(self, old: str, new: str, *, regex: bool = False) -> Expression:
        r"""All occurrences replaced; with `regex`, `old` is an RE2 pattern and `\1` in `new` its first group."""
        return self._call("replace", _text(old, "replace"), _text(new, "replace"), regex=regex)

    def extract(self, pattern: str, group: int = 1) -> Expression:
        """The text of a group (0: all of the match) of the first match of an RE2 pattern; null where nothing matches."""
        return self._call("extract", _text(pattern, "extract"), group)

    def slice(self, start: int, stop: int | None = None) -> Expression:
        """Characters from start to before stop, as `text[start:stop]`."""
        return self._call("slice", start, *_given(stop))

    def split(self, separator: str) -> Expression:
        """The parts as a list."""
        return self._call("split", _text(separator, "split"))

    def split_part(self, separator: str, index: int) -> Expression:
        """Part `index` (from 0, from the end when negative); null where there are fewer."""
        return self._call("split_part", _text(separator, "split_part"), index)

    def lpad(self, width: int, fill: str = " ") -> Expression:
        """Filled up on the left to `width` characters."""
        return self._call("lpad", width, fill)

    def rpad(self, width: int, fill: str = " ") -> Expression:
        return self._call("rpad", width, fill)

    def _call(self, function: str, *options: Any, **keywords: Any) -> Expression:
        given = tuple((name, value) for name, value in keywords.items() if value)
        return call(f"str.{function}", self.expression, options=options, keywords=given)


def _given(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,)


def _text(value: Any, function: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f".str.{function}({value!r}): give a string")
    return value


def _trim(plain: Kernel, chosen: Kernel) -> Callable[..., Kernel]:
    return lambda *characters: partial(chosen, characters=characters[0]) if characters else plain


def _split_part(separator: str, index: int) -> Kernel:
    def kernel(value: Value) -> Value:
        if isinstance(value, pa.Scalar):
            return kernel(pa.array([value], pa.string()))[0]
        if len(value) >= FEW_ROWS and index >= 0 and is_byte(separator):
            return part_of_each(value, separator, index)
        parts = pc.split_pattern(value, pattern=separator)
        lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy(zero_copy_only=False)
        ends = np.cumsum(lengths)
        absent = (lengths <= index) if index >= 0 else (lengths < -index)
        places = np.where(absent, 0, (ends - lengths if index >= 0 else ends) + index)
        return pc.list_flatten(parts).take(pa.array(places, mask=absent))

    return kernel


def _count(text: str) -> Kernel:
    def kernel(value: Value) -> Value:
        if isinstance(value, pa.Array) and len(value) >= FEW_ROWS and is_byte(text):
            return count_byte(value, text)
        return pc.count_substring(value, pattern=text).cast(_COUNT)

    return kernel


def _extract(pattern: str, group: int) -> Kernel:
    names, named = _named_groups(f"({pattern})")
    if not 0 <= group < len(names):
        raise PlanError(f".str.extract({pattern!r}, {group}): the pattern has {len(names) - 1} groups")
    return lambda value: pc.struct_field(pc.extract_regex(value, pattern=named), names[group])


def _named_groups(pattern: str) -> tuple[list[str], str]:
    """The pattern with a name on each group, which Arrow asks for; escapes, classes and `(?...)` stay as they are."""
    names: list[str] = []

    def name(match: re.Match[str]) -> str:
        if match[0] != "(" and match["name"] is None:
            return match[0]
        names.append(match["name"] or f"flinkray_{len(names)}")
        return f"(?P<{names[-1]}>"

    tokens = r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\(\?P?<(?P<name>\w+)>|\((?!\?)"
    return names, re.sub(tokens, name, pattern, flags=re.DOTALL)


_TEXT, _COUNT, _TRUTH = pa.string(), pa.int64(), pa.bool_()

_FUNCTIONS: dict[str, tuple[pa.DataType, Callable[..., Kernel]]] = {
    "len": (_COUNT, lambda: pc.utf8_length),
    "byte_len": (_COUNT, lambda: pc.binary_length),
    "upper": (_TEXT, lambda: pc.utf8_upper),
    "lower": (_TEXT, lambda: pc.utf8_lower),
    "capitalize": (_TEXT, lambda: pc.utf8_capitalize),
    "title": (_TEXT, lambda: pc.utf8_title),
    "reverse": (_TEXT, lambda: pc.utf8_reverse),
    "strip": (_TEXT, _trim(pc.utf8_trim_whitespace, pc.utf8_trim)),
    "lstrip": (_TEXT, _trim(pc.utf8_ltrim_whitespace, pc.utf8_ltrim)),
    "rstrip": (_TEXT, _trim(pc.utf8_rtrim_whitespace, pc.utf8_rtrim)),
    "contains": (
        _TRUTH,
        lambda pattern, regex=False: partial(pc.match_substring_regex if regex else pc.match_substring, pattern=pattern),
    ),
    "starts_with": (_TRUTH, lambda pattern: partial(pc.starts_with, pattern=pattern)),
    "ends_with": (_TRUTH, lambda pattern: partial(pc.ends_with, pattern=pattern)),
    "like": (_TRUTH, lambda pattern: partial(pc.match_like, pattern=pattern)),
    "find": (_COUNT, lambda pattern: partial(pc.find_substring, pattern=pattern)),
    "count": (_COUNT, _count),
    "replace": (
        _TEXT,
        lambda old, new, regex=False: partial(pc.replace_substring_regex if regex else pc.replace_substring, pattern=old, replacement=new),
    ),
    "extract": (_TEXT, _extract),
    "slice": (_TEXT, lambda start, stop=None: partial(pc.utf8_slice_codeunits, start=start, stop=stop)),
    "split": (pa.list_(_TEXT), lambda separator: partial(pc.split_pattern, pattern=separator)),
    "split_part": (_TEXT, _split_part),
    "lpad": (_TEXT, lambda width, fill: partial(pc.utf8_lpad, width=width, padding=fill)),
    "rpad": (_TEXT, lambda width, fill: partial(pc.utf8_rpad, width=width, padding=fill)),
}


@binds(*(f"str.{name}" for name in _FUNCTIONS))
def _bind_string(node: Call, schema: pa.Schema) -> Bound:
    (operand,) = bind_all(node.operands, schema)
    if family(operand.type) != "string":
        raise PlanError(f'{node}: {operand.text} is {type_name(operand.type)}, and .str takes a string; cast("string") first')
    kind, make = _FUNCTIONS[node.function.removeprefix("str.")]
    kernel = make(*node.options, **dict(node.keywords))
    try:
        produced = kernel(pa.array(["a"], pa.string())).type
    except (pa.ArrowInvalid, TypeError) as error:  # a malformed pattern, a width that is no int
        raise PlanError(f"{node}: {error}") from None
    converted = kernel if produced == kind else (lambda value: pc.cast(kernel(value), kind))
    is_dictionary = pa.types.is_dictionary(operand.type) and pa.types.is_string(operand.type.value_type)
    return apply(node, kind, over_dictionary(converted), operand if is_dictionary else coerce(operand, _TEXT, node))
