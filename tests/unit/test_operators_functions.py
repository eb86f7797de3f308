from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME
from flinkray.errors import OperatorError, SourceError
from flinkray.operators.base import Operator
from flinkray.operators.functions import (
    FilterFunctionOperator,
    FlatMapOperator,
    MapBatchesOperator,
    MapOperator,
    user_errors,
)
from flinkray.testing.harness import OperatorHarness

SCHEMA = pa.schema([("x", pa.int64()), ("t", pa.timestamp("us", "UTC")), ("s", pa.string())])
ROWS = [{"x": i, "t": 1000 + i, "s": f"s{i}"} for i in range(4)]
TIMED = [{**row, EVENT_TIME: 1000 + row["x"]} for row in ROWS]


def harness(operator: Operator, **options: Any) -> OperatorHarness:
    return OperatorHarness(operator, input_schemas=SCHEMA, event_time="t", uid="fn", **options)


def test_map_gives_dicts_with_int_times_and_keeps_event_times() -> None:
    seen: list[dict[str, Any]] = []

    def double(row: dict[str, Any]) -> dict[str, Any]:
        seen.append(row)
        return {"y": row["x"] * 2, "at": row["t"]}

    driven = harness(MapOperator(double)).rows(ROWS)
    assert seen == ROWS, "no hidden column, times as int"
    assert driven.output().to_pylist() == [{"y": 2 * i, "at": 1000 + i, EVENT_TIME: 1000 + i} for i in range(4)]


def test_a_nested_time_is_an_int_as_well_and_times_in_other_units_are_microseconds() -> None:
    schema = pa.schema([("l", pa.list_(pa.struct([("t", pa.timestamp("us", "UTC"))]))), ("ms", pa.timestamp("ms"))])
    seen: list[dict[str, Any]] = []
    operator = MapOperator(lambda row: seen.append(row) or {"n": 1})
    batch = pa.RecordBatch.from_pydict({"l": [[{"t": 5}], None], "ms": [7, None]}, schema=schema)
    OperatorHarness(operator, input_schemas=schema).rows(batch)
    assert seen == [{"l": [{"t": 5}], "ms": 7000}, {"l": None, "ms": None}]


def test_map_with_a_declared_schema_takes_ints_and_datetimes_for_times_and_null_for_what_is_missing() -> None:
    declared = pa.schema([("t", pa.timestamp("us", "UTC")), ("n", pa.int32())])
    moment = dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)
    operator = MapOperator(lambda row: {"t": row["t"], "n": 1} if row["x"] else {"t": moment}, declared)
    table = harness(operator).rows(ROWS[:2]).output()
    assert table.schema.field("n").type == pa.int32()
    assert table.column("t").cast(pa.int64()).to_pylist() == [1_000_000, 1001]
    assert table.column("n").to_pylist() == [None, 1]


def test_an_undeclared_schema_is_that_of_the_first_batch_with_the_keys_of_all_its_rows() -> None:
    driven = harness(MapOperator(lambda row: {"a": row["x"]} if row["x"] < 3 else {"a": row["x"], "b": "late"}))
    assert driven.rows(ROWS).output().column_names == ["a", "b", EVENT_TIME]
    assert driven.rows(ROWS[:1]).output().to_pylist() == [{"a": 0, "b": None, EVENT_TIME: 1000}]


@pytest.mark.parametrize(
    ("second", "message"),
    [({"a": "text"}, "column 'a' is no int64"), ({"a": 1, "c": 2}, r"a row has \['c'\]")],
)
def test_a_later_mismatch_names_operator_and_column(second: dict[str, Any], message: str) -> None:
    results = iter([{"a": 1}, second])
    driven = harness(MapOperator(lambda _: next(results)), subtask=1, parallelism=2).rows(ROWS[:1])
    with pytest.raises(OperatorError, match=rf"operator 'fn', subtask 1: .*{message}.*declare output_schema"):
        driven.rows(ROWS[:1])


@pytest.mark.parametrize("operator", [MapOperator(lambda _: 7), FlatMapOperator(lambda _: [7])])
def test_a_result_that_is_no_dict_is_an_error(operator: Operator) -> None:
    with pytest.raises(OperatorError, match=r"7 \(int\).*not a dict"):
        harness(operator).rows(ROWS)


def test_hidden_names_are_refused() -> None:
    with pytest.raises(OperatorError, match=r"'_event_time' is flinkray's own"):
        harness(MapOperator(lambda _: {EVENT_TIME: 1})).rows(ROWS)


def test_flat_map_gives_each_row_the_event_time_of_its_input_row() -> None:
    def repeat(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for _ in range(row["x"]):
            yield {"x": row["x"]}

    rows = harness(FlatMapOperator(repeat)).rows(ROWS).output().to_pylist()
    assert rows == [{"x": i, EVENT_TIME: 1000 + i} for i in (1, 2, 2, 3, 3, 3)]


def test_flat_map_may_give_nothing() -> None:
    assert harness(FlatMapOperator(lambda _: None)).rows(ROWS).output().num_rows == 0


def test_filter_by_a_function_keeps_whole_rows() -> None:
    driven = harness(FilterFunctionOperator(lambda row: row["x"] % 2)).rows(ROWS)
    assert driven.output_rows() == [ROWS[1], ROWS[3]]
    assert harness(FilterFunctionOperator(lambda _: False)).rows(ROWS).output().num_rows == 0
    assert harness(FilterFunctionOperator(lambda _: "yes")).rows(ROWS).output().num_rows == 4


class Counter:
    """Numbers rows; each subtask has to have its own."""

    def __init__(self, start: int = 0) -> None:
        self.next = start

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.next += 1
        return {"n": self.next}


def test_objects_are_copied_and_classes_made_for_each_subtask() -> None:
    shared = Counter(10)
    for function, first in ((shared, 11), (Counter, 1)):
        for subtask in range(2):
            driven = harness(MapOperator(function), subtask=subtask, parallelism=2).rows(ROWS[:2])
            assert driven.output_rows() == [{"n": first}, {"n": first + 1}]
    assert shared.next == 10


# ------------------------------------------------------------------------------------------------ map_batches


def test_map_batches_in_arrow_sees_visible_columns_and_keeps_event_times() -> None:
    def swap(batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.schema == SCHEMA
        return batch.select(["s", "x"])

    assert harness(MapBatchesOperator(swap)).rows(ROWS).output().column_names == ["s", "x", EVENT_TIME]


def test_map_batches_in_numpy() -> None:
    def total(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert columns["t"].dtype == np.dtype("datetime64[us]")
        return {"y": columns["x"] + 1, "t": columns["t"]}

    table = harness(MapBatchesOperator(total, batch_format="numpy")).rows(ROWS).output()
    assert table.column("y").to_pylist() == [1, 2, 3, 4]
    assert table.schema.field("t").type == pa.timestamp("us", "UTC")


def test_map_batches_in_pandas() -> None:
    pytest.importorskip("pandas")
    operator = MapBatchesOperator(lambda frame: frame[["x"]] * 3, batch_format="pandas")
    assert [row["x"] for row in harness(operator).rows(ROWS).output_rows()] == [0, 3, 6, 9]


def test_rows_of_another_number_carry_the_largest_event_time_of_the_batch() -> None:
    operator = MapBatchesOperator(lambda batch: {"n": [batch.num_rows]}, output_schema=pa.schema([("n", pa.int32())]))
    table = harness(operator).rows(ROWS).output()
    assert table.to_pylist() == [{"n": 4, EVENT_TIME: 1003}]
    assert table.schema.field("n").type == pa.int32()


def test_a_table_and_an_empty_result_are_fine() -> None:
    driven = harness(MapBatchesOperator(lambda batch: pa.Table.from_batches([batch, batch])))
    assert driven.rows(ROWS).output().num_rows == 8
    assert harness(MapBatchesOperator(lambda batch: batch.slice(0, 0))).rows(ROWS).output().num_rows == 0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (5, r"5 \(int\), not a RecordBatch"),
        ({"a": [1], "b": [1, 2]}, "different numbers of rows"),
    ],
)
def test_what_is_no_batch_is_an_error(result: object, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        harness(MapBatchesOperator(lambda _: result)).rows(ROWS)


def test_columns_that_do_not_fit_the_declared_schema_are_an_error() -> None:
    operator = MapBatchesOperator(lambda _: {"n": ["x"]}, output_schema=pa.schema([("n", pa.int64())]))
    with pytest.raises(OperatorError, match="column 'n' is string and not int64"):
        harness(operator).rows(ROWS)
    operator = MapBatchesOperator(lambda _: {"m": [1]}, output_schema=pa.schema([("n", pa.int64())]))
    with pytest.raises(OperatorError, match="but output_schema"):
        harness(operator).rows(ROWS)


# ------------------------------------------------------------------------------------------------ errors


def explode(row: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("the user's own")


@pytest.mark.parametrize("kind", [MapOperator, FlatMapOperator, FilterFunctionOperator, MapBatchesOperator])
def test_an_exception_in_user_code_names_operator_and_subtask_and_shows_the_users_traceback_only(kind: Any) -> None:
    with pytest.raises(OperatorError) as caught:
        harness(kind(explode), subtask=1, parallelism=3).rows(ROWS)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.uid, error.subtask) == ("fn", 1)
    assert "ZeroDivisionError: the user's own" in str(error)
    assert "in explode" in error.user_traceback
    assert "flinkray/operators" not in error.user_traceback


def test_errors_of_flinkray_pass_as_they_are() -> None:
    context = harness(MapOperator(explode)).operator.context
    with pytest.raises(SourceError), user_errors(context):
        raise SourceError("file x, line 3")


def test_what_happens_downstream_is_not_blamed_on_the_function() -> None:
    class Broken(OperatorHarness):
        def emit(self, batch: pa.RecordBatch, tag: str | None = None) -> None:
            raise ValueError("downstream")

    driven = Broken(MapOperator(lambda row: {"a": 1}), input_schemas=SCHEMA)
    with pytest.raises(ValueError, match="downstream"):
        driven.rows(ROWS)
