"""Values of state: how what a user assigns is checked and kept, and how it is written to Arrow and read back.

Numbers are kept as 64-bit words, strings and the like as they are, since nobody can change them. Structs, lists and objects are kept
pickled: so a value that was read is the user's own, and changes to it count only when it is assigned.
"""

from __future__ import annotations

import datetime as dt
import numbers
import operator
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.columns import TIMESTAMP
from flinkray.graph.process import PICKLED
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_encoding import words_to_array

Fit = Callable[[Any], Any]
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class ValueKind:
    """`fit` checks what is assigned and gives what is kept (raises TypeError, OverflowError or pyarrow's errors); `thaw` gives it back."""

    arrow: pa.DataType
    fit: Fit
    thaw: Fit | None = None
    """None: as it is kept."""
    dtype: Any = None
    """Of numbers: how numpy sees them. None: no words."""

    def to_arrow(self, kept: Sequence[Any]) -> pa.Array:
        """Kept values (None: null) as an array of the declared type."""
        if self.thaw is None:
            if pa.types.is_timestamp(self.arrow):
                return pa.array(kept, pa.int64()).cast(self.arrow)
            return pa.array(kept, self.arrow)
        if self.arrow == PICKLED:
            return pa.array(kept, PICKLED)
        thaw = self.thaw
        return pa.array([None if value is None else thaw(value) for value in kept], self.arrow)

    def from_arrow(self, array: pa.Array) -> list[Any]:
        """The other way round."""
        if pa.types.is_timestamp(array.type):
            array = array.cast(pa.int64())
        values: list[Any] = array.to_pylist()
        if self.thaw is None or self.arrow == PICKLED:
            return values
        return [None if value is None else pickle.dumps(value) for value in values]

    def words_to_list(self, words: np.ndarray) -> list[Any]:
        """Words as Python values."""
        if self.dtype is np.float64:
            return words.view(np.float64).tolist()
        return (words != 0).tolist() if self.dtype is np.bool_ else words.tolist()

    def list_to_words(self, values: Sequence[Any]) -> np.ndarray:
        """Fitted values, none of them None, as words."""
        array = np.array(values, self.dtype)
        return array.view(np.int64) if self.dtype is np.float64 else array.astype(np.int64)

    def words_to_arrow(self, words: np.ndarray, valid: np.ndarray) -> pa.Array:
        return words_to_array(np.where(valid, words, 0), self.arrow, valid)

    def arrow_to_words(self, array: pa.Array) -> np.ndarray:
        return words_of(array)


def value_kind(declared: pa.DataType | None) -> ValueKind:
    """How values of a declared type are kept; None: objects."""
    if declared is None:
        return ValueKind(PICKLED, pickle.dumps, pickle.loads)
    is_a = pa.types
    if is_a.is_integer(declared) and not is_a.is_uint64(declared):
        return ValueKind(declared, _int_fit(declared), dtype=np.int64)
    if is_a.is_floating(declared) and declared.bit_width >= 32:
        return ValueKind(declared, _float if declared.bit_width == 64 else _float32, dtype=np.float64)
    if is_a.is_boolean(declared):
        return ValueKind(declared, _of_type(bool, "bool"), dtype=np.bool_)
    if declared == TIMESTAMP:
        return ValueKind(declared, _micros, dtype=np.int64)
    if is_a.is_string(declared):
        return ValueKind(declared, _of_type(str, "str"))
    if is_a.is_binary(declared):
        return ValueKind(declared, _of_type(bytes, "bytes"))
    if is_a.is_nested(declared):
        return ValueKind(declared, _nested_fit(declared), pickle.loads)
    return ValueKind(declared, _arrow_fit(declared))


def _int_fit(kind: pa.DataType) -> Fit:
    signed = pa.types.is_signed_integer(kind)
    low = -(1 << (kind.bit_width - 1)) if signed else 0
    high = (1 << (kind.bit_width - signed)) - 1

    def fit(value: Any) -> Any:
        if type(value) is not int:
            if isinstance(value, bool | np.bool_):
                raise TypeError(f"{value!r} is no int")
            value = operator.index(value)
        if not low <= value <= high:
            raise OverflowError(f"{value} does not fit into {kind}")
        return value

    return fit


def _float(value: Any) -> Any:
    if type(value) is float:
        return value
    if isinstance(value, numbers.Real | np.floating) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{value!r} is no float")


def _float32(value: Any) -> Any:
    return float(np.float32(_float(value)))


def _micros(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        return (aware - _EPOCH) // dt.timedelta(microseconds=1)
    return _INT64(value)


_INT64 = _int_fit(pa.int64())


def _of_type(wanted: type, name: str) -> Fit:
    def fit(value: Any) -> Any:
        if not isinstance(value, wanted):
            raise TypeError(f"{value!r} is no {name}")
        return value

    return fit


def _arrow_fit(kind: pa.DataType) -> Fit:
    def fit(value: Any) -> Any:
        return pa.scalar(value, kind).as_py()

    return fit


def _nested_fit(kind: pa.DataType) -> Fit:
    def fit(value: Any) -> Any:
        return pickle.dumps(pa.scalar(value, kind).as_py())

    return fit
