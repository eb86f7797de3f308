"""Lookup joins: rows with those of a table that is read whole; against a small model, and from files that change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.errors import PlanError
from flinkray.graph.joins import JoinColumn
from flinkray.operators.lookup_join import LookupJoinOperator
from flinkray.testing.harness import OperatorHarness

ROWS = pa.schema([("user", pa.int64()), ("n", pa.int64()), ("t", pa.int64())])
TABLE = pa.schema([("id", pa.int64()), ("name", pa.dictionary(pa.int32(), pa.string()))])
COLUMNS = (JoinColumn("user", "user", None), JoinColumn("n", "n", None), JoinColumn("name", None, "name"))


def harness(table: fr.sources.Memory, how: str = "left", **options: Any) -> OperatorHarness:  # type: ignore[name-defined]
    made = LookupJoinOperator(table=table, keys=("user",), table_keys=("id",), how=how, columns=COLUMNS, **options)
    return OperatorHarness(made, input_schemas=ROWS, event_time="t", batch_rows=3)


KEY = st.sampled_from([None, 1, 2, 3])


@settings(max_examples=50, deadline=None)
@given(
    table=st.lists(st.tuples(KEY, st.sampled_from("xyz")), max_size=6),
    rows=st.lists(st.tuples(KEY, st.integers(0, 9)), min_size=1, max_size=8),
    how=st.sampled_from(["inner", "left"]),
)
def test_every_row_meets_the_rows_of_its_key(table: list[Any], rows: list[Any], how: str) -> None:
    source = fr.sources.Memory(pa.Table.from_pylist([{"id": key, "name": name} for key, name in table], TABLE))
    driven = harness(source, how).rows([{"user": key, "n": n, "t": 1} for key, n in rows])
    found = [(each["user"], each["n"], each["name"]) for each in driven.output_rows()]
    expected = []
    for key, n in rows:
        partners = [name for other, name in table if key is not None and other == key]
        expected += [(key, n, name) for name in partners] or ([(key, n, None)] if how == "left" else [])
    assert Counter(found) == Counter(expected)
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected], "in the order of the rows"


def test_a_table_is_read_again_when_it_is_too_old(tmp_path: Path) -> None:
    def write(name: str) -> None:
        pq.write_table(pa.table({"id": [1], "name": [name]}), tmp_path / "users.parquet")

    write("old")
    driven = harness(fr.sources.Parquet(str(tmp_path / "users.parquet")), cache_us=10_000_000)
    write("new")
    names = []
    for now_s in (0.0, 9.9, 10.0):
        driven.processing_time(now_s).rows([{"user": 1, "n": 1, "t": 1}])
        names += [each["name"] for each in driven.output_rows()]
    assert names == ["old", "old", "new"]


def test_it_runs_in_the_thread_of_what_comes_before_and_reads_only_what_is_needed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "name": ["ann", "bob"], "n": [10, 20], "unused": [0, 0]}), tmp_path / "users.parquet")
    env = fr.StreamEnvironment("lookup", parallelism=2, runtime="local")
    rows = env.from_batches(pa.table({"user": [1, 2, 3], "n": [5, 6, 7]}))
    users = fr.sources.Parquet(str(tmp_path / "users.parquet"))
    joined = rows.lookup_join(users, {"user": "id"})
    assert joined.schema is not None
    assert joined.schema.names == ["user", "n", "name", "n_right", "unused"]
    text = joined.select("user", "name").explain()
    assert "left join on user = id with" in text
    assert "shuffled" not in text
    found = joined.select("user", "name", "n_right").collect().to_pylist()
    assert sorted(map(str, found)) == [
        "{'user': 1, 'name': 'ann', 'n_right': 10}",
        "{'user': 2, 'name': 'bob', 'n_right': 20}",
        "{'user': 3, 'name': None, 'n_right': None}",
    ]
    inner = rows.lookup_join(users, on={"user": "id"}, how="inner", cache="1min").filter(fr.col("n_right") > 10)
    assert inner.collect()["name"].to_pylist() == ["bob"]


def test_mistakes_are_found_at_plan_time() -> None:
    env = fr.StreamEnvironment("lookup", runtime="local")
    rows = env.from_batches(pa.table({"user": [1], "n": ["x"]}))
    table = fr.sources.Memory(pa.table({"user": [1], "name": ["ann"]}))
    with pytest.raises(PlanError, match="did you mean 'user'"):
        rows.lookup_join(table, "usr")
    with pytest.raises(PlanError, match="is int64, 'name' of the right is string"):
        rows.lookup_join(table, {"user": "name"})
    with pytest.raises(PlanError, match="no bounded source"):
        rows.lookup_join(env, "user")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="how='full'"):
        rows.lookup_join(table, "user", how="full")  # type: ignore[arg-type]
