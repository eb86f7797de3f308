"""Session windows equal a plain-Python account of them: out of order, late, merged, restored at any parallelism."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, MIN_WATERMARK, TIMESTAMP
from flinkray.errors import PlanError, RestoreError
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.key_groups import subtask_of
from flinkray.graph.windows import SessionWindow, TumblingWindow
from flinkray.operators.session_aggregate import SessionAggregateOperator
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("name", pa.string()),
        ("place", pa.int32()),
        ("amount", pa.int64()),
        ("price", pa.float64()),
        (EVENT_TIME, pa.int64()),
    ]
)
COUNT = (Aggregate("rows", "count"),)
AGGREGATES = (
    Aggregate("rows", "count"),
    Aggregate("amounts", "count", "amount"),
    Aggregate("total", "sum", "amount"),
    Aggregate("least", "min", "amount"),
    Aggregate("most", "max", "price"),
    Aggregate("mean", "mean", "amount"),
    Aggregate("opening", "first", "amount"),
    Aggregate("closing", "last", "amount"),
)


def operator(keys=("user",), gap=10, aggregates=COUNT, lateness_us=0, late_tag=None):
    window = SessionWindow(gap)
    return SessionAggregateOperator(
        keys=keys, aggregates=aggregates, window=window, lateness_us=lateness_us, late_tag=late_tag, pre_aggregated=False
    )


def harness(parallelism=1, subtask=0, **options):
    return OperatorHarness(operator(**options), input_schemas=SCHEMA, parallelism=parallelism, subtask=subtask)


def rows(*times, user=1):
    return [{"user": user, "name": "n", "place": 0, "amount": 1, "price": 1.0, EVENT_TIME: at} for at in times]


def brief(driven):
    return [(r["user"], r["window_start"], r["window_end"], r["rows"]) for r in driven.output_rows()]


def test_a_session_ends_when_no_row_came_for_the_gap():
    driven = harness().rows(rows(0, 4, 9)).watermark(18)
    assert brief(driven) == []
    out = driven.watermark(19).output()
    assert out.schema.names == ["user", "window_start", "window_end", "rows", EVENT_TIME]
    assert out[EVENT_TIME].to_pylist() == [18]
    assert brief(harness().rows(rows(0, 4, 9)).end()) == [(1, 0, 19, 3)]


def test_sessions_merge_when_the_gap_is_exactly_reached_and_not_beyond():
    assert brief(harness().rows(rows(0, 10)).end()) == [(1, 0, 20, 2)]
    assert brief(harness().rows(rows(0)).rows(rows(10)).end()) == [(1, 0, 20, 2)]
    assert brief(harness().rows(rows(10)).rows(rows(0)).end()) == [(1, 0, 20, 2)]
    assert brief(harness().rows(rows(0)).rows(rows(11)).end()) == [(1, 0, 10, 1), (1, 11, 21, 1)]


def test_a_row_at_the_very_end_of_a_session_still_joins_it():
    driven = harness().rows(rows(0)).watermark(9)
    assert brief(driven.rows(rows(10)).end()) == [(1, 0, 20, 2)]


def test_the_watermark_goes_on_behind_the_event_time_of_sessions_still_to_come():
    driven = harness().rows(rows(0)).watermark(9)
    assert driven.operator.output_watermark_us(9) == 8
    assert driven.watermark(10).output()[EVENT_TIME].to_pylist() == [9]
    assert [driven.operator.output_watermark_us(us) for us in (MIN_WATERMARK, MAX_WATERMARK)] == [MIN_WATERMARK, MAX_WATERMARK]


def test_a_row_between_joins_several_open_sessions():
    driven = harness().rows(rows(0, 15, 30, 100)).rows(rows(200))
    assert driven.metrics.state_rows == 5
    driven.rows(rows(8, 22))
    assert driven.metrics.state_rows == 3
    assert brief(driven.end()) == [(1, 0, 40, 5), (1, 100, 110, 1), (1, 200, 210, 1)]
    assert driven.metrics.state_rows == 0


def test_keys_do_not_mix():
    driven = harness().rows(rows(0, user=1) + rows(5, user=2) + rows(9, user=None)).rows(rows(12, user=None))
    assert sorted(brief(driven.end()), key=str) == [(1, 0, 10, 1), (2, 5, 15, 1), (None, 9, 22, 2)]


def test_a_row_is_late_when_its_session_would_be_over():
    driven = harness().watermark(20)
    assert brief(driven.rows(rows(10)).end()) == []
    assert driven.metrics.late_rows == 1
    kept = harness().watermark(20).rows(rows(11))
    assert brief(kept.end()) == [(1, 11, 21, 1)]


def test_an_old_row_that_reaches_an_open_session_is_not_late():
    driven = harness().rows(rows(20, 15)).watermark(24)
    assert brief(driven.rows(rows(5)).end()) == [(1, 5, 30, 3)]
    assert driven.metrics.late_rows == 0


def test_late_rows_go_to_their_side_output_unchanged():
    driven = harness(late_tag="late").watermark(20)
    driven.rows(rows(3, 30) + rows(4, user=2))
    assert driven.output("late").to_pylist() == rows(3) + rows(4, user=2)
    assert driven.metrics.late_rows == 0
    assert brief(driven.end()) == [(1, 30, 40, 1)]


def test_rows_within_the_allowed_lateness_give_the_answer_again():
    driven = harness(lateness_us=15).rows(rows(0)).watermark(12)
    assert brief(driven) == [(1, 0, 10, 1)]
    assert brief(driven.rows(rows(1))) == [(1, 0, 11, 2)]
    assert brief(driven.rows(rows(1, user=2))) == [(2, 1, 11, 1)]
    assert brief(driven.rows(rows(9))) == []  # it goes on: its end is not reached
    assert brief(driven.watermark(19)) == [(1, 0, 19, 3)]
    assert brief(driven.rows(rows(-4, 12))) == []  # the first part alone would answer
    assert brief(driven.watermark(22)) == [(1, -4, 22, 5)]
    driven.watermark(37)
    assert driven.metrics.state_rows == 0
    assert brief(driven.rows(rows(3)).end()) == []
    assert driven.metrics.late_rows == 1


def test_a_session_that_answered_goes_on_when_later_rows_of_the_same_batch_reach_it():
    driven = harness(lateness_us=100, gap=2).rows(rows(0, 2, 4)).watermark(6)
    assert brief(driven) == [(1, 0, 6, 3)]
    assert brief(driven.rows(rows(-2, 6))) == []
    assert brief(driven.watermark(8)) == [(1, -2, 8, 5)]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(PlanError, match="session"):
        SessionAggregateOperator(
            keys=("user",), aggregates=AGGREGATES, window=TumblingWindow(5), lateness_us=0, late_tag=None, pre_aggregated=False
        )
    with pytest.raises(PlanError, match="'nobody'"):
        harness(keys=("nobody",))
    with pytest.raises(PlanError, match="pre-aggregated"):
        SessionAggregateOperator(
            keys=("user",), aggregates=AGGREGATES, window=SessionWindow(5), lateness_us=0, late_tag=None, pre_aggregated=True
        )


def test_a_batch_in_which_all_rows_are_late_leaves_no_key_behind():
    driven = harness().watermark(1000)
    before = driven.metrics.state_bytes
    for start in range(0, 50_000, 5_000):
        batch = [row for user in range(start, start + 5_000) for row in rows(3, user=user)]
        driven.rows(batch)
    assert driven.metrics.late_rows == 50_000
    assert driven.metrics.state_rows == 0
    assert driven.metrics.state_bytes <= before + 2_000_000


# --- snapshots


def test_deltas_hold_what_changed_and_what_is_gone():
    driven = harness().rows([row for user in range(500) for row in rows(0, 100, user=user)])
    assert driven.snapshot(1).written["sessions"].num_rows == 1000
    driven.rows(rows(5, 99, user=7)).rows(rows(300, user=1000))
    second = driven.snapshot(2, base_id=1)
    assert ops(second) == {"-": 1, "+": 3}  # one start moved from 100 to 99
    driven.watermark(112)
    third = driven.snapshot(3, base_id=2)
    assert driven.metrics.state_rows == 1
    assert brief(driven.end())[-1] == (1000, 300, 310, 1)
    (again,) = restore(operator, [third], 1)
    assert brief(again.end()) == [(1000, 300, 310, 1)]


def ops(snapshot):
    return {{0: "+", 1: "-"}[v["values"]]: v["counts"] for v in snapshot.written["sessions"]["_op"].value_counts().to_pylist()}


def test_a_delta_without_changes_is_not_written():
    driven = harness().rows(rows(0))
    driven.snapshot(1)
    assert "sessions" not in driven.snapshot(2, base_id=1).written


def test_changes_after_the_base_stay_in_every_later_delta_until_one_is_complete():
    driven = harness().rows([row for user in range(3000) for row in rows(0, user=user)])
    driven.snapshot(1)
    driven.rows(rows(50, user=1)).rows(rows(5, user=2))
    assert ops(driven.snapshot(2, base_id=1)) == {"+": 2}
    driven.rows(rows(50, user=3))
    assert ops(driven.snapshot(3, base_id=1)) == {"+": 3}
    assert ops(driven.snapshot(4, base_id=3) if driven.rows(rows(60, user=3)) else None) == {"+": 1}


def test_a_snapshot_does_not_see_what_comes_after_it():
    driven = harness().rows(rows(0, user=1) + rows(0, user=2))
    finish = driven.capture(1)
    driven.rows(rows(5, user=1)).watermark(12).rows(rows(30, user=3) + rows(31, user=4))
    (again,) = restore(operator, [finish()], 1)
    assert sorted(brief(again.end())) == [(1, 0, 10, 1), (2, 0, 10, 1)]


def test_late_rows_stay_late_after_a_restore():
    (again,) = restore(operator, [harness().rows(rows(30)).watermark(20).snapshot(1)], 1)
    again.watermark(5).rows(rows(3))
    assert again.metrics.late_rows == 1
    assert brief(again.end()) == [(1, 30, 40, 1)]


# --- random data against plain Python


@dataclass
class PlainSession:
    rows: list = field(default_factory=list)
    fired: bool = False

    @property
    def first(self):
        return min(row[EVENT_TIME] for row in self.rows)

    @property
    def last(self):
        return max(row[EVENT_TIME] for row in self.rows)


class PlainSessions:
    """Sessions as lists of rows, one batch at a time."""

    def __init__(self, keys, gap, lateness):
        self.keys, self.gap, self.lateness = keys, gap, lateness
        self.watermark, self.open, self.out, self.late = MIN_WATERMARK, defaultdict(list), [], []

    def feed(self, batch):
        by_key = defaultdict(list)
        for row in batch:
            by_key[tuple(row[key] for key in self.keys)].append(row)
        for key, members in by_key.items():
            parts = []
            for row in sorted(members, key=lambda row: row[EVENT_TIME]):
                if parts and row[EVENT_TIME] - parts[-1].last <= self.gap:
                    parts[-1].rows.append(row)
                else:
                    parts.append(PlainSession([row]))
            touched = []
            for part in parts:
                near = [s for s in self.open[key] if s.first - part.last <= self.gap and part.first - s.last <= self.gap]
                if not near and part.last + self.gap + self.lateness <= self.watermark:
                    self.late += part.rows
                    continue
                joined = PlainSession([row for s in [*near, part] for row in s.rows])
                self.open[key] = [s for s in self.open[key] if s not in near] + [joined]
                touched = [s for s in touched if s not in near] + [joined]
            for s in touched:
                s.fired = s.last + self.gap <= self.watermark
                if s.fired:
                    self.answer(key, s)

    def advance(self, watermark):
        self.watermark = watermark
        for key, sessions in list(self.open.items()):
            for s in sessions:
                if not s.fired and s.last + self.gap <= watermark:
                    s.fired = True
                    self.answer(key, s)
            self.open[key] = [s for s in sessions if s.last + self.gap + self.lateness > watermark]

    def answer(self, key, session):
        self.out.append((*key, session.first, session.last + self.gap, *aggregate(session.rows)))


def aggregate(members):
    amounts = [row["amount"] for row in members if row["amount"] is not None]
    prices = [row["price"] for row in members if row["price"] is not None]
    in_time = sorted((row for row in members if row["amount"] is not None), key=lambda row: (row[EVENT_TIME], row["amount"]))
    return (
        len(members),
        len(amounts),
        sum(amounts) if amounts else None,
        min(amounts, default=None),
        max(prices, default=None),
        sum(amounts) / len(amounts) if amounts else None,
        in_time[0]["amount"] if in_time else None,
        in_time[-1]["amount"] if in_time else None,
    )


class Job:
    """The operator in several subtasks, rows shuffled by key."""

    def __init__(self, parallelism, **options):
        self.options, self.keys, self.out, self.late = options, options["keys"], [], []
        self.subtasks = [harness(parallelism, subtask, **options) for subtask in range(parallelism)]

    def feed(self, batch):
        if not batch:
            return
        data = pa.RecordBatch.from_pylist(batch, SCHEMA)
        groups = key_groups(hash_keys(data, self.keys, 7), 128)
        targets = np.array([subtask_of(int(group), 128, len(self.subtasks)) for group in groups])
        for subtask, driven in enumerate(self.subtasks):
            driven.rows(data.filter(pa.array(targets == subtask)))
        self.collect()

    def advance(self, watermark):
        for driven in self.subtasks:
            driven.watermark(watermark)
        self.collect()

    def collect(self):
        for driven in self.subtasks:
            self.out += [tuple(row.values()) for row in driven.output_rows()]
            self.late += driven.output("late").to_pylist()

    def restart(self, checkpoint, base, parallelism, lost):
        finish = [driven.capture(checkpoint, base) for driven in self.subtasks]
        out, late = list(self.out), list(self.late)
        self.feed(lost)
        self.advance(self.subtasks[0].watermark_us + 7)
        snapshots = [capture() for capture in finish]
        self.out, self.late = out, late
        self.subtasks = restore(lambda: operator(**self.options), snapshots, parallelism)

    def checkpoint(self, checkpoint, base):
        for driven in self.subtasks:
            driven.snapshot(checkpoint, base)


def batch_of(random, size, start, spread, unique):
    users = random.choice([1, 2, 3, 4, 5, None], size).tolist()
    names = random.choice(["ann", "bob", "", None, "a long name that is stored elsewhere"], size).tolist()
    return [
        {
            "user": user,
            "name": name,
            "place": None if random.random() < 0.2 else int(random.integers(0, 2)),
            "amount": None if random.random() < 0.2 else next(unique),
            "price": None if random.random() < 0.2 else float(random.integers(-50, 50)) / 4,
            EVENT_TIME: int(start + random.integers(0, spread)),
        }
        for user, name in zip(users, names, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keys", [("user",), ("name",), ("name", "place"), ("place", "user")])
@pytest.mark.parametrize(("lateness", "behind"), [(0, 0), (0, 30), (20, 45)])
def test_random_sessions_with_restores_equal_plain_python(seed, keys, lateness, behind):
    random = np.random.default_rng(seed)
    gap = int(random.integers(2, 12))
    plain = PlainSessions(keys, gap, lateness)
    options = {"keys": keys, "gap": gap, "aggregates": AGGREGATES, "lateness_us": lateness, "late_tag": "late"}
    plan = [1, 2, 3, 3, 1, 1, 2]
    job, watermark, unique = Job(1, **options), -100, iter(range(10**6))
    base = None
    for step in range(35):
        batch = batch_of(random, int(random.integers(0, 25)), watermark + 1 - behind, 100 + behind, unique)
        for side in (job, plain):
            side.feed(batch)
        watermark += int(random.integers(0, 40))
        for side in (job, plain):
            side.advance(watermark)
        if step % 5 == 4:
            parallelism = plan[step // 5]
            same = parallelism == len(job.subtasks)
            job.restart(step, base, parallelism, batch_of(random, 30, watermark - 20, 100, unique))
            base = step if same else None
        elif random.random() < 0.4:
            job.checkpoint(step, base)
            base = step if random.random() < 0.7 else base
    for side in (job, plain):
        side.advance(MAX_WATERMARK)
    assert sorted(job.out, key=str) == sorted(plain.out, key=str)
    assert sorted(map(str, job.late)) == sorted(map(str, plain.late))
    assert bool(plain.late) == (behind > 0)
    assert len(plain.out) > 20


def test_a_snapshot_of_other_aggregates_is_refused():
    snapshot = harness().rows(rows(0)).snapshot(1)
    with pytest.raises(RestoreError, match="other keys or aggregates"):
        restore(lambda: operator(aggregates=AGGREGATES), [snapshot], 1)


def test_the_output_has_the_columns_of_the_plan():
    schema = pa.schema([("user", pa.int64()), ("window_start", TIMESTAMP), ("window_end", TIMESTAMP), ("rows", pa.int64())])
    driven = OperatorHarness(operator(), input_schemas=SCHEMA, output_schema=schema)
    assert driven.rows(rows(0)).end().output().schema == schema
