"""Composite keys of a batch as words: equal where the keys are, or none at all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from flinkray.state.key_folding import KeyFolder

NUMBERS = st.one_of(st.none(), st.integers(-3, 3), st.integers(-(1 << 63), (1 << 63) - 1))
KINDS: dict[pa.DataType, st.SearchStrategy[object]] = {
    pa.int64(): NUMBERS,
    pa.int32(): st.one_of(st.none(), st.integers(-4, 4), st.sampled_from([-(1 << 31), (1 << 31) - 1])),
    pa.uint64(): st.one_of(st.none(), st.integers(0, 3), st.integers((1 << 63) - 2, (1 << 64) - 1)),
    pa.float64(): st.one_of(st.none(), st.sampled_from([0.0, -0.0, float("nan"), 1.5, -1.5])),
    pa.date32(): st.one_of(st.none(), st.dates()),
    pa.bool_(): st.one_of(st.none(), st.booleans()),
    pa.string(): st.one_of(st.none(), st.sampled_from(["", "a", "ab", "b"]), st.text(max_size=3)),
    pa.null(): st.none(),
}


@st.composite
def batches(draw: st.DrawFn) -> list[pa.Array]:
    rows = draw(st.integers(0, 12))
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4))
    return [pa.array(draw(st.lists(KINDS[kind], min_size=rows, max_size=rows)), kind) for kind in kinds]


def plain(value: object) -> object:
    """A value that equals itself: one NaN, one zero."""
    return ("float", "nan" if value != value else value + 0.0) if isinstance(value, float) else value


@given(batches())
def test_words_are_equal_where_keys_are(columns: list[pa.Array]) -> None:
    rows = len(columns[0])
    words = KeyFolder([column.type for column in columns], seed=7).fold(columns, rows)
    if words is None:
        return
    keys = list(zip(*([plain(value) for value in column.to_pylist()] for column in columns), strict=True))
    for i in range(rows):
        for j in range(i):
            assert (words[i] == words[j]) == (keys[i] == keys[j]), f"{keys[i]} and {keys[j]}"


def test_ids_and_a_day_lie_close_together_and_slices_are_folded_too() -> None:
    ids = pa.array(np.arange(1_000_000, 1_001_000)).slice(200, 700)
    day = pa.array([20_000] * 700, pa.int32()).cast(pa.date32())
    words = KeyFolder([pa.int64(), pa.date32()], seed=1).fold([ids, day], 700)
    assert words is not None
    assert words.tolist() == list(range(700))


def test_values_far_apart_in_two_columns_are_more_keys_than_words() -> None:
    far = pa.array([-(1 << 62), 0, 1 << 61])
    folder = KeyFolder([pa.int64(), pa.int64()], seed=1)
    assert folder.fold([far, far], 3) is None
    assert folder.fold([pa.array([1, 2, 3]), pa.array([0, 0, 1])], 3) is not None, "another batch may fit"
