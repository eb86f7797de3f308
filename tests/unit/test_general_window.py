"""Windows of every kind, triggers, evictors, functions over rows: by the harness against a small model, with restores; and the API."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.errors import PlanError
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.general_windows import (
    ByClock,
    CountWindow,
    CumulativeWindow,
    DynamicSessionWindow,
    Evictor,
    GlobalWindow,
    Trigger,
    Windows,
)
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow
from flinkray.operators import window_cells
from flinkray.operators.general_window import GeneralWindowOperator
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("key", pa.string()), ("t", pa.int64()), ("n", pa.int64()), ("gap", pa.int64())])
LIST = Aggregate("ns", "collect_list", "n")
SUM, COUNT = Aggregate("sum", "sum", "n"), Aggregate("rows", "count")
Row = dict[str, Any]


def operator(window: Any, aggregates: Iterable[Aggregate] = (LIST,), **options: Any) -> GeneralWindowOperator:
    inside = {name: options.pop(name) for name in ("trigger", "evictor", "per_batch") if name in options}
    return GeneralWindowOperator(keys=("key",), windows=Windows(window, **inside), aggregates=tuple(aggregates), **options)


def harness(window: Any, aggregates: Iterable[Aggregate] = (LIST,), event_time: str | None = "t", **options: Any) -> OperatorHarness:
    return OperatorHarness(operator(window, aggregates, **options), input_schemas=SCHEMA, event_time=event_time, batch_rows=3)


def row(t: int, n: int = 0, key: str | None = "a", gap: int = 5) -> Row:
    return {"key": key, "t": t, "n": n, "gap": gap}


def lists(driven: OperatorHarness) -> list[Any]:
    return [each["ns"] for each in driven.output_rows()]


def spans(driven: OperatorHarness) -> list[tuple[int, int, Any]]:
    return [(each["window_start"], each["window_end"], each["ns"]) for each in driven.output_rows()]


# --- kinds of windows


def test_cumulative_windows_begin_together_and_end_step_by_step() -> None:
    driven = harness(CumulativeWindow(5, 15)).rows([row(1, 1), row(7, 2), row(14, 3), row(15, 4)])
    assert spans(driven.watermark(9)) == [(0, 5, [1]), (0, 10, [1, 2])]
    assert spans(driven.watermark(19)) == [(0, 15, [1, 2, 3]), (15, 20, [4])]
    driven = harness(CumulativeWindow(5, 15, 2)).rows([row(1, 1), row(2, 2)]).watermark(6)
    assert spans(driven) == [(-13, 2, [1]), (2, 7, [2])]


def test_count_windows_are_full_or_nothing() -> None:
    driven = harness(CountWindow(3, 3)).rows([row(9, 1), row(5, 2), row(1, 3, "b")])
    assert lists(driven) == []
    assert lists(driven.rows([row(1, n) for n in range(4, 9)])) == [[1, 2, 4], [5, 6, 7]]
    assert lists(driven.end()) == []
    driven = harness(CountWindow(3, 2)).rows([row(1, n) for n in range(1, 8)])
    assert lists(driven) == [[1, 2], [2, 3, 4], [4, 5, 6]]


def test_each_row_says_how_long_its_session_goes_on() -> None:
    driven = harness(DynamicSessionWindow("gap")).rows([row(0, 1, gap=5), row(5, 2, gap=1), row(7, 3, gap=100), row(200, 4)])
    assert spans(driven.watermark(50)) == [(0, 6, [1, 2])], "what is exactly reached merges"
    assert spans(driven.watermark(106)) == [(7, 107, [3])]
    with pytest.raises(PlanError, match="is null, zero or less"):
        driven.rows([row(300, gap=0)])


def test_a_global_window_ends_with_the_input() -> None:
    driven = harness(GlobalWindow()).rows([row(5, 1)]).watermark(100).rows([row(7, 2)])
    assert lists(driven) == []
    out = driven.end().output()
    assert (out["ns"].to_pylist(), out.column_names) == ([[1, 2]], ["key", "ns", EVENT_TIME])


def test_windows_of_processing_time_follow_the_clock() -> None:
    driven = harness(ByClock(TumblingWindow(10_000_000)), event_time=None).processing_time(3.0).rows([row(1, 1)])
    driven.processing_time(9.9).rows([row(2, 2)])
    assert spans(driven.processing_time(10.0).rows([row(3, 3)])) == [(0, 10_000_000, [1, 2])]
    taken = driven.snapshot(1)
    (again,) = restore(lambda: operator(ByClock(TumblingWindow(10_000_000))), [taken], 1)
    assert spans(again.processing_time(55.0)) == [(10_000_000, 20_000_000, [3])], "after a restore that came too late"
    assert spans(again.rows([row(4, 4)]).end()) == [(50_000_000, 60_000_000, [4])], "at the end no clock is waited for"
    driven = harness(ByClock(SessionWindow(5_000_000)), event_time=None).processing_time(1.0).rows([row(1, 1)])
    assert spans(driven.processing_time(4.0).rows([row(1, 2)]).processing_time(9.0)) == [(1_000_000, 9_000_000, [1, 2])]


# --- triggers and evictors


def test_early_answers_replace_each_other() -> None:
    driven = harness(TumblingWindow(100), (SUM, COUNT), trigger=Trigger(rows=2)).rows([row(1, 1)])
    assert driven.output().num_rows == 0
    out = driven.rows([row(2, 2)]).output().to_pylist()
    assert [(each["sum"], each["rows"], each[CHANGE], each[EVENT_TIME]) for each in out] == [(3, 2, 1, 99)]
    out = driven.rows([row(3, 3), row(4, 4)]).output().to_pylist()
    assert [(each["sum"], each[CHANGE]) for each in out] == [(10, 2)]
    assert driven.watermark(99).output().num_rows == 0, "nothing new to tell"
    driven.rows([row(101, 5)]).output()
    assert [(each["sum"], each[CHANGE]) for each in driven.watermark(199).output().to_pylist()] == [(5, 1)]


def test_purged_rows_are_in_one_answer_only() -> None:
    driven = harness(TumblingWindow(100), trigger=Trigger(rows=2, purge=True)).rows([row(1, 1), row(2, 2), row(3, 3)])
    driven.rows([row(4, 4)])
    assert lists(driven) == [[1, 2, 3]], "a trigger looks when a batch has come"
    assert lists(driven.watermark(99)) == [[4]]


def test_a_trigger_by_the_clock_answers_while_rows_come() -> None:
    driven = harness(GlobalWindow(), trigger=Trigger(every="5s")).processing_time(1.0).rows([row(1, 1)]).processing_time(3.0)
    driven.rows([row(1, 2)]).processing_time(5.9)
    assert lists(driven) == []
    assert lists(driven.processing_time(6.0)) == [[1, 2]]
    assert lists(driven.processing_time(60.0)) == []
    taken = driven.rows([row(1, 3)]).snapshot(1)
    (again,) = restore(lambda: operator(GlobalWindow(), trigger=Trigger(every="5s")), [taken], 1)
    assert lists(again.processing_time(4.0)) == []
    assert lists(again.processing_time(5.0)) == [[1, 2, 3]]


def test_a_window_forgets_rows_before_it_answers() -> None:
    driven = harness(TumblingWindow(100), evictor=Evictor(rows=2)).rows([row(9, 1), row(8, 2), row(7, 3), row(7, 4, "b")])
    assert lists(driven.watermark(99)) == [[2, 3], [4]]
    driven = harness(TumblingWindow(100), evictor=Evictor(within_us=3)).rows([row(9, 1), row(5, 2), row(6, 3)])
    assert lists(driven.watermark(99)) == [[1, 3]]
    driven = harness(GlobalWindow(), trigger=Trigger(rows=2), evictor=Evictor(rows=3))
    for n in range(6):
        driven.rows([row(1, n)])
    assert lists(driven) == [[0, 1], [1, 2, 3], [3, 4, 5]]
    assert driven.metrics.state_rows == 3


# --- late rows


def test_late_rows_refine_an_answer_until_they_are_too_late() -> None:
    driven = harness(TumblingWindow(10), lateness_us=20).rows([row(5, 1)])
    assert lists(driven.watermark(12)) == [[1]]
    assert lists(driven.rows([row(6, 2)])) == [[1, 2]]
    assert lists(driven.rows([row(7, 3, "new")])) == [[3]]
    assert lists(driven.watermark(29).rows([row(8, 4)])) == []
    assert (driven.metrics.late_rows, driven.metrics.state_rows) == (1, 0)
    driven = harness(SlidingWindow(10, 5), late_tag="late").watermark(11).rows([row(4, 1), row(6, 2)])
    assert [each["n"] for each in driven.output("late").to_pylist()] == [1], "a row is late when all its windows are over"
    assert spans(driven.end()) == [(5, 15, [2])]


def test_a_late_row_that_touches_a_living_session_is_not_late() -> None:
    driven = harness(SessionWindow(10)).rows([row(20, 1)]).watermark(21).rows([row(9, 2), row(10, 3)])
    assert (spans(driven.end()), driven.metrics.late_rows) == ([(9, 30, [1, 2, 3])], 0)
    driven = harness(SessionWindow(10)).rows([row(20, 1)]).watermark(21).rows([row(9, 2)])
    assert (spans(driven.end()), driven.metrics.late_rows) == ([(20, 30, [1])], 1)
    driven = harness(SessionWindow(10), lateness_us=5).rows([row(1, 1)])
    assert spans(driven.watermark(12)) == [(1, 11, [1])]
    assert spans(driven.rows([row(5, 2)]).watermark(14)) == [(1, 15, [1, 2])]


def test_late_rows_of_many_keys_touch_living_sessions() -> None:
    """More of them than rows of a batch, so that sessions are looked through in several steps."""
    keys = [f"k{n}" for n in range(8)]
    driven = harness(SessionWindow(10)).rows([row(20, 1, key) for key in keys]).watermark(25)
    driven.rows([row(15 if n % 2 else 5, 2, key) for n, key in enumerate(keys)])
    assert sorted(spans(driven.end())) == sorted([(15, 30, [1, 2]), (20, 30, [1])] * 4)
    assert driven.metrics.late_rows == 4


# --- functions over rows


def test_a_function_gets_all_rows_of_each_key_and_window() -> None:
    seen = []

    def spread(rows: pa.RecordBatch, window: Any) -> Any:
        seen.append((window.key, window.start, window.end, rows.schema.names))
        values = rows.column("n").to_numpy()
        return [{"key": window.key, "spread": int(values.max() - values.min())}]

    schema = pa.schema([("key", pa.string()), ("spread", pa.int64())])
    driven = harness(TumblingWindow(10), (), function=spread, function_schema=schema).rows([row(1, 1), row(2, 5, None), row(3, 9)])
    out = driven.watermark(9).output()
    assert sorted(out.select(["key", "spread"]).to_pylist(), key=str) == [{"key": "a", "spread": 8}, {"key": None, "spread": 0}]
    assert out[EVENT_TIME].to_pylist() == [9, 9]
    assert seen[0] == ("a", 0, 10, ["key", "t", "n", "gap"])


# --- the model

ROWS = st.lists(st.tuples(st.sampled_from([None, "", "a", "b"]), st.integers(1, 25), st.integers(1, 9)), min_size=1, max_size=6)
STORY = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), ROWS),
        st.tuples(st.just("watermark"), st.integers(0, 15)),
        st.tuples(st.just("snapshot"), st.booleans()),
        st.tuples(st.just("restore"), st.just(None)),
    ),
    max_size=16,
)
WINDOWS = [
    TumblingWindow(10, 3),
    SlidingWindow(12, 5, 1),
    CumulativeWindow(4, 12, 2),
    SessionWindow(4),
    DynamicSessionWindow("gap"),
    GlobalWindow(),
    CountWindow(3, 3),
    CountWindow(4, 2),
]


def model(window: Any, rows: list[Row]) -> Counter[tuple[Any, ...]]:
    """(key, start, end, the n in order of arrival), by looking at each row."""
    by_key: dict[Any, list[Row]] = defaultdict(list)
    for each in rows:
        by_key[each["key"]].append(each)
    found = Counter[tuple[Any, ...]]()
    for key, mine in by_key.items():
        for start, end, inside in _model_of_key(window, mine):
            found[(key, start, end, tuple(each["n"] for each in inside))] += 1
    return found


def _model_of_key(window: Any, rows: list[Row]) -> Iterable[tuple[Any, Any, list[Row]]]:
    if isinstance(window, GlobalWindow):
        yield None, None, rows
    elif isinstance(window, CountWindow):
        for end in range(window.slide, len(rows) + 1, window.slide):
            yield None, None, rows[max(0, end - window.size) : end]
    elif isinstance(window, SessionWindow | DynamicSessionWindow):
        part: list[Row] = []
        reach = 0
        for each in sorted(rows, key=lambda each: each["t"]):
            if part and each["t"] > reach:
                yield part[0]["t"], reach, sorted(part, key=rows.index)
                part = []
            reach = max(reach if part else 0, each["t"] + (each["gap"] if isinstance(window, DynamicSessionWindow) else window.gap_us))
            part.append(each)
        yield part[0]["t"], reach, sorted(part, key=rows.index)
    else:
        step = {SlidingWindow: "slide_us", CumulativeWindow: "step_us"}.get(type(window), "size_us")
        for end in range(-100, 900):
            if isinstance(window, CumulativeWindow):
                start = (end - 1 - window.offset_us) // window.size_us * window.size_us + window.offset_us
                aligned = (end - window.offset_us) % getattr(window, step) == 0
            else:
                start = end - window.size_us
                aligned = (start - window.offset_us) % getattr(window, step) == 0
            inside = [each for each in rows if start <= each["t"] < end]
            if aligned and inside:
                yield start, end, inside


@example(story=[("rows", [(None, 1, 2)]), ("rows", [(None, 3, 1), (None, 1, 1)])], window=DynamicSessionWindow("gap"), by_rows=False)
@settings(max_examples=120, deadline=None)
@given(story=STORY, window=st.sampled_from(WINDOWS), by_rows=st.booleans())
def test_every_window_has_exactly_its_rows(story: list[Any], window: Any, by_rows: bool) -> None:
    def make() -> GeneralWindowOperator:
        return operator(window, (LIST, SUM), evictor=Evictor(rows=1000) if by_rows and not isinstance(window, CountWindow) else None)

    driven = OperatorHarness(make(), input_schemas=SCHEMA, event_time="t", batch_rows=3)
    now, number, base, found = 0, 0, None, Counter[tuple[Any, ...]]()
    rows: list[Row] = []

    def gather() -> None:
        for each in driven.output_rows():
            assert each["sum"] == sum(each["ns"])
            found[(each["key"], each.get("window_start"), each.get("window_end"), tuple(each["ns"]))] += 1

    for what, value in story:
        if what == "rows":
            made = []
            for key, ahead, gap in value:
                number += 1
                made.append(row(now + ahead, number, key, gap))
            rows += made
            driven.rows(made)
        elif what == "watermark":
            now += value
            driven.watermark(now)
        else:
            gather()
            number += 1
            taken = driven.snapshot(number, None if value is True else base)
            base = number
            if what == "restore":
                (driven,) = restore(make, [taken], 1)
    driven.end()
    gather()
    expected = model(window, rows)
    if isinstance(window, SessionWindow | DynamicSessionWindow):  # rows of one batch may have come into it as several sessions
        found, expected = (Counter({(*place, tuple(sorted(ns))): n for (*place, ns), n in each.items()}) for each in (found, expected))
    assert found == expected


@settings(max_examples=60, deadline=None)
@given(story=STORY, window=st.sampled_from([*WINDOWS[:3], GlobalWindow()]), trigger=st.sampled_from([Trigger(rows=3), Trigger(every="1s")]))
def test_the_last_early_answer_is_the_windows_answer(story: list[Any], window: Any, trigger: Trigger) -> None:
    driven, now, number = harness(window, (LIST,), trigger=trigger), 0, 0
    rows: list[Row] = []
    newest: dict[Any, tuple[int, ...]] = {}
    for step, (what, value) in enumerate([*story, ("end", None)]):
        if what == "rows":
            made = []
            for key, ahead, gap in value:
                number += 1
                made.append(row(now + ahead, number, key, gap))
            rows += made
            driven.rows(made)
        elif what == "watermark":
            now += value
            driven.watermark(now)
        elif what == "end":
            driven.end()
        elif what == "restore":
            (driven,) = restore(lambda: operator(window, (LIST,), trigger=trigger), [driven.snapshot(step + 1)], 1)
            driven.watermark(now)
        if what != "end":
            driven.processing_time(driven._now_s + 0.4)
        for each in driven.output().to_pylist() if driven._emitted else ():
            place = (each["key"], each.get("window_start"), each.get("window_end"))
            assert (each[CHANGE] == 2) == (place in newest)
            newest[place] = tuple(each["ns"])
    expected = {(key, start, end): ns for key, start, end, ns in model(window, rows)}
    micros = {(key, *(None if at is None else round(at.timestamp() * 1e6) for at in span)): ns for (key, *span), ns in newest.items()}
    assert micros == expected


@settings(max_examples=100, deadline=None)
@given(
    story=STORY,
    window=st.sampled_from([SessionWindow(5), DynamicSessionWindow("gap")]),
    trigger=st.sampled_from([Trigger(rows=1), Trigger(rows=3), Trigger(every="1s")]),
    lateness=st.sampled_from([0, 4]),
    many=st.sampled_from([0, 1 << 14]),
)
def test_early_answers_of_sessions_are_taken_back_when_these_grow_and_become_one(
    story: list[Any], window: Any, trigger: Trigger, lateness: int, many: int
) -> None:
    """What is left at the end is what there would be without a trigger; before, a row is in one answer at most."""

    def make(trigger: Trigger | None) -> GeneralWindowOperator:
        return operator(window, (LIST, SUM), trigger=trigger, lateness_us=lateness)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_cells, "_MANY", many)
        plain, early = (OperatorHarness(make(each), input_schemas=SCHEMA, event_time="t", batch_rows=3) for each in (None, trigger))
        now, number, base = 0, 0, None
        left, expected = Counter[Any](), set[Any]()
        for step, (what, value) in enumerate([*story, ("end", None)]):
            made = []
            for key, ahead, gap in value if what == "rows" else ():
                number += 1
                made.append(row(max(now + ahead - lateness, 0), number, key, gap))
            now += value if what == "watermark" else 0
            for driven in (plain, early):
                if made:
                    driven.rows(made)
                elif what == "watermark":
                    driven.watermark(now)
                elif what == "end":
                    driven.end()
            if what in ("snapshot", "restore"):
                taken = early.snapshot(step + 1, None if value is True else base)
                base = step + 1
                if what == "restore":
                    said = early.output() if early._emitted else None
                    _count_changes(left, said)
                    now_s, (early,) = early._now_s, restore(lambda: make(trigger), [taken], 1)
                    early.processing_time(now_s)
            if what != "end":
                early.processing_time(early._now_s + 0.4)
            _count_changes(left, early.output() if early._emitted else None)
            assert set(left.values()) <= {0, 1}
            told = [n for (*_, ns), times in left.items() if times for n in ns]
            assert len(told) == len(set(told))
            for each in plain.output_rows():  # within the allowed lateness a session is told again when it has grown
                expected = {other for other in expected if not other[3] <= set(each["ns"])}
                expected.add((each["key"], each["window_start"], each["window_end"], frozenset(each["ns"])))
    assert {(*place, frozenset(ns)) for (*place, ns), times in left.items() if times} == expected


def _count_changes(left: Counter[Any], said: pa.Table | None) -> None:
    for each in said.to_pylist() if said is not None else ():
        assert each["sum"] == sum(each["ns"])
        start, end = (round(each[name].timestamp() * 1e6) for name in ("window_start", "window_end"))
        left[each["key"], start, end, tuple(each["ns"])] += each[CHANGE]


def test_a_session_answers_when_it_has_rows_enough_whatever_other_sessions_of_its_key_have() -> None:
    driven = harness(SessionWindow(5), trigger=Trigger(rows=2))
    assert lists(driven.rows([row(0, 1), row(50, 2)])) == []
    assert lists(driven.rows([row(51, 3)])) == [[2, 3]]
    assert lists(driven.rows([row(52, 4)])) == []
    assert [(each[CHANGE], each["ns"]) for each in driven.rows([row(1, 5)]).output().to_pylist()] == [(1, [1, 5])]
    assert [(each[CHANGE], each["ns"]) for each in driven.watermark(60).output().to_pylist()] == [(-1, [2, 3]), (1, [2, 3, 4])]


def test_a_global_window_tells_at_the_end_what_no_answer_has_told() -> None:
    for purge, last in ((True, [4]), (False, [1, 2, 3, 4])):
        driven = harness(GlobalWindow(), trigger=Trigger(rows=3, purge=purge))
        assert lists(driven.rows([row(0, n) for n in (1, 2, 3)]).rows([row(0, 4)])) == [[1, 2, 3]]
        assert lists(driven.end()) == [last]


def test_a_session_that_purges_begins_anew_after_each_answer() -> None:
    driven = harness(SessionWindow(5), trigger=Trigger(rows=2, purge=True))
    assert spans(driven.rows([row(0, 1), row(1, 2), row(2, 3)])) == [(0, 7, [1, 2, 3])]
    assert spans(driven.rows([row(3, 4)]).watermark(20)) == [(3, 8, [4])]


def test_columns_that_are_not_known_are_asked_for() -> None:
    known = harness(TumblingWindow(10)).operator.context
    for schemas, which in (((None,), "its input"), ((None, SCHEMA), "its input 0")):
        with pytest.raises(PlanError, match=f"the columns of {which} must be known; declare output_schema upstream"):
            operator(TumblingWindow(10)).open(replace(known, input_schemas=schemas), (), None)


def test_parts_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_cells, "_MANY", 8)
    driven = harness(GlobalWindow(), (SUM, LIST))
    for n in range(100):
        driven.rows([row(1, n), row(1, n, "b")])
    assert driven.metrics.state_rows < 40
    assert driven.end().output()["ns"].to_pylist() == [list(range(100))] * 2


# --- the API


@pytest.fixture
def rows() -> fr.DataStream:
    env = fr.StreamEnvironment("windows", parallelism=2, runtime="local")
    table = pa.table({"key": list("abab"), "t": [1, 2, 13, 4], "n": [1, 2, 3, 4], "name": ["x", "y", "a", "b"]})
    return env.from_batches(table, watermark=fr.Watermarks.bounded("t", "1s"))


def test_they_run(rows: fr.DataStream) -> None:
    keyed, of = rows.key_by("key"), fr.windows
    us = 1e-6
    day = keyed.window(of.Cumulative(10 * us, 20 * us)).aggregate(rows=fr.agg.count()).collect()
    assert sorted(day["rows"].to_pylist()) == [1, 2, 2, 2]
    assert sorted(keyed.window(of.Count(2)).aggregate(sum=fr.agg.sum("n")).collect()["sum"].to_pylist()) == [4, 6]
    early = keyed.window(of.Global()).trigger(of.Trigger(rows=1)).aggregate(sum=fr.agg.sum("n"))
    assert sorted(early.collect()["sum"].to_pylist()) == [4, 6]
    every = rows.window_all(of.Tumbling(10 * us)).aggregate(least=fr.agg.min("name"))
    assert sorted(every.collect()["least"].to_pylist()) == ["a", "b"]
    doubled = keyed.window(of.Tumbling(10 * us)).process(
        lambda rows, window: {"key": [window.key], "n": [rows.num_rows]}, {"key": "string", "n": "int64"}
    )
    assert sorted(zip(*doubled.collect().to_pydict().values(), strict=True)) == [("a", 1), ("a", 1), ("b", 2)]
    late = keyed.window(of.Cumulative(10 * us, 20 * us)).side_output_late("late").aggregate(rows=fr.agg.count())
    assert late.get_side_output("late").collect().num_rows == 0
    assert "window count 2" in keyed.window(of.Count(2)).aggregate(sum=fr.agg.sum("n")).explain()


def test_a_trigger_and_a_time_to_live_may_change_between_a_checkpoint_and_its_restore(rows: fr.DataStream) -> None:
    from flinkray.api.collect import collect_graph

    def digests(stream: fr.DataStream) -> Any:
        return collect_graph(stream._environment, stream._node, None, 1 << 20)[0].state_digests

    windows = rows.key_by("key").window(fr.windows.Cumulative("1s", "2s"))
    plain, early = (w.aggregate(n=fr.agg.count()).uid("w") for w in (windows, windows.trigger(fr.windows.Trigger(rows=5))))
    assert digests(plain)["w"] == digests(early)["w"]
    evicting = windows.evict(rows=5).aggregate(n=fr.agg.count()).uid("w")
    assert digests(evicting)["w"] != digests(plain)["w"], "rows are kept instead of parts"
    keyed = rows.key_by("key")
    assert digests(keyed.join(keyed).uid("j"))["j"] == digests(keyed.join(keyed, ttl="1h").uid("j"))["j"]


WRONG = {
    "a step that does not fit": (lambda k, of: of.Cumulative("3s", "10s"), "no multiple of step"),
    "a count of none": (lambda k, of: of.Count(0), "size is 0"),
    "a slide above the size": (lambda k, of: of.Count(2, 3), "would be lost"),
    "another time": (lambda k, of: of.Tumbling("1s", time="wall"), "'event' or 'processing'"),
    "a session without gap": (lambda k, of: of.Session(), "one of them"),
    "a gap that is no time": (lambda k, of: k.window(of.Session(gap_column="name")).aggregate(n=fr.agg.count()), "integer microseconds"),
    "two triggers": (lambda k, of: of.Trigger(rows=1, every="1s"), "one of them"),
    "no trigger": (lambda k, of: k.window(of.Global()).trigger("1s"), r"Trigger\(every='5s'\)"),
    "a trigger and an evictor for sessions": (
        lambda k, of: k.window(of.Session("1s")).trigger(of.Trigger(rows=1)).evict(rows=1).aggregate(n=fr.agg.count()),
        "leave out evict",
    ),
    "an evictor for counts": (lambda k, of: k.window(of.Count(2)).evict(rows=1).aggregate(n=fr.agg.count()), "when they are full"),
    "no evictor": (lambda k, of: k.window(of.Global()).evict(), "give one of them"),
    "lateness of the clock": (
        lambda k, of: k.window(of.Tumbling("1s", time="processing")).allowed_lateness("1s").aggregate(n=fr.agg.count()),
        "no row is late",
    ),
    "a join over counts": (lambda k, of: k.window(of.Count(2)).join(k), "tumbling or sliding windows of event time, not count 2"),
    "top of early answers": (lambda k, of: k.window(of.Tumbling("1s")).trigger(of.Trigger(rows=1)).top_n(1, "n"), "without trigger"),
    "an output with a window's name": (
        lambda k, of: k.window(of.Cumulative("1s", "2s")).aggregate(window_end=fr.agg.count()),
        "the name of a window column",
    ),
    "refined answers to a sink that appends": (
        lambda k, of: k.window(of.Tumbling("1s")).trigger(of.Trigger(rows=1)).aggregate(n=fr.agg.count()).sink_to(fr.sinks.Csv("x/")),
        "only appends rows",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_is_refused_at_plan_time(what: str, rows: fr.DataStream) -> None:
    build, message = WRONG[what]
    with pytest.raises(PlanError, match=message):
        build(rows.key_by("key"), fr.windows)


# --- after a drain


@pytest.mark.parametrize(
    ("window", "options", "told"),
    [
        (TumblingWindow(10), {}, [[11], [12]]),
        (TumblingWindow(10), {"trigger": Trigger(rows=1)}, [[11], [12]]),
        (TumblingWindow(10), {"lateness_us": 100}, [[11], [12]]),
        (SlidingWindow(10, 5), {}, [[11], [11], [12], [12]]),
        (CumulativeWindow(5, 15), {}, [[11], [11], [11], [12], [12]]),
        (SessionWindow(5), {}, [[11], [12]]),
        (DynamicSessionWindow("gap"), {}, [[11], [12]]),
        (CountWindow(3, 3), {}, [[1, 2, 11]]),  # it was not full
        (GlobalWindow(), {}, [[1, 2, 11, 12]]),  # the one of its key: its answer is refined
        (GlobalWindow(), {"trigger": Trigger(rows=2, purge=True)}, [[11, 12]]),
    ],
    ids=str,
)
def test_what_was_told_at_the_end_of_time_is_not_told_again_and_new_rows_are_not_late(window: Any, options: Any, told: list[Any]) -> None:
    driven = harness(window, **options).rows([row(1, 1), row(2, 2), row(3, 3, "b")]).end()
    (again,) = restore(lambda: operator(window, **options), [driven.snapshot(1)], parallelism=1)
    again.rows([row(1, 11), row(50, 12)]).end()
    assert lists(again) == told
    assert again.operator.context.metrics.late_rows == 0
