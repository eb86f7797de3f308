"""Joins as users write them: checked and pruned at plan time, run on the local runtime."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.graph.job_graph import Hash

EPOCH = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def stream(env: fr.StreamEnvironment, rows: list[tuple[object, int, str]], key: str = "user", value: str = "what") -> fr.DataStream:
    times = pa.array([EPOCH + dt.timedelta(seconds=second) for _, second, _ in rows], pa.timestamp("us", "UTC"))
    table = pa.table({key: [k for k, _, _ in rows], "at": times, value: [v for _, _, v in rows], "unused": [0] * len(rows)})
    return env.from_batches(table, watermark=fr.Watermarks.bounded("at", "1s"))


@pytest.fixture
def env() -> fr.StreamEnvironment:
    return fr.StreamEnvironment("joins", parallelism=2, runtime="local")


def clicks_and_buys(env: fr.StreamEnvironment) -> tuple[fr.DataStream, fr.DataStream]:
    clicks = stream(env, [(1, 0, "a"), (1, 8, "b"), (2, 9, "c"), (None, 9, "d")])
    return clicks, stream(env, [(1, 10, "x"), (2, 30, "y"), (None, 9, "z")], "who", "bought")


def test_an_interval_join_gives_rows_of_both_sides(env: fr.StreamEnvironment) -> None:
    clicks, buys = clicks_and_buys(env)
    joined = clicks.key_by("user").interval_join(buys.key_by("who"), "0s", "5s", how="left")
    assert joined.schema is not None
    assert joined.schema.names == ["user", "at", "what", "unused", "at_right", "bought", "unused_right"]
    rows = joined.select("user", "what", "bought").collect().to_pylist()
    assert sorted((row["what"], row["bought"]) for row in rows) == [("a", None), ("b", "x"), ("c", None), ("d", None)]


def test_a_window_join_can_be_aggregated_again(env: fr.StreamEnvironment) -> None:
    clicks, buys = clicks_and_buys(env)
    joined = clicks.key_by("user").window(fr.windows.Tumbling("20s")).join(buys.key_by("who"))
    counts = joined.key_by("user").window(fr.windows.Tumbling("20s")).aggregate(pairs=fr.agg.count())
    assert [(row["user"], row["pairs"]) for row in counts.collect().to_pylist()] == [(1, 2)]


def test_a_stream_joins_itself(env: fr.StreamEnvironment) -> None:
    clicks, _ = clicks_and_buys(env)
    joined = clicks.key_by("user").interval_join(clicks.key_by("user"), "1s", "10s")
    rows = joined.collect().to_pylist()
    assert [(row["what"], row["what_right"]) for row in rows] == [("a", "b")]


def test_only_columns_that_somebody_needs_are_shuffled_and_kept(env: fr.StreamEnvironment) -> None:
    clicks, buys = clicks_and_buys(env)
    joined = clicks.key_by("user").interval_join(buys.key_by("who"), "0s", "5s").select("user", "bought")
    joined.sink_to(fr.sinks.Blackhole())
    graph = env.job_graph()
    (edges, spec) = next((graph.inputs_of(v.index), o) for v in graph.vertices for o in v.operators if o.kind == "interval_join")
    assert [edge.partitioning for edge in edges] == [Hash(("user",)), Hash(("who",))]
    assert [edge.target_input for edge in edges] == [0, 1]
    assert [edge.schema.names[:-1] for edge in edges if edge.schema is not None] == [["user"], ["who", "bought"]]
    assert spec.output_schema is not None
    assert spec.output_schema.names[:-1] == ["user", "bought"]


def test_explain_says_what_is_joined(env: fr.StreamEnvironment) -> None:
    clicks, buys = clicks_and_buys(env)
    text = clicks.key_by("user").window(fr.windows.Tumbling("20s")).join(buys.key_by("who"), how="left").explain()
    assert "left join on user = who, window tumbling 20s" in text


def test_mistakes_are_found_where_they_are_made(env: fr.StreamEnvironment) -> None:
    clicks, buys = clicks_and_buys(env)
    left, right = clicks.key_by("user"), buys.key_by("who")
    with pytest.raises(fr.PlanError, match="lower '5s' is above upper '0s'"):
        left.interval_join(right, "5s", "0s")
    with pytest.raises(fr.PlanError, match="how='outer'; one of inner, left, right, full"):
        left.interval_join(right, "0s", "5s", how="outer")  # type: ignore[arg-type]
    with pytest.raises(fr.PlanError, match="key 'user' of the left side is int64, 'bought' of the right is string; cast"):
        left.interval_join(buys.key_by("bought"), "0s", "5s")
    with pytest.raises(fr.PlanError, match="as many columns"):
        left.interval_join(buys.key_by("who", "bought"), "0s", "5s")
    with pytest.raises(fr.PlanError, match=r"not a keyed stream; write other.key_by"):
        left.interval_join(buys, "0s", "5s")  # type: ignore[arg-type]
    with pytest.raises(fr.PlanError, match="tumbling or sliding windows"):
        left.window(fr.windows.Session("5s")).join(right)
    with pytest.raises(fr.PlanError, match="leave out allowed_lateness"):
        left.window(fr.windows.Tumbling("5s")).allowed_lateness("1s").join(right)
    with pytest.raises(fr.PlanError, match="different environments"):
        left.interval_join(clicks_and_buys(fr.StreamEnvironment("other", runtime="local"))[1].key_by("who"), "0s", "5s")
    timeless = env.from_batches(pa.table({"user": [1]})).key_by("user")
    with pytest.raises(fr.PlanError, match="no event time"):
        left.interval_join(timeless, "0s", "5s")
    with pytest.raises(fr.PlanError, match="may come from either side"):
        left.interval_join(buys.with_columns(who=fr.col("who").cast("int32")).key_by("who"), "0s", "5s", how="full")
