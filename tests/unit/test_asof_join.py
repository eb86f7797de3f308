"""As-of and temporal joins by the harness: each row meets the version that was valid then, whatever the order of arrival."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.errors import PlanError
from flinkray.graph.joins import AsOf, Join, join_columns
from flinkray.operators import asof_join
from flinkray.operators.asof_join import AsOfJoinOperator
from flinkray.operators.broadcast_join import BroadcastJoinOperator
from flinkray.testing.harness import OperatorHarness, restore

LEFT = pa.schema([("user", pa.int64()), ("t", pa.int64()), ("a", pa.int64())])
RIGHT = pa.schema([("who", pa.int64()), ("t", pa.int64()), ("b", pa.int64())])
CHANGES = RIGHT.append(pa.field(CHANGE, pa.int8(), nullable=False))
Row = dict[str, Any]


def operator(how: str = "left", tolerance_us: int | None = None) -> AsOfJoinOperator:
    columns = join_columns(LEFT, RIGHT, ["user"], ["who"], windowed=False)
    return AsOfJoinOperator(join=Join(("user",), ("who",), how, columns, AsOf(tolerance_us)))


def harness(how: str = "left", tolerance_us: int | None = None, right: pa.Schema = RIGHT, **options: Any) -> OperatorHarness:
    return OperatorHarness(operator(how, tolerance_us), input_schemas=(LEFT, right), event_time="t", batch_rows=5, **options)


def left(t: int, user: int | None = 1, a: int = 0) -> Row:
    return {"user": user, "t": t, "a": a}


def right(t: int, b: int = 0, who: int | None = 1, **more: Any) -> Row:
    return {"who": who, "t": t, "b": b} | more


def answers(driven: OperatorHarness) -> Counter[tuple[Any, ...]]:
    return Counter((row["user"], row["t"], row["a"], row["t_right"], row["b"]) for row in driven.output_rows())


def test_a_row_meets_the_newest_that_is_not_later_when_the_watermark_has_passed_it() -> None:
    driven = harness().rows([left(10), left(5), left(4)]).rows([right(5, 1), right(9, 2), right(11, 3), right(5, 4)], input=1)
    assert answers(driven) == Counter()
    assert answers(driven.watermark(9)) == Counter([(1, 5, 0, 5, 4), (1, 4, 0, None, None)]), "of two at one time the last to come"
    assert answers(driven.rows([right(10, 5)], input=1).watermark(10)) == Counter([(1, 10, 0, 10, 5)])


def test_event_times_are_those_of_the_left_rows_in_order() -> None:
    driven = harness().rows([left(7), left(3), left(5)]).rows([right(1)], input=1).watermark(20)
    assert driven.output()[EVENT_TIME].to_pylist() == [3, 5, 7]
    assert driven.rows([left(9)]).output().select([EVENT_TIME, "t_right"]).to_pylist() == [{EVENT_TIME: 21, "t_right": 1}], "a late one"


def test_a_tolerance_leaves_old_rows_out() -> None:
    driven = harness("left", 5).rows([left(10), left(11, a=1)]).rows([right(5, 1)], input=1).watermark(20)
    assert answers(driven) == Counter([(1, 10, 0, 5, 1), (1, 11, 1, None, None)])
    assert answers(harness("inner", 5).rows([left(11)]).rows([right(5)], input=1).end()) == Counter()


def test_a_deletion_ends_what_was_valid_before() -> None:
    driven = harness(right=CHANGES).rows([left(4), left(7), left(9)])
    changes = [right(3, 1, **{CHANGE: 1}), right(6, 1, **{CHANGE: -1}), right(8, 2, **{CHANGE: -2}), right(8, 3, **{CHANGE: 2})]
    assert answers(driven.rows(changes, input=1).end()) == Counter([(1, 4, 0, 3, 1), (1, 7, 0, None, None), (1, 9, 0, 8, 3)])


def test_null_keys_meet_nothing() -> None:
    driven = harness().rows([left(4, None)]).rows([right(3, 1, None)], input=1).end()
    assert answers(driven) == Counter([(None, 4, 0, None, None)])


def test_only_versions_that_somebody_may_still_meet_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asof_join, "_FEW", 16)
    driven = harness()
    for t in range(1, 400):
        driven.rows([right(t, t, who) for who in range(3)], input=1).watermark(t - 3)
    assert driven.metrics.state_rows < 60
    assert answers(driven.rows([left(399, 2)]).end()) == Counter([(2, 399, 0, 399, 399)])


ROWS = st.lists(st.tuples(st.sampled_from([None, 1, 2]), st.integers(1, 12)), min_size=1, max_size=6)
STORY = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["left", "right"]), ROWS),
        st.tuples(st.just("watermark"), st.integers(0, 8)),
        st.tuples(st.just("snapshot"), st.booleans()),
        st.tuples(st.just("restore"), st.just(None)),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(story=STORY, how=st.sampled_from(["inner", "left"]), tolerance=st.sampled_from([None, 0, 4]))
def test_it_is_what_looking_through_all_rows_finds(story: list[Any], how: str, tolerance: int | None) -> None:
    driven, now, number, base, found = harness(how, tolerance), 0, 0, None, Counter[tuple[Any, ...]]()
    given_rows: dict[str, list[Row]] = {"left": [], "right": []}
    for what, value in story:
        if what in given_rows:
            rows = []
            for key, ahead in value:
                number += 1
                rows.append(left(now + ahead, key, number) if what == "left" else right(now + ahead, number, key))
            given_rows[what] += rows
            driven.rows(rows, input=("left", "right").index(what))
        elif what == "watermark":
            now += value
            driven.watermark(now)
        else:
            found += answers(driven)
            number += 1
            taken = driven.snapshot(number, None if value is True else base)
            base = number
            if what == "restore":
                (driven,) = restore(lambda: operator(how, tolerance), [taken], 1)
    found += answers(driven.end())
    expected = Counter[tuple[Any, ...]]()
    for a in given_rows["left"]:
        versions = [b for b in given_rows["right"] if a["user"] is not None and b["who"] == a["user"] and b["t"] <= a["t"]]
        versions = [b for b in versions if tolerance is None or b["t"] >= a["t"] - tolerance]
        if versions:
            best = max(versions, key=lambda b: (b["t"], b["b"]))
            expected[(a["user"], a["t"], a["a"], best["t"], best["b"])] += 1
        elif how == "left":
            expected[(a["user"], a["t"], a["a"], None, None)] += 1
    assert found == expected


# --- the API


def test_it_runs_and_mistakes_are_found_at_plan_time() -> None:
    env = fr.StreamEnvironment("asof", parallelism=2, runtime="local")
    at = fr.Watermarks.monotonous("t")
    trades = env.from_batches(pa.table({"sym": list("aab"), "t": [5, 9, 9], "n": [1, 2, 3]}), watermark=at).key_by("sym")
    quotes = env.from_batches(pa.table({"sym": list("aab"), "t": [4, 8, 10], "price": [1.5, 2.5, 3.5]}), watermark=at).key_by("sym")
    rows = trades.asof_join(quotes).select("n", "price").collect().to_pylist()
    assert sorted(rows, key=lambda row: row["n"]) == [{"n": 1, "price": 1.5}, {"n": 2, "price": 2.5}, {"n": 3, "price": None}]
    assert trades.temporal_join(quotes).collect().num_rows == 2
    newest = quotes.deduplicate(keep="last").key_by("sym")
    assert 2 in trades.temporal_join(newest).collect()["n"].to_pylist(), "a changelog of versions will do"
    with pytest.raises(PlanError, match="how='full'; 'inner' or 'left'"):
        trades.asof_join(quotes, how="full")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="the right rows have no event time"):
        trades.asof_join(env.from_batches(pa.table({"sym": ["a"], "price": [1.0]})).key_by("sym"))
    with pytest.raises(PlanError, match="replace each other by sym, but are joined by price"):
        trades.asof_join(quotes.deduplicate(keep="last").key_by("price"))
    assert "left join on sym, newest right row of the last 5 us" in trades.asof_join(quotes, tolerance=5e-6).explain()


# --- the right side in every subtask


def broadcast(how: str = "left") -> BroadcastJoinOperator:
    columns = join_columns(LEFT, RIGHT, ["user"], ["who"], windowed=False)
    return BroadcastJoinOperator(join=Join(("user",), ("who",), how, columns, AsOf(None, broadcast=True)))


@settings(max_examples=40, deadline=None)
@given(story=STORY, parallelism=st.integers(1, 3))
def test_broadcast_left_rows_may_be_in_any_subtask_and_move_at_a_restore(story: list[Any], parallelism: int) -> None:
    def make() -> BroadcastJoinOperator:
        return broadcast("left")

    driven = [
        OperatorHarness(make(), input_schemas=(LEFT, RIGHT), event_time="t", batch_rows=5, subtask=i, parallelism=parallelism)
        for i in range(parallelism)
    ]
    now, number, found = 0, 0, Counter[tuple[Any, ...]]()
    given_rows: dict[str, list[Row]] = {"left": [], "right": []}
    for what, value in story:
        if what in given_rows:
            for key, ahead in value:
                number += 1
                row = left(now + ahead, key, number) if what == "left" else right(now + ahead, number, key)
                given_rows[what].append(row)
                for each in driven if what == "right" else [driven[number % len(driven)]]:
                    each.rows([row], input=("left", "right").index(what))
        elif what == "watermark":
            now += value
            for i, each in enumerate(driven):
                each.watermark(now - i)  # one is not as far as the other
        else:
            number += 1
            taken = [each.snapshot(number) for each in driven]
            for each in driven:
                found += answers(each)
            if what == "restore":
                driven = restore(make, taken, 1 + number % 3)
    for each in driven:
        found += answers(each.end())
    expected = Counter[tuple[Any, ...]]()
    for a in given_rows["left"]:
        versions = [b for b in given_rows["right"] if a["user"] is not None and b["who"] == a["user"] and b["t"] <= a["t"]]
        best = max(versions, key=lambda b: (b["t"], b["b"])) if versions else {"t": None, "b": None}
        expected[(a["user"], a["t"], a["a"], best["t"], best["b"])] += 1
    assert found == expected


def test_a_broadcast_join_runs_without_a_shuffle_of_its_left_side() -> None:
    env = fr.StreamEnvironment("broadcast", parallelism=2, runtime="local")
    at = fr.Watermarks.monotonous("t")
    trades = env.from_batches(pa.table({"sym": list("aab"), "t": [5, 9, 9], "n": [1, 2, 3]}), watermark=at)
    rates = env.from_batches(pa.table({"name": list("ab"), "t": [4, 8], "rate": [1.5, 2.5]}), watermark=at)
    joined = trades.broadcast_join(rates, {"sym": "name"})
    rows = joined.select("n", "rate").collect().to_pylist()
    assert sorted(rows, key=lambda row: row["n"]) == [{"n": 1, "rate": 1.5}, {"n": 2, "rate": 1.5}, {"n": 3, "rate": 2.5}]
    assert "newest right row, the right side in every subtask" in joined.explain()
    with pytest.raises(PlanError, match="did you mean 'name'"):
        trades.broadcast_join(rates, {"sym": "nam"})
    with pytest.raises(PlanError, match="is no stream of this environment"):
        trades.broadcast_join(rates.key_by("name"), {"sym": "name"})  # type: ignore[arg-type]
