"""What streams look like after each step: columns, types, event time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypedDict

import pyarrow as pa
import pytest
from plan_fakes import BIDS, FakeSink, FakeSource, operator

import flinkray as fr
from flinkray import col
from flinkray.columns import TIMESTAMP
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow


class Pair(TypedDict):
    left: int
    right: str


@dataclasses.dataclass
class Point:
    x: float
    y: float


@pytest.fixture
def env():
    return fr.StreamEnvironment("test", runtime="local")


@pytest.fixture
def bids(env):
    return env.from_source(FakeSource(), watermark=fr.Watermarks.bounded("date_time", "4s"), uid="bids")


def test_columns_after_select_with_columns_and_drop(bids):
    assert bids.schema == BIDS
    assert bids.select("price", (col("price") * 0.5).alias("half")).schema == pa.schema([("price", pa.int64()), ("half", pa.float64())])
    assert bids.select("price", half=col("price") * 0.5).schema.names == ["price", "half"]
    added = bids.with_columns((col("price") > 10).alias("dear"), price=col("price") * 0.5)
    assert added.schema.names == [*BIDS.names, "dear"]
    assert added.schema.field("price").type == pa.float64()
    assert bids.drop("url", "extra").schema.names == ["auction", "bidder", "price", "channel", "date_time"]


def test_a_window_gives_keys_window_and_aggregates_with_their_types(bids):
    result = (
        bids.key_by("channel", "auction")
        .window(fr.windows.Tumbling("10s"))
        .aggregate(n=fr.agg.count(), total=fr.agg.sum("price"), mean=fr.agg.mean("price"), time=fr.agg.last("date_time"))
    )
    assert result.schema == pa.schema(
        [
            ("channel", pa.string()),
            ("auction", pa.int64()),
            pa.field("window_start", TIMESTAMP, nullable=False),
            pa.field("window_end", TIMESTAMP, nullable=False),
            ("n", pa.int64()),
            ("total", pa.int64()),
            ("mean", pa.float64()),
            ("time", TIMESTAMP),
        ]
    )
    assert result._node.rows.event_time


def test_a_running_aggregate_has_no_event_time(bids):
    result = bids.key_by("auction").aggregate(n=fr.agg.count())
    assert result.schema.names == ["auction", "n"]
    assert not result._node.rows.event_time
    assert result._node.rows.change_key == ("auction",)


def test_windows_are_values():
    assert fr.windows.Tumbling("10s") == TumblingWindow(10_000_000)
    assert fr.windows.Sliding("10s", "2s") == SlidingWindow(10_000_000, 2_000_000)
    assert fr.windows.Session("5min") == SessionWindow(300_000_000)
    with pytest.raises(fr.PlanError, match="longer than size"):
        fr.windows.Sliding("2s", "10s")


def test_watermarks_are_values():
    strategy = fr.Watermarks.bounded("t", "4s").with_idleness("1min")
    assert (strategy.column, strategy.delay_us, strategy.idle_us) == ("t", 4_000_000, 60_000_000)
    assert fr.Watermarks.monotonous("t").delay_us == 0


def test_lateness_and_its_side_output_reach_the_operator(env, bids):
    windowed = bids.key_by("auction").window(fr.windows.Tumbling("10s")).allowed_lateness("3s").side_output_late("late")
    result = windowed.aggregate(n=fr.agg.count())
    result.sink_to(FakeSink(), uid="out")
    late = result.get_side_output("late")
    late.sink_to(FakeSink(), uid="late-rows")
    params = operator(env.job_graph(), "window_aggregate").params
    assert (params["lateness_us"], params["late_tag"]) == (3_000_000, "late")
    assert late.schema == BIDS


@pytest.mark.parametrize(("emit", "expected"), [("batch", "batch"), ("row", "row"), ("final", "final"), ("250ms", 0.25), (2, 2.0)])
def test_emission_modes(env, bids, emit, expected):
    bids.key_by("auction").aggregate(n=fr.agg.count(), emit=emit).sink_to(FakeSink(changes=True))
    assert operator(env.job_graph(), "keyed_aggregate").params["emit"] == expected


def test_the_columns_of_a_function_are_declared_annotated_or_unknown(bids):
    def pair(row) -> Pair:
        return {"left": 1, "right": "x"}

    def pairs(row) -> Iterator[Pair]:
        yield {"left": 1, "right": "x"}

    def point(row) -> Point:
        return Point(1, 2)

    class Widen:
        output_schema = {"wide": "int"}

        def __call__(self, batch):
            return batch

    expected = pa.schema([("left", pa.int64()), ("right", pa.string())])
    assert bids.map(pair).schema == expected
    assert bids.flat_map(pairs).schema == expected
    assert bids.map(point).schema == pa.schema([("x", pa.float64()), ("y", pa.float64())])
    assert bids.map_batches(Widen).schema == pa.schema([("wide", pa.int64())])
    assert bids.map(lambda row: row, {"a": "timestamp"}).schema == pa.schema([("a", TIMESTAMP)])
    assert bids.map(lambda row: row).schema is None


def test_functions_reach_the_operator_with_what_they_declare(env, bids):
    def double(batch):
        return batch

    bids.map_batches(double, {"a": "int"}, batch_format="numpy", uid="double").sink_to(FakeSink())
    params = operator(env.job_graph(), "map_batches").params
    assert params == {"function": double, "batch_format": "numpy", "output_schema": pa.schema([("a", pa.int64())]), "on_error": "fail"}


def test_event_time_survives_rows_functions_and_unions(bids):
    stream = bids.filter(col("price") > 1).select("auction").map(lambda row: row, {"a": "int"})
    assert stream._node.rows.event_time
    assert stream.union(stream)._node.rows.event_time
    assert not bids.key_by("auction").aggregate(n=fr.agg.count(), emit="final")._node.rows.event_time


def test_a_streams_schema_shows_no_hidden_columns(bids):
    assert all(not name.startswith("_") for name in bids.schema.names)
