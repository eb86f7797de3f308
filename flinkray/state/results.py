"""From accumulators to results, and values as words that order like the values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flinkray.errors import FlinkrayError
from flinkray.graph.aggregates import Aggregate
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_encoding import words_to_array
from flinkray.state.key_hash import key_words

_SIGN = np.int64(-(2**63))
_LOW_63 = np.int64(2**63 - 1)
_LARGEST_DECIMAL = 10**38 - 1


def ordered_words(array: pa.Array) -> np.ndarray:
    """int64[n] that order like the values; NaN is above all other doubles, and the two zeros are one."""
    if pa.types.is_floating(array.type):
        bits = key_words(array)
        return bits ^ ((bits >> 63) & _LOW_63)
    words = words_of(array)
    return words ^ _SIGN if pa.types.is_uint64(array.type) else words


def unordered_words(words: np.ndarray, kind: pa.DataType) -> np.ndarray:
    """The inverse of `ordered_words`, as plain words of the type."""
    if pa.types.is_floating(kind):
        return words ^ ((words >> 63) & _LOW_63)
    return words ^ _SIGN if pa.types.is_uint64(kind) else words


def finish(aggregate: Aggregate, kind: pa.DataType, words: np.ndarray, valid: np.ndarray | None) -> pa.Array:
    """The results of one aggregate from its accumulators' words, int64[words, n]; `valid`: which have a value at all."""
    function = aggregate.function
    if function == "count":
        return pa.array(words[0])
    if function == "mean":
        return _mean(words)
    if function == "stddev":
        return _stddev(words)
    if function == "sum" and len(words) == 2:
        return _decimals(aggregate, kind, words, valid)
    if function in ("min", "max"):
        return words_to_array(unordered_words(words[0], kind), kind, valid)
    return words_to_array(words[-1], kind, valid)


def _mean(words: np.ndarray) -> pa.Array:
    counts = words[0].astype(np.float64)
    if len(words) == 2:
        sums = words[1].view(np.float64)
    else:
        sums = _wide_to_float(words[1], words[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        return pa.array(sums / counts, mask=words[0] == 0)


def _wide_to_float(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """128-bit sums as doubles; exact to the last bit where they fit 64, else within one unit in the last place."""
    fits = high == low >> 63
    wide = high.astype(np.float64) * 2.0**64 + low.view(np.uint64).astype(np.float64)
    return np.where(fits, low.astype(np.float64), wide)


def _stddev(words: np.ndarray) -> pa.Array:
    """Of the sample: divided by n - 1, null below two values, NaN when a value was infinite or NaN."""
    counts, squares = words[0], words[2].view(np.float64)
    squares = np.where(np.isfinite(squares), squares, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return pa.array(np.sqrt(squares / (counts - 1)), mask=counts < 2)


def _decimals(aggregate: Aggregate, kind: pa.DataType, words: np.ndarray, valid: np.ndarray | None) -> pa.Array:
    low, high = words[0], words[1]
    top, bottom = _LARGEST_DECIMAL >> 64, (-_LARGEST_DECIMAL) >> 64
    near = np.flatnonzero((high >= top) | (high <= bottom))
    for at in near:
        if abs((int(high[at]) << 64) + int(low.view(np.uint64)[at])) > _LARGEST_DECIMAL:
            raise FlinkrayError(f"{aggregate.describe()}: the sum does not fit {kind}")
    halves = np.empty((len(low), 2), np.int64)
    halves[:, 0], halves[:, 1] = low, high
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(low), [bitmap, pa.py_buffer(halves)])
