"""Keys of several columns as one word each, for grouping within a batch: mixed radix, a digit a column.

A digit is a value's distance from the column's smallest of this batch, or, of text, a number in order of appearance; null is digit 0. So keys of a batch
are equal where their words are, and words lie close together where ids and days do: no key is written out as bytes, none is compared as such.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flinkray.state.arrow_buffers import bitmap_of, is_bytes_type
from flinkray.state.bits import bit_at
from flinkray.state.grouping import NO_PANES, BatchGrouper
from flinkray.state.jit import I8, RO_I4, RO_I8, RO_U1, njit, types
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_hash import key_words

_LARGEST = (1 << 63) - 1
_MOST = 1 << 62
"""Words that several digits may have."""


class KeyFolder:
    """Of fixed column types. Reused from batch to batch."""

    def __init__(self, kinds: Sequence[pa.DataType], seed: int) -> None:
        """Raises PlanError for types that cannot be keys."""
        self._texts = {place: (KeyCodec([kind]), BatchGrouper()) for place, kind in enumerate(kinds) if is_bytes_type(kind)}
        self._seed = seed

    def fold(self, columns: Sequence[pa.Array], rows: int) -> np.ndarray | None:
        """int64[rows]; None where there are more possible keys than words. `columns`: see `arrow_buffers.contiguous`."""
        folded = np.zeros(rows, np.int64)
        radix = 1
        for place, column in enumerate(columns):
            digits = self._fold_text(place, column, folded) if place in self._texts else _fold_words(column, folded, _MOST // radix)
            if digits == 0:
                return None
            radix *= digits
            if radix > _MOST:
                return None
        return folded

    def _fold_text(self, place: int, column: pa.Array, folded: np.ndarray) -> int:
        codec, grouper = self._texts[place]
        groups, firsts = grouper.group(codec.encode([column], len(column), self._seed), NO_PANES, by_words=False)
        if len(firsts) > 1:
            _add_groups(groups, len(firsts), folded)
        return max(len(firsts), 1)


def _fold_words(column: pa.Array, folded: np.ndarray, room: int) -> int:
    bits, shift = bitmap_of(column)
    return int(_add_digits(key_words(column), bits, shift, room, folded))


@njit([types.int64(RO_I8, RO_U1, types.int64, types.int64, I8)], nogil=True, cache=True)
def _add_digits(words, bits, shift, room, folded):  # type: ignore[no-untyped-def]
    """How many digits there are, 0 when they are more than `room` (then nothing has been changed)."""
    low, high = np.int64(_LARGEST), np.int64(-_LARGEST - 1)
    for i in range(words.size):
        if bits.size == 0 or bit_at(bits, shift + i):
            low, high = min(low, words[i]), max(high, words[i])
    if low > high:  # no value at all
        return 1
    if high - low < 0 or high - low >= room - 1:
        return 0
    if bits.size == 0:
        digits = high - low + 1
        if digits > 1:
            for i in range(words.size):
                folded[i] = folded[i] * digits + (words[i] - low)
        return digits
    digits = high - low + 2
    for i in range(words.size):
        digit = words[i] - low + 1 if bit_at(bits, shift + i) else 0
        folded[i] = folded[i] * digits + digit
    return digits


@njit([types.void(RO_I4, types.int64, I8)], nogil=True, cache=True)
def _add_groups(groups, digits, folded):  # type: ignore[no-untyped-def]
    for i in range(groups.size):
        folded[i] = folded[i] * digits + groups[i]
