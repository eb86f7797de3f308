"""Lookup joins with a table that is asked by key: a batch at a time, remembered for a while, and of so many keys at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.connectors.base import Lookups, LookupTable
from flinkray.errors import PlanError
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


def test_the_plan_says_that_the_table_is_asked() -> None:
    env = fr.StreamEnvironment("asked", runtime="local")
    rows = env.from_batches(pa.table({"user": [1, 2], "n": [1, 2]}), uid="rows")
    joined = rows.lookup_join(Asked([(1, "ann")]), {"user": "id"}, cache="5s")
    assert "with Asked, asked once a batch, answers remembered for 5000000 us" in joined.explain()
    assert sorted(row["name"] or "" for row in joined.collect().to_pylist()) == ["", "ann"]
    with pytest.raises(PlanError, match=r"is no bounded source, .* and no table, like fr\.tables\.Postgres"):
        rows.lookup_join("users", {"user": "id"})  # type: ignore[arg-type]
