"""Keyed tables: what is captured since when, and kernels that are ready before they are needed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from flinkray.errors import RestoreError
from flinkray.state.table import MAX_BASES, KeyedTable, Snapshots, encode_rows, read_rows
from flinkray.state.warm import kernels_compiled, warm_kernels

KEY = [pa.field("k", pa.int64())]


def filled(keys: range) -> KeyedTable:
    table = KeyedTable([pa.int64()], np.zeros(2, np.int64), 7)
    table.load([pa.array(keys)], [pa.array([k * 10 for k in keys])])
    return table


def test_a_chunk_is_sorted_by_key_group_and_reads_back_newest_last() -> None:
    chunk = encode_rows([(filled(range(1000)).copy(), ())], KEY, ["w"], 128)
    groups = chunk.column("_kg").to_numpy()
    assert chunk.schema.field("_kg").type == pa.uint16()
    assert np.all(np.diff(groups.astype(int)) >= 0)
    table = filled(range(500, 1500))
    table.load([pa.array([700])], [pa.array([-1])])
    table.load(*read_rows(chunk, ["k"], ["w"], "op"))
    again = encode_rows([(table.copy(), ())], KEY, ["w"], 128)
    assert dict(zip(again.column("k").to_pylist(), again.column("w").to_pylist(), strict=True)) == {k: k * 10 for k in range(1500)}


def test_rows_start_as_the_table_says_also_after_growth() -> None:
    table = KeyedTable([pa.int64()], np.array([0, -5]), 7)
    slots = table.slots(table.index.codec.encode([pa.array(range(100_000))], 100_000, 7))
    assert (table.rows[slots, 1] == -5).all()


def test_a_chunk_of_other_aggregates_is_refused() -> None:
    chunk = encode_rows([(filled(range(3)).copy(), ())], KEY, ["w"], 128)
    with pytest.raises(RestoreError, match=r"'op'.*_a1_0"):
        read_rows(chunk, ["k"], ["w", "_a1_0"], "op")


def test_deltas_build_on_any_remembered_snapshot_and_old_ones_are_forgotten() -> None:
    snapshots = Snapshots()
    first = snapshots.generation
    snapshots.taken(1, None, False, 100)
    snapshots.taken(2, 1, True, 10)
    snapshots.taken(3, 1, True, 15)
    assert snapshots.base_generation(1) == first
    assert snapshots.base_generation(2) == first + 1
    assert snapshots.base_generation(None) is None
    assert snapshots.worth_a_delta(2, 40, 100)
    assert not snapshots.worth_a_delta(2, 41, 100)
    snapshots.taken(4, 3, False, 100)
    assert snapshots.base_generation(2) is None
    assert snapshots.worth_a_delta(4, 50, 100)
    for checkpoint in range(5, 5 + 3 * MAX_BASES):
        snapshots.taken(checkpoint, None, False, 1)
    assert snapshots.base_generation(4) is None


def test_kernels_are_there_after_warming() -> None:
    said: list[str] = []
    warm_kernels(say=said.append)
    assert kernels_compiled()
    compiled = len(said)
    warm_kernels(say=said.append)
    assert len(said) == compiled


def test_only_the_kernels_that_are_asked_for_are_compiled(tmp_path) -> None:
    script = (
        "from flinkray.state.warm import *; said = []; compile_kernels([CSV], said.append); "
        "print(len(said), kernels_compiled([CSV]), kernels_compiled([KEYED])); import sys; print('numba' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["2", "True", "False", "False"]
    assert list(tmp_path.rglob("*find_fields*.nbc"))


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()], ids=str)
def test_a_cleared_table_is_as_good_as_new(kind):
    table = KeyedTable([kind], np.array([0, -5]), 7)
    for keys in (range(100_000), [None, *range(50, 0, -1)], range(5_000)):
        column = pa.array(keys, pa.int64()).cast(kind)
        slots = table.slots(table.index.codec.encode([column], len(column), 7))
        assert slots.tolist() == list(range(len(column)))
        assert table.rows[: len(table)].tolist() == [[0, -5]] * len(column)
        assert table.copy().keys.columns()[0].to_pylist() == column.to_pylist()
        table.rows[slots] = 99
        table.clear()
        assert len(table) == len(table.index) == 0
        assert table.index.null_slot == -1
