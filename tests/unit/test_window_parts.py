"""General windows that are aggregated before the shuffle: parts give the answers that the rows give; and where that is not done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import EVENT_TIME
from flinkray.errors import PlanError
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.general_windows import CountWindow, Trigger, Windows
from flinkray.operators.general_window import GeneralWindowOperator
from flinkray.operators.window_parts import SPANS, WindowPartsOperator
from flinkray.testing.harness import OperatorHarness, restore
from tests.unit.test_general_window import COUNT, LIST, SCHEMA, STORY, SUM, WINDOWS, Row, row

AGGREGATES = (
    SUM,
    COUNT,
    Aggregate("different", "count_distinct", "n"),
    Aggregate("most", "max", "key"),
    Aggregate("longest", "max_by", "n", "gap"),
)
TIMED = pa.schema([*SCHEMA, pa.field(EVENT_TIME, pa.int64(), nullable=False)])
ALIGNED = [window for window in WINDOWS if not isinstance(window, CountWindow)]


def local(window: Any, aggregates: Any = AGGREGATES) -> OperatorHarness:
    made = WindowPartsOperator(keys=("key",), windows=Windows(window), aggregates=aggregates)
    return OperatorHarness(made, input_schemas=SCHEMA, event_time="t")


def owner(window: Any, parts: bool, lateness_us: int = 0, aggregates: Any = AGGREGATES, **inside: Any) -> GeneralWindowOperator:
    options = {"parts_of": TIMED} if parts else {}
    windows = Windows(window, **inside)
    return GeneralWindowOperator(keys=("key",), windows=windows, aggregates=aggregates, lateness_us=lateness_us, **options)  # type: ignore[arg-type]


def parts_schema(window: Any) -> pa.Schema:
    return local(window).rows([row(1)]).output().schema


def told(driven: OperatorHarness) -> list[str]:
    return sorted(str(each) for each in driven.output_rows())


@settings(max_examples=120, deadline=None)
@given(story=STORY, window=st.sampled_from(ALIGNED), lateness_us=st.sampled_from([0, 4]))
def test_parts_give_the_answers_that_the_rows_give(story: list[Any], window: Any, lateness_us: int) -> None:
    """Late rows of watermarks that go on in leaps included, restored in between."""
    here = local(window)
    by_rows = OperatorHarness(owner(window, False, lateness_us), input_schemas=SCHEMA, event_time="t")
    by_parts = OperatorHarness(owner(window, True, lateness_us), input_schemas=parts_schema(window))
    now = late_by_rows = late_by_parts = 0
    for number, (what, value) in enumerate(story):
        if what == "rows":
            made: list[Row] = [
                row(now + ahead - 3 * (number % 2), number + place, key, gap) for place, (key, ahead, gap) in enumerate(value)
            ]
            by_rows.rows(made)
            by_parts.rows(here.rows(made).output())
        elif what == "watermark":
            now += value
            by_rows.watermark(now)
            by_parts.watermark(now)
        elif what == "restore":
            assert told(by_rows) == told(by_parts)
            late_by_rows += by_rows.metrics.late_rows
            late_by_parts += by_parts.metrics.late_rows
            (by_rows,) = restore(lambda: owner(window, False, lateness_us), [by_rows.snapshot(1 + number)], 1)
            (by_parts,) = restore(lambda: owner(window, True, lateness_us), [by_parts.snapshot(1 + number)], 1)
        assert told(by_rows) == told(by_parts)
    by_rows.end()
    by_parts.end()
    assert told(by_rows) == told(by_parts)
    assert late_by_rows + by_rows.metrics.late_rows == late_by_parts + by_parts.metrics.late_rows


def test_a_part_stands_for_the_rows_of_a_batch_that_have_the_same_windows() -> None:
    rows = [row(t, t, key) for key in ("a", "b", None) for t in range(20)]
    assert local(WINDOWS[0]).rows(rows).output().num_rows == 3 * 3  # [-7, 3), [3, 13), [13, 23)
    sessions = local(WINDOWS[3]).rows([row(1), row(5), row(12), row(3, key="b")]).output()
    assert sorted(zip(*(sessions[name].to_pylist() for name in SPANS), strict=True)) == [(1, 9, 5, 2), (3, 7, 3, 1), (12, 16, 12, 1)]


def test_a_savepoint_of_windows_of_rows_goes_on_with_parts() -> None:
    window = WINDOWS[2]
    by_rows = OperatorHarness(owner(window, False), input_schemas=SCHEMA, event_time="t").rows([row(3, 1), row(4, 2)])
    saved = by_rows.snapshot(1)
    saved = replace(saved, settings=replace(saved.settings, input_schemas=(parts_schema(window),), event_time=None))
    (by_parts,) = restore(lambda: owner(window, True), [saved], 1)
    by_parts.rows(local(window).rows([row(4, 5), row(5, 6)]).output()).watermark(5)
    assert [(each["sum"], each["rows"], each["different"]) for each in by_parts.output_rows()] == [(14, 4, 4)]


def test_answers_every_so_often_count_the_rows_of_parts() -> None:
    window = WINDOWS[0]
    driven = OperatorHarness(
        owner(window, True, aggregates=(COUNT,), trigger=Trigger(every="1s")),
        input_schemas=local(window, (COUNT,)).rows([row(1)]).output().schema,
    )
    here = local(window, (COUNT,))
    driven.rows(here.rows([row(4), row(5)]).output()).processing_time(2.0)
    assert [each["rows"] for each in driven.output_rows()] == [2]
    driven.rows(here.rows([row(4), row(6), row(12)]).output()).watermark(12)
    assert [each["rows"] for each in driven.output_rows()] == [5]


def stream(window: Any) -> Any:
    env = fr.StreamEnvironment("parts", parallelism=2, runtime="local")
    times = pa.array([value * 1_000_000 for value in (1, 2, 3)], pa.timestamp("us", "UTC"))
    rows = pa.table({"k": ["a", "b", "a"], "v": [1, 2, 3], "at": times})
    return env.from_batches(rows, watermark=fr.Watermarks.bounded("at", "0s"), uid="in").key_by("k").window(window)


def test_the_plan_says_what_is_aggregated_before_the_shuffle_and_what_is_not() -> None:
    cumulative = fr.windows.Cumulative("5s", "10s")
    shown = stream(cumulative).aggregate(n=fr.agg.count_distinct("v")).uid("n").explain()
    assert "aggregates each batch before it is sent" in shown
    assert "shuffled by hash of k; sends k, partial aggregates" in shown
    for made, why in (
        (stream(cumulative).aggregate(n=fr.agg.collect_list("v")), "lists of rows are no fewer than the rows"),
        (stream(fr.windows.Count(2)).aggregate(n=fr.agg.count()), "rows are counted one by one"),
        (stream(cumulative).trigger(fr.windows.Trigger(rows=2)).aggregate(n=fr.agg.count()), "rows are counted one by one"),
        (stream(cumulative).side_output_late("late").aggregate(n=fr.agg.count()), "late rows are wanted one by one"),
        (stream(fr.windows.Cumulative("5s", "10s", time="processing")).aggregate(n=fr.agg.count()), "that at which it comes to its window"),
        (stream(cumulative).process(lambda rows, window: rows, {"k": "string", "v": "int64"}), "rows are kept"),
    ):
        assert f"not aggregated before the shuffle: {why}" in made.explain().replace("the time of a row is ", "")
        assert "partial aggregates" not in made.explain()


def test_windows_that_need_each_row_have_no_parts() -> None:
    with pytest.raises(PlanError, match="need each row by itself"):
        WindowPartsOperator(keys=("key",), windows=Windows(CountWindow(2, 2)), aggregates=(LIST,))
