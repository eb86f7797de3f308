"""Stages and async calls as users write them: what is refused, and how they are laid out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import flinkray as fr


@pytest.fixture
def rows() -> fr.DataStream:
    return fr.StreamEnvironment("calls", parallelism=3, runtime="local").from_batches(pa.table({"n": range(10)}), uid="rows")


async def asked(row: dict[str, Any]) -> dict[str, Any]:
    return row


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"concurrency": 0}, "concurrency 0: how many workers"),
        ({"concurrency": (3, 2)}, r"concurrency \(3, 2\)"),
        ({"concurrency": 1, "batch_size": 0}, "batch_size 0"),
        ({"concurrency": 1, "max_latency": "soon"}, "max_latency: 'soon' is no duration"),
        ({"num_gpus": -1}, "num_gpus -1"),
        ({"batch_size": 10}, "are for stages"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused(rows: fr.DataStream, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(fr.PlanError, match=complaint):
        rows.map_batches(lambda batch: batch, **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"capacity": 0}, "capacity 0"),
        ({"retries": -1}, "retries -1"),
        ({"timeout": 0}, "timeout: 0 is not above zero"),
        ({"max_latency": "1s"}, "give batch_size as well"),
    ],
)
def test_async_calls_that_make_no_sense_are_refused(rows: fr.DataStream, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(fr.PlanError, match=complaint):
        rows.async_map(asked, **options)


def test_a_function_that_does_not_wait_is_no_coroutine(rows: fr.DataStream) -> None:
    with pytest.raises(fr.PlanError, match="is no coroutine function"):
        rows.async_map(lambda row: row)


def test_a_stage_stands_apart_and_what_comes_after_is_chained(rows: fr.DataStream) -> None:
    def text(workers: int) -> str:
        stage = rows.map_batches(lambda batch: batch, {"n": "int64"}, concurrency=workers, num_gpus=0.5)
        return stage.filter(fr.col("n") > 1).explain()

    assert "3 workers of 0.5 GPU; batches of up to 1024 rows" in text(3)
    assert "one to one; sends n\n[2] parallelism 3, 3 operators chained" in text(3)
    assert "dealt out in turn; sends n\n[2] parallelism 2\n" in text(2), "two workers serve two subtasks, though the job has three"


def test_what_comes_after_is_checked_against_the_output_schema(rows: fr.DataStream) -> None:
    with pytest.raises(fr.PlanError, match="did you mean 'score'"):
        rows.async_map(asked, {"score": "float64"}).select("scores")
