"""Tumbling and sliding windows, against plain Python and DuckDB over the same rows."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME, MAX_WATERMARK
from flinkray.errors import PlanError
from flinkray.graph.aggregates import PANE, ROWS, Aggregate, partial_schema, result_schema, rows_column
from flinkray.graph.windows import SlidingWindow, TumblingWindow, Window
from flinkray.operators.pre_aggregate import SKIP_BATCHES, USELESS_BATCHES, PreAggregateOperator
from flinkray.operators.window_aggregate import WindowAggregateOperator
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("k", pa.int64()), ("name", pa.string()), ("v", pa.int64()), ("t", pa.int64())])
INPUT = SCHEMA.append(pa.field(EVENT_TIME, pa.int64(), False))
AGGREGATES = (Aggregate("n", "count"), Aggregate("total", "sum", "v"), Aggregate("newest", "last", "v"), Aggregate("avg", "mean", "v"))
WINDOWS: list[Window] = [
    TumblingWindow(100),
    TumblingWindow(100, 30),
    SlidingWindow(100, 20),
    SlidingWindow(90, 60),
    SlidingWindow(70, 70),
]


def make_rows(count: int, seed: int, first: int = -500) -> list[dict[str, Any]]:
    """Times of about one row per µs, out of order by up to 25 µs, from before the epoch on."""
    random_ = random.Random(seed)
    return [
        {
            "k": random_.choice([None, *range(-5, 5)]),
            "name": random_.choice([None, "", "x", "a name of more than eight bytes"]),
            "v": random_.choice([None, *range(-50, 50)]),
            "t": first + i - random_.randrange(25),
        }
        for i in range(count)
    ]


def operator(window: Window, keys: tuple[str, ...] = ("k",), **options: Any) -> WindowAggregateOperator:
    return WindowAggregateOperator(keys=keys, aggregates=AGGREGATES, window=window, **options)


def direct(window: Window, keys: tuple[str, ...] = ("k",), **options: Any) -> OperatorHarness:
    output = result_schema(keys, AGGREGATES, window, INPUT)
    return OperatorHarness(operator(window, keys, **options), input_schemas=SCHEMA, event_time="t", output_schema=output)


def starts_of(window: Window, time: int) -> list[int]:
    """Starts of the windows that hold a time, by trying all."""
    size, slide = window.size_us, getattr(window, "slide_us", window.size_us)
    return [s for s in range(time - size, time + 1) if (s - window.offset_us) % slide == 0 and s <= time < s + size]


def expected(rows: list[dict[str, Any]], window: Window, keys: tuple[str, ...]) -> dict[Any, dict[str, Any]]:
    groups = defaultdict(list)
    for row in rows:
        for start in starts_of(window, row["t"]):
            groups[(*(row[key] for key in keys), start)].append(row)
    answers = {}
    for key, group in groups.items():
        v = [row["v"] for row in sorted(group, key=lambda row: row["t"]) if row["v"] is not None]
        total = sum(v) if v else None
        answers[key] = {"n": len(group), "total": total, "newest": v[-1] if v else None, "avg": total / len(v) if v else None}
    return answers


def by_window(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[Any, dict[str, Any]]:
    """Results by key and start; an answer that comes twice is an error."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = (*(row[key] for key in keys), row["window_start"])
        assert key not in found, f"{key} came twice"
        found[key] = {name: row[name] for name in ("n", "total", "newest", "avg")}
    return found


def play(harness: OperatorHarness, rows: list[dict[str, Any]], batch: int = 97) -> None:
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        harness.rows(part).watermark(max(harness.watermark_us, max(row["t"] for row in part) - 25 - 1))


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.describe())
@pytest.mark.parametrize("keys", [("k",), ("name",), ("k", "name")], ids=str)
def test_every_window_answers_once_and_right(window: Window, keys: tuple[str, ...]) -> None:
    harness, rows = direct(window, keys), make_rows(1500, 1)
    play(harness, rows)
    harness.end()
    assert by_window(harness.output_rows(), keys) == expected(rows, window, keys)
    assert harness.metrics.late_rows == 0
    assert harness.metrics.state_rows == 0


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.describe())
@pytest.mark.parametrize("keys", [("k",), ("k", "name")], ids=str)
def test_pre_aggregated_rows_give_the_same_windows(window: Window, keys: tuple[str, ...]) -> None:
    local = OperatorHarness(PreAggregateOperator(keys=keys, aggregates=AGGREGATES, window=window), input_schemas=SCHEMA, event_time="t")
    parts, output = partial_schema(keys, AGGREGATES, window, INPUT), result_schema(keys, AGGREGATES, window, INPUT)
    merging = OperatorHarness(operator(window, keys, pre_aggregated=True), input_schemas=parts, output_schema=output)
    rows = make_rows(1500, 2)
    for start in range(0, len(rows), 200):
        part = rows[start : start + 200]
        partial = local.rows(part).output()
        assert partial.num_rows == partial.group_by([*keys, PANE]).aggregate([]).num_rows
        assert sum(partial.column(rows_column(AGGREGATES)).to_pylist()) == len(part)
        merging.rows(partial).watermark(max(row["t"] for row in part) - 26)
    merging.end()
    assert by_window(merging.output_rows(), keys) == expected(rows, window, keys)


def test_a_larger_input_equals_duckdb() -> None:
    random_ = random.Random(3)
    table = pa.table(
        {
            "k": [random_.randrange(3000) for _ in range(60_000)],
            "name": [None] * 60_000,
            "v": [random_.randrange(-(10**6), 10**6) for _ in range(60_000)],
            "t": [i * 10 - random_.randrange(4000) for i in range(60_000)],
        },
        schema=SCHEMA,
    )
    window = SlidingWindow(100_000, 20_000)
    harness = direct(window)
    for batch in table.to_batches(8192):
        harness.rows(batch).watermark(max(harness.watermark_us, max(batch.column("t").to_pylist()) - 4001))
    harness.end()
    found = {(r["k"], r["window_start"]): (r["n"], r["total"]) for r in harness.output_rows()}
    query = """
        select k, s, count(*), sum(v) from (
          select k, v, unnest(range(floor(t / 20000)::bigint * 20000 - 80000, floor(t / 20000)::bigint * 20000 + 1, 20000)) as s from rows
        ) group by k, s"""
    connection = duckdb.connect()
    connection.register("rows", table)
    assert found == {(k, s): (n, int(total)) for k, s, n, total in connection.execute(query).fetchall()}


def test_windows_fire_in_order_at_their_last_microsecond_with_that_as_event_time() -> None:
    harness = direct(SlidingWindow(100, 50))
    harness.rows([{"k": 1, "t": 60}, {"k": 1, "t": 10}])
    assert harness.watermark(48).output().num_rows == 0
    table = harness.watermark(49).output()
    assert table.column("window_start").cast(pa.int64()).to_pylist() == [-50]
    assert table.column(EVENT_TIME).to_pylist() == [49]
    later = harness.watermark(500)
    assert [row["window_end"] for row in later.output_rows()] == [100, 150]


def test_late_rows_are_counted_as_rows_also_when_they_come_as_parts() -> None:
    window = SlidingWindow(100, 50)
    local = OperatorHarness(PreAggregateOperator(keys=("k",), aggregates=AGGREGATES, window=window), input_schemas=SCHEMA, event_time="t")
    parts, output = partial_schema(("k",), AGGREGATES, window, INPUT), result_schema(("k",), AGGREGATES, window, INPUT)
    merging = OperatorHarness(operator(window, pre_aggregated=True), input_schemas=parts, output_schema=output)
    merging.watermark(149)
    merging.rows(local.rows([{"k": 1, "t": 10}, {"k": 1, "t": 11}, {"k": 1, "t": 60}]).output())
    assert merging.metrics.late_rows == 3  # the last window of 60 ends at 150
    merging.rows(local.rows([{"k": 1, "t": 110}]).output())
    assert merging.metrics.late_rows == 3
    assert [(row["window_end"], row["n"]) for row in merging.end().output_rows()] == [(200, 1)]


def test_parts_without_a_count_carry_how_many_rows_they_stand_for() -> None:
    window, sums = TumblingWindow(100), (Aggregate("total", "sum", "v"),)
    local = OperatorHarness(PreAggregateOperator(keys=("k",), aggregates=sums, window=window), input_schemas=SCHEMA, event_time="t")
    merging = OperatorHarness(
        WindowAggregateOperator(keys=("k",), aggregates=sums, window=window, pre_aggregated=True),
        input_schemas=partial_schema(("k",), sums, window, INPUT),
        output_schema=result_schema(("k",), sums, window, INPUT),
    )
    parts = local.rows([{"k": 1, "t": 10}, {"k": 1, "t": 11}, {"k": 1, "t": 110}]).output()
    assert parts.column(ROWS).to_pylist() == [2, 1]
    merging.watermark(99).rows(parts)
    assert merging.metrics.late_rows == 2


def test_a_row_is_late_only_when_all_its_windows_are_over() -> None:
    harness = direct(SlidingWindow(100, 50))
    harness.watermark(120).rows([{"k": 1, "t": 70}])  # in [0, 100), over, and [50, 150), open
    assert harness.metrics.late_rows == 0
    assert [(row["window_start"], row["n"]) for row in harness.end().output_rows()] == [(50, 1)]


def test_late_rows_go_to_their_tag_as_they_came() -> None:
    harness = direct(TumblingWindow(100), late_tag="late")
    harness.watermark(99).rows([{"k": 1, "t": 10}, {"k": 2, "t": 110}, {"k": 3, "t": 20}])
    assert [row["k"] for row in harness.output_rows("late")] == [1, 3]
    assert harness.metrics.late_rows == 0


def test_allowed_late_rows_let_their_window_answer_again_for_the_touched_keys_only() -> None:
    harness = direct(SlidingWindow(100, 50), lateness_us=200)
    harness.rows([{"k": 1, "v": 1, "t": 10}, {"k": 2, "v": 1, "t": 60}, {"k": 1, "v": 5, "t": 70}])
    assert len(harness.watermark(149).output_rows()) == 5
    harness.rows([{"k": 2, "v": 7, "t": 20}, {"k": 2, "v": 9, "t": 30}])
    again = [(row["k"], row["window_start"], row["n"], row["total"]) for row in harness.output_rows()]
    assert again == [(2, -50, 2, 16), (2, 0, 3, 17)]
    harness.watermark(298).rows([{"k": 1, "v": 1, "t": 20}])  # [-50, 50) is over for good at 249, [0, 100) at 299
    assert [(row["window_start"], row["n"]) for row in harness.output_rows()] == [(0, 3)]
    harness.watermark(299).rows([{"k": 1, "v": 1, "t": 20}])
    assert harness.output().num_rows == 0
    assert harness.metrics.late_rows == 1
    assert harness.end().output().num_rows == 0


@pytest.mark.parametrize("window", WINDOWS[1:4], ids=lambda window: window.describe())
@pytest.mark.parametrize("keys", [("k",), ("name",), ("k", "name")], ids=str)
def test_state_moves_from_1_to_2_to_3_to_1_subtasks(window: Window, keys: tuple[str, ...]) -> None:
    rows, harnesses, found, watermark = make_rows(2000, 4), [direct(window, keys)], [], -(2**63)
    for step in range(4):
        part = rows[step * 500 : (step + 1) * 500]
        for start in range(0, 500, 90):
            watermark = max(watermark, max(row["t"] for row in part[start : start + 90]) - 26)
            feed(harnesses, part[start : start + 90], keys, watermark)
        for harness in harnesses:
            found += harness.output_rows()
        if step < 3:
            snapshots = [harness.snapshot(step + 1) for harness in harnesses]
            harnesses = restore(lambda: operator(window, keys), snapshots, (2, 3, 1)[step])
    found += harnesses[0].end().output_rows()
    assert by_window(found, keys) == expected(rows, window, keys)


def feed(harnesses: list[OperatorHarness], part: list[dict[str, Any]], keys: tuple[str, ...], watermark: int) -> None:
    groups = key_groups(hash_keys(pa.RecordBatch.from_pylist(part, SCHEMA), keys, 7), 128)
    for harness in harnesses:
        harness.rows([row for row, group in zip(part, groups, strict=True) if int(group) in harness.key_groups])
        harness.watermark(watermark)


def test_deltas_over_an_aborted_snapshot_restore_to_the_same_windows() -> None:
    window, rows = SlidingWindow(1000, 500), make_rows(2500, 5, first=0)
    harness, found = direct(window), []
    play(harness, rows[:2000])
    harness.snapshot(1)
    play(harness, rows[2000:2010])
    harness.snapshot(2, base_id=1)
    play(harness, rows[2010:2020])
    delta = harness.snapshot(3, base_id=1)
    assert delta.written["panes"].num_rows < len(delta.chains[0].tables[0])
    found += harness.output_rows()
    (again,) = restore(lambda: operator(window), [delta], 1)
    play(again, rows[2020:])
    found += again.end().output_rows()
    assert by_window(found, ("k",)) == expected(rows, window, ("k",))


def test_a_snapshot_after_the_end_restores_to_nothing_more() -> None:
    harness = direct(TumblingWindow(100))
    harness.rows([{"k": 1, "t": 5}]).end()
    (again,) = restore(lambda: operator(TumblingWindow(100)), [harness.snapshot(1)], 1)
    assert again.watermark(MAX_WATERMARK).end().output().num_rows == 0


def test_pre_aggregation_passes_rows_on_where_keys_do_not_repeat_and_tries_again_later() -> None:
    window = TumblingWindow(10**6)
    local = PreAggregateOperator(keys=("k",), aggregates=AGGREGATES, window=window)
    harness = OperatorHarness(local, input_schemas=SCHEMA, event_time="t")

    def batch(distinct: int) -> pa.RecordBatch:
        k = [i % distinct for i in range(2000)]
        return pa.RecordBatch.from_pydict({"k": k, "name": [None] * 2000, "v": k, "t": k}, schema=SCHEMA)

    for _ in range(USELESS_BATCHES):
        assert harness.rows(batch(2000)).output().num_rows == 2000
    skipped = harness.rows(batch(10)).output()
    assert skipped.num_rows == 2000
    assert sum(skipped.column(rows_column(AGGREGATES)).to_pylist()) == 2000
    for _ in range(SKIP_BATCHES - 1):
        harness.rows(batch(10))
    harness.output()
    assert harness.rows(batch(10)).output().num_rows == 10


def test_windows_without_event_time_and_outputs_named_like_windows_are_refused() -> None:
    with pytest.raises(PlanError, match="watermark"):
        result_schema(("k",), AGGREGATES, TumblingWindow(1), SCHEMA)
    with pytest.raises(PlanError, match="window column"):
        result_schema(("k",), (Aggregate("window_end", "count"),), TumblingWindow(1), INPUT)


@pytest.mark.parametrize("window", [WINDOWS[0], WINDOWS[2], WINDOWS[4]], ids=lambda window: window.describe())
@pytest.mark.parametrize("kind", [pa.int64(), pa.string()], ids=str)
@pytest.mark.parametrize("batch_rows", [500, 65536])
def test_windows_of_many_keys_come_out_whole_and_in_order(window: Window, kind: pa.DataType, batch_rows: int) -> None:
    columns = {"low": "min", "high": "max", "dev": "stddev"}
    aggregates = (Aggregate("n", "count"), *(Aggregate(name, function, "v") for name, function in columns.items()))
    rows, keys = 60_000, 9_000
    random_ = random.Random(5)
    numbers = [random_.randrange(keys) if i % 50 else None for i in range(rows)]
    values = [random_.randrange(-100, 100) if i % 3 else None for i in range(rows)]
    times = sorted(random_.randrange(300) for _ in range(rows))
    schema = pa.schema([("k", kind), ("v", pa.int64()), ("t", pa.int64())])
    events = pa.table([pa.array(numbers, pa.int64()).cast(kind), pa.array(values, pa.int64()), times], schema=schema)
    operator_ = WindowAggregateOperator(keys=("k",), aggregates=aggregates, window=window)
    harness = OperatorHarness(operator_, input_schemas=schema, event_time="t", batch_rows=batch_rows)
    for batch in events.to_batches(max_chunksize=7_000):
        harness.rows(batch).watermark(batch.column("t")[-1].as_py() - 1)
    emitted = harness.end()._emitted[None]
    assert all(batch.num_rows <= batch_rows for batch in emitted)
    out = harness.output()
    ends = out["window_end"].cast(pa.int64()).to_pylist()
    assert ends == sorted(ends)
    assert out[EVENT_TIME].to_pylist() == [end - 1 for end in ends]
    size, slide = window.size_us, getattr(window, "slide_us", window.size_us)
    answer = duckdb.sql(
        f"""SELECT k, s, count(*) n, min(v) low, max(v) high, stddev_samp(v) dev
            FROM events, range(-{size}, 300) r(s) WHERE s % {slide} = 0 AND t >= s AND t < s + {size} GROUP BY ALL"""
    ).fetchall()
    found = {(row["k"], row["window_start"]): row for row in _plain(out)}
    assert len(found) == len(answer) == out.num_rows
    for key, start, n, low, high, dev in answer:
        row = found[key, start]
        assert (row["n"], row["low"], row["high"]) == (n, low, high)
        assert row["dev"] == (None if dev is None else pytest.approx(dev))


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    columns = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in table.columns]
    return pa.table(columns, names=table.column_names).to_pylist()
