"""What makes no sense is refused where it is written, with what to do about it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from plan_fakes import FakeSink, FakeSource

import flinkray as fr
from flinkray import col, lit

WATERMARK = fr.Watermarks.bounded("date_time", "4s")
TUMBLING = fr.windows.Tumbling("10s")


@pytest.fixture
def env():
    return fr.StreamEnvironment("test", runtime="local")


@pytest.fixture
def bids(env):
    return env.from_source(FakeSource(), watermark=WATERMARK, uid="bids")


@pytest.fixture
def untimed(env):
    return env.from_source(FakeSource(), uid="untimed")


@pytest.fixture
def totals(bids):
    return bids.key_by("auction").aggregate(total=fr.agg.sum("price"))


def unknown(bids):
    return bids.map(lambda row: row)


WRONG = {
    "an unknown column in a filter": (lambda s: s.filter(col("prize") > 1), "price"),
    "an unknown column in select": (lambda s: s.select("auctoin"), "auction"),
    "an unknown key": (lambda s: s.key_by("biddr"), "did you mean 'bidder'"),
    "an unknown column to drop": (lambda s: s.drop("ulr"), "did you mean 'url'"),
    "an unknown argument": (lambda s: s.key_by("auction").aggregate(x=fr.agg.sum("prise")), "did you mean 'price'"),
    "an unknown column in an argument": (lambda s: s.key_by("auction").aggregate(x=fr.agg.sum(col("prise") * 2)), "price"),
    "an unknown order": (lambda s: s.key_by("auction").window(TUMBLING).top_n(1, by="prise"), "did you mean 'price'"),
    "an unknown watermark column": (lambda s: s.assign_watermarks(fr.Watermarks.monotonous("datetime")), "date_time"),
    "a filter that is no condition": (lambda s: s.filter(col("price") + 1), "must be bool"),
    "an expression without a name": (lambda s: s.select(col("price") * 2), r"\.alias\('name'\)"),
    "a name twice": (lambda s: s.select("price", col("bidder").alias("price")), "'price' is there 2 times"),
    "a list of columns": (lambda s: s.select(["price", "bidder"]), "one by one"),
    "a name of the engine's own": (lambda s: s.select(col("price").alias("_event_time")), "flinkray's own"),
    "no column": (lambda s: s.select(), "no column is left"),
    "all columns dropped": (lambda s: s.select("price").drop("price"), "no column is left"),
    "a watermark that is no time": (lambda s: s.assign_watermarks(fr.Watermarks.monotonous("url")), "is string"),
    "an expression of the wrong type": (lambda s: s.select((col("url") * 2).alias("x")), "url"),
    "no key": (lambda s: s.key_by(), "window_all"),
    "a key twice": (lambda s: s.key_by("auction", "auction"), "2 times"),
    "no aggregate": (lambda s: s.key_by("auction").aggregate(), "at least one aggregate"),
    "something that is no aggregate": (lambda s: s.key_by("auction").aggregate(x=5), "fr.agg.sum"),
    "an aggregate named like a key": (lambda s: s.key_by("auction").aggregate(auction=fr.agg.count()), "is a key"),
    "an aggregate named like a window column": (
        lambda s: s.key_by("auction").window(TUMBLING).aggregate(window_end=fr.agg.count()),
        "window column",
    ),
    "a key named like a window column": (
        lambda s: s.select(col("auction").alias("window_start")).key_by("window_start").window(TUMBLING).aggregate(n=fr.agg.count()),
        "window column",
    ),
    "the sum of strings": (lambda s: s.key_by("auction").aggregate(x=fr.agg.sum("url")), "url"),
    "an emission that does not exist": (lambda s: s.key_by("auction").aggregate(n=fr.agg.count(), emit="sometimes"), "emit='sometimes'"),
    "an emission of zero": (lambda s: s.key_by("auction").aggregate(n=fr.agg.count(), emit=0), "above zero"),
    "a window that is none": (lambda s: s.key_by("auction").window("10s"), "no window"),
    "sessions of top n": (lambda s: s.key_by("auction").window(fr.windows.Session("1s")).top_n(1, by="price"), "sessions"),
    "the first zero rows": (lambda s: s.key_by("auction").window(TUMBLING).top_n(0, by="price"), "1 or more"),
    "an order that is none": (lambda s: s.key_by("auction").window(TUMBLING).top_n(1, by=[("price", "up")]), "'asc' or 'desc'"),
    "no order": (lambda s: s.key_by("auction").window(TUMBLING).top_n(1, by=[]), "at least one column"),
    "a union of other columns": (lambda s: s.select("price").union(s.select("bidder")), "other columns"),
    "a union of other types": (lambda s: s.select("price").union(s.select(col("url").alias("price"))), "cast one"),
    "a side output that does not exist": (lambda s: s.get_side_output("late"), "no such side output"),
    "dead letters of a source that has none": (lambda s: s.get_side_output("dead_letter"), "on_error='dead_letter'"),
    "a function that is none": (lambda s: s.map("f"), "cannot be called"),
    "a schema that is none": (lambda s: s.map(lambda r: r, {"a": "integr"}), "output_schema"),
    "a batch format that does not exist": (lambda s: s.map_batches(lambda b: b, batch_format="polars"), "'pandas'"),
    "a sink that is none": (lambda s: s.sink_to("out/"), "no sink"),
    "a parallelism that is none": (lambda s: s.set_parallelism(0), "1 or more"),
    "a uid for what is no operator": (lambda s: s.rebalance().uid("x"), "no operator of its own"),
    "columns to add to unknown ones": (lambda s: unknown(s).with_columns(x=lit(1)), "not known here"),
    "an aggregate of unknown columns": (
        lambda s: unknown(s).filter(lambda row: True).key_by("k").aggregate(n=fr.agg.count()),
        "output_schema=",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refused(bids, wrong):
    build, message = WRONG[wrong]
    with pytest.raises(fr.PlanError, match=message):
        build(bids)


NEEDS_ALL_ROWS = {
    "filter": lambda s: s.filter(col("total") > 1),
    "filter by a function": lambda s: s.filter(lambda row: True),
    "map": lambda s: s.map(lambda row: row),
    "an aggregate that cannot take back": lambda s: s.key_by("auction").aggregate(n=fr.agg.max("total")),
    "top_n": lambda s: s.key_by("auction").top_n(1, "total"),
    "deduplicate": lambda s: s.key_by("auction").deduplicate("total"),
    "distinct": lambda s: s.distinct("auction"),
    "union": lambda s: s.union(s),
    "rebalance": lambda s: s.rebalance(),
    "assign_watermarks": lambda s: s.assign_watermarks(WATERMARK),
}


@pytest.mark.parametrize("method", NEEDS_ALL_ROWS)
def test_rows_that_replace_each_other_are_refused_by(totals, method):
    with pytest.raises(fr.PlanError, match="emit='final'"):
        NEEDS_ALL_ROWS[method](totals)


def test_an_append_only_sink_refuses_a_running_aggregate_and_names_both_ways_out(totals):
    with pytest.raises(fr.PlanError, match=r"emit='final'.*changelog=True"):
        totals.sink_to(FakeSink())


def test_a_running_aggregate_must_keep_its_key(totals):
    totals.select(col("auction").alias("a"), "total").sink_to(FakeSink(changes=True))
    with pytest.raises(fr.PlanError, match="told apart by 'auction'"):
        totals.select("total")


def test_windows_need_event_time(untimed):
    for build in (lambda: untimed.key_by("auction").window(TUMBLING), lambda: untimed.window_all(TUMBLING)):
        with pytest.raises(fr.PlanError, match="no event time"):
            build()
    untimed.assign_watermarks(WATERMARK).key_by("auction").window(TUMBLING)


def test_a_sink_says_at_once_which_columns_it_cannot_write(bids):
    def refuse(schema):
        raise fr.PlanError(f"cannot write {schema.names}")

    with pytest.raises(fr.PlanError, match="cannot write \\['auction', 'total', '_change'\\]"):
        bids.key_by("auction").aggregate(total=fr.agg.sum("price")).sink_to(FakeSink(changes=True, refuse=refuse))


def test_a_nested_column_is_no_key(env):
    stream = env.from_source(FakeSource(columns=pa.schema([("tags", pa.list_(pa.string()))])))
    with pytest.raises(fr.PlanError, match="tags"):
        stream.key_by("tags")


def test_a_source_with_a_name_of_the_engines_own_is_refused(env):
    with pytest.raises(fr.PlanError, match="_change"):
        env.from_source(FakeSource(columns=pa.schema([("_change", pa.int8())])))


def test_something_that_is_no_source_is_refused(env):
    with pytest.raises(fr.PlanError, match="no source"):
        env.from_source("bids/*.parquet")


def test_streams_of_two_environments_are_not_united(bids):
    other = fr.StreamEnvironment("other", runtime="local").from_source(FakeSource())
    with pytest.raises(fr.PlanError, match="different environments"):
        bids.union(other)


def test_a_plan_without_sink_is_refused(env, bids):
    with pytest.raises(fr.PlanError, match="sink"):
        env.job_graph()


def test_more_subtasks_than_key_groups_are_refused(bids, env):
    bids.filter(col("price") > 1).set_parallelism(129).sink_to(FakeSink())
    with pytest.raises(fr.PlanError, match="max_parallelism 128"):
        env.job_graph()


def test_columns_that_are_not_known_are_not_checked_until_they_are_declared(bids):
    stream = bids.map(lambda row: row).filter(col("anything") > 1).select("anything")
    assert stream.schema is None
    declared = stream.map(lambda row: row, {"a": "int"})
    assert declared.schema == pa.schema([("a", pa.int64())])
    with pytest.raises(fr.PlanError, match="'b'"):
        declared.select("b")
