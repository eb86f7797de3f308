"""Top n per window equals SQL's RANK() <= n over all rows, in one stage or two, whatever is restored on the way."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME, TIMESTAMP
from flinkray.errors import PlanError, RestoreError
from flinkray.graph.key_groups import subtask_of
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow
from flinkray.operators.ranking import top_rows
from flinkray.operators.window_top_n import WindowTopNOperator
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("shop", pa.string()), ("item", pa.int64()), ("sold", pa.int64()), (EVENT_TIME, pa.int64())])
AGGREGATED = pa.schema(
    [("item", pa.int64()), ("sold", pa.int64()), ("window_start", TIMESTAMP), ("window_end", TIMESTAMP), (EVENT_TIME, pa.int64())]
)
TEN = TumblingWindow(10)


def operator(window=TEN, keys=(), by=(("sold", "desc"),), n=1, **options):
    return WindowTopNOperator(keys=keys, by=by, n=n, window=window, **options)


def harness(schema=SCHEMA, parallelism=1, subtask=0, **options):
    return OperatorHarness(operator(**options), input_schemas=schema, parallelism=parallelism, subtask=subtask)


def row(item, sold, at, shop="a"):
    return {"shop": shop, "item": item, "sold": sold, EVENT_TIME: at}


def brief(rows):
    return [(r["window_start"], r["item"], r["sold"]) for r in rows]


def test_ties_are_kept_and_the_window_comes_out_at_its_end():
    top = harness(n=2).rows([row(1, 5, 0), row(2, 7, 9), row(3, 5, 3), row(4, 4, 4), row(5, 1, 10)])
    assert top.watermark(8).output_rows() == []
    out = top.watermark(9).output()
    assert out.schema.names == ["shop", "item", "sold", "window_start", "window_end", EVENT_TIME]
    assert out.schema.field("window_start").type == TIMESTAMP
    assert out["item"].to_pylist() == [2, 1, 3]
    assert out["window_end"].cast(pa.int64()).to_pylist() == [10] * 3
    assert out[EVENT_TIME].to_pylist() == [9] * 3
    assert brief(top.end().output_rows()) == [(10, 5, 1)]


def test_a_rank_counts_better_rows_and_not_better_values():
    top = harness(n=2).rows([row(1, 9, 0), row(2, 9, 0), row(3, 8, 0)]).end()
    assert [r["item"] for r in top.output_rows()] == [1, 2]


def test_window_columns_of_an_aggregate_are_kept():
    rows = [{"item": i, "sold": i % 3, "window_start": 0, "window_end": 10, EVENT_TIME: 9} for i in range(6)]
    out = harness(AGGREGATED, window=TumblingWindow(2)).rows(rows).end().output()
    assert out.schema.names == AGGREGATED.names
    assert out["window_start"].cast(pa.int64()).to_pylist() == [0, 0]
    assert out["item"].to_pylist() == [2, 5]


def test_the_output_has_the_columns_of_the_plan_in_their_order():
    names = ["window_end", "item", EVENT_TIME]
    schema = pa.schema([("window_end", TIMESTAMP), ("item", pa.int64()), pa.field(EVENT_TIME, pa.int64(), nullable=False)])
    top = OperatorHarness(operator(), input_schemas=SCHEMA, output_schema=schema).rows([row(1, 5, 0)]).end()
    assert top.output().schema.names == names


def test_late_rows_are_counted_or_tagged():
    late = row(9, 99, 5)
    assert harness().watermark(8).rows([late]).metrics.late_rows == 0
    counted = harness().watermark(9).rows([late, row(1, 1, 15)])
    assert counted.metrics.late_rows == 1
    assert brief(counted.end().output_rows()) == [(10, 1, 1)]
    tagged = harness(late_tag="late").watermark(10).rows([late])
    assert tagged.output("late").to_pylist() == [late]
    assert tagged.metrics.late_rows == 0


def test_a_window_that_is_over_comes_out_again_for_a_row_within_the_allowed_lateness():
    top = harness(lateness_us=5).rows([row(1, 5, 0), row(2, 4, 0)]).watermark(12)
    assert brief(top.output_rows()) == [(0, 1, 5)]
    assert brief(top.rows([row(3, 6, 1)]).output_rows()) == [(0, 3, 6)]
    assert brief(top.watermark(13).rows([row(5, 7, 2)]).output_rows()) == [(0, 5, 7)]
    top.watermark(14)
    assert top.output_rows() == []
    assert top.rows([row(4, 9, 1)]).metrics.late_rows == 1
    assert (top.output_rows(), top.metrics.state_rows) == ([], 0)


def test_the_local_stage_keeps_candidates_and_lets_late_rows_pass():
    top = harness(final=False, n=2).rows([row(i, i, i % 10) for i in range(20)])
    out = top.watermark(9).output()
    assert out.schema == SCHEMA
    assert out.to_pylist() == [row(19, 19, 9), row(18, 18, 8)]
    late = [row(1, 1, 5), row(2, 2, 4)]
    assert top.rows(late).output().to_pylist() == late
    assert (top.metrics.late_rows, top.metrics.state_rows) == (0, 0)


def test_state_is_pruned_as_it_grows():
    top = harness(n=3)
    for start in range(0, 100_000, 10_000):
        items = np.arange(start, start + 10_000)
        columns = {"shop": pa.array(["a"] * 10_000), "item": items, "sold": items, EVENT_TIME: np.zeros(10_000, np.int64)}
        top.rows(pa.RecordBatch.from_pydict(columns, SCHEMA))
        assert top.metrics.state_rows <= 10_000
    assert 0 < top.metrics.state_bytes < 1_000_000
    assert [r["item"] for r in top.end().output_rows()] == [99_999, 99_998, 99_997]


@pytest.mark.parametrize(
    ("values", "kind", "direction", "best"),
    [
        ([3, None, 1, 2], pa.int64(), "asc", [2, 3, 0]),
        ([3, None, 1, 2], pa.int64(), "desc", [0, 3, 2]),
        ([2**64 - 1, 0, 2**63, 1], pa.uint64(), "desc", [0, 2, 3]),
        ([-(2**63), 2**63 - 1, 0, -1], pa.int64(), "desc", [1, 2, 3]),
        ([1.5, float("nan"), float("-inf"), -2.0], pa.float64(), "desc", [1, 0, 3]),
        ([0.0, -0.0, 1.0, -1.0], pa.float64(), "asc", [3, 0, 1]),
        ([1.5, 2.5, -3.5, None], pa.float32(), "asc", [2, 0, 1]),
        (["b", None, "a", "c"], pa.string(), "asc", [2, 0, 3]),
        (["b", None, "a", "c"], pa.string(), "desc", [3, 0, 2]),
        (["b", "b", "a", "c"], pa.dictionary(pa.int32(), pa.string()), "desc", [3, 0, 1]),
        ([5, None, -7, 6], TIMESTAMP, "desc", [3, 0, 2]),
        ([5, None, 7, 6], pa.date32(), "asc", [0, 3, 2]),
        ([5, None, 7, 6], pa.time32("s"), "desc", [2, 3, 0]),
        ([5, None, 7, 6], pa.duration("ms"), "desc", [2, 3, 0]),
        ([True, None, False, True], pa.bool_(), "desc", [0, 3, 2]),
        (["1.5", None, "-2.5", "9"], pa.decimal128(10, 2), "desc", [3, 0, 2]),
    ],
)
def test_every_type_that_sorts_can_rank(values, kind, direction, best):
    array = pa.array(values, pa.string()).cast(kind) if pa.types.is_decimal(kind) else pa.array(values, kind)
    rows = pa.RecordBatch.from_arrays([array], names=["x"])
    assert top_rows(rows, (), (("x", direction),), 3).tolist() == best


def test_several_columns_decide_one_after_the_other():
    rows = pa.RecordBatch.from_pydict({"a": [1, 1, 2, 2, 2], "b": [5, 6, 7, 8, 8]})
    assert top_rows(rows, (), (("a", "desc"), ("b", "asc")), 2).tolist() == [2, 3, 4]
    assert top_rows(rows, (), (("a", "asc"), ("b", "desc")), 1).tolist() == [1]


def test_keys_of_several_columns_with_nulls_are_ranked_apart():
    rows = pa.RecordBatch.from_pydict(
        {"k": ["x", None, "x", None, "x"], "f": [0.0, float("nan"), -0.0, float("nan"), 1.0], "v": [1, 2, 3, 4, 5]}
    )
    assert sorted(top_rows(rows, ("k", "f"), (("v", "desc"),), 1).tolist()) == [2, 3, 4]


@pytest.mark.parametrize(
    ("message", "build"),
    [
        ("session", lambda: operator(window=SessionWindow(5))),
        ("at least 1", lambda: operator(n=0)),
        ("at least 1", lambda: operator(by=())),
        ("'none'", lambda: harness(by=(("none", "desc"),))),
        ("neither", lambda: harness(by=(("sold", "down"),))),
        ("cannot order", lambda: harness(SCHEMA.append(pa.field("l", pa.list_(pa.int64()))), by=(("l", "asc"),))),
        (EVENT_TIME, lambda: harness(pa.schema([("sold", pa.int64())]))),
    ],
)
def test_what_makes_no_sense_is_refused(message, build):
    with pytest.raises(PlanError, match=message):
        build()


def test_a_snapshot_of_other_columns_is_refused():
    snapshot = harness().rows([row(1, 1, 0)]).snapshot(1)
    with pytest.raises(RestoreError, match="columns"):
        OperatorHarness(operator(), input_schemas=AGGREGATED, restored=_restored(snapshot))


def _restored(snapshot):
    from flinkray.operators.base import RestoredState

    return [RestoredState(chain.name, chain.kind, (chain.tables,)) for chain in snapshot.chains]


def test_deltas_hold_the_changed_panes_only():
    top = harness(n=100).rows([row(i, i, i % 50) for i in range(500)])
    first = top.snapshot(1)
    assert first.written["rows"].num_rows == 500
    top.rows([row(1000, 1000, 42)]).watermark(20)
    second = top.snapshot(2, base_id=1)
    assert second.written["rows"].num_rows == 101
    assert "rows" not in top.snapshot(3, base_id=2).written
    (again,) = restore(lambda: operator(n=100), [second], 1)
    assert again.metrics.state_rows == 301
    third = again.rows([row(1001, 1001, 31)]).snapshot(3, base_id=2)
    assert third.written["rows"].num_rows == 101
    expected = [brief(h.end().output_rows()) for h in restore(lambda: operator(n=100), [third], 1)]
    again.output()
    assert [brief(again.end().output_rows())] == expected


def test_a_watermark_is_restored_so_that_late_rows_stay_late():
    (again,) = restore(operator, [harness().rows([row(1, 1, 15)]).watermark(12).snapshot(1)], 1)
    again.watermark(5).rows([row(2, 2, 3)])
    assert again.metrics.late_rows == 1
    assert brief(again.end().output_rows()) == [(10, 1, 1)]


def windows_of(window, at):
    slide = getattr(window, "slide_us", window.size_us)
    start = (at - window.offset_us) // slide * slide + window.offset_us
    while start + window.size_us > at:
        yield start
        start -= slide


def oracle(rows, window, keys, n):
    """Every window's rows with fewer than n better rows, as tuples."""
    groups = defaultdict(list)
    for r in rows:
        for start in windows_of(window, r[EVENT_TIME]):
            groups[start, *(r[key] for key in keys)].append(r)
    return sorted(
        (group[0], r["item"], r["sold"])
        for group, members in groups.items()
        for r in members
        if sum(other["sold"] > r["sold"] for other in members) < n
    )


class Stages:
    """A local and a final stage, several subtasks each, with a shuffle between them."""

    def __init__(self, parallelism, **options):
        self.options = options
        self.local = [harness(final=False, subtask=i, parallelism=parallelism, **options) for i in range(parallelism)]
        self.final = [harness(subtask=i, parallelism=parallelism, **options) for i in range(parallelism)]
        self.out = []

    def feed(self, rows, random):
        parts = defaultdict(list)
        for r in rows:
            parts[int(random.integers(len(self.local)))].append(r)
        for subtask, part in parts.items():
            self.local[subtask].rows(part)

    def watermark(self, us):
        for stage in self.local:
            stage.watermark(us)
            table = stage.output()
            if table.num_rows:
                self._shuffle(table)
        for stage in self.final:
            stage.watermark(us)
            self.out += brief(stage.output_rows())

    def _shuffle(self, table):
        for batch in table.to_batches():
            targets = np.zeros(batch.num_rows, np.int64)
            if self.options["keys"]:
                groups = key_groups(hash_keys(batch, self.options["keys"], 7), 128)
                targets = np.array([subtask_of(int(group), 128, len(self.final)) for group in groups])
            for subtask, stage in enumerate(self.final):
                stage.rows(batch.filter(pa.array(targets == subtask)))

    def restart(self, checkpoint, parallelism, base):
        for name, final in (("local", False), ("final", True)):
            snapshots = [stage.snapshot(checkpoint, base) for stage in getattr(self, name)]
            for stage in getattr(self, name):
                stage.rows([row(-1, 10**6, 10**6)])  # lost: comes after the snapshot
            setattr(self, name, restore(lambda final=final: operator(final=final, **self.options), snapshots, parallelism))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("window", [TEN, TumblingWindow(7, 3), SlidingWindow(12, 4), SlidingWindow(10, 4, 1)])
@pytest.mark.parametrize("keys", [(), ("shop",)])
def test_two_stages_with_restores_equal_the_oracle(seed, window, keys):
    random = np.random.default_rng(seed)
    plan = [1, 2, 3, 3, 1, 1] if keys else [1] * 6
    stages = Stages(plan[0], window=window, keys=keys, n=int(random.integers(1, 4)))
    rows, watermark = [], -30
    for step in range(24):
        batch = [
            row(len(rows) + i, int(random.integers(0, 12)), int(watermark + 1 + random.integers(0, 30)), shop)
            for i, shop in enumerate(random.choice(["a", "b", "c", None], int(random.integers(0, 40))).tolist())
        ]
        rows += batch
        stages.feed(batch, random)
        watermark += int(random.integers(0, 12))
        stages.watermark(watermark)
        if step % 4 == 3:
            same = step > 4 and plan[step // 4] == plan[step // 4 - 1]
            stages.restart(step, plan[step // 4], step - 4 if same else None)
    stages.watermark(2**62)
    assert sorted(stages.out) == oracle(rows, window, keys, stages.options["n"])


@pytest.mark.parametrize("keys", [(), ("shop",)], ids=str)
@pytest.mark.parametrize("n", [1, 3, 40, 5000])
def test_groups_are_ranked_apart_and_come_out_one_after_the_other(keys, n):
    random = np.random.default_rng(n)
    rows = pa.RecordBatch.from_pydict(
        {"shop": random.choice(["a", "b", None], 4000).tolist(), "sold": random.integers(0, 900, 4000), "item": random.integers(0, 3, 4000)}
    )
    groups = random.integers(0, 5, 4000)
    best = top_rows(rows, keys, (("sold", "desc"), ("item", "asc")), n, groups)
    assert groups[best].tolist() == sorted(groups[best].tolist())
    members = defaultdict(list)
    for position, (group, r) in enumerate(zip(groups.tolist(), rows.to_pylist(), strict=True)):
        members[group, *(r[key] for key in keys)].append(((-r["sold"], r["item"]), position))
    expected = [p for group in members.values() for value, p in group if sum(other < value for other, _ in group) < n]
    assert sorted(best.tolist()) == sorted(expected)
