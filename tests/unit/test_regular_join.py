"""The regular join by the harness: whatever order rows come in, what remains is what SQL says; with snapshots, restores, changelogs."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flinkray as fr
from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.errors import PlanError, ProtocolError
from flinkray.graph.joins import HALVES, HOWS, Join, Unbounded, half_columns, join_columns
from flinkray.operators import row_states
from flinkray.operators.regular_join import RegularJoinOperator
from flinkray.testing.harness import OperatorHarness, SnapshotTables, restore

LEFT = pa.schema([("user", pa.int64()), ("t", pa.int64()), ("a", pa.string())])
RIGHT = pa.schema([("who", pa.int64()), ("t", pa.int64()), ("b", pa.int64())])
CHANGING = pa.field(CHANGE, pa.int8(), nullable=False)
ALL_HOWS = (*HOWS, *HALVES)
Row = dict[str, Any]


def operator(how: str, ttl_us: Any = (None, None), upserts: tuple[bool, bool] = (False, False)) -> RegularJoinOperator:
    columns = half_columns(LEFT) if how in HALVES else join_columns(LEFT, RIGHT, ["user"], ["who"], windowed=False)
    return RegularJoinOperator(join=Join(("user",), ("who",), how, columns, Unbounded(ttl_us, upserts)))


def harness(how: str, left: pa.Schema = LEFT, right: pa.Schema = RIGHT, event_time: str | None = "t", **options: Any) -> OperatorHarness:
    inside = {name: options.pop(name) for name in ("ttl_us", "upserts") if name in options}
    return OperatorHarness(operator(how, **inside), input_schemas=(left, right), event_time=event_time, batch_rows=7, **options)


def left(user: int | None, t: int, a: str = "x", **more: Any) -> Row:
    return {"user": user, "t": t, "a": a} | more


def right(who: int | None, t: int, b: int = 0, **more: Any) -> Row:
    return {"who": who, "t": t, "b": b} | more


def remaining(tables: list[pa.Table]) -> Counter[tuple[Any, ...]]:
    """Rows that were given and not taken back; none is taken back that was not given before."""
    found = Counter[tuple[Any, ...]]()
    for each in tables:
        for given_row in each.to_pylist():
            given_row.pop(EVENT_TIME, None)
            change = given_row.pop(CHANGE, 1)
            found[tuple(given_row.values())] += 1 if change > 0 else -1
    assert all(times >= 0 for times in found.values())
    return +found


def model(how: str, lefts: list[Row], rights: list[Row]) -> Counter[tuple[Any, ...]]:
    pairs = [(i, j) for i, a in enumerate(lefts) for j, b in enumerate(rights) if a["user"] is not None and a["user"] == b["who"]]
    met = ({i for i, _ in pairs}, {j for _, j in pairs})
    if how in HALVES:
        return Counter(tuple(a.values()) for i, a in enumerate(lefts) if (i in met[0]) == (how == "semi"))
    found = Counter((lefts[i]["user"], lefts[i]["t"], lefts[i]["a"], rights[j]["t"], rights[j]["b"]) for i, j in pairs)
    if how in ("left", "full"):
        found += Counter((a["user"], a["t"], a["a"], None, None) for i, a in enumerate(lefts) if i not in met[0])
    if how in ("right", "full"):
        found += Counter((b["who"], None, None, b["t"], b["b"]) for j, b in enumerate(rights) if j not in met[1])
    return found


@pytest.mark.parametrize("how", ALL_HOWS)
def test_it_answers_as_sql_does_in_any_order(how: str) -> None:
    lefts = [left(1, 1), left(1, 2, "y"), left(2, 3), left(None, 4)]
    rights = [right(1, 5, 10), right(3, 6, 20), right(None, 7), right(1, 8, 30)]
    for order in itertools.islice(itertools.permutations([(0, row) for row in lefts] + [(1, row) for row in rights]), 0, 40_320, 997):
        driven = harness(how)
        for side, row in order:
            driven.rows([row], input=side)
        assert remaining([driven.output()]) == model(how, lefts, rights)


def test_a_row_that_came_out_alone_is_taken_back_when_its_partner_comes() -> None:
    driven = harness("left").rows([left(1, 5)])
    assert driven.output().to_pylist() == [{"user": 1, "t": 5, "a": "x", "t_right": None, "b": None, EVENT_TIME: 5, CHANGE: 1}]
    changes = driven.rows([right(1, 9, 7)], input=1).output().to_pylist()
    assert [(row["b"], row[EVENT_TIME], row[CHANGE]) for row in changes] == [(None, 9, -1), (7, 9, 1)]


def test_results_are_never_behind_the_watermark() -> None:
    driven = harness("left").watermark(100).rows([left(1, 5)]).rows([right(1, 9)], input=1)
    assert set(driven.output()[EVENT_TIME].to_pylist()) == {101}


@pytest.mark.parametrize(("how", "changes"), [("inner", False), ("semi", False), ("left", True), ("anti", True), ("full", True)])
def test_only_where_something_may_be_taken_back_there_are_changes(how: str, changes: bool) -> None:
    out = harness(how).rows([left(1, 1)]).rows([right(1, 1)], input=1).output()
    assert (CHANGE in out.column_names) == changes


# --- any story: rows that come and go on both sides, snapshots, restores at another parallelism

SIDE_ROWS = st.lists(st.tuples(st.sampled_from([None, 1, 2, 3]), st.integers(0, 2)), min_size=1, max_size=6)
STORY = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 1), SIDE_ROWS),
        st.tuples(st.just("go"), st.integers(0, 1), st.lists(st.integers(0, 30), min_size=1, max_size=5)),
        st.tuples(st.just("snapshot"), st.booleans(), st.just(None)),
        st.tuples(st.just("restore"), st.integers(1, 3), st.just(None)),
    ),
    max_size=18,
)


class Running:
    """Subtasks of the operator, fed by key as a job does."""

    def __init__(self, make: Any, schemas: tuple[pa.Schema, pa.Schema]) -> None:
        self.make, self.schemas = make, schemas
        self.parts = [OperatorHarness(make(), input_schemas=schemas, event_time="t", batch_rows=7)]
        self.out: list[pa.Table] = []
        self.checkpoint, self.base = 0, None

    def rows(self, side: int, rows: list[Row]) -> None:
        from flinkray.graph.key_groups import subtask_of
        from flinkray.state.key_hash import hash_keys, key_groups

        key = ("user", "who")[side]
        groups = key_groups(hash_keys(pa.RecordBatch.from_pylist(rows, self.schemas[side]), [key], 7), 128)
        subtasks = [subtask_of(group, 128, len(self.parts)) for group in groups.tolist()]
        for subtask, part in enumerate(self.parts):
            mine = [row for row, at in zip(rows, subtasks, strict=True) if at == subtask]
            part.rows(mine, input=side)
            if len(part._emitted):
                self.out.append(part.output())

    def snapshot(self, full: bool) -> list[SnapshotTables]:
        self.checkpoint += 1
        taken = [part.snapshot(self.checkpoint, None if full else self.base) for part in self.parts]
        self.base = self.checkpoint
        return taken

    def restore(self, parallelism: int) -> None:
        self.parts = restore(self.make, self.snapshot(False), parallelism)


@settings(max_examples=40, deadline=None)
@given(how=st.sampled_from(ALL_HOWS), story=STORY, changing=st.booleans(), part_bytes=st.sampled_from([1, 300, 8 << 20]))
def test_what_remains_is_what_sql_says_of_the_rows_that_remain(how: str, story: list[Any], changing: bool, part_bytes: int) -> None:
    """`part_bytes`: snapshots are chunks of about so much."""
    with patch.object(row_states, "_PART_BYTES", part_bytes):
        tell(how, story, changing)


def tell(how: str, story: list[Any], changing: bool) -> None:
    schemas = (LEFT.append(CHANGING), RIGHT.append(CHANGING)) if changing else (LEFT, RIGHT)
    running = Running(lambda: operator(how), schemas)
    there: tuple[list[Row], list[Row]] = ([], [])
    for what, which, given_rows in story:
        if what == "come":
            made = [left(key, n, f"a{n}") if which == 0 else right(key, n, n) for key, n in given_rows]
            running.rows(which, [row | {CHANGE: 1} for row in made] if changing else made)
            there[which].extend(made)
        elif what == "go" and changing:
            gone = []
            for index in given_rows:
                if index < len(there[which]):
                    gone.append(there[which].pop(index))
            if gone:
                again = gone[:1]  # comes and goes within the batch
                running.rows(which, [row | {CHANGE: -1} for row in gone] + [r | {CHANGE: c} for r in again for c in (1, -1)])
        elif what == "snapshot":
            running.snapshot(which)
        elif what == "restore":
            running.restore(which)
    assert remaining(running.out) == model(how, *there)


@settings(max_examples=25, deadline=None)
@given(
    how=st.sampled_from(ALL_HOWS),
    batches=st.lists(
        st.tuples(st.integers(0, 1), st.lists(st.tuples(st.sampled_from([None, 1, 2]), st.integers(0, 9)), max_size=4)), max_size=9
    ),
)
def test_a_side_whose_rows_replace_each_other_has_one_row_of_a_key(how: str, batches: list[Any]) -> None:
    running = Running(lambda: operator(how, upserts=(False, True)), (LEFT, RIGHT.append(CHANGING)))
    lefts: list[Row] = []
    newest: dict[int | None, Row] = {}
    for side, pairs in batches:
        if side == 0:
            made = [left(key, n) for key, n in pairs]
            lefts += made
        else:
            made = [right(key, n, n, **{CHANGE: -1 if n == 9 else 2}) for key, n in pairs]
            for row in made:
                newest[row["who"]] = row
        if made:
            running.rows(side, made)
    rights = [{k: v for k, v in row.items() if k != CHANGE} for row in newest.values() if row[CHANGE] > 0]
    assert remaining(running.out) == model(how, lefts, rights)


def test_rows_are_forgotten_when_their_time_to_live_is_over() -> None:
    driven = harness("left", ttl_us=(10, 100)).rows([left(1, 5), left(2, 50)]).rows([right(1, 5)], input=1).watermark(20)
    driven.output()
    out = driven.rows([right(1, 21), right(2, 22)], input=1).output()
    assert [(row["user"], row["t_right"], row[CHANGE]) for row in out.to_pylist()] == [(2, None, -1), (2, 22, 1)]
    assert driven.rows([left(1, 23)]).output().num_rows == 2, "the right side lives longer"
    assert driven.watermark(1000).metrics.state_rows == 0


def test_without_event_time_the_clock_counts() -> None:
    driven = harness("inner", ttl_us=(10_000_000, None), event_time=None).processing_time(1.0).rows([left(1, 5)])
    assert driven.processing_time(10.9).rows([right(1, 5)], input=1).output().column_names == ["user", "t", "a", "t_right", "b"]
    assert driven.processing_time(11.0).rows([right(1, 5)], input=1).output().num_rows == 0


def test_taking_back_what_never_came_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="its right input takes back a row that never came"):
        harness("inner", right=RIGHT.append(CHANGING)).rows([right(1, 1, **{CHANGE: -1})], input=1)


# --- the API


def streams(env: fr.StreamEnvironment) -> tuple[fr.DataStream, fr.DataStream]:
    users = env.from_batches(pa.table({"user": [1, 2, 3], "name": ["ann", "bob", "cy"]}))
    orders = env.from_batches(pa.table({"user": [1, 1, 3, 4], "total": [5, 7, 1, 2]}))
    return users, orders


@pytest.fixture
def env() -> fr.StreamEnvironment:
    return fr.StreamEnvironment("joins", parallelism=2, runtime="local")


def test_a_join_runs_and_its_last_answer_is_collected(env: fr.StreamEnvironment) -> None:
    users, orders = streams(env)
    joined = users.key_by("user").join(orders.key_by("user"), how="full")
    rows = sorted(joined.collect().to_pylist(), key=str)
    assert rows == [
        {"user": 1, "name": "ann", "total": 5},
        {"user": 1, "name": "ann", "total": 7},
        {"user": 2, "name": "bob", "total": None},
        {"user": 3, "name": "cy", "total": 1},
        {"user": 4, "name": None, "total": 2},
    ]
    anti = users.key_by("user").join(orders.key_by("user"), how="anti").select("name")
    assert anti.collect().to_pylist() == [{"name": "bob"}]


def test_a_running_aggregate_may_be_joined_by_its_key(env: fr.StreamEnvironment) -> None:
    users, orders = streams(env)
    totals = orders.key_by("user").aggregate(total=fr.agg.sum("total"), emit="row")
    joined = users.key_by("user").join(totals.key_by("user")).filter(fr.col("total") > 5)
    assert joined.collect().to_pylist() == [{"user": 1, "name": "ann", "total": 12}]
    with pytest.raises(PlanError, match="replace each other by user, but are joined by total"):
        orders.key_by("total").join(totals.key_by("total"))


def test_what_takes_rows_back_needs_a_sink_that_can(env: fr.StreamEnvironment) -> None:
    users, orders = streams(env)
    joined = users.key_by("user").join(orders.key_by("user"), how="left")
    with pytest.raises(PlanError, match="takes append streams, but 'join' gives a retract stream"):
        joined.sink_to(fr.sinks.Csv("out/"))
    with pytest.raises(PlanError, match="which takes rows back"):
        joined.map(lambda row: row)
    with pytest.raises(PlanError, match="one of inner, left, right, full, semi, anti"):
        users.key_by("user").join(orders.key_by("user"), how="outer")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="not kept"):
        users.key_by("user").join(orders.key_by("user"), ttl=("1s", 0))
    assert (
        "left join on user, left rows kept 1000000 us, right rows kept for ever"
        in users.key_by("user").join(orders.key_by("user"), how="left", ttl=("1s", None)).explain()
    )
