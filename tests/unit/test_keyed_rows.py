"""Rows by key that come and go: against a dictionary of lists, with memory given back, deltas and restores."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from flinkray.errors import RestoreError
from flinkray.graph.key_groups import key_group_range
from flinkray.operators.base import OperatorContext
from flinkray.operators.restore import StateChain, restored_states
from flinkray.operators.row_states import RowStates
from flinkray.state import keyed_rows
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows

SCHEMA = pa.schema([("key", pa.string()), ("n", pa.int64())])


def context(subtask: int = 0, parallelism: int = 1) -> OperatorContext:
    return OperatorContext(
        uid="rows", name="rows", subtask=subtask, parallelism=parallelism, max_parallelism=128,
        key_groups=key_group_range(128, parallelism, subtask), hash_seed=7, claim=1, attempt=1, instance="", input_schemas=(SCHEMA,),
        output_schema=None, batch_rows=100, clock=lambda: 0.0,
    )  # fmt: skip


class Kept:
    """The rows under test with what they should be."""

    def __init__(self, where: OperatorContext) -> None:
        self.rows = KeyedRows(KeyIndex(KeyCodec([pa.string()]), 7), SCHEMA, ("twice",))
        self.states = RowStates(where, self.rows.index, {"rows": self.rows}, {"rows": ["key"]})

    def add(self, pairs: list[tuple[str | None, int]]) -> None:
        batch = pa.RecordBatch.from_pylist([{"key": key, "n": n} for key, n in pairs], SCHEMA)
        slots = self.states.slots(batch, "rows")
        twice = np.array([2 * n for _, n in pairs], np.int64)
        self.rows.add(batch, np.arange(len(pairs)), slots, self.states.history.generation, twice=twice)

    def remove(self, numbers: set[int]) -> None:
        live = self.rows.live()
        chosen = live[np.isin(self.rows.take(live)["n"].to_numpy(), list(numbers))]
        self.rows.remove(chosen, self.states.history.generation)

    def by_key(self) -> dict[str | None, list[int]]:
        keys = self.rows.take(self.rows.live())["key"].unique()
        slots = self.rows.index.lookup(self.rows.index.keys(pa.record_batch([keys], names=["key"]), ["key"]))
        found: dict[str | None, list[int]] = {key: [] for key in keys.to_pylist()}
        own, positions = self.rows.of(slots)
        assert self.rows.word("twice", positions).tolist() == [2 * n for n in self.rows.take(positions)["n"].to_pylist()]
        for place, n in zip(own.tolist(), self.rows.take(positions)["n"].to_pylist(), strict=True):
            found[keys[place].as_py()].append(n)
        return found


@pytest.mark.parametrize("seed", range(4))
def test_they_are_lists_by_key_through_deltas_and_restores(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_rows, "_FEW", 8)
    chance, number, checkpoint, base = random.Random(seed), 0, 0, None
    model: dict[int, str | None] = {}
    kept = [Kept(context())]
    chains: tuple[StateChain, ...] = ()
    for _ in range(60):
        pairs = [(chance.choice([None, "", "a", "bb", "a rather long key"]), number + i) for i in range(chance.randrange(1, 9))]
        number += len(pairs)
        model |= {n: key for key, n in pairs}
        kept[0].add(pairs)
        gone = {n for n in model if chance.random() < 0.2}
        kept[0].remove(gone)
        for n in gone:
            del model[n]
        kept[0].states.tidy()
        expected: dict[str | None, list[int]] = {}
        for n, key in sorted(model.items()):
            expected.setdefault(key, []).append(n)
        assert kept[0].by_key() == expected
        assert len(kept[0].rows) == len(model)
        if chance.random() < 0.5:
            checkpoint += 1
            (capture,) = kept[0].states.snapshot(checkpoint, base)
            chunk = capture.encode()
            tables = () if capture.full else chains[0].tables
            own = context().key_groups
            chains = (StateChain("rows", "keyed", 0, own, tables if chunk is None else (*tables, chunk)),)
            base = checkpoint
            if chance.random() < 0.4:
                kept = [Kept(context())]
                kept[0].states.restore(restored_states(chains, own, 0), checkpoint)


def test_a_restore_at_another_parallelism_deals_the_keys_out() -> None:
    kept = Kept(context())
    kept.add([(f"key {n % 40}", n) for n in range(400)])
    kept.remove(set(range(0, 400, 7)))
    (capture,) = kept.states.snapshot(1, None)
    chunk = capture.encode()
    assert chunk is not None
    chain = StateChain("rows", "keyed", 0, context().key_groups, (chunk,))
    found: dict[str | None, list[int]] = {}
    for subtask in range(3):
        mine = Kept(context(subtask, 3))
        mine.states.restore(restored_states([chain], key_group_range(128, 3, subtask), subtask), 1)
        assert not found.keys() & mine.by_key().keys()
        found |= mine.by_key()
    assert found == kept.by_key()


def test_memory_of_removed_rows_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_rows, "_FEW", 8)
    kept = Kept(context())
    for n in range(200):
        kept.add([(f"key {n % 10}", n)])
        kept.remove(set(range(n - 3)))
        kept.states.tidy()
    assert len(kept.rows) == 4
    assert len(kept.rows.rows) < 40, "removed rows do not pile up"


def test_many_rows_come_some_keys_at_a_time() -> None:
    kept = Kept(context())
    kept.add([(f"key {n % 5}", n) for n in range(1000)])
    slots = np.array([0, 3, 0, 4], np.int32)
    parts = list(kept.rows.pairs(slots, 450))
    assert [len(own) for own, _ in parts] == [400, 400]
    assert np.concatenate([own for own, _ in parts]).tolist() == sorted([0, 1, 2, 3] * 200)
    assert [len(own) for own, _ in kept.rows.pairs(slots, 1)] == [200] * 4, "a key is not torn apart"


def test_rows_of_other_columns_are_not_restored() -> None:
    kept = Kept(context())
    kept.add([("a", 1)])
    chunk = kept.states.snapshot(1, None)[0].encode()
    assert chunk is not None
    chain = StateChain("rows", "keyed", 0, context().key_groups, (chunk.drop_columns(["n"]),))
    with pytest.raises(RestoreError, match="'rows' was saved with other columns"):
        Kept(context()).states.restore(restored_states([chain], context().key_groups, 0), 1)
