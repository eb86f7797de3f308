"""Counts of distinct values and aggregates over changelogs: the operators against small models, the API against what SQL says."""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import CHANGE
from flinkray.errors import PlanError
from flinkray.operators.array_aggregates import CountDistinct, RowGroups
from flinkray.operators.count_new import CountNewOperator
from flinkray.operators.retract import RetractOperator
from flinkray.testing.harness import OperatorHarness, restore

COUNTED = pa.schema([("key", pa.string()), ("value", pa.int64()), ("all", pa.int64()), ("some", pa.int64())])
UPSERTS = pa.schema([("key", pa.string()), ("n", pa.int64()), pa.field(CHANGE, pa.int8(), nullable=False)])
KEYS = st.sampled_from([None, "", "a", "b"])
VALUES = st.one_of(st.none(), st.integers(0, 5))


def count_new() -> CountNewOperator:
    return CountNewOperator(keys=("key",), value="value", counts=("all", "some"), outputs=("new", "new_some"))


def story(rows: Any) -> Any:
    """Batches, snapshots and restores."""
    return st.lists(st.one_of(st.lists(rows, min_size=1, max_size=6), st.sampled_from(["snapshot", "restore"])), max_size=14)


def run(make: Any, schema: pa.Schema, steps: list[Any]) -> list[dict[str, Any]]:
    """What comes out in the end, whatever was saved and restored (at parallelism 1) on the way."""
    driven, number, out = OperatorHarness(make(), input_schemas=schema, batch_rows=4), 0, []
    base: int | None = None
    for step in steps:
        if isinstance(step, list):
            driven.rows([dict(zip(schema.names, row, strict=True)) for row in step])
            continue
        out += driven.output().to_pylist()
        number += 1
        taken = driven.snapshot(number, base)
        base = number
        if step == "restore":
            (driven,) = restore(make, [taken], 1)
    return [*out, *driven.end().output().to_pylist()]


@settings(max_examples=50, deadline=None)
@given(steps=story(st.tuples(KEYS, VALUES, st.just(1), st.integers(0, 1))))
def test_every_value_counts_once_under_each_condition(steps: list[Any]) -> None:
    totals: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for each in run(count_new, COUNTED, steps):
        totals[each["key"]][0] += each["new"]
        totals[each["key"]][1] += each["new_some"]
    rows = [row for step in steps if isinstance(step, list) for row in step]
    expected = {
        key: [
            len({value for k, value, _, _ in rows if k == key and value is not None}),
            len({value for k, value, _, some in rows if k == key and value is not None and some}),
        ]
        for key in {row[0] for row in rows}
    }
    assert totals == expected, "a key without values is there, too"


def test_a_value_that_is_known_gives_nothing_and_a_delta_holds_what_is_new() -> None:
    driven = OperatorHarness(count_new(), input_schemas=COUNTED)
    driven.rows([{"key": "a", "value": n, "all": 1, "some": 0} for n in range(100)])
    assert len(driven.output_rows()) == 100
    driven.snapshot(1, None)
    driven.rows([{"key": "a", "value": 7, "all": 3, "some": 0}])
    assert driven.output_rows() == []
    driven.rows([{"key": "a", "value": 7, "all": 0, "some": 1}, {"key": "a", "value": 7, "all": 0, "some": 2}])
    assert driven.output_rows() == [{"key": "a", "new": 0, "new_some": 1}]
    assert driven.snapshot(2, 1).written["values"].num_rows == 1


@settings(max_examples=50, deadline=None)
@given(steps=story(st.tuples(KEYS, st.integers(0, 3), st.sampled_from([1, 2, -1]))))
def test_what_replaces_a_row_takes_it_back(steps: list[Any]) -> None:
    found: Counter[Any] = Counter()
    for each in run(lambda: RetractOperator(keys=("key",)), UPSERTS, steps):
        found[(each["key"], each["n"])] += each[CHANGE]
        assert found[(each["key"], each["n"])] in (0, 1), "nothing is taken back that was not there"
    expected: dict[Any, int] = {}
    for key, n, change in (row for step in steps if isinstance(step, list) for row in step):
        expected.pop(key, None)
        if change > 0:
            expected[key] = n
    assert +found == Counter(expected.items())


@pytest.mark.parametrize("values", [["b", "a", "b", None, "c", "c"], [0.0, -0.0, float("nan"), None, float("nan"), 1.0]])
def test_parts_of_windows_are_merged_without_counting_twice(values: list[Any]) -> None:
    array = pa.array(values)
    counted = CountDistinct(array.type)
    parts = counted.accumulate(RowGroups(np.array([0, 2, 4, 6])), array)
    whole = counted.merge(RowGroups(np.array([0, 3])), parts)
    assert counted.finish(whole).to_pylist() == [3]
    some = counted.accumulate(RowGroups(np.array([0, 6])), array, pa.array([True, None, True, True, False, False]))
    assert counted.finish(some).to_pylist() == [1 if isinstance(values[0], str) else 2]
    decoded = pa.array(["x", "y", "x", None]).dictionary_encode()
    assert counted.finish(CountDistinct(pa.string()).accumulate(RowGroups(np.array([0, 4])), decoded)).to_pylist() == [2]


# --- the API


@pytest.fixture
def sales() -> fr.DataStream:
    table = {
        "shop": ["a", "a", "b", "a", "b", "c"],
        "item": ["x", "y", "x", "x", None, None],
        "price": [1, 2, 3, 4, 5, None],
        "weight": [0.5, None, 1.5, 2.5, 0.5, None],
        "cost": [Decimal("1.10"), Decimal("2.20"), Decimal("0.30"), None, Decimal("1.00"), None],
    }
    return fr.StreamEnvironment("sales", parallelism=2, runtime="local", batch_rows=2).from_batches(pa.table(table))


def by_shop(stream: fr.DataStream) -> dict[Any, Any]:
    return {row.pop("shop"): tuple(row.values()) for row in stream.collect().to_pylist()}


@pytest.mark.parametrize("emit", ["batch", "final"])
def test_distinct_counts_stand_beside_other_aggregates(sales: fr.DataStream, emit: str) -> None:
    dear = fr.col("price") > 2
    totals = sales.key_by("shop").aggregate(
        items=fr.agg.count_distinct("item"),
        rows=fr.agg.count(),
        dear_items=fr.agg.count_distinct("item").filter(dear),
        dear=fr.agg.sum("price").filter(dear),
        prices=fr.agg.count_distinct(fr.col("price") % 2),
        emit=emit,
    )
    assert totals.schema is not None
    assert totals.schema.names == ["shop", "items", "rows", "dear_items", "dear", "prices"]
    assert by_shop(totals) == {"a": (2, 3, 1, 4, 2), "b": (1, 2, 1, 8, 1), "c": (0, 1, 0, None, 0)}
    assert by_shop(sales.key_by("shop").aggregate(items=fr.agg.count_distinct("item"), emit=emit)) == {"a": (2,), "b": (1,), "c": (0,)}
    together = sales.key_by("shop").aggregate(items=fr.agg.count_distinct("item"), all=fr.agg.collect_list("item"), emit=emit)
    assert {shop: (n, sorted(items)) for shop, (n, items) in by_shop(together).items()} == {
        "a": (2, ["x", "x", "y"]),
        "b": (1, ["x"]),
        "c": (0, []),
    }


def test_any_aggregate_can_have_a_condition(sales: fr.DataStream) -> None:
    cheap = fr.col("price") < 4
    found = sales.key_by("shop").aggregate(
        rows=fr.agg.count().filter(cheap),
        items=fr.agg.count("item").filter(cheap),
        mean=fr.agg.mean("price").filter(cheap),
        dearest=fr.agg.max_by("price", "price").filter(cheap).filter(fr.col("item").is_not_null()),
        emit="final",
    )
    assert by_shop(found) == {"a": (2, 2, 1.5, 2), "b": (1, 1, 3.0, 3), "c": (0, 0, None, None)}
    with pytest.raises(PlanError, match="takes a condition"):
        sales.key_by("shop").aggregate(rows=fr.agg.count().filter(fr.col("price")))


@pytest.mark.parametrize("emit", ["batch", "final", "10ms"])
def test_answers_that_change_can_be_aggregated(sales: fr.DataStream, emit: str) -> None:
    newest = sales.select("item", "shop", "price", "weight", "cost").with_columns(n=fr.col("price").fill_null(9))
    best = newest.key_by("item").deduplicate("n", keep="last")  # x: a 4, y: a 2, null: c
    totals = best.key_by("shop").aggregate(
        rows=fr.agg.count(), prices=fr.agg.count("price"), price=fr.agg.sum("price"), mean=fr.agg.mean("price"), emit=emit
    )
    assert by_shop(totals) == {"a": (2, 2, 6, 3.0), "c": (1, 0, None, None)}, "b had the best x for a while"
    sums = best.key_by("shop").aggregate(weight=fr.agg.sum("weight"), cost=fr.agg.sum("cost"), twice=fr.agg.sum(fr.col("n") * 2), emit=emit)
    assert by_shop(sums) == {"a": (2.5, Decimal("2.20"), 12), "c": (None, None, 18)}


def test_what_cannot_be_taken_back_is_refused(sales: fr.DataStream) -> None:
    totals = sales.key_by("shop", "item").aggregate(price=fr.agg.sum("price")).key_by("shop")
    with pytest.raises(PlanError, match=r"top=max.*may be taken back.*There are count, sum, mean"):
        totals.aggregate(top=fr.agg.max("price"))
    with pytest.raises(PlanError, match="items=count_distinct"):
        totals.aggregate(items=fr.agg.count_distinct("item"))
    with pytest.raises(PlanError, match="emit='row'"):
        totals.aggregate(rows=fr.agg.count(), emit="row")
    with pytest.raises(PlanError, match="rows of a running aggregate replace each other"):
        sales.key_by("shop").aggregate(price=fr.agg.sum("price")).key_by("price").deduplicate("shop")
    with pytest.raises(PlanError, match="emit='row' answers each row only where an aggregate is a number"):
        sales.key_by("shop").aggregate(items=fr.agg.count_distinct("item"), emit="row")


def test_the_plan_says_what_becomes_of_them(sales: fr.DataStream) -> None:
    counted = sales.key_by("shop").aggregate(items=fr.agg.count_distinct("item"), rows=fr.agg.count()).uid("counted")
    assert "keeps the distinct values of item, per shop" in counted.explain()
    changing = sales.key_by("shop", "item").aggregate(price=fr.agg.sum("price")).uid("prices")
    plan = changing.key_by("shop").aggregate(mean=fr.agg.mean("price")).uid("mean").explain()
    assert "takes back what a row replaces, per shop, item" in plan
