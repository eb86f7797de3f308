"""Large arrays grow where they are, keep what they held, and fall back to ordinary memory where the system gives no address space."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from flinkray import regions
from flinkray.regions import Region
from flinkray.state import growth
from flinkray.state.growth import grown


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "LARGE_BYTES", 1 << 12)
    monkeypatch.setattr(regions, "_LEAST_RESERVED_BYTES", 1 << 16)
    monkeypatch.setattr(regions, "_RESERVED_FACTOR", 1)


def rows_of(array: np.ndarray, count: int) -> bool:
    """The first rows are their number, the others zero."""
    return bool((array[:count] == np.arange(count)[:, None]).all() and not array[count:].any())


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_an_array_that_grows_keeps_its_rows_and_new_ones_are_zero(small: None, dtype: str) -> None:
    array, rows = np.zeros((3, 2), dtype), 3
    array[:] = np.arange(3)[:, None]
    for size in (100, 120, 1_000, 5_000, 5_001, 40_000):  # from the allocator to a region, and from that to the next
        array = grown(array, size, 16)
        assert len(array) >= size
        assert array.dtype == dtype
        assert rows_of(array, rows)
        rows = 100
        array[:rows] = np.arange(rows)[:, None]
    assert type(regions._region_of(array)) is Region


def test_within_its_region_nothing_moves(small: None) -> None:
    array = grown(np.zeros(8, np.int64), 1_000, 16)
    view, address = array[:10], array.ctypes.data
    array = grown(array, 4_000, 16)
    array[3] = 7
    assert array.ctypes.data == address
    assert view[3] == 7


def test_a_view_outlives_the_array_whose_region_was_full(small: None) -> None:
    array = grown(np.zeros(8, np.int64), 1_000, 16)
    array[:10] = 5
    view = array[:10]
    array = grown(array, 100_000, 16)
    gc.collect()
    assert view.tolist() == array[:10].tolist() == [5] * 10


def test_without_address_space_arrays_grow_in_ordinary_memory(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    array = grown(np.zeros((8, 2), np.int64), 1_000, 16)
    array[:100] = np.arange(100)[:, None]
    monkeypatch.setattr(Region, "of_bytes", lambda size_bytes: None)
    array = grown(array, 50_000, 16)
    assert regions._region_of(array) is None
    assert rows_of(array, 100)
    assert rows_of(grown(array, 90_000, 16), 100)


def test_memory_goes_back_with_the_last_array(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Watched(Region):
        def __del__(self) -> None:
            closed.append(1)

    monkeypatch.setattr(regions, "Region", Watched)
    array = grown(np.zeros(8, np.int64), 1_000, 16)
    view = array[5:]
    del array
    gc.collect()
    assert not closed
    del view
    gc.collect()
    assert closed == [1]
