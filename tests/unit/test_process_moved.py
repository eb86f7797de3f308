"""Timers and lives of state that were saved by several subtasks, or in the middle of a storm, and go on elsewhere; storms of timers by the clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.columns import MIN_WATERMARK
from flinkray.graph.key_groups import subtask_of
from flinkray.operators import process_timers
from flinkray.operators.process import ProcessOperator
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("user", pa.int64()), ("t", pa.int64()), ("n", pa.int64())])
OUT = pa.schema([("user", pa.int64()), ("n", pa.int64())])
Row = dict[str, Any]


def operator(function: fr.KeyedProcessFunction) -> ProcessOperator:
    return ProcessOperator(keys=("user",), function=function, output_schema=OUT, side_schemas={})


def subtasks(function: fr.KeyedProcessFunction, rows: Sequence[Row], parallelism: int) -> list[OperatorHarness]:
    """Each has got its rows, and has told them."""
    made = [
        OperatorHarness(operator(function), input_schemas=SCHEMA, event_time="t", subtask=i, parallelism=parallelism)
        for i in range(parallelism)
    ]
    for driven, mine in zip(made, dealt(rows, parallelism), strict=True):
        assert driven.rows(mine).output().num_rows == len(mine)
    return made


def dealt(rows: Sequence[Row], parallelism: int) -> list[list[Row]]:
    """To the subtasks, as a shuffle does."""
    parts: list[list[Row]] = [[] for _ in range(parallelism)]
    if rows:
        groups = key_groups(hash_keys(pa.RecordBatch.from_pylist(list(rows), schema=SCHEMA), ("user",), 7), 128)
        for each, group in zip(rows, groups.tolist(), strict=True):
            parts[subtask_of(group, 128, parallelism)].append(each)
    return parts


def row(user: int, t: int, n: int = 0) -> Row:
    return {"user": user, "t": t, "n": n}


def told(driven: Sequence[OperatorHarness]) -> list[tuple[int, int]]:
    return sorted((each["user"], each["n"]) for one in driven for each in one.output_rows())


class Alarms(fr.KeyedProcessFunction):
    """Tells each row, and each timer, for `n`: by event time above 0, by the clock (negative) below."""

    def process(self, row: Row, ctx: fr.ProcessContext) -> Iterator[Row]:
        if row["n"] > 0:
            ctx.register_event_timer(row["n"])
        elif row["n"] < 0:
            ctx.register_processing_timer(-row["n"])
        yield {"user": ctx.key, "n": 0}

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[Row]:
        yield {"user": ctx.key, "n": timestamp}


USERS = range(40)


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_after_a_restore_event_time_is_that_of_the_slowest_subtask(parallelism: int) -> None:
    driven = subtasks(Alarms(), [row(user, 1, 50) for user in USERS], 3)
    taken = [each.watermark(us).snapshot(1) for each, us in zip(driven, (40, 60, 10), strict=True)]
    early = told(driven)
    assert 0 < len(early) < len(USERS)
    moved = restore(lambda: operator(Alarms()), taken, parallelism)
    for each in moved:
        each.watermark(49)
    assert told(moved) == [], "no timer fires before its time, wherever its key was"
    for each in moved:
        each.watermark(50)
    assert told(moved) == sorted({(user, 50) for user in USERS} - set(early))


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_timers_by_the_clock_move_with_their_keys_and_fire_once_however_late(parallelism: int) -> None:
    driven = subtasks(Alarms(), [row(user, 1, -1_000_000 * (1 + user % 2)) for user in USERS], 3)
    for each in driven:
        each.processing_time(1.5)
    early = told(driven)
    moved = restore(lambda: operator(Alarms()), [each.snapshot(1) for each in driven], parallelism)
    for each in moved:
        each.processing_time(100.0).processing_time(101.0)
    assert early == [(user, 1_000_000) for user in USERS if user % 2 == 0]
    assert told(moved) == [(user, 2_000_000) for user in USERS if user % 2]


class Remembered(fr.KeyedProcessFunction):
    """Tells the value that it knows; `n` above 0 is a new one."""

    def __init__(self, time: str) -> None:
        self.known = fr.ValueState("known", int, ttl=fr.StateTtl(100e-6, time=time))  # type: ignore[arg-type]

    def process(self, row: Row, ctx: fr.ProcessContext) -> Iterator[Row]:
        yield {"user": ctx.key, "n": self.known.value or 0}
        if row["n"]:
            self.known.value = row["n"]


@pytest.mark.parametrize("time", ["event", "processing"])
@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_each_value_takes_its_own_life_along(parallelism: int, time: str) -> None:
    """Of two halves of the users one has got its values 50 microseconds before the other, in both orders."""
    for early in (0, 1):
        rows = [row(user, 10 + 50 * (user % 2 != early), 1 + user) for user in USERS]
        driven = subtasks(Remembered(time), [], 3)
        for t in (10, 60):
            for each, mine in zip(driven, dealt([each for each in rows if each["t"] == t], 3), strict=True):
                each.processing_time(t * 1e-6).rows(mine)
        told(driven)
        moved = restore(lambda: operator(Remembered(time)), [each.snapshot(1) for each in driven], parallelism)
        for each, mine in zip(moved, dealt([row(user, 130) for user in USERS], parallelism), strict=True):
            each.processing_time(120e-6).watermark(120).rows(mine)
        assert told(moved) == [(user, 0 if user % 2 == early else 1 + user) for user in USERS]


# --- storms


class _Clock:
    """Of a millisecond for each timer."""

    now_s = 100.0


class Slow(Alarms):
    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[Row]:
        CLOCK.now_s += 0.001
        return super().on_timer(timestamp, ctx)


CLOCK = _Clock()


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_timers, "CHUNK", 5)


def with_clock(driven: OperatorHarness) -> OperatorHarness:
    object.__setattr__(driven.operator.context, "clock", lambda: CLOCK.now_s)
    return driven


@pytest.mark.usefixtures("slowly")
def test_a_storm_of_timers_by_the_clock_fires_in_slices_and_a_checkpoint_in_between_holds_the_rest() -> None:
    driven = with_clock(OperatorHarness(operator(Slow()), input_schemas=SCHEMA, event_time="t"))
    driven.rows([row(user, 1, -1_000_000) for user in range(100)]).output()
    first = told([driven.processing_time(2.0)])
    assert 15 <= len(first) <= 30, "about what 20 ms allow for"
    moved = [with_clock(each) for each in restore(lambda: operator(Slow()), [driven.snapshot(1)], 2)]
    rest, rounds = list[tuple[int, int]](), 0
    while len(first + rest) < 100 and rounds < 20:
        rounds += 1
        rest += told([each.processing_time(2.0) for each in moved])
    assert 2 <= rounds < 20
    assert sorted(first + rest) == [(user, 1_000_000) for user in range(100)]


class Again(fr.KeyedProcessFunction):
    """Each timer sets the next, for a time that has passed too."""

    def process(self, row: Row, ctx: fr.ProcessContext) -> None:
        ctx.register_processing_timer(1)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[Row]:
        ctx.register_processing_timer(timestamp + 1)
        yield {"user": ctx.key, "n": timestamp}


def test_a_timer_that_sets_another_for_a_time_that_has_passed_does_not_hold_the_task() -> None:
    driven = OperatorHarness(operator(Again()), input_schemas=SCHEMA, event_time="t").rows([row(1, 1)])
    turns = [told([driven.processing_time(1.0)]) for _ in range(3)]
    assert all(0 < len(turn) < 1_000 for turn in turns)
    assert [n for turn in turns for _, n in turn] == list(range(1, 1 + sum(map(len, turns))))


def test_after_a_restore_in_the_middle_of_a_storm_event_time_waits_for_what_has_not_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_timers, "CHUNK", 5)
    driven = with_clock(OperatorHarness(operator(Slow()), input_schemas=SCHEMA, event_time="t"))
    driven.rows([row(user, 1, 10) for user in range(100)]).output()
    driven.operator.on_watermark(10, driven)
    for moved in restore(lambda: operator(Slow()), [driven.snapshot(1)], 2):
        with_clock(moved)
        assert moved.output_watermark_us == MIN_WATERMARK
        moved.advance()
        assert moved.output_watermark_us == MIN_WATERMARK
        while not moved.operator.drained:  # type: ignore[attr-defined]
            moved.advance()
        assert moved.output_watermark_us == 10
