"""Rows that user code raises on: the job fails, or they are skipped, or they are had as dead letters."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flinkray as fr
from flinkray.operators.error_policy import piecewise

N = {"n": "int64"}


def inverse(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": 100 // row["n"]}


def inverses(batch: pa.RecordBatch) -> dict[str, Any]:
    return {"n": [100 // n for n in batch.column("n").to_pylist()]}


async def asked(row: dict[str, Any]) -> dict[str, Any]:
    return inverse(row)


@pytest.fixture
def rows() -> fr.DataStream:
    env = fr.StreamEnvironment("errors", runtime="local", checkpointing=None)
    return env.from_batches(pa.table({"n": [1, 0, 2, 4, 0, 5]}))


STEPS: dict[str, Any] = {
    "map": lambda rows, policy: rows.map(inverse, N, on_error=policy, uid="step"),
    "flat_map": lambda rows, policy: rows.flat_map(lambda row: [inverse(row)], N, on_error=policy, uid="step"),
    "map_batches": lambda rows, policy: rows.map_batches(inverses, N, on_error=policy, uid="step"),
    "stage": lambda rows, policy: rows.map_batches(inverses, N, concurrency=1, batch_size=4, on_error=policy, uid="step"),
    "async_map": lambda rows, policy: rows.async_map(asked, N, on_error=policy, uid="step"),
}


@pytest.mark.parametrize("step", STEPS)
def test_skipped_rows_are_left_out_and_the_others_stay(rows: fr.DataStream, step: str) -> None:
    assert sorted(STEPS[step](rows, "skip").collect()["n"].to_pylist()) == [20, 25, 50, 100]


@pytest.mark.parametrize("step", STEPS)
def test_dead_letters_tell_the_row_the_error_the_operator_and_the_time(rows: fr.DataStream, step: str) -> None:
    letters = STEPS[step](rows, "dead_letter").get_side_output("dead_letter").collect().to_pylist()
    assert [json.loads(letter["row"]) for letter in letters] == [{"n": 0}] * 2
    assert all("ZeroDivisionError" in letter["error"] for letter in letters)
    assert {(letter["operator"], letter["subtask"]) for letter in letters} == {("step", 0)}
    assert all(letter["time"] is not None for letter in letters)


@pytest.mark.parametrize("step", STEPS)
def test_without_a_policy_the_job_fails(rows: fr.DataStream, step: str) -> None:
    with pytest.raises(fr.OperatorError, match="ZeroDivisionError"):
        STEPS[step](rows, "fail").collect()


def test_a_filter_has_a_policy_too_and_a_row_that_does_not_fit_counts_as_an_error(rows: fr.DataStream) -> None:
    assert sorted(rows.filter(lambda row: 100 // row["n"] > 30, on_error="skip").collect()["n"].to_pylist()) == [1, 2]
    strings = rows.map(lambda row: {"n": row["n"] or "none"}, N, on_error="skip")
    assert sorted(strings.collect()["n"].to_pylist()) == [1, 2, 4, 5]


def test_status_counts_what_was_put_aside() -> None:
    env = fr.StreamEnvironment("counted", runtime="local", checkpointing=None)
    rows = env.from_batches(pa.table({"n": [1, 0, 2, 0]}))
    rows.map(inverse, N, on_error="skip").sink_to(fr.sinks.Blackhole())
    rows.map(inverse, N, on_error="dead_letter").sink_to(fr.sinks.Blackhole())
    job = env.execute_async()
    job.wait(60)
    assert (job.status()["skipped_rows"], job.status()["dead_letter_rows"]) == (2, 2)


def test_what_is_no_policy_is_refused(rows: fr.DataStream) -> None:
    with pytest.raises(fr.PlanError, match="on_error 'ignore'; 'fail', 'skip' or 'dead_letter'"):
        rows.map(inverse, N, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(fr.PlanError, match="has no such side output"):
        rows.map(inverse, N, on_error="skip").get_side_output("dead_letter")


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_parts_are_in_order_and_hold_every_row_that_does_not_raise(good: list[bool]) -> None:
    def attempt(start: int, stop: int) -> list[int]:
        if not all(good[start:stop]):
            raise ValueError(start)
        return list(range(start, stop))

    made, rejected = piecewise(len(good), attempt)
    assert [row for _, _, part in made for row in part] == [row for row, fine in enumerate(good) if fine]
    assert [one.index for one in rejected] == [row for row, fine in enumerate(good) if not fine]
