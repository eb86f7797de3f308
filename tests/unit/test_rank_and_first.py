"""Deduplicate, distinct and continuous top n: against small models, with snapshots and restores at other parallelisms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.errors import PlanError
from flinkray.operators import rank
from flinkray.operators.base import Operator
from flinkray.operators.first import FirstOperator
from flinkray.operators.rank import RankOperator
from flinkray.operators.ranking import best_few
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("key", pa.string()), ("t", pa.int64()), ("n", pa.int64())])
Row = dict[str, Any]


def harness(operator: Operator, event_time: str | None = "t") -> OperatorHarness:
    return OperatorHarness(operator, input_schemas=SCHEMA, event_time=event_time, batch_rows=5)


def row(t: int, key: str | None = "a", n: int = 0) -> Row:
    return {"key": key, "t": t, "n": n}


def numbers(driven: OperatorHarness) -> list[tuple[Any, int]]:
    return [(each["key"], each["n"]) for each in driven.output_rows()]


# --- first


def test_the_first_by_event_time_is_given_once_when_it_is_certain() -> None:
    driven = harness(FirstOperator(keys=("key",), by_time=True)).rows([row(9, n=1), row(7, n=2), row(7, n=3), row(20, "b", 4)])
    driven.rows([row(5, n=5), row(6, n=6)])
    assert numbers(driven.watermark(4)) == []
    assert numbers(driven.watermark(5)) == [("a", 5)]
    assert numbers(driven.rows([row(6, n=7), row(30, n=8), row(3, None, 9)]).watermark(19)) == [(None, 9)]
    assert numbers(driven.end()) == [("b", 4)]


def test_a_late_row_of_a_new_key_is_not_behind_the_watermark() -> None:
    driven = harness(FirstOperator(keys=("key",), by_time=True)).watermark(50).rows([row(3)]).watermark(60)
    assert driven.output()[EVENT_TIME].to_pylist() == [51]


def test_the_first_to_come_passes_at_once() -> None:
    driven = harness(FirstOperator(keys=("key",), by_time=False)).rows([row(9, n=1), row(7, n=2), row(8, "b", 3), row(8, None, 4)])
    assert numbers(driven) == [("a", 1), ("b", 3), (None, 4)]
    assert numbers(driven.rows([row(1, "b"), row(1, None), row(2, "c", 5)])) == [("c", 5)]


def test_a_key_whose_time_to_live_is_over_begins_anew() -> None:
    driven = harness(FirstOperator(keys=("key",), by_time=False, ttl_us=10)).rows([row(5, n=1), row(9, "b", 2)]).watermark(15)
    driven.output()
    assert numbers(driven.rows([row(16, n=3), row(16, "b", 4)])) == [("a", 3)]
    assert driven.watermark(1000).metrics.state_rows == 0
    by_clock = harness(FirstOperator(keys=("key",), by_time=False, ttl_us=10_000_000), None).processing_time(1.0).rows([row(1)])
    by_clock.output()
    assert numbers(by_clock.processing_time(10.9).rows([row(2, n=2)])) == []
    assert numbers(by_clock.processing_time(11.0).rows([row(2, n=3)])) == [("a", 3)]


# --- rank


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=60),
    n=st.integers(1, 12),
    newest=st.booleans(),
)
def test_a_few_best_rows_found_one_by_one_are_those_of_sorting_all(rows: list[tuple[int, int, int]], n: int, newest: bool) -> None:
    names = {key: number for number, key in enumerate(dict.fromkeys(key for key, _, _ in rows))}
    groups = np.array([names[key] for key, _, _ in rows])
    codes = [np.array([each[column] for each in rows]) for column in (1, 2)]
    order = sorted(range(len(rows)), key=lambda i: (groups[i], codes[0][i], codes[1][i], -i if newest else i))
    expected = [i for place, i in enumerate(order) if place < n or groups[order[place - n]] != groups[i]]
    assert best_few(groups, codes, n, newest).tolist() == expected


def top(n: int, **options: Any) -> RankOperator:
    return RankOperator(keys=("key",), by=(("n", "desc"),), n=n, **options)


def test_what_comes_into_the_best_is_added_and_what_leaves_is_taken_back() -> None:
    driven = harness(top(2)).rows([row(1, n=1), row(2, n=3), row(3, n=2), row(4, "b", 9)])
    assert [(each["key"], each["n"], each[CHANGE]) for each in driven.output().to_pylist()] == [("a", 3, 1), ("a", 2, 1), ("b", 9, 1)]
    driven.rows([row(5, n=7), row(6, n=1)])
    assert [(each["n"], each[CHANGE]) for each in driven.output().to_pylist()] == [(2, -1), (7, 1)]
    assert driven.metrics.state_rows == 3


def test_rows_that_tie_with_the_last_of_the_best_are_kept_where_that_is_asked_for() -> None:
    rows = [row(1, n=5), row(2, n=4), row(3, n=4), row(4, n=3)]
    assert Counter(numbers(harness(top(2, ties=True)).rows(rows))) == Counter([("a", 5), ("a", 4), ("a", 4)])
    assert harness(top(2)).rows(rows).output()["t"].to_pylist() == [1, 2], "else the first to come"


def test_an_upsert_stream_tells_only_the_best_row() -> None:
    driven = harness(RankOperator(keys=("key",), by=((EVENT_TIME, "desc"),), n=1, newest=True, upsert=True))
    out = driven.rows([row(5, n=1), row(5, n=2), row(3, n=3)]).output().to_pylist()
    assert [(each["n"], each[CHANGE]) for each in out] == [(2, 1)]
    out = driven.watermark(7).rows([row(6, n=4), row(2, n=5)]).output().to_pylist()
    assert [(each["n"], each[CHANGE], each[EVENT_TIME]) for each in out] == [(4, 2, 8)]


# --- models

ROWS = st.lists(st.tuples(st.sampled_from([None, "", "a", "b"]), st.integers(1, 10), st.integers(0, 4)), min_size=1, max_size=6)
STORY = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), ROWS),
        st.tuples(st.just("watermark"), st.integers(0, 8)),
        st.tuples(st.just("snapshot"), st.booleans()),
        st.tuples(st.just("restore"), st.just(None)),
    ),
    max_size=16,
)


def run(make: Callable[[], Operator], story: list[Any]) -> tuple[list[pa.Table], list[Row]]:
    """(What came out, the rows that went in; `n` numbers those that are equal in the rest.)"""
    driven, now, number, base = harness(make()), 0, 0, None
    out: list[pa.Table] = []
    given_rows: list[Row] = []
    for what, value in story:
        if what == "rows":
            rows = [row(now + ahead, key, n) for key, ahead, n in value]
            given_rows += rows
            driven.rows(rows)
        elif what == "watermark":
            now += value
            driven.watermark(now)
        else:
            out.append(driven.output())
            number += 1
            taken = driven.snapshot(number, None if value is True else base)
            base = number
            if what == "restore":
                (driven,) = restore(make, [taken], 1)
    return [*out, driven.end().output()], given_rows


def remaining(tables: list[pa.Table]) -> Counter[tuple[Any, ...]]:
    found = Counter[tuple[Any, ...]]()
    for each in (r for table in tables for r in table.to_pylist()):
        found[(each["key"], each["t"], each["n"])] += 1 if each.get(CHANGE, 1) > 0 else -1
    assert all(times >= 0 for times in found.values())
    return +found


@settings(max_examples=50, deadline=None)
@given(story=STORY, n=st.integers(1, 3), ties=st.booleans())
def test_what_remains_are_the_best_of_each_key(story: list[Any], n: int, ties: bool) -> None:
    out, rows = run(lambda: RankOperator(keys=("key",), by=(("n", "desc"), ("t", "asc")), n=n, ties=ties), story)
    expected = Counter[tuple[Any, ...]]()
    for key in {each["key"] for each in rows}:
        mine = sorted((-each["n"], each["t"]) for each in rows if each["key"] == key)
        best = [pair for pair in mine if ties and mine.index(pair) < n] if ties else mine[:n]
        expected += Counter((key, t, -n_) for n_, t in best)
    assert remaining(out) == expected


@settings(max_examples=50, deadline=None)
@given(story=STORY)
def test_the_first_of_each_key_comes_once_and_is_the_first(story: list[Any]) -> None:
    out, rows = run(lambda: FirstOperator(keys=("key",), by_time=True), story)
    found = [(each["key"], each["t"], each["n"]) for table in out for each in table.to_pylist()]
    expected = []
    for key in {each["key"] for each in rows}:
        first = min((each for each in rows if each["key"] == key), key=lambda each: each["t"])
        expected.append((key, first["t"], first["n"]))
    assert Counter(found) == Counter(expected)


@settings(max_examples=50, deadline=None)
@given(story=STORY, keep=st.sampled_from(["first", "last"]))
def test_the_last_change_of_each_key_is_its_best_row(story: list[Any], keep: str) -> None:
    direction = "asc" if keep == "first" else "desc"
    out, rows = run(lambda: RankOperator(keys=("key",), by=(("n", direction),), n=1, newest=keep == "last", upsert=True), story)
    newest: dict[Any, tuple[int, int]] = {}
    for each in (r for table in out for r in table.to_pylist()):
        assert (each[CHANGE] == 2) == (each["key"] in newest)
        newest[each["key"]] = (each["t"], each["n"])
    expected = {}
    for key in {each["key"] for each in rows}:
        mine = [each for each in rows if each["key"] == key]
        best = min(mine, key=lambda each: each["n"]) if keep == "first" else max(reversed(mine), key=lambda each: each["n"])
        expected[key] = (best["t"], best["n"])
    assert newest == expected


@settings(max_examples=50, deadline=None)
@given(story=STORY, n=st.integers(1, 3), few=st.sampled_from([0, 64]))
def test_the_last_row_of_each_rank_is_the_row_that_has_it(story: list[Any], n: int, few: int) -> None:
    with mock.patch.object(rank, "_FEW", few):  # one by one, or by sorting
        out, rows = run(lambda: RankOperator(keys=("key",), by=(("n", "desc"), ("t", "asc")), n=n, rank="rank"), story)
    newest: dict[tuple[Any, int], tuple[int, int]] = {}
    for each in (r for table in out for r in table.to_pylist()):
        place = (each["key"], each["rank"])
        assert (each[CHANGE] == 2) == (place in newest)
        newest[place] = (each["t"], each["n"])
    expected = {}
    for key in {each["key"] for each in rows}:
        best = sorted((-each["n"], each["t"]) for each in rows if each["key"] == key)[:n]
        expected |= {(key, number): (t, -points) for number, (points, t) in enumerate(best, start=1)}
    assert newest == expected


# --- the API


@pytest.fixture
def rows() -> fr.DataStream:
    env = fr.StreamEnvironment("best", parallelism=2, runtime="local")
    table = pa.table({"key": list("abab"), "t": [3, 2, 1, 4], "n": [1, 2, 3, 4]})
    return env.from_batches(table, watermark=fr.Watermarks.bounded("t", "10us"))


def found(stream: fr.DataStream) -> list[tuple[Any, ...]]:
    return sorted(zip(*stream.collect().select(["key", "n"]).to_pydict().values(), strict=True))


def test_they_run(rows: fr.DataStream) -> None:
    keyed = rows.key_by("key")
    assert found(keyed.deduplicate()) == [("a", 3), ("b", 2)]
    assert found(keyed.deduplicate(keep="last")) == [("a", 1), ("b", 4)]
    assert found(keyed.deduplicate("n")) == [("a", 1), ("b", 2)]
    assert found(keyed.deduplicate(("n", "desc"), keep="last")) == [("a", 1), ("b", 2)]
    assert found(keyed.top_n(1, "n")) == [("a", 3), ("b", 4)]
    assert sorted(rows.distinct("key").collect()["key"].to_pylist()) == ["a", "b"]
    assert rows.select("key").distinct().collect().num_rows == 2
    changes = keyed.top_n(1, "n").changes()
    assert set(changes.collect()["change"].to_pylist()) <= {"+I", "-D"}
    changes.sink_to(fr.sinks.Csv("never-written/"))


def test_mistakes_are_found_at_plan_time(rows: fr.DataStream) -> None:
    keyed = rows.key_by("key")
    with pytest.raises(PlanError, match="takes append streams, but 'rank' gives a retract stream"):
        keyed.top_n(1, "n").sink_to(fr.sinks.Csv("out/"))
    with pytest.raises(PlanError, match="only appends rows"):
        keyed.deduplicate(keep="last").sink_to(fr.sinks.Csv("out/"))
    with pytest.raises(PlanError, match="are only added; there is no change kind"):
        rows.changes()
    with pytest.raises(PlanError, match="have a column 'n'"):
        keyed.top_n(1, "n").changes("n")
    with pytest.raises(PlanError, match="keep='best'"):
        keyed.deduplicate(keep="best")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="but the rows have none"):
        fr.StreamEnvironment("x", runtime="local").from_batches(pa.table({"key": ["a"]})).key_by("key").deduplicate()
    with pytest.raises(PlanError, match="did you mean 'n'"):
        keyed.top_n(2, "nn")
    with pytest.raises(PlanError, match="not above zero"):
        rows.distinct("key", ttl=0)


def test_ranks_are_a_column_and_with_the_key_tell_rows_apart(rows: fr.DataStream) -> None:
    ranked = rows.key_by("key").top_n(2, "n", rank="rank")
    assert sorted(zip(*ranked.collect().select(["key", "rank", "n"]).to_pydict().values(), strict=True)) == [
        ("a", 1, 3),
        ("a", 2, 1),
        ("b", 1, 4),
        ("b", 2, 2),
    ]
    assert ranked.select("key", "rank").collect().num_rows == 4
    with pytest.raises(PlanError, match="told apart by 'rank'"):
        ranked.select("key", "n")
    with pytest.raises(PlanError, match="rank='n' is the name of a column"):
        rows.key_by("key").top_n(2, "n", rank="n")
