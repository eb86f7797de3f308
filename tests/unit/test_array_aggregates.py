"""Aggregates that keep Arrow values: in parts of any cut they give what one pass over the rows gives; and users' own."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import EVENT_TIME
from flinkray.errors import OperatorError, PlanError
from flinkray.graph.aggregates import Aggregate
from flinkray.operators.array_aggregates import RowGroups, array_aggregate, columns_of

SCHEMA = pa.schema([("s", pa.string()), ("n", pa.int64()), ("x", pa.float64()), (EVENT_TIME, pa.int64())])


class Spread(fr.Udaf):
    """Largest minus smallest; null where there is no value."""

    accumulator_type = {"low": "float64", "high": "float64"}
    result_type = "float64"

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        values = columns[0].to_numpy(zero_copy_only=False).astype(np.float64)
        return self._both(np.fmin.reduceat(values, groups.starts[:-1]), np.fmax.reduceat(values, groups.starts[:-1]))

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        low, high = (accumulators.field(name).to_numpy(zero_copy_only=False) for name in ("low", "high"))
        return self._both(np.fmin.reduceat(low, groups.starts[:-1]), np.fmax.reduceat(high, groups.starts[:-1]))

    def finish(self, accumulators: pa.Array) -> pa.Array:
        spread = accumulators.field("high").to_numpy() - accumulators.field("low").to_numpy()
        return pa.array(spread, mask=np.isnan(spread))

    @staticmethod
    def _both(low: np.ndarray, high: np.ndarray) -> pa.Array:
        return pa.StructArray.from_arrays([pa.array(low), pa.array(high)], names=["low", "high"])


def best(rows: list[Any], value: str, by: str, largest: bool, last: bool = False) -> Any:
    candidates = [each for each in rows if each[value] is not None and each[by] is not None]
    if not candidates:
        return None
    if last:
        candidates = candidates[::-1]
    return (max if largest else min)(candidates, key=lambda each: each[by])[value]


CASES: dict[str, tuple[Aggregate, Any]] = {
    "min": (Aggregate("a", "min", "s"), lambda rows: best(rows, "s", "s", False)),
    "max": (Aggregate("a", "max", "s"), lambda rows: best(rows, "s", "s", True)),
    "first": (Aggregate("a", "first", "s"), lambda rows: best(rows, "s", EVENT_TIME, False)),
    "last": (Aggregate("a", "last", "s"), lambda rows: best(rows, "s", EVENT_TIME, True, last=True)),
    "min_by": (Aggregate("a", "min_by", "s", "n"), lambda rows: best(rows, "s", "n", False)),
    "max_by a string": (Aggregate("a", "max_by", "n", "s"), lambda rows: best(rows, "n", "s", True)),
    "collect_list": (Aggregate("a", "collect_list", "s"), lambda rows: [each["s"] for each in rows if each["s"] is not None]),
    "top_k": (
        Aggregate("a", "top_k", "n", parameter=2),
        lambda rows: sorted((r["n"] for r in rows if r["n"] is not None), reverse=True)[:2],
    ),
    "top_k of strings": (
        Aggregate("a", "top_k", "s", parameter=3),
        lambda rows: sorted((r["s"] for r in rows if r["s"] is not None), reverse=True)[:3],
    ),
    "reduce": (
        Aggregate("a", "reduce", "s", more=("n",), parameter=lambda a, b: {"s": (a["s"] or "") + (b["s"] or ""), "n": b["n"]}),
        lambda rows: {"s": rows[0]["s"] if len(rows) == 1 else "".join(r["s"] or "" for r in rows), "n": rows[-1]["n"]},
    ),
    "approx_distinct": (Aggregate("a", "approx_distinct", "s"), lambda rows: len({each["s"] for each in rows} - {None})),
    **{
        f"quantile {share}": (
            Aggregate("a", "quantile", "x", parameter=share),
            lambda rows, share=share: (lambda xs: xs[max(0, ceil(len(xs) * share) - 1)] if xs else None)(
                sorted(row["x"] for row in rows if row["x"] is not None)
            ),
        )
        for share in (0.0, 0.3, 0.5, 1.0)
    },
    "udaf": (
        Aggregate("a", "udaf", "x", parameter=Spread()),
        lambda rows: (lambda xs: max(xs) - min(xs) if xs else None)([each["x"] for each in rows if each["x"] is not None]),
    ),
}
ROW = st.fixed_dictionaries(
    {
        "s": st.sampled_from([None, "", "a", "b", "a rather long value"]),
        "n": st.one_of(st.none(), st.integers(-3, 3)),
        "x": st.one_of(st.none(), st.integers(-5, 5).map(float)),
        EVENT_TIME: st.integers(0, 4),
    }
)


@settings(max_examples=30, deadline=None)
@given(
    groups=st.lists(st.lists(st.lists(ROW, min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=4),
    case=st.sampled_from(list(CASES)),
)
def test_parts_of_any_cut_give_what_one_pass_gives(groups: list[list[list[Any]]], case: str) -> None:
    aggregate, model = CASES[case]
    made = array_aggregate(aggregate, SCHEMA)
    parts = [part for group in groups for part in group]
    rows = pa.RecordBatch.from_pylist([row for part in parts for row in part], SCHEMA)
    accumulators = made.accumulate(RowGroups(np.cumsum([0, *map(len, parts)])), *columns_of(aggregate, rows))
    assert accumulators.type == made.types()[0]
    whole = made.merge(RowGroups(np.cumsum([0, *map(len, groups)])), accumulators)
    results = made.finish(whole)
    assert results.type == made.types()[1]
    assert results.to_pylist() == [model([row for part in group for row in part]) for group in groups]


def test_sketches_are_near_the_truth() -> None:
    values = np.random.default_rng(0).integers(0, 20_000, 50_000)
    schema = pa.schema([("n", pa.int64())])
    rows = pa.record_batch([pa.array(values)], schema=schema)
    cuts = RowGroups(np.arange(0, 50_001, 5_000))
    one = RowGroups(np.array([0, 10]))
    for aggregate, truth in (
        (Aggregate("a", "approx_distinct", "n"), len(np.unique(values))),
        (Aggregate("a", "quantile", "n", parameter=0.9), 18_000),
        (Aggregate("a", "quantile", "n", parameter=1.0), values.max()),
        (Aggregate("a", "quantile", "n", parameter=0.0), values.min()),
    ):
        made = array_aggregate(aggregate, schema)
        parts = made.accumulate(cuts, *columns_of(aggregate, rows))
        (found,) = made.finish(made.merge(one, parts)).to_pylist()
        exact = aggregate.parameter in (0.0, 1.0)
        assert found == truth if exact else abs(found - truth) < 0.05 * truth, "of many values too the smallest and the largest are known"


@pytest.fixture
def rows() -> fr.KeyedStream:
    env = fr.StreamEnvironment("aggregates", parallelism=2, runtime="local")
    table = pa.table({"key": list("aabb"), "name": ["x", "y", "a", None], "n": [1.0, 5.0, 2.0, 2.5], "t": [1, 2, 3, 4]})
    return env.from_batches(table, watermark=fr.Watermarks.bounded("t", "1s")).key_by("key")


def test_they_run_beside_each_other_and_beside_numbers(rows: fr.KeyedStream) -> None:
    agg = fr.agg
    calls = {
        "least": agg.min("name"),
        "sum": agg.sum("n"),
        "spread": agg.udaf(Spread(), fr.col("n") * 2),
        "names": agg.collect_list("name"),
    }
    expected = [
        {"key": "a", "least": "x", "sum": 6.0, "spread": 8.0, "names": ["x", "y"]},
        {"key": "b", "least": "a", "sum": 4.5, "spread": 1.0, "names": ["a"]},
    ]
    for stream in (rows.aggregate(**calls), rows.aggregate(emit="final", **calls), rows.aggregate(emit="50ms", **calls)):
        assert sorted(stream.collect().to_pylist(), key=str) == expected
    windowed = rows.window(fr.windows.Session("1s")).aggregate(**calls).drop("window_start", "window_end")
    assert sorted(windowed.collect().to_pylist(), key=str) == expected
    median = rows.aggregate(emit="final", middle=agg.quantile("n", 0.5), names=agg.approx_distinct("name")).collect().to_pylist()
    assert sorted(each["names"] for each in median) == [1, 2]
    assert sorted(each["middle"] for each in median) == [1.0, 2.0]


def larger(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return first if first["n"] >= second["n"] else {**second, "n": second["n"] + 0.25}


def test_rows_of_a_key_are_made_one_by_a_function_of_two(rows: fr.KeyedStream) -> None:
    expected = [{"key": "a", "name": "y", "n": 5.25, "t": 2}, {"key": "b", "name": None, "n": 2.75, "t": 4}]
    for stream in (rows.reduce(larger), rows.reduce(larger, emit="final"), rows.window(fr.windows.Session("1s")).reduce(larger)):
        assert sorted(stream.select("key", "name", "n", "t").collect().to_pylist(), key=str) == expected
    windowed = rows.window(fr.windows.Count(2)).reduce(lambda first, second: first)
    assert windowed.schema == pa.schema({"key": "string", "name": "string", "n": "float64", "t": "int64"})
    assert sorted(windowed.collect()["n"].to_pylist()) == [1.0, 2.0]
    assert "reduce(key, name, n, t) per key" in rows.reduce(larger).uid("largest").explain()
    with pytest.raises(PlanError, match=r"give function\(first, second\)"):
        rows.reduce("max")  # type: ignore[arg-type]
    with pytest.raises(OperatorError, match="not a dict with key, n, name, t"):
        rows.reduce(lambda first, second: first["n"]).collect()
    with pytest.raises(OperatorError, match="what is no struct"):
        rows.reduce(lambda first, second: {**first, "n": "many"}).collect()


def test_mistakes_are_found_at_plan_time(rows: fr.KeyedStream) -> None:
    with pytest.raises(PlanError, match="a quantile is of numbers, but 'name' is string"):
        rows.aggregate(q=fr.agg.quantile("name", 0.5))
    with pytest.raises(PlanError, match=r"0\.5 is the median"):
        fr.agg.quantile("n", 50)
    with pytest.raises(PlanError, match="a whole number, 1 or more"):
        fr.agg.top_k("n", 0)
    with pytest.raises(PlanError, match=r"is no fr\.Udaf"):
        fr.agg.udaf(max, "n")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="a Udaf without result_type"):
        rows.aggregate(s=fr.agg.udaf(type("Half", (Spread,), {"result_type": None})(), "n"))
    with pytest.raises(PlanError, match="emit='row'"):
        rows.aggregate(emit="row", least=fr.agg.min("name"))
    with pytest.raises(PlanError, match="did you mean 'name'"):
        rows.aggregate(least=fr.agg.min("nam"))


def test_what_a_udaf_gives_is_looked_at() -> None:
    def given(**methods: Any) -> Any:
        return array_aggregate(Aggregate("a", "udaf", "x", parameter=type("Mine", (Spread,), methods)()), SCHEMA)

    groups, values = RowGroups(np.array([0, 2])), pa.array([1.0, 2.0])
    with pytest.raises(OperatorError, match=r"Mine.accumulate gave 2 values for 1 groups"):
        given(accumulate=lambda self, groups, *columns: [{"low": 1.0, "high": 2.0}] * 2).accumulate(groups, values)
    with pytest.raises(OperatorError, match=r"Mine.accumulate gave what is no struct"):
        given(accumulate=lambda self, groups, *columns: ["x"]).accumulate(groups, values)
