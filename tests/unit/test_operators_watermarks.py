from __future__ import annotations

import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import OperatorError, PlanError
from flinkray.graph.windows import WatermarkStrategy
from flinkray.operators.watermarks import AssignWatermarksOperator, event_time_array
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("t", pa.timestamp("us", "UTC")), ("x", pa.int64())])


def rows(*times: int | None) -> list[dict[str, int | None]]:
    return [{"t": time, "x": 1} for time in times]


def harness(strategy: WatermarkStrategy, subtask: int = 0, parallelism: int = 1) -> OperatorHarness:
    operator = AssignWatermarksOperator(strategy)
    return OperatorHarness(operator, input_schemas=SCHEMA, subtask=subtask, parallelism=parallelism, uid="w")


def watermark(driven: OperatorHarness, input_us: int = MIN_WATERMARK) -> int:
    return driven.operator.output_watermark_us(input_us)


@pytest.mark.parametrize(
    ("unit", "ticks", "expected"),
    [
        ("s", [-1, 0, 2], [-1_000_000, 0, 2_000_000]),
        ("ms", [-1, 0, 2], [-1000, 0, 2000]),
        ("us", [-1, 0, 2], [-1, 0, 2]),
        ("ns", [-1, -1000, 1999, 2000], [-1, -1, 1, 2]),
    ],
)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_timestamps_of_any_unit_are_floored_to_microseconds(unit: str, ticks: list[int], expected: list[int], zone: str | None) -> None:
    times = event_time_array(pa.array([*ticks, None], pa.timestamp(unit, zone)), "drop")
    assert times.type == pa.int64()
    assert times.to_pylist() == [*expected, None]
    assert event_time_array(pa.array(ticks, pa.timestamp(unit, zone)).slice(1), "error").to_pylist() == expected[1:]


def test_integers_are_microseconds() -> None:
    assert event_time_array(pa.array([1, 2], pa.int64()), "error").to_pylist() == [1, 2]
    assert event_time_array(pa.array([1, 2], pa.uint32()), "error").type == pa.int64()


def test_other_types_are_a_plan_error_and_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(PlanError, match="the event time is double"):
        event_time_array(pa.array([1.5]), "error")
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        event_time_array(pa.array([2**62], pa.timestamp("s")), "error")


def test_rows_get_their_event_time_and_the_watermark_lags_by_the_delay() -> None:
    driven = harness(WatermarkStrategy("t", delay_us=10))
    assert watermark(driven) == MIN_WATERMARK
    table = driven.rows(rows(100, 90)).output()
    assert table.column(EVENT_TIME).to_pylist() == [100, 90]
    assert not table.schema.field(EVENT_TIME).nullable
    assert watermark(driven) == 89
    driven.rows(rows(50))
    assert watermark(driven) == 89, "it never goes back"
    assert watermark(driven, MAX_WATERMARK) == MAX_WATERMARK


def test_an_earlier_event_time_is_replaced() -> None:
    schema = pa.schema([("t", pa.timestamp("us", "UTC")), (EVENT_TIME, pa.int64()), ("x", pa.int64())])
    driven = OperatorHarness(AssignWatermarksOperator(WatermarkStrategy("x")), input_schemas=schema)
    driven.rows([{"t": 1, EVENT_TIME: 1, "x": 7}])
    assert driven.output().to_pydict()[EVENT_TIME] == [7]


def test_a_null_event_time_is_an_error_naming_operator_and_column() -> None:
    with pytest.raises(OperatorError, match="operator 'w', subtask 0: event time column 't' is null in 1 of 2 rows"):
        harness(WatermarkStrategy("t")).rows(rows(1, None))


def test_rows_without_event_time_are_dropped_and_counted_when_asked() -> None:
    driven = harness(WatermarkStrategy("t", on_null="drop")).rows(rows(5, None)).rows(rows(None))
    assert driven.output().column(EVENT_TIME).to_pylist() == [5]
    assert driven.metrics.skipped_rows == 2


def test_it_is_idle_after_a_while_without_rows() -> None:
    driven = harness(WatermarkStrategy("t", idle_us=2_000_000))
    assert not driven.operator.idle
    driven.processing_time(2.0)
    assert driven.operator.idle
    driven.rows(rows(1))
    assert not driven.operator.idle
    driven.processing_time(3.9)
    assert not driven.operator.idle
    driven.processing_time(4.0)
    assert driven.operator.idle


def test_the_watermark_survives_a_restore_and_is_the_smallest_at_another_parallelism() -> None:
    strategy = WatermarkStrategy("t")
    both = [harness(strategy, subtask, 2) for subtask in range(2)]
    both[0].rows(rows(100))
    both[1].rows(rows(200))
    snapshots = [driven.snapshot(1) for driven in both]
    assert [watermark(driven) for driven in restore(lambda: AssignWatermarksOperator(strategy), snapshots, 2)] == [99, 199]
    assert [watermark(driven) for driven in restore(lambda: AssignWatermarksOperator(strategy), snapshots, 3)] == [99] * 3
    both[1] = harness(strategy, 1, 2)
    snapshots = [driven.snapshot(1) for driven in both]
    assert [watermark(driven) for driven in restore(lambda: AssignWatermarksOperator(strategy), snapshots, 1)] == [MIN_WATERMARK]
