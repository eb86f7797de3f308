"""Tables, indexes and snapshots give the same answers whether or not state is larger than its memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.windows import SessionWindow, TumblingWindow
from flinkray.operators.base import Operator, StateCapture
from flinkray.operators.keyed_aggregate import KeyedAggregateOperator
from flinkray.operators.process import ProcessOperator
from flinkray.operators.session_aggregate import SessionAggregateOperator
from flinkray.operators.window_aggregate import WindowAggregateOperator
from flinkray.state import memory as state_memory
from flinkray.state.arrow_memory import TablesOnDemand, settled_tables
from flinkray.state.arrow_memory import rows_of as rows_of_tables
from flinkray.state.bytes_in_files import BytesInFiles
from flinkray.state.extents import extent_of
from flinkray.state.key_encoding import Keys
from flinkray.state.key_index import KeyIndex
from flinkray.state.memory import StateMemory
from flinkray.state.paging import PAGE
from flinkray.state.table import KeyedTable, StillTable, TableCopy
from flinkray.testing.harness import OperatorHarness, SnapshotTables, restore


@contextmanager
def limited(pages: int = 32) -> Iterator[StateMemory]:
    memory = StateMemory(pages * PAGE)
    state_memory.use(memory)
    try:
        yield memory
    finally:
        state_memory.use(None)


def texts(numbers: np.ndarray) -> pa.Array:
    return pa.array([f"{'key ' * (number % 7)}{number}" for number in numbers.tolist()])


# --- tables


def filled(kind: pa.DataType, batches: list[np.ndarray], memory: StateMemory | None) -> KeyedTable:
    table = KeyedTable([kind], np.array([0, 0, 7], np.int64), 5)
    for generation, numbers in enumerate(batches, start=2):
        keys = pa.array(numbers) if pa.types.is_integer(kind) else texts(numbers)
        slots = table.slots(table.index.codec.encode([keys], len(keys), 5))
        state_memory.touch(table.rows, slots, generation)
        table.rows[slots, 0] = generation
        np.add.at(table.rows, (slots, 1), 1)
        table.copy()  # a snapshot closes what was changed until now
        if memory is not None:
            memory.keep()
    return table


def content(table: KeyedTable, slots: np.ndarray | None = None) -> list[tuple[object, ...]]:
    copy = table.copy(slots)
    return content_of([copy] if isinstance(copy, TableCopy) else copy.parts())


def content_of(copies: Iterable[TableCopy]) -> list[tuple[object, ...]]:
    return sorted(row for copy in copies for row in zip(copy.keys.columns()[0].to_pylist(), *copy.rows.T.tolist(), strict=True))


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([pa.int64(), pa.string()]), st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 4000)), min_size=1, max_size=6)
)
def test_a_table_with_a_tiny_budget_equals_one_without(kind: pa.DataType, ranges: list[tuple[int, int]]) -> None:
    batches = [np.random.default_rng(start).permutation(np.arange(start, start + count)) for start, count in ranges]
    wanted = filled(kind, batches, None)
    with limited() as memory:
        table = filled(kind, batches, memory)
        assert content(table) == content(wanted)
        for generation in range(1, len(batches) + 2):
            changed = table.changed_after(generation)
            exactly = wanted.changed_after(generation).tolist()
            assert set(exactly) <= set(changed.tolist())
            if len(wanted.rows) * wanted.rows.strides[0] > 4 * memory.smallest_bytes and generation > 2:
                assert changed.tolist() == exactly
            assert content(table, changed) == content(wanted, changed)


def test_rows_come_in_the_order_of_their_state_and_those_of_a_key_as_they_were() -> None:
    random = np.random.default_rng(1)
    with limited() as memory:
        for kind in (pa.int64(), pa.string()):
            table = filled(kind, [random.permutation(6000)], memory)
            numbers = random.integers(0, 7000, 5000)
            keys = pa.array(numbers) if pa.types.is_integer(kind) else texts(numbers)
            batch = pa.record_batch([keys, pa.array(np.arange(5000))], names=["key", "at"])
            found = [(part.to_pydict(), slots.tolist()) for part, slots in table.in_order(batch, ["key"], memory)]
            assert all(len(slots) <= memory.rows_at_once for _, slots in found)
            in_order = [slot for _, slots in found for slot in slots]
            assert in_order == sorted(in_order)
            rows = [row for part, slots in found for row in zip(part["key"], part["at"], slots, strict=True)]
            assert sorted((at, key) for key, at, _ in rows) == list(enumerate(keys.to_pylist()))
            assert len({(key, slot) for key, _, slot in rows}) == len({key for key, _, _ in rows}) == len(set(in_order))
            of_slot = [(slot, at) for _, at, slot in rows]
            assert of_slot == sorted(of_slot), "rows of a key as they were"


def test_keys_of_bytes_come_and_go_in_files() -> None:
    with limited() as memory:
        index = KeyIndex([pa.string()], 3)
        for round_ in range(8):
            numbers = np.arange(round_ * 2000, round_ * 2000 + 4000)
            keys = index.codec.encode([texts(numbers)], len(numbers), 3)
            slots = index.lookup_or_insert(keys)
            assert len(np.unique(slots)) == len(numbers)
            longer = index.codec.encode([pa.array(["x" * 40 + str(n) for n in numbers.tolist()])], len(numbers), 3)
            index.remove(index.lookup_or_insert(longer))
            assert (index.lookup(longer) == -1).all()
            assert index.lookup(keys).tolist() == slots.tolist()
            memory.keep()
        assert memory.given_up_bytes > 0
        (column,) = index.copy_keys(slots).columns()
        assert column.to_pylist() == texts(numbers).to_pylist()


def test_the_budget_is_kept_while_a_table_grows_is_changed_and_copied() -> None:
    with limited(256) as memory:
        table = KeyedTable([pa.int64()], np.zeros(12, np.int64), 5)
        random, high = np.random.default_rng(3), 0
        for generation in range(2, 302):
            numbers = random.integers(0, high + 1000, memory.rows_at_once)
            high += len(numbers) // 2
            slots = table.slots(table.index.codec.encode([pa.array(numbers)], len(numbers), 5))
            state_memory.touch(table.rows, slots, generation)
            table.rows[slots, 0] = generation
            assert memory.resident_bytes() <= memory.budget_bytes + 64 * PAGE, "new rows at the end are not asked for"
            memory.keep()
            assert memory.resident_bytes() <= memory.budget_bytes
        before = table.rows[: len(table)].copy()
        memory.keep()
        used, given_up = memory.disk_used_bytes, memory.given_up_bytes
        copy = table.copy()
        assert (memory.disk_used_bytes, memory.given_up_bytes) == (used, given_up), "nothing is read or copied now"
        assert isinstance(copy, StillTable)
        rows = 0
        for part in copy.parts():
            assert np.array_equal(part.rows, before[rows : rows + len(part)])
            rows += len(part)
            changed = np.random.default_rng(rows).integers(0, len(before), memory.rows_at_once)
            state_memory.touch(table.rows, changed, 400)
            table.rows[changed] = rows
            assert memory.resident_bytes() <= memory.budget_bytes + 64 * PAGE
        assert rows == len(table)
        del copy, part
        gc.collect()
        assert memory.disk_used_bytes <= used, "what was saved for it is free again"


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([pa.int64(), pa.string()]), st.integers(1, 400), st.integers(0, 99))
def test_a_copy_is_of_its_moment_whatever_happens_before_and_while_it_is_read(kind: pa.DataType, step: int, seed: int) -> None:
    random = np.random.default_rng(seed)

    def change(table: KeyedTable, generation: int) -> None:
        numbers = np.unique(random.integers(0, 6000, 500))
        keys = pa.array(numbers) if pa.types.is_integer(kind) else texts(numbers)
        slots = table.slots(table.index.codec.encode([keys], len(keys), 5))
        state_memory.touch(table.rows, slots, generation)
        table.rows[slots, 0] = generation
        table.rows[slots, 1] += 1

    with limited() as memory:
        table = filled(kind, [np.arange(3000)], memory)
        change(table, 3)
        slots = None if seed % 2 else table.changed_after(2)
        wanted, generation = content(table, slots), 4
        copy = table.copy(slots)
        assert isinstance(copy, StillTable)
        found = []
        for start in range(0, len(copy), 7 * step):
            if random.integers(0, 2):
                change(table, generation)
                generation += 1
            found.append(copy.part(start, min(start + 7 * step, len(copy))))
        assert content_of(found) == wanted


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6000)), max_size=60), max_size=25))
def test_bytes_by_slot_are_what_was_put_last(rounds: list[list[tuple[int, int]]]) -> None:
    with limited() as memory:
        store, expected = BytesInFiles(memory), [b""] * 41
        store.make_room(41)
        for number, changes in enumerate(rounds):
            values = {slot: bytes([number + 1]) * length for slot, length in changes}
            store.put(np.array(list(values), np.int64), list(values.values()))
            for slot, value in values.items():
                expected[slot] = value
            memory.keep()
        slots = np.arange(40, -1, -1)
        assert store.get(slots) == expected[::-1]
        assert store.live(41).tolist() == store.live_at(np.arange(41)).tolist() == [bool(value) for value in expected]
        still = store.still(slots[::-1])
        store.put(slots, [b"new"] * 41)
        memory.keep()
        found = []
        for start in range(0, 41, 7):
            offsets, data = still.part(start, min(start + 7, 41))
            found += [data[a:b].tobytes() for a, b in pairwise(offsets.tolist())]
        assert found == expected, "a copy is of its own"
        used = sum(map(len, expected))
        assert store.memory_bytes < 41 * 24 * 500 + (2 << 20) + 4 * max(used, 300_000), "what was replaced gives its room back"


# --- operators, through snapshots and restores


def rows_of(start: int, count: int) -> pa.RecordBatch:
    numbers = np.arange(start, start + count)
    return pa.record_batch([texts(numbers), pa.array(numbers), pa.array(numbers * 1000)], schema=SCHEMA)


SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64()), ("time", pa.int64())])
AGGREGATES = (Aggregate("n", "count", None), Aggregate("total", "sum", "value"), Aggregate("least", "min", "value"))
STEPS = [(0, 2500), (2000, 500), (2500, 1500), (100, 50), (0, 4000)]


def summing() -> Operator:
    return KeyedAggregateOperator(keys=("key",), aggregates=AGGREGATES, emit="final")


def windowed() -> Operator:
    return WindowAggregateOperator(keys=("key",), aggregates=AGGREGATES, window=TumblingWindow(size_us=4_000_000))


def sessions() -> Operator:
    return SessionAggregateOperator(keys=("key",), aggregates=AGGREGATES, window=SessionWindow(gap_us=500_000))


class Remembering(fr.KeyedProcessFunction):
    """State of every kind, changed in place, replaced and cleared; all of it is told when a key's timer fires."""

    count = fr.ValueState("count", int)
    text = fr.ValueState("text", str)
    blob = fr.ValueState("blob", bytes)
    thing = fr.ValueState("thing", object)
    many = fr.ListState("many", int)
    by_name = fr.MapState("by_name", str, object)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> None:
        number = row["value"]
        self.count.value = (self.count.value or 0) + number
        self.text.value = None if number % 5 == 0 else (self.text.value or "") + "é" * (number % 4)
        self.blob.value = b"\0" * (number % 3)
        self.thing.value = [*(self.thing.value or ()), {"number": number, "text": "x" * (number % 90)}][-3:]
        self.many.extend(range(number % 6))
        self.by_name[f"{number % 3}"] = number
        self.by_name[f"{len(self.by_name)}"] = self.by_name.get("1")
        if number % 11 == 0:
            self.many.clear()
            del self.by_name[f"{number % 3}"]
        ctx.register_event_timer(10**12)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> list[dict[str, Any]]:
        told = (self.count.value, self.text.value, self.blob.value, self.thing.value, list(self.many), self.by_name.items())
        return [{"key": ctx.key, "told": str(told)}]


def remembering() -> Operator:
    told = pa.schema([("key", pa.string()), ("told", pa.string())])
    return ProcessOperator(keys=("key",), function=Remembering(), output_schema=told, side_schemas={})


def answers(make: Callable[[], Operator], parallelism: int, memory: StateMemory | None) -> tuple[list[object], ...]:
    """What comes out of a run with a snapshot after each step; and of subtasks that are restored from the last and go on."""
    harness = OperatorHarness(make(), input_schemas=[SCHEMA], event_time="time")
    taken: SnapshotTables | None = None
    few = 5 if make is remembering else 1
    for number, (start, count) in enumerate(STEPS, start=1):
        harness.rows(rows_of(start // few, count // few))
        taken = harness.snapshot(number, number - 1 or None)
        if memory is not None:
            memory.keep()
    assert taken is not None
    restored = restore(make, [taken], parallelism)
    outputs = [[harness.end()], [subtask.end() for subtask in restored]]
    return tuple(sorted(str(sorted(row.items())) for one in ended for row in one.output_rows()) for ended in outputs)


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("make", [summing, windowed, sessions, remembering])
def test_an_operator_gives_the_same_answers_with_state_in_files(make: Callable[[], Operator], parallelism: int) -> None:
    wanted = answers(make, parallelism, None)
    assert len(wanted[0]) == len(wanted[1]) >= 800
    with limited() as memory:
        assert answers(make, parallelism, memory) == wanted
        assert memory.given_up_bytes > 0


@pytest.mark.parametrize("make", [summing, windowed, sessions, remembering])
def test_a_snapshot_is_of_its_moment_though_it_is_encoded_when_rows_have_come_since(make: Callable[[], Operator]) -> None:
    with limited() as memory:
        harness = OperatorHarness(make(), input_schemas=[SCHEMA], event_time="time")
        harness.rows(rows_of(0, 500))
        at_once = {capture.name: rows_in(capture) for capture in harness.operator.snapshot(1, None)}
        later = harness.operator.snapshot(2, None)
        for start in range(0, 700, 100):
            harness.rows(rows_of(start, 100))
            memory.keep()
        assert {capture.name: rows_in(capture) for capture in later} == at_once
        changed = harness.operator.snapshot(3, 2)
        told = {capture.name: rows_in(capture) for capture in changed}
        assert any(told[capture.name] not in ([], at_once[capture.name]) for capture in changed)


def rows_in(capture: StateCapture) -> list[str]:
    return sorted(str(row) for table in capture.encode_parts() for row in table.to_pylist())


def test_a_delta_knows_of_changes_from_before_its_table_became_a_file() -> None:
    with limited(256 * 64):
        harness = OperatorHarness(summing(), input_schemas=[SCHEMA])
        operator = harness.operator
        assert isinstance(operator, KeyedAggregateOperator)
        harness.rows(rows_of(0, 6000))
        harness.snapshot(1, None)
        harness.rows(rows_of(0, 3))
        assert extent_of(operator._table.rows) is None
        harness.rows(rows_of(6000, 1000))
        assert extent_of(operator._table.rows) is not None
        (again,) = restore(summing, [harness.snapshot(2, 1)], 1)
        assert sorted(row["n"] for row in again.end().output_rows()) == [1] * 6997 + [2] * 3


def test_tables_on_demand_are_made_when_they_are_asked_for_and_settled_together() -> None:
    made: list[int] = []

    def table(number: int) -> pa.Table:
        made.append(number)
        return pa.table({"n": np.arange(number * 1000)})

    tables = TablesOnDemand([partial(table, number) for number in range(3)], 3000)
    assert (len(tables), rows_of_tables(tables), rows_of_tables(tables[:1])) == (3, 3000, 3000)
    assert made == []
    assert [each.num_rows for each in tables.each(lambda made: made.slice(0, 500))] == [0, 500, 500]
    assert tables[-1].num_rows == 2000
    assert made == [0, 1, 2, 2]
    with limited(16) as memory:
        settled = settled_tables(tables)
        assert [each.num_rows for each in settled] == [0, 1000, 2000]
        assert memory.disk_used_bytes >= 24_000


def test_a_restore_keeps_the_budget() -> None:
    """Of state of several times the budget; of what is restored one chunk at a time is in memory."""
    most, rows, width = 0, 16_000, 24

    def chunk(start: int) -> pa.Table:
        part = np.arange(start, start + 1000)
        return pa.table({"key": part, **{f"w{w}": part + w for w in range(width)}})

    with limited(192) as memory:
        tables = TablesOnDemand([partial(chunk, start) for start in range(0, rows, 1000)], rows)
        assert rows_of_tables(tables) * (1 + width) * 8 > 2 * memory.budget_bytes
        slots = KeyedTable.slots

        def watched(table: KeyedTable, keys: Keys) -> np.ndarray:
            nonlocal most
            most = max(most, memory.resident_bytes())
            return slots(table, keys)

        table = KeyedTable([pa.int64()], np.zeros(1 + width, np.int64), 5, expected=rows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KeyedTable, "slots", watched)
            for each in tables:
                columns = [column.chunk(0) for column in each.columns]
                table.load(columns[:1], columns[1:])
        assert memory.budget_bytes // 2 < most <= memory.budget_bytes * 9 // 8
        assert memory.resident_bytes() <= memory.budget_bytes
        assert content(table) == [(key, 1, *range(key, key + width)) for key in range(rows)]
