"""Only the columns that something downstream needs are read and shipped."""

from __future__ import annotations

import pyarrow as pa
import pytest
from plan_fakes import BIDS, FakeSink, FakeSource, kinds, operator, shipped

import flinkray as fr
from flinkray import col, lit

WATERMARK = fr.Watermarks.bounded("date_time", "4s")


@pytest.fixture
def env():
    return fr.StreamEnvironment("test", parallelism=2, runtime="local")


def bids(env, watermark=None, **changes):
    return env.from_source(FakeSource(**changes), watermark=watermark, uid="bids")


def read(env):
    return operator(env.job_graph(), "source").params["source"].schema().names


def test_a_sink_reads_every_column(env):
    bids(env).sink_to(FakeSink())
    assert read(env) == BIDS.names


def test_selected_columns_are_the_only_ones_read(env):
    bids(env).select("price", "auction").sink_to(FakeSink())
    assert read(env) == ["auction", "price"]


def test_columns_of_predicates_and_expressions_are_read_too(env):
    bids(env).filter(col("channel") == "web").select((col("price") * 2).alias("double")).sink_to(FakeSink())
    assert read(env) == ["price", "channel"]


def test_a_computed_column_that_nobody_uses_is_not_computed(env):
    bids(env).with_columns(dear=col("price") > 100, long=col("url").is_not_null()).select("auction", "dear").sink_to(FakeSink())
    graph = env.job_graph()
    assert read(env) == ["auction", "price"]
    assert [name for name, _ in operator(graph, "project").params["columns"]] == ["auction", "dear"]


def test_a_windowed_count_reads_the_key_and_the_time_and_does_not_ship_the_time(env):
    bids(env, WATERMARK).key_by("auction").window(fr.windows.Tumbling("10s")).aggregate(n=fr.agg.count()).sink_to(FakeSink())
    graph = env.job_graph()
    assert read(env) == ["auction", "date_time"]
    (columns,) = shipped(graph)
    assert columns[:2] == ["auction", "_pane"]
    assert "date_time" not in columns


def test_event_time_that_nobody_needs_is_not_tracked(env):
    bids(env, WATERMARK).select("auction").sink_to(FakeSink())
    graph = env.job_graph()
    assert read(env) == ["auction"]
    assert operator(graph, "source").params["watermark"] is None
    assert operator(graph, "enumerate").params["event_time_column"] is None
    assert operator(graph, "source").output_schema.names == ["auction"]


def test_null_event_times_are_dropped_even_if_nobody_needs_the_time(env):
    strategy = fr.Watermarks.bounded("date_time", "4s", on_null="drop")
    bids(env, strategy).select("auction").sink_to(FakeSink())
    assert read(env) == ["auction", "date_time"]
    assert operator(env.job_graph(), "source").params["watermark"] == strategy


def test_event_time_is_dropped_before_an_edge_behind_which_nobody_needs_it(env):
    stream = bids(env, WATERMARK).filter(col("price") > 0)
    stream.select("auction").rebalance().filter(col("auction") > 1).sink_to(FakeSink(), uid="plain")
    stream.key_by("auction").window(fr.windows.Tumbling("1s")).aggregate(n=fr.agg.count()).sink_to(FakeSink(), uid="windows")
    graph = env.job_graph()
    assert ["auction"] in shipped(graph)
    assert "_event_time" in operator(graph, "filter", stream._node.label.uid or filters(graph)[0]).output_schema.names


def filters(graph):
    return [o.uid for v in graph.vertices for o in v.operators if o.kind == "filter"]


def test_the_predicates_own_column_is_not_shipped(env):
    bids(env).filter(col("channel") == "web").select("auction", "channel").rebalance().select("auction").sink_to(FakeSink())
    assert shipped(env.job_graph()) == [["auction"]]


def test_columns_are_narrowed_behind_a_filter_at_an_edge(env):
    stream = bids(env, WATERMARK).filter(col("channel") == "web").key_by("auction")
    stream.window(fr.windows.Session("10s")).aggregate(top=fr.agg.max("price")).sink_to(FakeSink())
    graph = env.job_graph()
    assert shipped(graph) == [["auction", "price", "_event_time"]]
    assert kinds(graph)[1] == ["source", "filter", "project"]


def test_each_consumer_is_shipped_its_own_columns_and_the_source_reads_once(env):
    stream = bids(env)
    stream.key_by("auction").aggregate(total=fr.agg.sum("price"), emit="row").sink_to(FakeSink(changes=True), uid="a")
    stream.key_by("bidder").aggregate(last=fr.agg.count("channel"), emit="row").sink_to(FakeSink(changes=True), uid="b")
    graph = env.job_graph()
    assert read(env) == ["auction", "bidder", "price", "channel"]
    assert shipped(graph) == [["auction", "price"], ["bidder", "channel"]]


def test_a_function_sees_every_column_and_nothing_is_pushed_through_it(env):
    bids(env).map(lambda row: row, {"auction": "int", "price": "int"}).select("auction").sink_to(FakeSink())
    assert read(env) == BIDS.names


def test_rows_of_literals_keep_one_column_so_that_they_count(env):
    bids(env).select(lit(1).alias("one")).rebalance().select(lit(2).alias("two")).sink_to(FakeSink())
    graph = env.job_graph()
    assert read(env) == ["auction"]
    assert shipped(graph) == [["one"]]


def test_what_a_running_aggregate_of_first_values_needs_is_the_event_time(env):
    bids(env, WATERMARK).key_by("auction").aggregate(f=fr.agg.first("price"), emit="row").sink_to(FakeSink(changes=True))
    assert shipped(env.job_graph()) == [["auction", "price", "_event_time"]]


def test_picking_columns_of_a_projection_is_done_in_the_projection(env):
    stream = bids(env).with_columns(euro=col("price") * 0.908).drop("extra").select(col("euro").alias("e"), "auction")
    stream.sink_to(FakeSink())
    graph = env.job_graph()
    assert kinds(graph) == [["enumerate"], ["source", "project", "sink"]]
    assert operator(graph, "project").output_schema == pa.schema([("e", pa.float64()), ("auction", pa.int64())])


def test_a_projection_that_changes_nothing_is_left_out(env):
    bids(env).select("auction", "price").sink_to(FakeSink())
    assert kinds(env.job_graph()) == [["enumerate"], ["source", "sink"]]


def test_a_projection_that_the_user_named_stays(env):
    bids(env).select("auction", "price").uid("pick").sink_to(FakeSink())
    assert kinds(env.job_graph()) == [["enumerate"], ["source", "project", "sink"]]


def test_a_union_brings_columns_into_one_order(env):
    left = bids(env).select("auction", "price")
    right = env.from_source(FakeSource(), uid="more").select("price", "auction")
    left.union(right).sink_to(FakeSink())
    graph = env.job_graph()
    assert shipped(graph) == [["auction", "price"], ["auction", "price"]]


def test_a_union_in_which_only_one_stream_has_event_time_has_none(env):
    left, right = bids(env, WATERMARK), env.from_source(FakeSource(), uid="more")
    windows = left.key_by("auction").window(fr.windows.Tumbling("1s")).aggregate(n=fr.agg.count())
    windows.sink_to(FakeSink(), uid="w")
    both = left.union(right).select("auction")
    both.sink_to(FakeSink(), uid="u")
    graph = env.job_graph()
    assert not both._node.rows.event_time
    assert [names for names in shipped(graph) if "_pane" not in names] == [["auction"], ["auction"]]


def test_late_rows_keep_the_columns_that_their_consumer_uses(env):
    windowed = bids(env, WATERMARK).key_by("auction").window(fr.windows.Tumbling("1s")).side_output_late("late")
    result = windowed.aggregate(total=fr.agg.sum(col("price") * 2))
    result.sink_to(FakeSink(), uid="out")
    result.get_side_output("late").select("auction", "url").sink_to(FakeSink(), uid="late-rows")
    graph = env.job_graph()
    assert read(env) == ["auction", "price", "url", "date_time"]
    assert shipped(graph) == [["auction", "url", "_arg0", "_event_time"]]
    late = next(o for v in graph.vertices for o in v.operators if o.kind == "project" and o.uid.endswith("/late"))
    assert late.output_schema.names[:2] == ["auction", "url"]
