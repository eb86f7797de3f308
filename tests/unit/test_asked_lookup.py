"""Lookup joins with a table that is asked by key: a batch at a time, remembered for a while, and of so many keys at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.connectors.base import Lookups, LookupTable
from flinkray.errors import PlanError, SourceError
from flinkray.graph.joins import JoinColumn
from flinkray.operators.asked_lookup import AskedLookupJoinOperator
from flinkray.operators.lookup_cache import LookupCache
from flinkray.testing.harness import OperatorHarness

ROWS = pa.schema([("user", pa.int64()), ("n", pa.int64())])
TABLE = pa.schema([("id", pa.int64()), ("name", pa.string())])
COLUMNS = (JoinColumn("user", "user", None), JoinColumn("n", "n", None), JoinColumn("name", None, "name"))


@dataclass(frozen=True)
class Asked(LookupTable, Lookups):
    """A table in memory that notes what it is asked."""

    rows: list[tuple[int, str]]
    cached_keys: int = 100
    asked: list[list[int]] = field(default_factory=list)

    def schema(self) -> pa.Schema:
        return TABLE

    def with_columns(self, columns: tuple[str, ...]) -> LookupTable:
        assert columns == ("id", "name")
        return self

    def open(self) -> Lookups:
        return self

    def find(self, keys: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        assert names == ("id",)
        self.asked.append(keys.column(0).to_pylist())
        table = pa.RecordBatch.from_pylist([{"id": key, "name": name} for key, name in self.rows], TABLE)
        return table.filter(pc.is_in(table.column("id"), keys.column(0)))


def harness(table: Asked, how: str = "left", cache_us: int | None = None) -> OperatorHarness:
    made = AskedLookupJoinOperator(table=table, keys=("user",), table_keys=("id",), how=how, columns=COLUMNS, cache_us=cache_us)
    return OperatorHarness(made, input_schemas=ROWS, batch_rows=3)


def users(*keys: int | None) -> list[dict[str, Any]]:
    return [{"user": key, "n": number} for number, key in enumerate(keys)]


KEY = st.sampled_from([None, 1, 2, 3, 4, 5])


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(st.tuples(st.integers(1, 5), st.sampled_from("xyz")), max_size=8),
    batches=st.lists(st.lists(KEY, min_size=1, max_size=8), max_size=6),
    how=st.sampled_from(["inner", "left"]),
    cache_us=st.sampled_from([None, 1_500_000]),
    cached_keys=st.sampled_from([1, 4, 100]),
)
def test_every_row_meets_the_rows_of_its_key(table: Any, batches: Any, how: str, cache_us: int | None, cached_keys: int) -> None:
    asked = Asked(table, cached_keys)
    driven = harness(asked, how, cache_us)
    for now, keys in enumerate(batches):
        driven.processing_time(float(now))
        found = [(each["user"], each["n"], each["name"]) for each in driven.rows(users(*keys)).output_rows()]
        expected = []
        for number, key in enumerate(keys):
            names = [name for other, name in table if other == key]
            expected += [(key, number, name) for name in names] or ([(key, number, None)] if how == "left" else [])
        assert sorted(found, key=str) == sorted(expected, key=str)
        assert [pair[:2] for pair in found] == [pair[:2] for pair in expected], "in the order of the rows"
        assert driven.metrics.state_rows <= max(2, cached_keys)
    assert all(len(keys) == len(set(keys)) for keys in asked.asked), "once for each key of a batch, and never for null"
    assert not any(None in keys for keys in asked.asked)


def test_answers_are_remembered_for_a_while_also_that_there_is_none() -> None:
    table = Asked([(1, "ann")])
    driven = harness(table, cache_us=10_000_000)
    for now_s in (0.0, 9.9, 10.0):
        driven.processing_time(now_s).rows(users(1, 2, 1, None))
        if now_s == 0.0:
            driven.rows(users(3, 1))
    assert table.asked == [[1, 2], [3], [1, 2]]
    assert harness(Asked([])).rows(users(None)).output_rows() == [{"user": None, "n": 0, "name": None}]


def test_of_many_keys_those_are_forgotten_that_were_asked_for_first() -> None:
    cache = LookupCache(TABLE, ("id",), 7, 4, 60.0)
    for key in range(6):
        keys = pa.RecordBatch.from_pydict({"user": pa.array([key])})
        cache.put(keys, pa.RecordBatch.from_pylist([{"id": key, "name": str(key)}] * 2, TABLE), 1.0)
        assert len(cache) <= 4
    found, missing = cache.look(pa.RecordBatch.from_pydict({"user": pa.array(range(7))}), 2.0)
    assert missing.tolist() == [True, True, False, False, False, False, True]
    assert sorted(row["name"] for batch in found for row in batch.to_pylist()) == sorted("22334455")


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 9), max_size=6)), max_size=30),
    most=st.integers(1, 9),
    lives_s=st.integers(1, 12),
)
def test_an_answer_is_given_again_while_it_is_young_and_its_key_among_the_last_that_were_asked_for(
    steps: list[tuple[int, list[int]]], most: int, lives_s: int
) -> None:
    """The model is a list of (key, time at which it was asked for), newest last. Half of the keys are remembered for certain, all at most."""
    cache, now_s, asked = LookupCache(TABLE, ("id",), 7, most, lives_s), 0.0, list[tuple[int, float]]()
    for waited_s, wanted in steps:
        now_s += waited_s
        keys = pa.RecordBatch.from_pydict({"user": pa.array(sorted(set(wanted)), pa.int64())})
        found, missing = cache.look(keys, now_s)
        rows = sorted((row["id"], row["name"]) for batch in found for row in batch.to_pylist())
        unknown = keys.filter(pa.array(missing)).column(0).to_pylist()
        last = dict(asked)
        known = [key for key in keys.column(0).to_pylist() if key not in unknown]
        assert rows == sorted((key, f"{last[key]}") for key in known for _ in range(key % 3)), "of key 0, 3, ... there are none"
        assert all(last[key] > now_s - lives_s for key in known)
        certain = {key for key, at_s in asked[-max(1, most // 2) :] if at_s > now_s - lives_s}
        assert not certain.intersection(unknown)
        answer = [{"id": key, "name": f"{now_s}"} for key in unknown for _ in range(key % 3)]
        cache.put(keys.filter(pa.array(missing)), pa.RecordBatch.from_pylist(answer, TABLE), now_s)
        asked = [pair for pair in asked if pair[0] not in unknown] + [(key, now_s) for key in unknown]
        assert len(cache) <= max(2, most)


def test_answers_that_are_too_old_do_not_pile_up() -> None:
    cache, keys = LookupCache(TABLE, ("id",), 7, 100_000, 10.0), pa.RecordBatch.from_pydict({"user": pa.array(range(50))})
    rows = pa.RecordBatch.from_pylist([{"id": key, "name": str(key)} for key in range(50)], TABLE)
    sizes = []
    for turn in range(60):
        assert cache.look(keys, turn * 10.0)[1].all()
        cache.put(keys, rows, turn * 10.0)
        sizes.append(cache.memory_bytes)
    assert sizes[-1] == sizes[1]


@dataclass(frozen=True)
class Failing(Asked):
    """Fails before its first `failures` answers."""

    failures: int = 0
    permanent: bool = False

    def find(self, keys: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        if len(TRIED) < self.failures:
            TRIED.append(1)
            raise SourceError("the table does not answer (planned)", permanent=self.permanent)
        return super().find(keys, names)


TRIED: list[int] = []


def test_a_table_that_does_not_answer_is_tried_for_longer_than_user_code_and_one_that_cannot_ends_the_job(tmp_path: Path) -> None:
    def run(table: Failing) -> pa.Table:
        TRIED.clear()
        restart = fr.RestartStrategy(initial="1ms", maximum="2ms")
        storage = fr.Checkpointing(interval=None, storage=f"file://{tmp_path}/{table.permanent}")
        env = fr.StreamEnvironment("away", runtime="local", restart=restart, checkpointing=storage)
        rows = env.from_batches(pa.table({"user": [1, 2]}), uid="rows").lookup_join(table, {"user": "id"})
        rows.sink_to(fr.sinks.Parquet(f"{tmp_path}/out", mode="overwrite"), uid="out")
        assert env.execute().restarts == 5
        return pq.read_table(f"{tmp_path}/out")

    assert sorted(run(Failing([(1, "ann")], failures=5)).column("name").to_pylist(), key=str) == [None, "ann"]
    with pytest.raises(SourceError, match="does not answer"):
        run(Failing([(1, "ann")], failures=1, permanent=True))
    assert len(TRIED) == 1


def test_the_plan_says_that_the_table_is_asked() -> None:
    env = fr.StreamEnvironment("asked", runtime="local")
    rows = env.from_batches(pa.table({"user": [1, 2], "n": [1, 2]}), uid="rows")
    joined = rows.lookup_join(Asked([(1, "ann")]), {"user": "id"}, cache="5s")
    assert "with Asked, asked once a batch, answers remembered for 5000000 us" in joined.explain()
    assert sorted(row["name"] or "" for row in joined.collect().to_pylist()) == ["", "ann"]
    with pytest.raises(PlanError, match=r"is no bounded source, .* and no table, like fr\.tables\.Postgres"):
        rows.lookup_join("users", {"user": "id"})  # type: ignore[arg-type]
