"""Streams that run for real, in this process: `collect` on the local runtime."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray import col

ROWS = pa.table(
    {
        "k": [1, 2, 1, 3] * 500,
        "v": list(range(2000)),
        "t": pa.array([i * 1000 for i in range(2000)], pa.timestamp("us")),
    }
)


@pytest.fixture
def rows():
    env = fr.StreamEnvironment("test", parallelism=2, runtime="local")
    return env.from_batches(ROWS, watermark=fr.Watermarks.monotonous("t"), uid="rows")


def test_collect_filters_and_computes(rows):
    table = rows.filter(col("v") < 4).select("k", double=col("v") * 2).collect()
    assert sorted(table.to_pylist(), key=str) == [{"k": k, "double": 2 * v} for k, v in [(1, 0), (1, 2), (2, 1), (3, 3)]]


def test_collect_of_a_function_that_declares_nothing(rows):
    table = rows.filter(lambda row: row["v"] < 2).map(lambda row: {"next": row["v"] + 1}).collect()
    assert sorted(table["next"].to_pylist()) == [1, 2]


def test_collect_of_no_rows_has_the_columns(rows):
    assert rows.filter(col("v") < 0).select("k").collect() == pa.table({"k": pa.array([], pa.int64())})


def test_collect_of_streams_that_meet_again(rows):
    meet = rows.select("k", "v").union(rows.select("v", "k")).set_parallelism(3)
    assert meet.collect().num_rows == 2 * ROWS.num_rows
    assert meet.rebalance().filter(col("k") == 3).collect().num_rows == ROWS.num_rows // 2


def test_collect_takes_no_more_than_the_limit(rows):
    assert rows.collect(limit=7).num_rows == 7


def test_collect_of_an_endless_source_ends_at_the_limit(tmp_path):
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    env = fr.StreamEnvironment("test", parallelism=2, runtime="local")
    stream = env.from_source(fr.sources.Parquet(str(tmp_path / "*.parquet"), watch="100ms"))
    assert sorted(stream.filter(col("v") >= 10).select("v").collect(limit=5)["v"].to_pylist())[0] >= 10


def test_collect_inside_a_running_event_loop(rows):
    async def cell():
        return rows.filter(col("v") < 3).collect()

    assert asyncio.run(cell()).num_rows == 3


def test_what_a_function_raises_reaches_the_caller_at_once(rows):
    def fail(row):
        raise ValueError("no such thing")

    with pytest.raises(fr.OperatorError, match="no such thing") as caught:
        rows.map(fail, uid="failing").collect()
    assert caught.value.uid == "failing"
    assert "in fail" in caught.value.user_traceback


@pytest.mark.parametrize("emit", ["batch", "row", "final", "10ms"])
def test_a_running_aggregate_collects_to_its_last_answers(rows, emit):
    aggregate = rows.key_by("k").aggregate(n=fr.agg.count(), double=fr.agg.sum(col("v") * 2), first=fr.agg.first("v"), emit=emit)
    assert sorted(aggregate.collect().to_pylist(), key=str) == [
        {"k": 1, "n": 1000, "double": 2 * sum(range(0, 2000, 2)), "first": 0},
        {"k": 2, "n": 500, "double": 2 * sum(range(1, 2000, 4)), "first": 1},
        {"k": 3, "n": 500, "double": 2 * sum(range(3, 2000, 4)), "first": 3},
    ]


def test_the_first_rows_of_windows_and_of_all_windows(rows):
    each = rows.key_by("k").window(fr.windows.Tumbling("1s")).top_n(1, by="v").select("k", "v").collect()
    assert sorted(zip(*each.to_pydict().values(), strict=True)) == [(1, 998), (1, 1998), (2, 997), (2, 1997), (3, 999), (3, 1999)]
    overall = rows.window_all(fr.windows.Tumbling("1s")).top_n(2, by=("v", "asc")).select("v").collect()
    assert sorted(overall["v"].to_pylist()) == [0, 1, 1000, 1001]


def test_sessions(rows):
    gaps = rows.filter((col("v") < 100) | (col("v") >= 1000)).key_by("k").window(fr.windows.Session("500ms"))
    counts = gaps.aggregate(n=fr.agg.count(), top=fr.agg.max("v")).select("k", "n", "top").collect()
    assert sorted(zip(*counts.to_pydict().values(), strict=True)) == [
        (1, 50, 98),
        (1, 500, 1998),
        (2, 25, 97),
        (2, 250, 1997),
        (3, 25, 99),
        (3, 250, 1999),
    ]


def test_the_hottest_key_of_every_sliding_window(rows):
    counts = rows.key_by("k").window(fr.windows.Sliding("1s", "500ms")).aggregate(n=fr.agg.count())
    hottest = counts.window_all(fr.windows.Tumbling("500ms")).top_n(1, by="n").collect()
    starts = sorted(time.timestamp() for time in hottest["window_start"].to_pylist())
    assert starts == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert set(hottest["k"].to_pylist()) == {1}
    assert sorted(hottest["n"].to_pylist()) == [250, 250, 500, 500, 500]


def test_windows_over_all_rows(rows):
    totals = rows.window_all(fr.windows.Tumbling("1s")).aggregate(n=fr.agg.count(), top=fr.agg.max(col("v") + 1)).collect()
    assert totals.schema.names == ["window_start", "window_end", "n", "top"]
    assert sorted(zip(totals["n"].to_pylist(), totals["top"].to_pylist(), strict=True)) == [(1000, 1000), (1000, 2000)]


def test_late_rows_are_collected_with_the_columns_of_the_stream():
    env = fr.StreamEnvironment("test", runtime="local", batch_rows=1)  # so that the watermark moves between rows
    table = pa.table({"k": ["a", "b", "c"], "v": [1, 2, 3], "t": [0, 5_000_000, 1_000_000]})
    stream = env.from_batches(table, watermark=fr.Watermarks.monotonous("t"), uid="rows")
    windows = stream.key_by("k").window(fr.windows.Tumbling("1s")).side_output_late("late").aggregate(v=fr.agg.sum(col("v") * 2))
    assert windows.get_side_output("late").collect().to_pylist() == [{"k": "c", "v": 3, "t": 1_000_000}]
    assert sorted(windows.collect()["v"].to_pylist()) == [2, 4]
