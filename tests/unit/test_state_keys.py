"""Key hashes, key encoding and the key index, against Python dicts."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flinkray.errors import PlanError
from flinkray.graph.key_groups import HASH_VERSION, key_group_range
from flinkray.state.dense_grouping import WIDEST, DenseGrouper
from flinkray.state.grouping import BatchGrouper, pane_starts, sort_by_pane
from flinkray.state.growth import CopyBuffers, grown
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_hash import hash_arrays, hash_keys, key_groups, partition
from flinkray.state.key_index import KeyIndex

LONG = "a text of more than sixteen bytes, so that it takes several steps"

GOLDEN_INTS = [11870134076836809842, 15994774864753206928, 81982391214795879, 11815617109426427825]
GOLDEN_STRINGS = [2803302098060453538, 8712235667910667243, 18139878180641661755, 823343832558187868, 11815617109426427825]
GOLDEN_PAIRS = [3593475309953540848, 828253817336444257]


def hashes(values: list[Any], kind: pa.DataType, seed: int = 7) -> list[int]:
    return hash_arrays([pa.array(values, kind)], len(values), seed).tolist()


def test_ints_of_any_width_hash_alike() -> None:
    wanted = hashes([0, 1, 100, None], pa.int64())
    for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.uint64()):
        assert hashes([0, 1, 100, None], kind) == wanted
    assert hashes([-5], pa.int8()) == hashes([-5], pa.int64())


def test_strings_of_any_layout_hash_alike() -> None:
    values = ["", "a", "four", "eightbyt", "sixteen bytes ok", LONG, None]
    wanted = hashes(values, pa.string())
    assert hashes(values, pa.large_string()) == hashes(values, pa.string_view()) == wanted
    batch = pa.record_batch({"s": pa.array(values).dictionary_encode()})
    assert hash_keys(batch, ["s"], 7).tolist() == wanted
    assert len(set(wanted)) == len(values)


def test_slices_hash_as_the_rows_they_are() -> None:
    batch = pa.record_batch({"k": pa.array([1, None, 3, 4] * 5), "s": pa.array(["x", LONG, None, ""] * 5)})
    for columns in (["k"], ["s"], ["k", "s"]):
        whole = hash_keys(batch, columns, 3)
        assert hash_keys(batch.slice(3, 9), columns, 3).tolist() == whole[3:12].tolist()


def test_nan_is_one_key_and_so_is_zero() -> None:
    other_nan = np.array([0x7FF8000000000001], np.int64).view(np.float64)[0]
    a, b, c, d = hashes([float("nan"), other_nan, 0.0, -0.0], pa.float64())
    assert a == b
    assert c == d
    assert a != c
    assert hashes([1.5, float("nan")], pa.float32()) == hashes([1.5, float("nan")], pa.float64())


def test_null_is_a_key_unlike_any_other_also_in_composites() -> None:
    assert len(set(hashes([None, 0, 1], pa.int64()))) == 3
    assert len(set(hashes([None, "", "\0"], pa.string()))) == 3
    pairs = [(None, "a"), ("a", None), (None, None), ("", "a"), ("a", ""), ("a", "a")]
    arrays = [pa.array([pair[i] for pair in pairs]) for i in (0, 1)]
    assert len(set(hash_arrays(arrays, len(pairs), 7).tolist())) == len(pairs)


def test_strings_that_differ_in_one_byte_anywhere_differ_in_hash() -> None:
    for length in (*range(1, 40), 64, 100):
        plain = bytearray(b"x" * length)
        variants = {bytes(plain)}
        for at in range(length):
            changed = bytearray(plain)
            changed[at] ^= 1
            variants.add(bytes(changed))
        assert len(set(hashes(sorted(variants), pa.binary()))) == length + 1


def test_the_hash_is_part_of_the_state_format_and_stays() -> None:
    """When this fails, state written before can no longer be restored: raise HASH_VERSION and say what becomes of old state."""
    assert HASH_VERSION == 1
    assert hashes([0, 1, -1, None], pa.int64(), seed=42) == GOLDEN_INTS
    assert hashes(["", "a", "flinkray", LONG, None], pa.string(), seed=42) == GOLDEN_STRINGS
    pair = [pa.array([1, None]), pa.array(["a", "b"])]
    assert hash_arrays(pair, 2, 42).tolist() == GOLDEN_PAIRS


def test_seeds_give_other_hashes() -> None:
    assert hashes([1], pa.int64(), 1) != hashes([1], pa.int64(), 2)
    assert hashes(["a"], pa.string(), 1) != hashes(["a"], pa.string(), 2)


@pytest.mark.parametrize(("most", "parallelism"), [(128, 1), (128, 3), (128, 128), (7, 2), (32768, 5)])
def test_rows_go_to_the_subtask_that_owns_their_key_group(most: int, parallelism: int) -> None:
    groups = key_groups(hash_arrays([pa.array(range(5000))], 5000, 1), most)
    order, bounds = partition(groups, most, parallelism)
    assert sorted(order.tolist()) == list(range(5000))
    for subtask in range(parallelism):
        mine = order[bounds[subtask] : bounds[subtask + 1]]
        assert np.all(np.diff(mine) > 0)
        assert all(int(group) in key_group_range(most, parallelism, subtask) for group in groups[mine])


def test_key_groups_are_even() -> None:
    counts = np.bincount(key_groups(hash_arrays([pa.array(range(100_000))], 100_000, 1), 100), minlength=100)
    assert counts.min() > 850
    assert counts.max() < 1150


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.decimal256(50, 2)])
def test_types_that_cannot_be_keys_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(PlanError, match="cannot be a key"):
        KeyCodec([kind])


ROUND_TRIPS = [
    pa.array([1, -2, None, 127], pa.int8()),
    pa.array([1, 2**64 - 1, None], pa.uint64()),
    pa.array([True, False, None]),
    pa.array([1.5, float("inf"), None, 0.0], pa.float32()),
    pa.array(["a", "", None, LONG]),
    pa.array(["a", "", None, LONG], pa.large_string()),
    pa.array([b"\0", b"", None], pa.binary()),
    pa.array([b"abc", None, b"xyz"], pa.binary(3)),
    pa.array([Decimal("1.25"), None, Decimal("-3.50")], pa.decimal128(12, 2)),
    pa.array([10, None, -10], pa.timestamp("us", "UTC")),
    pa.array([10, None, -10], pa.date32()),
    pa.array([10, None], pa.time32("s")),
    pa.nulls(3),
]


@pytest.mark.parametrize("array", ROUND_TRIPS, ids=lambda array: str(array.type))
@pytest.mark.parametrize("composite", [False, True])
def test_keys_come_back_as_they_went_in(array: pa.Array, composite: bool) -> None:
    arrays = [pa.array(range(len(array))), array, pa.array(["s"] * len(array))] if composite else [array]
    index = KeyIndex([column.type for column in arrays], 7)
    slots = index.lookup_or_insert(index.codec.encode(arrays, len(array), 7))
    assert [column.to_pylist() for column in index.copy_keys(slots).columns()] == [column.to_pylist() for column in arrays]
    assert [column.type for column in index.copy_keys(slots).columns()] == [column.type for column in arrays]


KINDS: dict[str, tuple[list[pa.DataType], Any]] = {
    "ints": ([pa.int64()], lambda r: (r.choice([None, r.randrange(-3000, 3000)]),)),
    "strings": ([pa.string()], lambda r: (r.choice([None, "x" * r.randrange(30) + str(r.randrange(3000))]),)),
    "pairs": ([pa.int32(), pa.string()], lambda r: (r.choice([None, r.randrange(60)]), r.choice([None, str(r.randrange(60))]))),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_index_behaves_like_a_dict_through_growth_and_removal(name: str) -> None:
    kinds, draw = KINDS[name]
    random_, index, model, most = random.Random(name), KeyIndex(kinds, 7), {}, 0
    for step in range(60):
        keys = [draw(random_) for _ in range(random_.choice([1, 50, 700]))]
        encoded = encode(index, kinds, keys)
        known = index.lookup(encoded).tolist()
        assert known == [model.get(key, -1) for key in keys]
        for key, slot in zip(keys, index.lookup_or_insert(encoded).tolist(), strict=True):
            assert model.setdefault(key, slot) == slot
        assert len(set(model.values())) == len(model) == len(index)
        most = max(most, len(model))
        if step % 3 == 2:
            gone = random_.sample(sorted(model, key=str), len(model) // 2)
            index.remove(np.array([model.pop(key) for key in gone], np.int32))
            assert index.lookup(encode(index, kinds, gone)).tolist() == [-1] * len(gone)
    slots = np.array(list(model.values()), np.int32)
    columns = [column.to_pylist() for column in index.copy_keys(slots).columns()]
    assert list(zip(*columns, strict=True)) == list(model)
    assert index.high == most


def encode(index: KeyIndex, kinds: list[pa.DataType], keys: list[tuple[Any, ...]]) -> Any:
    return index.codec.encode([pa.array([key[i] for key in keys], kind) for i, kind in enumerate(kinds)], len(keys), 7)


def test_an_index_finds_all_keys_at_every_moment_of_growing() -> None:
    index, keys = KeyIndex([pa.int64()], 7), np.random.default_rng(1).permutation(200_000)
    for start in range(0, len(keys), 1000):
        index.lookup_or_insert(index.codec.encode([pa.array(keys[start : start + 1000])], 1000, 7))
        if start % 20_000 == 0:
            so_far = index.lookup(index.codec.encode([pa.array(keys[: start + 1000])], start + 1000, 7))
            assert so_far.tolist() == list(range(start + 1000))
    assert len(index) == 200_000
    assert index.memory_bytes < 200_000 * 120


def test_bytes_of_removed_keys_are_used_again() -> None:
    index = KeyIndex([pa.string()], 7)
    for generation in range(200):
        keys = pa.array([f"{generation}-{i}-{'x' * (generation % 50)}" for i in range(2000)])
        slots = index.lookup_or_insert(index.codec.encode([keys], 2000, 7))
        assert index.copy_keys(slots).columns()[0].equals(keys)
        index.remove(slots)
    assert len(index) == 0
    assert index.memory_bytes < 5_000_000


def test_grouping_a_batch_finds_each_pane_and_key_once_in_order_of_appearance() -> None:
    random_, grouper = random.Random(5), BatchGrouper()
    for size in (1, 10, 5000, 30_000, 200):
        for kinds, draw in KINDS.values():
            keys = [draw(random_) for _ in range(size)]
            panes = np.array([random_.randrange(-3, 3) * 10 for _ in range(size)], np.int64)
            codec = KeyCodec(kinds)
            encoded = codec.encode([pa.array([key[i] for key in keys], kind) for i, kind in enumerate(kinds)], size, 7)
            groups, firsts = grouper.group(encoded, panes, codec.by_words)
            model: dict[Any, int] = {}
            wanted = [model.setdefault((key, pane), len(model)) for key, pane in zip(keys, panes.tolist(), strict=True)]
            assert groups.tolist() == wanted
            assert [(keys[i], int(panes[i])) for i in firsts] == list(model)


@pytest.mark.parametrize("low", [0, -40, 1 << 40, -(1 << 63), (1 << 63) - 101])
def test_keys_that_lie_close_together_are_grouped_by_their_place(low: int) -> None:
    random_, grouper = random.Random(low), DenseGrouper()
    for size, panes in ((1, 1), (60, 1), (500, 3), (7, 1), (3000, 6)):
        keys = [low + random_.randrange(min(100, WIDEST * size // panes)) for _ in range(size)]
        starts = [random_.randrange(-1, panes - 1) * 10 for _ in range(size)] if panes > 1 else []
        found = grouper.group(np.array(keys, np.int64), np.array(starts, np.int64), 10)
        assert found is not None
        groups, firsts = found
        model: dict[Any, int] = {}
        pairs = list(zip(keys, starts or [0] * size, strict=True))
        assert groups.tolist() == [model.setdefault(pair, len(model)) for pair in pairs]
        assert [pairs[i] for i in firsts] == list(model)


@pytest.mark.parametrize(
    ("words", "panes"),
    [([0, 9], []), ([-(1 << 63), (1 << 63) - 1], []), ([0, 1], [0, 20]), ([5, 5], [-(1 << 62), 1 << 62]), ([0, 3], [0, 10])],
)
def test_keys_or_panes_that_are_far_apart_are_left_to_hashing(words: list[int], panes: list[int]) -> None:
    assert DenseGrouper().group(np.array(words, np.int64), np.array(panes, np.int64), 10) is None


def test_no_rows_have_no_groups() -> None:
    found = DenseGrouper().group(np.empty(0, np.int64), np.empty(0, np.int64), 10)
    assert found is not None
    assert [len(part) for part in found] == [0, 0]


@pytest.mark.parametrize(("pane", "offset"), [(10, 0), (10, 3), (7, 0), (2_000_000, 0), (1, 0), (3_600_000_000, 1_800_000_000)])
def test_pane_starts_are_exact_floors_at_any_time(pane: int, offset: int) -> None:
    random_ = random.Random(pane)
    for spread in (5, 1000, 10**9, 10**15, 2**61):
        times = [random_.randrange(-spread, spread) for _ in range(500)] + [0, -1, pane, -pane, offset, offset - 1]
        wanted = [(t - offset) // pane * pane + offset for t in times]
        assert pane_starts(np.array(times, np.int64), pane, offset).tolist() == wanted


def test_sorting_by_pane_keeps_the_order_within_each() -> None:
    panes = np.array([20, 10, 20, 10, 30])
    order, starts, bounds = sort_by_pane(panes)
    assert order is not None
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert starts.tolist() == [10, 20, 30]
    assert bounds.tolist() == [0, 2, 4, 5]
    assert sort_by_pane(np.array([10, 10, 20]))[0] is None


def test_growth_keeps_what_is_there_and_zeroes_the_rest() -> None:
    array = np.ones((3, 2), np.int64)
    array = grown(array, 1000, 64)
    assert array.shape == (1024, 2)
    assert array[:3].all()
    assert not array[3:].any()


def test_copies_use_the_memory_of_copies_that_nobody_holds() -> None:
    buffers, source = CopyBuffers(), np.arange(300_000)
    first = buffers.copy(source)
    second = buffers.copy(source)
    source[:] = 0
    assert first.array[-1] == second.array[-1] == 299_999
    address = first.array.ctypes.data
    assert second.array.ctypes.data != address
    del first
    assert buffers.copy(source).array.ctypes.data == address
