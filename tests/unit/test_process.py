"""Keyed process functions by the harness: rows, timers, every kind of state, snapshots with deltas, other parallelisms."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.columns import EVENT_TIME, MAX_WATERMARK
from flinkray.errors import OperatorError, PlanError, RestoreError, UsageError
from flinkray.graph.key_groups import subtask_of
from flinkray.operators import process_timers
from flinkray.operators.process import ProcessOperator
from flinkray.operators.restore import restored_states
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, SnapshotTables, restore

SCHEMA = pa.schema([("user", pa.int64()), ("t", pa.int64()), ("n", pa.int64())])
OUT = pa.schema([("user", pa.int64()), ("what", pa.string()), ("n", pa.int64())])
Row = dict[str, Any]


def operator(function: fr.KeyedProcessFunction, keys: tuple[str, ...] = ("user",), **options: Any) -> ProcessOperator:
    return ProcessOperator(keys=keys, function=function, **{"output_schema": OUT, "side_schemas": {}} | options)


def harness(function: fr.KeyedProcessFunction, schema: pa.Schema = SCHEMA, event_time: str | None = "t", **options: Any) -> OperatorHarness:
    more = {name: options.pop(name) for name in ("keys", "output_schema", "side_schemas", "columns") if name in options}
    return OperatorHarness(operator(function, **more), input_schemas=schema, event_time=event_time, **options)


def row(t: int, user: int | None = 1, n: int = 0) -> Row:
    return {"user": user, "t": t, "n": n}


class Counter(fr.KeyedProcessFunction):
    """Counts rows, tells the count at each tenth microsecond of a key, and starts anew."""

    count = fr.ValueState("count", int)

    def process(self, row: Row, ctx: fr.ProcessContext) -> Iterator[Row] | None:
        self.count.value = (self.count.value or 0) + 1
        ctx.register_event_timer((row["t"] // 10 + 1) * 10)
        return None

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[Row]:
        yield {"user": ctx.key, "what": f"at {timestamp}", "n": self.count.value}
        self.count.clear()


def test_a_value_is_kept_per_key_and_a_timer_fires_once_when_the_watermark_reaches_it() -> None:
    driven = harness(Counter()).rows([row(1), row(2), row(3, user=2), row(4, user=None)]).watermark(9)
    assert driven.output_rows() == []
    out = driven.watermark(10).output()
    assert sorted(zip(out["user"].to_pylist(), out["n"].to_pylist(), strict=True), key=str) == [(1, 2), (2, 1), (None, 1)]
    assert out[EVENT_TIME].to_pylist() == [10, 10, 10]
    assert driven.rows([row(15)]).watermark(20).output_rows() == [{"user": 1, "what": "at 20", "n": 1}]
    assert driven.end().output_rows() == []


class Echo(fr.KeyedProcessFunction):
    def process(self, row: Row, ctx: fr.ProcessContext) -> Any:
        return [{"user": ctx.key, "what": f"{ctx.timestamp} after {ctx.watermark}", "n": row["n"]}] * row["n"]


def test_rows_have_the_event_time_of_the_row_that_they_come_from() -> None:
    out = harness(Echo()).watermark(3).rows([row(5, n=2), row(6), row(9, n=1)]).output()
    assert out[EVENT_TIME].to_pylist() == [5, 5, 9]
    assert out["what"].to_pylist() == ["5 after 3", "5 after 3", "9 after 3"]


class Timers(fr.KeyedProcessFunction):
    def process(self, row: Row, ctx: fr.ProcessContext) -> None:
        if row["n"] > 0:
            ctx.register_event_timer(row["n"])
        elif row["n"] < 0:
            ctx.delete_event_timer(-row["n"])

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        if timestamp == 50:
            ctx.register_event_timer(55)
            ctx.register_event_timer(90)
            ctx.register_event_timer(1000)
        return [{"user": ctx.key, "what": "timer", "n": timestamp}]


def fired(driven: OperatorHarness) -> list[tuple[Any, int]]:
    return [(each["user"], each["n"]) for each in driven.output_rows()]


def test_timers_are_deduplicated_deleted_and_registered_again() -> None:
    driven = harness(Timers()).rows([row(1, n=20), row(1, n=20), row(1, n=30), row(1, user=2, n=30)])
    driven.rows([row(2, n=-30), row(2, n=40), row(2, n=-40), row(2, n=40), row(2, n=-77)])
    assert fired(driven.watermark(25)) == [(1, 20)]
    assert fired(driven.end()) == [(2, 30), (1, 40)]


def test_timers_that_a_timer_registers_fire_too_and_at_the_end_up_to_the_largest_time_seen() -> None:
    driven = harness(Timers()).rows([row(1, n=50), row(95)])
    assert fired(driven.watermark(60)) == [(1, 50), (1, 55)]
    driven = harness(Timers()).rows([row(1, n=50), row(1, user=2, n=2000), row(95)])
    assert fired(driven.end()) == [(1, 50), (1, 55), (1, 90), (2, 2000)]


class Clock(fr.KeyedProcessFunction):
    def process(self, row: Row, ctx: fr.ProcessContext) -> None:
        ctx.register_processing_timer(ctx.processing_time() + row["n"])
        if row["user"] == 2:
            ctx.delete_processing_timer(ctx.processing_time() + row["n"])

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        return [{"user": ctx.key, "what": ctx.time_domain, "n": timestamp}]


def test_processing_timers_fire_by_the_clock_also_after_a_restore_that_came_too_late() -> None:
    driven = harness(Clock()).processing_time(1.0).rows([row(7, n=500_000), row(7, user=2, n=500_000), row(7, user=3, n=9_000_000)])
    assert driven.processing_time(1.4).output_rows() == []
    taken = driven.snapshot(1)
    for each in (driven, *restore(lambda: operator(Clock()), [taken], 1)):
        out = each.processing_time(2.0).output()
        assert out.select(["user", "what", "n"]).to_pylist() == [{"user": 1, "what": "processing", "n": 1_500_000}]
        assert out[EVENT_TIME].to_pylist() == [7]
        assert each.end().output_rows() == [], "what is left at the end is dropped"


class Everything(fr.KeyedProcessFunction):
    """Remembers each row in every kind of state and tells what it knows."""

    total = fr.ValueState("total", float)
    seen = fr.ValueState("seen", "timestamp")
    note = fr.ValueState("note", str)
    odd = fr.ValueState("odd", bool)
    last = fr.ValueState("last", {"n": "int64", "tags": "list[str]"})
    blob = fr.ValueState("blob", object)
    rows = fr.ListState("rows", int)
    words = fr.ListState("words", str)
    by_n = fr.MapState("by_n", int, float)
    names = fr.MapState("names", str, list[str])
    largest = fr.ReducingState("largest", int, max)

    def __init__(self) -> None:
        self.mean = fr.AggregatingState("mean", {"sum": "int64", "count": "int64"}, Mean())

    def process(self, row: Row, ctx: fr.ProcessContext) -> Iterator[Row]:
        n = row["n"]
        if n % 7 == 6:
            for state in (self.total, self.note, self.last, self.blob, self.rows, self.by_n, self.largest, self.mean):
                state.clear()
            return
        self.total.value = (self.total.value or 0.0) + n
        self.seen.value = row["t"]
        self.note.value = f"{self.note.value or ''}{n % 10}"[-5:]
        self.odd.value = not self.odd.value
        last = self.last.value or {"n": 0, "tags": []}
        last["tags"] = [*last["tags"], str(n)][-2:]
        last["n"] += n
        self.last.value = last
        self.blob.value = ((self.blob.value or ()) + (n,))[-3:]
        self.rows.add(n)
        self.words.extend([str(n), "x"] if n % 3 else [])
        self.by_n[n % 5] = self.by_n.get(n % 5, 0.0) + 1
        if n % 4 == 0:
            self.by_n.pop(n % 3, None)
        self.names[str(n % 3)] = [*self.names.get(str(n % 3), []), str(n)][-2:]
        self.largest.add(n)
        self.mean.add(n)
        known = (
            self.total.value, self.seen.value, self.note.value, self.odd.value, self.last.value, self.blob.value, list(self.rows),
            list(self.words), sorted(self.by_n.items()), sorted(self.names.items()), self.largest.value, self.mean.value, len(self.rows),
        )  # fmt: skip
        yield {"user": ctx.key, "what": repr(known), "n": n}


class Mean:
    def create_accumulator(self) -> dict[str, int]:
        return {"sum": 0, "count": 0}

    def add(self, value: int, accumulator: dict[str, int]) -> dict[str, int]:
        return {"sum": accumulator["sum"] + value, "count": accumulator["count"] + 1}

    def get_result(self, accumulator: dict[str, int]) -> float:
        return accumulator["sum"] / accumulator["count"]


def everything_model(rows: list[Row]) -> list[Row]:
    """What `Everything` must say, with plain dictionaries."""
    known: dict[Any, Row] = defaultdict(lambda: {"odd": None, "words": [], "names": {}})
    said = []
    for each in rows:
        state, n = known[each["user"]], each["n"]
        if n % 7 == 6:
            for name in ("total", "note", "last", "blob", "rows", "by_n", "largest", "mean"):
                state.pop(name, None)
            continue
        state["total"] = state.get("total", 0.0) + n
        state["note"] = f"{state.get('note', '')}{n % 10}"[-5:]
        state["odd"] = not state["odd"]
        before = state.get("last", {"n": 0, "tags": []})
        state["last"] = {"n": before["n"] + n, "tags": [*before["tags"], str(n)][-2:]}
        state["blob"] = (*state.get("blob", ()), n)[-3:]
        state["rows"] = [*state.get("rows", []), n]
        state["words"] = state["words"] + ([str(n), "x"] if n % 3 else [])
        by_n = state["by_n"] = dict(state.get("by_n", {}))
        by_n[n % 5] = by_n.get(n % 5, 0.0) + 1
        if n % 4 == 0:
            by_n.pop(n % 3, None)
        state["names"][str(n % 3)] = [*state["names"].get(str(n % 3), []), str(n)][-2:]
        state["largest"] = max(state.get("largest", n), n)
        total, count = state.get("mean", (0, 0))
        state["mean"] = (total + n, count + 1)
        told = (
            state["total"], each["t"], state["note"], state["odd"], state["last"], state["blob"], state["rows"], state["words"],
            sorted(by_n.items()), sorted(state["names"].items()), state["largest"], state["mean"][0] / state["mean"][1],
            len(state["rows"]),
        )  # fmt: skip
        said.append({"user": each["user"], "what": repr(told), "n": n})
    return said


def in_order(rows: list[Row]) -> list[str]:
    return sorted(map(repr, rows))


@pytest.mark.parametrize("seed", range(6))
def test_every_kind_of_state_survives_snapshots_deltas_and_other_parallelisms(seed: int) -> None:
    chance, parallelism, base, told = random.Random(seed), 2, None, list[Row]()
    running = [harness(Everything(), subtask=i, parallelism=2) for i in range(2)]
    given: list[Row] = []
    for checkpoint in range(1, 25):
        rows = [row(chance.randrange(1, 1000), chance.choice([None, 1, 2, 3, 4]), chance.randrange(100)) for _ in range(7)]
        given += rows
        for subtask, part in dealt(rows, parallelism).items():
            running[subtask].rows(part)
        for driven in running:
            told += driven.output_rows()
        finish = [driven.capture(checkpoint, base if chance.random() < 0.8 else None) for driven in running]
        if chance.random() < 0.5:  # what comes after the synchronous part must not show
            later = [row(chance.randrange(1, 1000), chance.choice([None, 1, 2, 3, 4]), chance.randrange(100)) for _ in range(5)]
            lost = chance.random() < 0.5
            for subtask, part in dealt(later, parallelism).items():
                running[subtask].rows(part)
            taken = [each() for each in finish]
            if lost:
                running = restore(lambda: operator(Everything()), taken, parallelism := chance.choice((1, 2, 3)))
            else:
                given += later
                for driven in running:
                    told += driven.output_rows()
        else:
            taken = [each() for each in finish]
        base = checkpoint
    assert in_order(told) == in_order(everything_model(given))


def dealt(rows: list[Row], parallelism: int) -> dict[int, list[Row]]:
    groups = key_groups(hash_keys(pa.RecordBatch.from_pylist(rows, SCHEMA), ["user"], 7), 128)
    parts: dict[int, list[Row]] = {}
    for each, group in zip(rows, groups.tolist(), strict=True):
        parts.setdefault(subtask_of(group, 128, parallelism), []).append(each)
    return parts


def test_timers_move_with_their_keys() -> None:
    rows = [row(1, user, n=20 + user % 3) for user in range(100)] + [row(1, 7, n=-21)]
    taken = [harness(Timers(), subtask=i, parallelism=3).rows(part).snapshot(1) for i, part in sorted(dealt(rows, 3).items())]
    assert len(taken) == 3
    for parallelism in (1, 2, 3):
        moved = restore(lambda: operator(Timers()), taken, parallelism)
        assert sorted(pair for each in moved for pair in fired(each.end())) == [(u, 20 + u % 3) for u in range(100) if u != 7]


def test_a_delta_holds_only_keys_whose_state_changed() -> None:
    class Peek(fr.KeyedProcessFunction):
        total = fr.ValueState("total", int)
        bag = fr.MapState("bag", str, int)

        def process(self, row: Row, ctx: fr.ProcessContext) -> None:
            if row["n"] or self.total.value is None:
                self.total.value = row["n"]
            if row["n"] == 2:
                self.bag["x"] = 1

    driven = harness(Peek()).rows([row(1, user, n=1) for user in range(5000)])
    driven.snapshot(1)
    driven.rows([row(2, user, n=0) for user in range(100)]).rows([row(2, 7, n=1), row(2, 8, n=2)])
    delta = driven.snapshot(2, base_id=1)
    assert delta.written["state:total"].num_rows == 2
    assert delta.written["state:bag"].num_rows == 1


def test_keys_whose_state_was_cleared_are_forgotten_and_stay_cleared_in_deltas() -> None:
    class Once(fr.KeyedProcessFunction):
        value = fr.ValueState("value", int)

        def process(self, row: Row, ctx: fr.ProcessContext) -> None:
            self.value.value = row["n"] or None

    def snapshots(driven: OperatorHarness, checkpoint: int, base: int | None) -> SnapshotTables:
        return driven.snapshot(checkpoint, base)

    driven = harness(Once()).rows([row(1, user=1, n=5), row(1, user=2, n=6)])
    snapshots(driven, 1, None)
    driven.rows([row(2, user=1, n=0)])
    base = 1
    for round_ in range(9):
        numbers = np.arange(100 + round_ * 50_000, 100 + (round_ + 1) * 50_000)
        ones = np.ones(len(numbers), np.int64)
        driven.rows(pa.record_batch([pa.array(numbers), pa.array(ones), pa.array(ones * 0)], schema=SCHEMA)).watermark(round_ + 1)
        snapshots(driven, base + 1, base)
        base += 1
    assert driven.metrics.state_rows < 300_000
    taken = driven.snapshot(base + 1, base)
    assert taken.written.keys() >= {"timers:event", "clock"}
    again = restore(lambda: operator(Once()), [taken], 1)[0]
    assert again.operator._store.states[0].cells.valid.sum() == 1  # type: ignore[attr-defined]


class PerKey(fr.KeyedProcessFunction):
    total = fr.ValueState("total", int)

    def process_batch(self, rows: pa.RecordBatch, ctx: fr.ProcessContext) -> Any:
        self.total.value = (self.total.value or 0) + int(np.sum(rows.column("n").to_numpy()))
        assert ctx.timestamps is not None
        return [{"user": ctx.key, "what": str(ctx.timestamps.tolist()), "n": self.total.value}]


def test_process_batch_gets_the_rows_of_one_key() -> None:
    driven = harness(PerKey()).rows([row(1, n=1), row(2, user=2, n=5), row(3, n=2)]).rows([row(4, n=4)])
    out = driven.output()
    assert out.select(["user", "what", "n"]).to_pylist() == [
        {"user": 1, "what": "[1, 3]", "n": 3},
        {"user": 2, "what": "[2]", "n": 5},
        {"user": 1, "what": "[4]", "n": 7},
    ]
    assert out[EVENT_TIME].to_pylist() == [3, 2, 4]


class Vectorised(fr.KeyedProcessFunction):
    """Adds up; a timer at each hundred tells the sum and forgets it."""

    total = fr.ValueState("total", int)
    share = fr.ValueState("share", float)
    name = fr.ValueState("name", str)

    def process_keys(self, batch: pa.RecordBatch, keys: Any, ctx: Any) -> pa.RecordBatch:
        sums = np.bincount(keys.index, weights=batch.column("n").to_numpy(), minlength=len(keys)).astype(np.int64)
        before = self.total.read(keys)
        assert not before[~before.valid].any()
        self.total.write(keys, before + sums)
        self.share.write(keys, sums / 2, valid=sums > 0)
        self.name.write(keys, np.array([str(key) for key in keys.unique.to_pylist()], object))
        latest = np.zeros(len(keys), np.int64)
        np.maximum.at(latest, keys.index, ctx.timestamps)
        ctx.register_event_timers(keys, (latest // 100 + 1) * 100)
        names = self.name.read(keys)
        columns = [keys.unique.take(pa.array(keys.index)), pa.array(names[keys.index]), batch.column("n")]
        return pa.record_batch(columns, names=["user", "what", "n"])

    def on_timers(self, keys: Any, times: np.ndarray, ctx: Any) -> dict[str, Any]:
        told = self.total.read(keys)[keys.index]
        self.total.write(keys, np.zeros(len(keys), np.int64), valid=np.zeros(len(keys), bool))
        return {"user": keys.unique.take(pa.array(keys.index)), "what": [str(time) for time in times], "n": np.asarray(told)}


class LaterKeys(fr.KeyedProcessFunction):
    def process_keys(self, batch: pa.RecordBatch, keys: Any, ctx: Any) -> None:
        ctx.register_processing_timers(keys, np.full(len(keys), ctx.processing_time() + 5))

    def on_timers(self, keys: Any, times: np.ndarray, ctx: Any) -> dict[str, Any]:
        return {"user": keys.unique, "what": [ctx.time_domain] * len(keys), "n": times}


def test_rows_from_processing_timers_have_the_largest_event_time_seen() -> None:
    out = harness(LaterKeys()).rows([row(40), row(30, user=2)]).processing_time(1.0).output()
    assert sorted(out["user"].to_pylist()) == [1, 2]
    assert out[EVENT_TIME].to_pylist() == [40, 40]
    assert out["n"].to_pylist() == [5, 5]


def test_process_keys_sees_all_keys_at_once() -> None:
    driven = harness(Vectorised()).rows([row(1, n=1), row(2, user=2, n=5), row(3, n=2)]).rows([row(150, n=4), row(50, user=2, n=1)])
    out = driven.output()
    assert out["what"].to_pylist() == ["1", "2", "1", "1", "2"]
    assert out[EVENT_TIME].to_pylist() == [1, 2, 3, 150, 50]
    moved = restore(lambda: operator(Vectorised()), [driven.snapshot(1)], 2)
    for each in (driven, *moved):
        each.end()
    told = [(r["user"], r["what"], r["n"]) for r in driven.output_rows()]
    assert told == [(1, "100", 7), (2, "100", 6), (1, "200", 0)]
    assert sorted((r["user"], r["what"], r["n"]) for each in moved for r in each.output_rows()) == sorted(told)


def test_several_key_columns_are_a_tuple_and_strings_and_nulls_are_keys() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.int32()), ("t", pa.int64())])

    class Names(fr.KeyedProcessFunction):
        count = fr.ValueState("count", int)

        def process(self, row: Row, ctx: fr.ProcessContext) -> Any:
            self.count.value = (self.count.value or 0) + 1
            return [{"what": repr((ctx.key, row)), "n": self.count.value}]

    driven = harness(Names(), schema, keys=("a", "b"), columns=("t",))
    driven.rows([{"a": "x", "b": 1, "t": 3}, {"a": None, "b": 1, "t": 4}, {"a": "x", "b": 1, "t": 5}])
    assert [(r["what"], r["n"]) for r in driven.output_rows()] == [
        ("(('x', 1), {'t': 3})", 1), ("((None, 1), {'t': 4})", 1), ("(('x', 1), {'t': 5})", 2),
    ]  # fmt: skip


def test_side_outputs_have_their_own_schema() -> None:
    class Sides(fr.KeyedProcessFunction):
        def process(self, row: Row, ctx: fr.ProcessContext) -> None:
            ctx.output("odd" if row["n"] % 2 else "none", {"n": row["n"]})

    driven = harness(Sides(), side_schemas={"odd": pa.schema([("n", pa.int64())])}).rows([row(1, n=1), row(2, n=3)])
    assert driven.output("odd").to_pylist() == [{"n": 1, EVENT_TIME: 1}, {"n": 3, EVENT_TIME: 2}]
    with pytest.raises(UsageError, match=r"output\('none'\).*side outputs 'odd'"):
        driven.rows([row(1, n=2)])


def test_open_and_close_are_called_once_for_a_copy_of_the_function() -> None:
    class Life(fr.KeyedProcessFunction):
        def __init__(self) -> None:
            self.said: list[str] = []

        def open(self, ctx: fr.ProcessContext) -> None:
            self.said.append("open")

        def close(self) -> None:
            self.said.append("close")

        def process(self, row: Row, ctx: fr.ProcessContext) -> None: ...

    given = Life()
    driven = harness(given)
    driven.close()
    assert driven.operator._function.said == ["open", "close"]  # type: ignore[attr-defined]
    assert given.said == []


def mistaken(process: Any, **states: Any) -> fr.KeyedProcessFunction:
    made: fr.KeyedProcessFunction = type("Mistaken", (fr.KeyedProcessFunction,), {"process": process, **states})()
    return made


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (1 << 63, int, "does not fit into int64"),
        (300, "int8", "does not fit into int8"),
        (1.5, int, "state 'v': value 1.5 is not int64"),
        ("1", float, "is no float"),
        (1, str, "is no str"),
        ({"n": "x"}, {"n": "int64"}, "state 'v'"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_state(value: Any, kind: Any, message: str) -> None:
    def process(self: Any, row: Row, ctx: fr.ProcessContext) -> None:
        self.v.value = value

    with pytest.raises(OperatorError, match=message):
        harness(mistaken(process, v=fr.ValueState("v", kind))).rows([row(1)])


class Notes(fr.KeyedProcessFunction):
    """What it does with what it reads is given to it."""

    output_schema = {"n": "int64"}
    value = fr.ValueState("value", {"ns": "list[int64]"})
    listed = fr.ListState("listed", {"n": "int64"})
    mapped = fr.MapState("mapped", str, "list[int64]")
    anything = fr.ValueState("anything", object)

    def __init__(self, act: Any) -> None:
        self.act = act

    def process(self, row: Row, ctx: fr.ProcessContext) -> None:
        if row["n"] == 0:
            self.value.value, self.mapped["a"], self.anything.value = {"ns": [0]}, [0], {"x": {1}}
            self.listed.add({"n": 0})
        else:
            self.act(self)


def _assigned(notes: Any) -> None:
    """Whatever is changed is assigned; what is popped or not read belongs to the function."""
    value = notes.value.value
    value["ns"].append(1)
    notes.value.value = value
    kept = notes.mapped.get("a", [])
    kept.append(1)
    notes.mapped["b"] = kept
    notes.mapped.pop("a").append(2)
    whole = list(notes.listed)
    whole[0]["n"] = 5
    notes.listed.clear()
    notes.listed.extend(whole)
    own = {"x": notes.anything.value["x"] | {2}}
    own["x"].add(3)
    notes.anything.value = own


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("value", lambda notes: notes.value.value["ns"].append(1)),
        ("listed", lambda notes: next(iter(notes.listed)).update(n=2)),
        ("mapped", lambda notes: notes.mapped["a"].append(1)),
        ("mapped", lambda notes: [each.clear() for each in notes.mapped.values()]),
        ("anything", lambda notes: notes.anything.value["x"].add(2)),
    ],
)
def test_a_value_that_is_changed_and_not_assigned_is_an_error_where_that_is_looked_for(
    name: str, act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"state '{name}': a value that was read was changed, and not assigned again"):
        harness(Notes(act)).rows([row(1, n=0)]).rows([row(2, n=1)])
    assert harness(Notes(_assigned)).rows([row(1, n=0)]).rows([row(2, n=1), row(3, user=2, n=0)]).watermark(9).output_rows() == []
    env = fr.StreamEnvironment("notes", runtime="local")
    rows = env.from_batches(pa.table({"user": [1, 1], "n": [0, 1]})).key_by("user").process(Notes(act))
    assert rows.collect().num_rows == 0, "it costs time, and is not done unasked"
    monkeypatch.setenv("FLINKRAY_CHECK", "1")
    with pytest.raises(UsageError, match=f"state '{name}'"):
        rows.collect()


def test_mistakes_of_the_function_say_what_to_do() -> None:
    with pytest.raises(OperatorError, match="int microseconds"):
        harness(mistaken(lambda self, row, ctx: ctx.register_event_timer(1.5))).rows([row(1)])
    with pytest.raises(OperatorError, match="has no on_timer"):
        harness(mistaken(lambda self, row, ctx: ctx.register_event_timer(5))).rows([row(1)]).end()
    with pytest.raises(UsageError, match="no event time"):
        harness(mistaken(lambda self, row, ctx: ctx.register_event_timer(5)), event_time=None).rows([row(1)])
    with pytest.raises(OperatorError, match="not a dict"):
        harness(mistaken(lambda self, row, ctx: [1])).rows([row(1)])
    driven = harness(Counter())
    with pytest.raises(UsageError, match="where there is no key"):
        driven.operator._function.count.value  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(UsageError, match="has a value only inside"):
        Counter().count.value = 1


def test_what_makes_no_sense_is_refused_at_plan_time() -> None:
    nothing = type("Nothing", (fr.KeyedProcessFunction,), {})()
    with pytest.raises(PlanError, match="none of process, process_batch, process_keys"):
        operator(nothing)
    both = type("Both", (fr.KeyedProcessFunction,), {"process": print, "process_keys": print})()
    with pytest.raises(PlanError, match="process and process_keys"):
        operator(both)
    with pytest.raises(PlanError, match="timers come to on_timers"):
        operator(type("Mixed", (fr.KeyedProcessFunction,), {"process_keys": print, "on_timer": print})())
    with pytest.raises(PlanError, match="state 'v': type"):
        fr.ValueState("v", "number")
    with pytest.raises(PlanError, match="a map's keys are"):
        fr.MapState("m", list[int], int)
    with pytest.raises(PlanError, match="two states named 'x'"):
        harness(mistaken(print, a=fr.ValueState("x", int), b=fr.ListState("x", int)))


def test_a_restore_with_another_type_says_so() -> None:
    taken = harness(Counter()).rows([row(1)]).snapshot(1)
    changed = mistaken(print, count=fr.ValueState("count", str))
    own = harness(Counter()).key_groups
    with pytest.raises(RestoreError, match="state 'count' was saved with other keys or types"):
        harness(changed, restored=restored_states(taken.chains, own, 0), restored_checkpoint=1)


class Slow(fr.KeyedProcessFunction):
    """Takes a millisecond of the harness's clock for each timer."""

    at = fr.ValueState("at", int)

    def process(self, row: Row, ctx: fr.ProcessContext) -> Iterator[Row]:
        if row["n"]:
            ctx.register_event_timer(row["n"])
        yield {"user": ctx.key, "what": f"row {self.at.value}", "n": row["t"]}

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Iterator[Row]:
        self.at.value = timestamp
        CLOCK.now_s += 0.001
        yield {"user": ctx.key, "what": "timer", "n": timestamp}


class _Clock:
    now_s = 0.0


CLOCK = _Clock()


@pytest.fixture
def storm(monkeypatch: pytest.MonkeyPatch) -> OperatorHarness:
    """A hundred keys with a timer at 10 and one at 30, popped five at a time; a slice is over after some twenty."""
    monkeypatch.setattr(process_timers, "CHUNK", 5)
    driven = harness(Slow())
    object.__setattr__(driven.operator.context, "clock", lambda: CLOCK.now_s)
    driven.rows([row(1, user, n=at) for user in range(100) for at in (10, 30)]).output()
    return driven


def timers_and_rows(driven: OperatorHarness) -> list[tuple[Any, str, int]]:
    return [(each["user"], each["what"], each["n"]) for each in driven.output_rows()]


def test_a_storm_of_timers_fires_in_slices_and_rows_wait_for_it(storm: OperatorHarness) -> None:
    storm.operator.on_watermark(10, storm)
    first = timers_and_rows(storm)
    assert 15 <= len(first) <= 30, "about what 20 ms allow for"
    assert storm.output_watermark_us < 10, "event time goes on when all have fired"
    storm.operator.process(
        pa.record_batch([[7, 99], [11, 11], [0, 0], [11, 11]], schema=SCHEMA.append(pa.field(EVENT_TIME, pa.int64(), False))), 0, storm
    )
    storm.operator.on_watermark(20, storm)
    slices = 0
    while not storm.operator.drained:  # type: ignore[attr-defined]
        storm.advance()
        slices += 1
    rest = timers_and_rows(storm)
    assert slices >= 3
    assert sorted(first + rest[:-2]) == sorted((user, "timer", 10) for user in range(100))
    assert rest[-2:] == [(7, "row 10", 11), (99, "row 10", 11)], "rows come after the timers that were due before them"
    assert storm.output_watermark_us == 20


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_checkpoint_in_the_middle_of_a_storm_holds_what_has_not_fired_and_the_rows_that_wait(
    storm: OperatorHarness, parallelism: int
) -> None:
    storm.operator.on_watermark(10, storm)
    schema = SCHEMA.append(pa.field(EVENT_TIME, pa.int64(), False))
    storm.operator.process(pa.record_batch([range(100), [11] * 100, [0] * 100, [11] * 100], schema=schema), 0, storm)
    storm.operator.on_watermark(30, storm)
    storm.operator.process(pa.record_batch([range(100), [31] * 100, [0] * 100, [31] * 100], schema=schema), 0, storm)
    told = timers_and_rows(storm)
    again = restore(lambda: operator(Slow()), [storm.snapshot(1)], parallelism)
    for each in again:
        told += timers_and_rows(each.end())
    for user in range(100):
        mine = [(what, n) for who, what, n in told if who == user]
        assert mine == [("timer", 10), ("row 10", 11), ("timer", 30), ("row 30", 31)]


def test_at_the_end_of_input_a_storm_fires_in_slices_too(storm: OperatorHarness) -> None:
    storm.operator.on_end(storm)
    assert not storm.operator.drained  # type: ignore[attr-defined]
    storm.end()
    assert len(timers_and_rows(storm)) == 200
    assert storm.output_watermark_us == MAX_WATERMARK
