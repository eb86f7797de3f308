"""Batches of a row buffer are joined now and then; rows keep their positions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flinkray.state import row_buffer
from flinkray.state.row_buffer import RowBuffer

SCHEMA = pa.schema([("number", pa.int64()), ("text", pa.string())])


def filled(sizes: list[int]) -> tuple[RowBuffer, list[int]]:
    buffer, numbers = RowBuffer(SCHEMA), []
    for size in sizes:
        some = list(range(len(numbers), len(numbers) + size))
        rows = pa.record_batch({"number": some, "text": [f"n{i}" for i in some]}, schema=SCHEMA)
        buffer.append(rows, np.arange(size))
        numbers += some
    return buffer, numbers


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=90), data=st.data())
def test_any_rows_are_taken_by_their_positions(sizes: list[int], data: st.DataObject) -> None:
    buffer, numbers = filled(sizes)
    wanted = data.draw(st.lists(st.integers(0, len(numbers) - 1), max_size=30))
    first = data.draw(st.integers(0, len(numbers)))
    stop = data.draw(st.integers(first, len(numbers)))
    view = buffer.view()
    assert view.take(np.array(wanted, np.int64)).column("number").to_pylist() == wanted
    assert view.take(np.arange(first, stop)).column("text").to_pylist() == [f"n{i}" for i in range(first, stop)]
    assert view.select(["text"]).take(np.array(wanted, np.int64)).to_pydict() == {"text": [f"n{i}" for i in wanted]}
    assert [n for batch in view.between(first, stop) for n in batch.column("number").to_pylist()] == list(range(first, stop))
    assert [n for batch in view.after(first) for n in batch.column("number").to_pylist()] == numbers[first:]


def test_there_are_few_batches_and_a_row_is_copied_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    copied, joined = [0], row_buffer.pa.concat_batches

    def counted(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        copied[0] += sum(batch.num_rows for batch in batches)
        return joined(batches)

    monkeypatch.setattr(row_buffer.pa, "concat_batches", counted)
    buffer, numbers = filled([10] * 1000)
    assert len(buffer.view().batches) <= 7 * 4
    assert copied[0] <= 3 * len(numbers)


def test_batches_that_would_be_too_large_together_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_buffer, "LARGEST_BYTES", 200)
    buffer, numbers = filled([4] * 40)
    assert len(buffer.view().batches) == 40
    assert buffer.view().take(np.arange(len(numbers))[::-1]).column("number").to_pylist() == numbers[::-1]
