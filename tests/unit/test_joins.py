"""Interval and window joins by the harness: against a small obvious model, with snapshots, deltas and other parallelisms."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import PlanError, RestoreError
from flinkray.graph.joins import Interval, Join, join_columns
from flinkray.graph.key_groups import subtask_of
from flinkray.graph.windows import SlidingWindow, TumblingWindow
from flinkray.operators.base import Operator
from flinkray.operators.interval_join import IntervalJoinOperator
from flinkray.operators.restore import restored_states
from flinkray.operators.window_join import WindowJoinOperator
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, restore

LEFT = pa.schema([("user", pa.int64()), ("t", pa.int64()), ("a", pa.string())])
RIGHT = pa.schema([("who", pa.int64()), ("t", pa.int64()), ("b", pa.int64())])
TEXT_LEFT = pa.schema([("user", pa.string()), ("t", pa.int64()), ("a", pa.string())])
TEXT_RIGHT = pa.schema([("who", pa.dictionary(pa.int32(), pa.string())), ("t", pa.int64()), ("b", pa.int64())])
HOWS = ("inner", "left", "right", "full")
OVERS = (
    Interval(-5, 10),
    Interval(0, 0),
    Interval(-8, -2),
    Interval(3, 9),
    TumblingWindow(10),
    SlidingWindow(12, 4),
    TumblingWindow(10, 3),
)

Row = dict[str, Any]
Event = tuple[str, Any]


def operator(over: Any, how: str = "inner", left: pa.Schema = LEFT, right: pa.Schema = RIGHT) -> Operator:
    columns = join_columns(left, right, ["user"], ["who"], windowed=not isinstance(over, Interval))
    join = Join(("user",), ("who",), how, columns, over)
    return IntervalJoinOperator(join=join) if isinstance(over, Interval) else WindowJoinOperator(join=join)


def harness(over: Any, how: str = "inner", left: pa.Schema = LEFT, right: pa.Schema = RIGHT, **options: Any) -> OperatorHarness:
    return OperatorHarness(operator(over, how, left, right), input_schemas=(left, right), event_time="t", **options)


def model(over: Any, how: str, lefts: Iterable[Row], rights: Iterable[Row]) -> Counter[tuple[Any, ...]]:
    """Every pair of rows, looked at one by one."""
    lefts, rights, found = list(lefts), list(rights), Counter[tuple[Any, ...]]()
    met: set[tuple[str, int, int]] = set()
    for i, a in enumerate(lefts):
        for j, b in enumerate(rights):
            if a["user"] is None or a["user"] != b["who"]:
                continue
            for end in _together(over, a["t"], b["t"]):
                found[(a["user"], a["t"], a["a"], b["t"], b["b"], end)] += 1
                met |= {("left", i, end), ("right", j, end)}
    for i, a in enumerate(lefts) if how in ("left", "full") else ():
        for end in _alone(over, a["t"]):
            if ("left", i, end) not in met:
                found[(a["user"], a["t"], a["a"], None, None, end)] += 1
    for j, b in enumerate(rights) if how in ("right", "full") else ():
        for end in _alone(over, b["t"]):
            if ("right", j, end) not in met:
                found[(b["who"], None, None, b["t"], b["b"], end)] += 1
    return found


def _together(over: Any, left_us: int, right_us: int) -> list[int]:
    if isinstance(over, Interval):
        return [0] if over.lower_us <= right_us - left_us <= over.upper_us else []
    return [end for end in _alone(over, left_us) if end in _alone(over, right_us)]


def _alone(over: Any, us: int) -> list[int]:
    if isinstance(over, Interval):
        return [0]
    slide = over.slide_us if isinstance(over, SlidingWindow) else over.size_us
    newest = (us - over.offset_us) // slide * slide + over.offset_us + over.size_us
    return list(range(newest, us, -slide))


def answers(driven: OperatorHarness) -> Counter[tuple[Any, ...]]:
    return Counter((r["user"], r["t"], r["a"], r["t_right"], r["b"], r.get("window_end", 0)) for r in driven.output_rows())


def left(t: int, user: int | None = 1, a: str = "x") -> Row:
    return {"user": user, "t": t, "a": a}


def right(t: int, who: int | None = 1, b: int = 0) -> Row:
    return {"who": who, "t": t, "b": b}


def story(seed: int, text: bool = False, length: int = 40) -> list[Event]:
    """Batches of both sides in disorder that the watermark allows for, and watermarks."""
    chance, now, events = random.Random(seed), 0, []
    keys: list[Any] = [None, *range(4)] if not text else [None, "", "a", "bb", "long enough to be no word"]
    for number in range(length):
        side = chance.choice((0, 1))
        times = [now + chance.randrange(1, 16) for _ in range(chance.randrange(1, 12))]
        names = ("user", "a") if side == 0 else ("who", "b")
        rows = [{names[0]: chance.choice(keys), "t": t, names[1]: f"a{number}" if side == 0 else number} for t in times]
        events.append(("rows", (side, rows)))
        if chance.random() < 0.5:
            now += chance.randrange(0, 12)
            events.append(("watermark", now))
    return events


def expected(over: Any, how: str, events: Iterable[Event]) -> Counter[tuple[Any, ...]]:
    given: tuple[list[Row], list[Row]] = ([], [])
    for kind, value in events:
        if kind == "rows":
            given[value[0]].extend(value[1])
    return model(over, how, *given)


def drive(driven: OperatorHarness, event: Event) -> None:
    if event[0] == "rows":
        driven.rows(event[1][1], input=event[1][0])
    else:
        driven.watermark(event[1])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("over", OVERS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_answer_is_that_of_looking_at_every_pair(seed: int, over: Any, how: str) -> None:
    text = seed == 1
    driven = harness(over, how, *((TEXT_LEFT, TEXT_RIGHT) if text else (LEFT, RIGHT)), batch_rows=(7, 65536)[seed % 2])
    events = story(seed, text)
    for event in events:
        drive(driven, event)
    driven.end()
    assert driven.metrics.late_rows == 0
    assert answers(driven) == expected(over, how, events)
    assert driven.metrics.state_rows == 0


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("over", OVERS[:2] + OVERS[4:6], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_snapshots_deltas_and_other_parallelisms_change_nothing(seed: int, over: Any, how: str) -> None:
    """Events go to the subtask that has their key; now and then all take a snapshot, and some are restored from it."""
    chance, parallelism, checkpoint, base = random.Random(seed), 2, 0, None
    running = [harness(over, how, subtask=i, parallelism=2) for i in range(2)]
    found: Counter[tuple[Any, ...]] = Counter()
    events, delta_rows = story(seed + 10, length=60), 0
    for event in events:
        if event[0] == "rows":
            side, rows = event[1]
            for subtask, part in dealt(rows, "who" if side else "user", parallelism).items():
                running[subtask].rows(part, input=side)
        else:
            for driven in running:
                driven.watermark(event[1])
        if chance.random() < 0.5:
            continue
        for driven in running:
            found += answers(driven)
        checkpoint += 1
        taken = [driven.snapshot(checkpoint, base if chance.random() < 0.8 else None) for driven in running]
        delta_rows += sum(table.num_rows for snapshot in taken if snapshot.base_id for table in snapshot.written.values())
        base = checkpoint
        if chance.random() < 0.4:
            watermark = running[0].watermark_us
            parallelism = chance.choice((1, 2, 3, parallelism))
            running = restore(lambda: operator(over, how), taken, parallelism)
            for driven in running:
                driven.watermark(watermark)
    for driven in running:
        found += answers(driven.end())
    assert found == expected(over, how, events)


def dealt(rows: list[Row], key: str, parallelism: int) -> dict[int, list[Row]]:
    groups = key_groups(hash_keys(pa.RecordBatch.from_pylist(rows, RIGHT if key == "who" else LEFT), [key], 7), 128)
    parts: dict[int, list[Row]] = {}
    for row, group in zip(rows, groups.tolist(), strict=True):
        parts.setdefault(subtask_of(group, 128, parallelism), []).append(row)
    return parts


def test_the_columns_are_the_keys_then_both_sides_and_the_larger_event_time() -> None:
    driven = harness(Interval(-5, 5)).rows([left(7)]).rows([right(4)], input=1)
    out = driven.output()
    assert out.schema.names == ["user", "t", "a", "t_right", "b", EVENT_TIME]
    assert out.to_pylist() == [{"user": 1, "t": 7, "a": "x", "t_right": 4, "b": 0, EVENT_TIME: 7}]
    out = harness(TumblingWindow(10)).rows([left(7)]).rows([right(4)], input=1).watermark(9).output()
    assert out.schema.names == ["user", "window_start", "window_end", "t", "a", "t_right", "b", EVENT_TIME]
    assert out[EVENT_TIME].to_pylist() == [9]


@pytest.mark.parametrize(("batch_rows", "batches"), [(65536, 1), (4, 3)])
def test_windows_that_end_together_answer_in_order_and_small_ones_at_once(batch_rows: int, batches: int) -> None:
    driven = harness(TumblingWindow(10), batch_rows=batch_rows)
    driven.rows([left(21), left(1), left(11, 2)]).rows([right(12, 2), right(22), right(2), right(13, 1)], input=1)
    driven.watermark(29)
    answer = driven.output()
    rows = [(r["user"], r["t"], r["t_right"], int(r["window_end"].timestamp() * 1e6)) for r in answer.to_pylist()]
    assert rows == [(1, 1, 2, 10), (2, 11, 12, 20), (1, 21, 22, 30)]
    assert len(answer.to_batches()) == batches


def test_rows_of_a_far_window_keep_no_others_in_memory() -> None:
    driven = harness(TumblingWindow(10))
    for number in range(6):
        times = np.full(20_000, 1)
        times[0] = 1_000_000 + number
        users = pa.array(np.zeros(20_000, np.int64))
        driven.rows(pa.record_batch([users, pa.array(times), pa.array(["x"] * 20_000)], schema=LEFT))
    before = pa.total_allocated_bytes()
    driven.watermark(100)
    assert driven.metrics.state_rows == 6
    assert before - pa.total_allocated_bytes() > 5 * 20_000 * 16


def test_both_bounds_of_an_interval_are_included() -> None:
    driven = harness(Interval(-2, 3)).rows([left(10)])
    driven.rows([right(t) for t in (7, 8, 13, 14)], input=1)
    assert sorted(row["t_right"] for row in driven.output_rows()) == [8, 13]


def test_a_row_without_a_partner_comes_out_when_its_interval_is_over_and_is_not_late_then() -> None:
    driven = harness(Interval(-2, 3), "left").rows([left(10)]).watermark(12)
    assert driven.output().num_rows == 0
    assert driven.operator.output_watermark_us(12) == 9
    assert driven.watermark(13).output()[EVENT_TIME].to_pylist() == [10]
    assert [driven.operator.output_watermark_us(us) for us in (MIN_WATERMARK, MAX_WATERMARK)] == [MIN_WATERMARK, MAX_WATERMARK]
    assert harness(Interval(-2, 3), "inner").operator.output_watermark_us(12) == 12


@pytest.mark.parametrize(("over", "watermark", "late"), [(Interval(-5, 5), 10, 10), (TumblingWindow(10), 19, 19)])
def test_late_rows_are_counted_and_dropped(over: Any, watermark: int, late: int) -> None:
    driven = harness(over, "full").watermark(watermark)
    driven.rows([left(late), left(late + 1)]).rows([right(late)], input=1)
    assert driven.metrics.late_rows == 2
    assert sum(answers(driven.end()).values()) == 1


def test_a_delta_holds_only_rows_that_came_or_found_their_first_partner_since() -> None:
    for over in (Interval(-1000, 1000), TumblingWindow(10_000)):
        driven = harness(over, "left")
        driven.rows([left(i + 1, user=i) for i in range(4000)])
        driven.snapshot(1)
        driven.rows([left(500, user=9000)]).rows([right(1, who=0)], input=1)
        delta = driven.snapshot(2, base_id=1)
        assert delta.written["right"].num_rows == 1
        assert delta.written["left"].num_rows == (2 if isinstance(over, Interval) else 1)


def test_what_is_over_gives_its_memory_back() -> None:
    driven = harness(Interval(0, 100))
    for start in range(1, 400_000, 20_000):
        times = np.arange(start, start + 20_000)
        batch = pa.record_batch([pa.array(times), pa.array(times), pa.array(["x"] * 20_000)], schema=LEFT)
        driven.rows(batch).rows(batch.rename_columns(["who", "t", "b"]).set_column(2, "b", pa.array(times)), input=1)
        driven.watermark(start + 19_000)
        assert driven.metrics.state_bytes < 12_000_000
    assert sum(batch.num_rows for batch in driven.output().to_batches()) == 400_000
    assert driven.metrics.state_rows < 5_000


def test_a_restore_with_other_columns_says_so() -> None:
    wider = RIGHT.append(pa.field("more", pa.int64()))
    for over in (Interval(-5, 5), TumblingWindow(10)):
        taken = harness(over).rows([right(1)], input=1).snapshot(1)
        with pytest.raises(RestoreError, match="right side were saved with"):
            harness(over, right=wider, restored=restored_states(taken.chains, harness(over).key_groups, 0), restored_checkpoint=1)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(PlanError, match="lower"):
        IntervalJoinOperator(join=Join(("user",), ("who",), "inner", (), Interval(1, 0)))
    with pytest.raises(PlanError, match="operator of their own"):
        IntervalJoinOperator(join=Join(("user",), ("who",), "inner", (), TumblingWindow(1)))
    with pytest.raises(PlanError, match="operator of its own"):
        WindowJoinOperator(join=Join(("user",), ("who",), "inner", (), Interval(0, 1)))
    with pytest.raises(PlanError, match="cast one of them"):
        harness(Interval(0, 1), right=TEXT_RIGHT)
