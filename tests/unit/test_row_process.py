"""Process functions without keys: by the harness, against a small model, and in a job with a side output."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import EVENT_TIME
from flinkray.errors import OperatorError, PlanError, UsageError
from flinkray.operators.row_process import RowProcessOperator
from flinkray.testing.harness import OperatorHarness

ROWS = pa.schema([("n", pa.int64()), ("word", pa.string()), ("t", pa.int64())])
OUT = pa.schema([("n", pa.int64()), ("seen", pa.int64())])
ODD = pa.schema([("n", pa.int64()), ("at", pa.int64())])


class Halves(fr.ProcessFunction):
    """Even numbers twice, with the watermark; odd ones to a side output."""

    output_schema = {"n": "int64", "seen": "int64"}
    side_outputs = {"odd": {"n": "int64", "at": "int64"}}
    calls: list[str] = []

    def open(self, ctx: fr.ProcessContext) -> None:
        self.calls.append("open")

    def close(self) -> None:
        self.calls.append("close")

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Iterator[dict[str, Any]]:
        if row["n"] % 2:
            ctx.output("odd", {"n": row["n"], "at": ctx.timestamp})
        else:
            for _ in range(2):
                yield {"n": row["n"], "seen": max(ctx.watermark, 0)}


class SlowlyClosed(Halves):
    def close(self) -> None:
        time.sleep(0.2)
        super().close()


class Doubled(fr.ProcessFunction):
    output_schema = {"n": "int64"}
    input_columns = ("n",)

    def process_batch(self, rows: pa.RecordBatch, ctx: Any) -> dict[str, pa.Array]:
        assert rows.schema.names == ["n"]
        assert ctx.timestamps is None or len(ctx.timestamps) == rows.num_rows
        return {"n": pc.multiply(rows.column("n"), 2)}


def harness(function: fr.ProcessFunction, event_time: str | None = "t", **options: Any) -> OperatorHarness:
    made = RowProcessOperator(function=function, **{"output_schema": OUT, "side_schemas": {"odd": ODD}} | options)
    return OperatorHarness(made, input_schemas=ROWS, event_time=event_time)


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4), max_size=4), timed=st.booleans())
def test_rows_go_where_the_function_gives_them_each_with_its_time(batches: list[list[tuple[int, int]]], timed: bool) -> None:
    driven, main, odd = harness(Halves(), "t" if timed else None), [], []
    for number, batch in enumerate(batches):
        driven.rows([{"n": n, "word": None, "t": 100 * number + t} for n, t in batch])
        main += [(n, max(100 * number - 1, 0), 100 * number + t) for n, t in batch if n % 2 == 0 for _ in range(2)]
        odd += [(n, 100 * number + t if timed else None, 100 * number + t) for n, t in batch if n % 2]
        driven.watermark(100 * number + 99)
    for tag, expected in ((None, main), ("odd", odd)):
        found = [tuple(row.values()) for row in driven.output(tag).to_pylist()]
        assert found == [each if timed else each[:2] for each in expected], tag


def test_batches_keep_the_times_of_their_rows() -> None:
    driven = harness(Doubled(), output_schema=pa.schema([("n", pa.int64())]), side_schemas={}, columns=("n",))
    table = driven.rows([{"n": 1, "word": "a", "t": 5}, {"n": 2, "word": None, "t": 3}]).output()
    assert table.to_pylist() == [{"n": 2, EVENT_TIME: 5}, {"n": 4, EVENT_TIME: 3}]


def test_functions_are_closed_when_a_job_has_ended() -> None:
    Halves.calls.clear()
    env = fr.StreamEnvironment("closed", parallelism=2, runtime="local")
    assert env.from_batches(pa.table({"n": [1, 2], "word": ["a", "b"], "t": [0, 0]})).process(SlowlyClosed()).collect().num_rows == 2
    assert Halves.calls.count("close") == 2


def test_it_runs_where_the_rows_are_with_its_side_output() -> None:
    Halves.calls.clear()
    env = fr.StreamEnvironment("rows", parallelism=2, runtime="local")
    numbers = env.from_batches(
        pa.table({"n": range(10), "word": list("abcdefghij"), "t": range(10)}), watermark=fr.Watermarks.bounded("t", 0)
    )
    halves = numbers.process(Halves(), uid="halves")
    assert sorted(halves.collect()["n"].to_pylist()) == sorted([0, 2, 4, 6, 8] * 2)
    assert sorted(Halves.calls) == ["close", "close", "open", "open"], "once in each subtask"
    odd = halves.get_side_output("odd").collect().to_pylist()
    assert sorted((row["n"], row["at"]) for row in odd) == [(n, n) for n in (1, 3, 5, 7, 9)]
    text = numbers.process(Doubled()).explain()
    assert "calls Doubled.process_batch" in text
    assert "shuffled" not in text
    assert "2 of 3 columns: n, t" in text


def test_what_belongs_to_a_key_is_refused() -> None:
    env = fr.StreamEnvironment("rows", runtime="local")
    numbers = env.from_batches(pa.table({"n": [1]}))

    class Keeps(fr.ProcessFunction):
        last = fr.ValueState("last", int)

        def process(self, row: Any, ctx: Any) -> None: ...

    class Timed(fr.ProcessFunction):
        output_schema = {"n": "int64"}

        def process(self, row: Any, ctx: Any) -> None:
            ctx.register_processing_timer(1)

    with pytest.raises(PlanError, match="Keeps has state or timers, which belong to a key"):
        numbers.process(Keeps())
    with pytest.raises(UsageError, match="timers belong to a key"):
        numbers.process(Timed()).collect()
    with pytest.raises(PlanError, match=r"is no fr\.ProcessFunction; a KeyedProcessFunction goes behind key_by"):
        numbers.process(fr.KeyedProcessFunction())  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="did you mean 'n'"):
        numbers.process(type("Typo", (Doubled,), {"input_columns": ("nn",)})())
    with pytest.raises(PlanError, match="write exactly one of them"):
        numbers.process(fr.ProcessFunction())
    with pytest.raises(OperatorError, match="ZeroDivisionError"):
        numbers.process(type("Bad", (Doubled,), {"process_batch": lambda self, rows, ctx: 1 // 0})()).collect()
