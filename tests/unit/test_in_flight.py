"""Operators whose rows are answered beside the mailbox: order, watermarks, batching, and what a checkpoint holds."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.operators.async_map import AsyncMapOperator
from flinkray.operators.in_flight import InFlight, UnitSize
from flinkray.operators.stage import StageOperator
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("n", pa.int64())])


def doubled(batch: pa.RecordBatch) -> dict[str, Any]:
    return {"n": [2 * n for n in batch.column("n").to_pylist()]}


async def asked(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": 2 * row["n"]}


def stage(**options: Any) -> StageOperator:
    given = {"function": doubled, "output_schema": SCHEMA, "batch_format": "pyarrow", "workers": (1, 2), "batch_size": 3, **options}
    return StageOperator(**given)


def calls(function: Any = asked, **options: Any) -> AsyncMapOperator:
    return AsyncMapOperator(function=function, output_schema=SCHEMA, **{"ordered": True, "capacity": 4, **options})


def harness(operator: Any) -> OperatorHarness:
    return OperatorHarness(operator, input_schemas=SCHEMA, event_time="n")


def numbers(start: int, stop: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(start, stop)]


def values(got: OperatorHarness) -> list[int]:
    return [row["n"] for row in got.output_rows()]


def test_batches_that_are_answered_in_any_order_come_out_in_theirs() -> None:
    one = harness(stage()).rows(numbers(0, 12))
    assert [batch.num_rows for batch in one.calls.asked.values()] == [3, 3, 3, 3]
    one.calls.answer(2, 1)
    assert values(one.advance()) == []
    one.calls.answer(0)
    assert values(one.advance()) == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_rows_keep_their_event_times_and_hold_the_watermark() -> None:
    one = harness(stage()).rows(numbers(0, 6)).watermark(5)
    assert one.output_watermark_us == MIN_WATERMARK
    one.rows(numbers(6, 9)).watermark(8)
    one.calls.answer(0, 1)
    assert one.advance().output_watermark_us == 5
    assert one.output().column("_event_time").to_pylist() == [0, 1, 2, 3, 4, 5]
    one.calls.answer()
    assert one.advance().output_watermark_us == 8


def test_no_more_rows_are_taken_than_can_be_worked_on() -> None:
    one = harness(stage())
    one.rows(numbers(0, 100))
    assert not one.operator.accepts
    while one.calls.asked:
        one.calls.answer()
        one.advance()
    assert values(one) == [2 * n for n in range(100)], "the last one waits for nobody: no latency was given"
    assert one.operator.accepts


def test_at_the_end_everything_comes_out_before_the_last_watermark() -> None:
    one = harness(stage(max_latency_s=60.0)).rows(numbers(0, 2)).end()
    assert not one.calls.asked
    assert one.advance().output_watermark_us < MAX_WATERMARK
    one.calls.answer()
    assert one.advance().output_watermark_us == MAX_WATERMARK
    assert one.operator.drained


def test_few_rows_wait_for_others_no_longer_than_the_latency_allows() -> None:
    one = harness(stage(max_latency_s=0.5, batch_size=10)).rows(numbers(0, 2))
    assert one.advance().calls.asked == {}
    assert one.operator.wait_s == pytest.approx(0.5)
    one.processing_time(0.5).advance()
    assert [batch.num_rows for batch in one.calls.asked.values()] == [2]
    one.calls.answer(took_s=0.2)
    one.advance().rows(numbers(2, 4))
    assert one.operator.wait_s == pytest.approx(0.3), "of the latency, the call itself takes a part"


def test_batches_shrink_where_a_call_takes_too_long_and_grow_back() -> None:
    size = UnitSize(1000, latency_s=0.1)
    size.answered(1000, 1.0)
    assert size.rows == 90
    for _ in range(200):
        size.answered(size.rows, 0.01)
    assert size.rows == 1000
    patient = UnitSize(1000, latency_s=None)
    patient.answered(1000, 100.0)
    assert (patient.rows, patient.wait_s) == (1000, 0.0)


@pytest.mark.parametrize("parallelism", [1, 2, 3])
@pytest.mark.parametrize("make", [stage, calls])
def test_a_restore_asks_again_for_what_was_not_given_on(make: Any, parallelism: int) -> None:
    one, other = harness(make()), harness(make())
    other.subtask = 1
    one.rows(numbers(0, 7))
    other.rows(numbers(7, 20))
    one.calls.answer(0)
    one.advance()
    before = values(one)
    again = restore(make, [one.snapshot(1), other.snapshot(1)], parallelism)
    after = []
    for one in again:
        one.end().advance()
        while one.calls.asked:
            one.calls.answer()
            one.advance()
        mine = values(one)
        assert mine == sorted(mine)
        after += mine
    assert sorted(before + after) == [2 * n for n in range(20)]


def test_rows_that_may_come_in_any_order_do_not_wait_but_watermarks_do() -> None:
    one = harness(calls(ordered=False)).rows(numbers(0, 4)).watermark(1)
    one.calls.answer(3, 1)
    one.advance()
    assert values(one) == [6, 2]
    assert one.output_watermark_us == MIN_WATERMARK
    one.calls.answer()
    assert one.advance().output_watermark_us == 1


def test_a_row_may_give_several_or_none_each_with_its_time() -> None:
    async def several(row: dict[str, Any]) -> list[dict[str, int]] | None:
        return [{"n": row["n"]}] * row["n"] or None

    one = harness(calls(several)).rows(numbers(0, 4))
    one.calls.answer()
    assert one.advance().output().column("_event_time").to_pylist() == [1, 2, 2, 3, 3, 3]


def test_batches_may_be_asked_for() -> None:
    async def batches(batch: pa.RecordBatch) -> dict[str, Any]:
        return doubled(batch)

    one = harness(calls(batches, batch_size=2, capacity=2)).rows(numbers(0, 5))
    assert [batch.num_rows for batch in one.calls.asked.values()] == [2, 2]
    one.calls.answer()
    one.advance()
    assert values(one) == [0, 2, 4, 6]


def test_an_error_of_user_code_names_the_operator_and_has_its_traceback() -> None:
    def broken(batch: pa.RecordBatch) -> None:
        raise KeyError("missing")

    one = harness(stage(function=broken)).rows(numbers(0, 1))
    one.calls.answer()
    with pytest.raises(fr.OperatorError, match="missing") as raised:
        one.advance()
    assert raised.value.uid == "operator"
    assert "in broken" in raised.value.user_traceback
    assert "timed" not in raised.value.user_traceback


def test_calls_are_tried_again_and_timeouts_are_errors() -> None:
    tries = []

    async def flaky(row: dict[str, Any]) -> dict[str, Any]:
        tries.append(row["n"])
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return row

    one = harness(calls(flaky, retries=2, pause_s=0.0)).rows(numbers(5, 6))
    one.calls.answer()
    assert values(one.advance()) == [5]

    async def slow(row: dict[str, Any]) -> dict[str, Any]:
        import asyncio

        await asyncio.sleep(60)
        return row

    one = harness(calls(slow, timeout_s=0.01, retries=1, pause_s=0.0)).rows(numbers(0, 1))
    one.calls.answer()
    with pytest.raises(fr.OperatorError, match=r"no answer within 0\.01 s, tried 2 times"):
        one.advance()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_whatever_the_order_of_answers_each_row_comes_out_once_and_none_behind_its_watermark(seed: int, ordered: bool) -> None:
    chance = random.Random(seed)
    rows = InFlight(UnitSize(chance.randint(1, 5), None), ordered)
    came, out, asked_for = 0, [], []
    while came < 40 or not rows.empty:
        action = chance.random()
        if action < 0.3 and came < 40:
            count = chance.randint(1, 6)
            rows.add(pa.RecordBatch.from_pylist(numbers(came, came + count), SCHEMA), 0.0)
            came += count
        elif action < 0.4:
            rows.mark(came)
        elif action < 0.7 and (unit := rows.cut(0.0)) is not None:
            asked_for.append(unit.number)
        elif asked_for:
            number = asked_for.pop(chance.randrange(len(asked_for)))
            assert rows.answer(number, None) is not None
            assert rows.answer(number, None) is None, "a second answer does not count"
        for unit in rows.finished():
            out += unit.batch.column("n").to_pylist()
        held = [n for batch in rows.batches() for n in batch.column("n").to_pylist()]
        assert sorted(out + held) == list(range(came))
        assert min(held, default=came) >= rows.watermark_us
    assert not ordered or out == sorted(out)
