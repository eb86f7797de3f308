"""Running aggregates, against plain Python over the same rows."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.errors import FlinkrayError, PlanError
from flinkray.graph.aggregates import Aggregate, partial_schema, result_schema
from flinkray.operators.keyed_aggregate import KeyedAggregateOperator
from flinkray.operators.pre_aggregate import PreAggregateOperator
from flinkray.state.key_hash import hash_keys, key_groups
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema(
    [("k", pa.int32()), ("name", pa.string()), ("v", pa.int64()), ("f", pa.float64()), ("d", pa.decimal128(10, 2)), ("t", pa.int64())]
)
INPUT = SCHEMA.append(pa.field(EVENT_TIME, pa.int64(), False))
AGGREGATES = (
    Aggregate("n", "count"),
    Aggregate("vs", "count", "v"),
    Aggregate("total", "sum", "v"),
    Aggregate("ftotal", "sum", "f"),
    Aggregate("dtotal", "sum", "d"),
    Aggregate("low", "min", "v"),
    Aggregate("high", "max", "f"),
    Aggregate("avg", "mean", "v"),
    Aggregate("favg", "mean", "f"),
    Aggregate("oldest", "first", "v"),
    Aggregate("newest", "last", "f"),
    Aggregate("at_low", "min_by", "t", "v"),
    Aggregate("at_high", "max_by", "v", "f"),
    Aggregate("dev", "stddev", "f"),
)


def make_rows(count: int, seed: int) -> list[dict[str, Any]]:
    random_ = random.Random(seed)

    def maybe(value: Any) -> Any:
        return None if random_.random() < 0.2 else value

    return [
        {
            "k": maybe(random_.randrange(-20, 20)),
            "name": maybe(random_.choice(["", "a", "bb", "a long name that has more than sixteen bytes", "ümlaut"])),
            "v": maybe(random_.randrange(-1000, 1000)),
            "f": maybe(random_.choice([random_.uniform(-9, 9), -0.0, math.inf])) if random_.random() < 0.98 else math.nan,
            "d": maybe(Decimal(random_.randrange(-(10**9), 10**9)) / 100),
            "t": 1_000 * seed + i,
        }
        for i in range(count)
    ]


def above(value: float) -> tuple[bool, float]:
    """Orders doubles as the engine does: NaN above all."""
    return (math.isnan(value), value)


def expected(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The aggregates of the rows of one key, computed in plain Python."""
    v = [row["v"] for row in rows if row["v"] is not None]
    f = [row["f"] for row in rows if row["f"] is not None]
    d = [row["d"] for row in rows if row["d"] is not None]
    both = [row for row in rows if row["v"] is not None and row["f"] is not None]
    mean = sum(f) / len(f) if f else None
    with_v = [row for row in rows if row["v"] is not None]
    return {
        "n": len(rows),
        "vs": len(v),
        "total": sum(v) if v else None,
        "ftotal": sum(f) if f else None,
        "dtotal": sum(d) if d else None,
        "low": min(v, default=None),
        "high": max(f, key=above, default=None),
        "avg": sum(v) / len(v) if v else None,
        "favg": mean,
        "oldest": v[0] if v else None,
        "newest": f[-1] if f else None,
        "at_low": min(with_v, key=lambda row: row["v"])["t"] if with_v else None,
        "at_high": max(both, key=lambda row: above(row["f"]))["v"] if both else None,
        "dev": math.sqrt(sum((x - mean) ** 2 for x in f) / (len(f) - 1)) if len(f) > 1 and mean is not None else None,
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return a == b


def check_final(found: dict[Any, dict[str, Any]], rows: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    by_key: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault(tuple(row[key] for key in keys), []).append(row)
    assert set(found) == set(by_key)
    for key, group in by_key.items():
        for name, value in expected(group).items():
            assert same(found[key][name], value), (key, name, found[key][name], value)


def newest(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[Any, dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in rows}


def operator(keys: tuple[str, ...], emit: Any = "batch", pre_aggregated: bool = False) -> KeyedAggregateOperator:
    return KeyedAggregateOperator(keys=keys, aggregates=AGGREGATES, emit=emit, pre_aggregated=pre_aggregated)


def direct(keys: tuple[str, ...], emit: Any = "batch", **options: Any) -> OperatorHarness:
    output = result_schema(keys, AGGREGATES, None, INPUT)
    return OperatorHarness(operator(keys, emit), input_schemas=SCHEMA, event_time="t", output_schema=output, **options)


KEYS = [("k",), ("name",), ("f",), ("k", "name"), ("name", "f", "d")]


@pytest.mark.parametrize("keys", KEYS[:2] + KEYS[3:4])
def test_the_newest_answer_of_each_key_equals_plain_python(keys: tuple[str, ...]) -> None:
    harness, rows = direct(keys), make_rows(2000, 1)
    for start in range(0, len(rows), 300):
        harness.rows(rows[start : start + 300])
    check_final(newest(harness.output_rows(), keys), rows, keys)


@pytest.mark.parametrize("keys", KEYS[:2] + KEYS[3:4])
def test_merging_pre_aggregated_batches_gives_the_same_answer(keys: tuple[str, ...]) -> None:
    local = OperatorHarness(PreAggregateOperator(keys=keys, aggregates=AGGREGATES), input_schemas=SCHEMA, event_time="t")
    parts = partial_schema(keys, AGGREGATES, None, INPUT)
    output = result_schema(keys, AGGREGATES, None, INPUT)
    merging = OperatorHarness(operator(keys, pre_aggregated=True), input_schemas=parts, output_schema=output)
    rows = make_rows(3000, 2)
    for start in range(0, len(rows), 700):
        merging.rows(local.rows(rows[start : start + 700]).output())
    check_final(newest(merging.output_rows(), keys), rows, keys)


def test_each_touched_key_comes_out_once_per_batch_with_its_largest_event_time() -> None:
    harness = direct(("k",))
    table = harness.rows([{"k": 1, "t": 9}, {"k": 2, "t": 5}, {"k": 1, "t": 7}]).output()
    assert table.column("k").to_pylist() == [1, 2]
    assert table.column("n").to_pylist() == [2, 1]
    assert table.column(EVENT_TIME).to_pylist() == [9, 5]
    assert table.column(CHANGE).to_pylist() == [1, 1]


def test_emit_row_answers_every_row_with_the_state_right_after_it() -> None:
    harness, rows = direct(("k",), "row"), make_rows(200, 3)
    out = harness.rows(rows).output_rows()
    assert len(out) == len(rows)
    for i, row in enumerate(out):
        so_far = [r for r in rows[: i + 1] if r["k"] == rows[i]["k"]]
        assert row["k"] == rows[i]["k"]
        assert same(row["n"], len(so_far))
        assert same(row["total"], expected(so_far)["total"])
        assert same(row["dev"], expected(so_far)["dev"])


def test_emit_final_says_nothing_before_the_end_and_is_not_repeated_after_a_restore() -> None:
    harness, rows = direct(("k",), "final"), make_rows(500, 4)
    assert harness.rows(rows).output().num_rows == 0
    check_final(newest(harness.end().output_rows(), ("k",)), rows, ("k",))
    (again,) = restore(lambda: operator(("k",), "final"), [harness.snapshot(1)], 1)
    assert again.end().output().num_rows == 0


def test_keys_that_wait_for_their_interval_survive_a_snapshot() -> None:
    harness = direct(("k",), 10.0)
    harness.rows([{"k": 1, "t": 1}, {"k": 2, "t": 1}])
    assert harness.processing_time(10.0).output().num_rows == 2
    harness.rows([{"k": 2, "t": 1}, {"k": None, "t": 1}])
    snapshot = harness.snapshot(1)
    harness.rows([{"k": 2, "t": 1}])
    assert sorted(harness.processing_time(20.0).output().column("n").to_pylist()) == [1, 3]
    (again,) = restore(lambda: operator(("k",), 10.0), [snapshot], 1)
    assert again.processing_time(1.0).output().num_rows == 0
    assert newest(again.processing_time(10.0).output_rows(), ("k",)).keys() == {(2,), (None,)}
    assert again.processing_time(20.0).output().num_rows == 0


@pytest.mark.parametrize("keys", KEYS)
def test_state_moves_from_1_to_2_to_3_to_1_subtasks(keys: tuple[str, ...]) -> None:
    rows, given, harnesses = make_rows(4000, 5), 0, [direct(keys)]
    for checkpoint, parallelism in enumerate((2, 3, 1), start=1):
        given = feed(harnesses, rows, given, keys)
        snapshots = [harness.snapshot(checkpoint) for harness in harnesses]
        harnesses = restore(lambda: operator(keys), snapshots, parallelism)
    feed(harnesses, rows, given, keys)
    harnesses[0].output()
    all_slots = restore(lambda: operator(keys, "final"), [harnesses[0].snapshot(9)], 1)[0].end().output_rows()
    by_key: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault(normal(row[key] for key in keys), []).append(row)
    assert {normal(row[key] for key in keys) for row in all_slots} == set(by_key)
    for row in all_slots:
        group = by_key[normal(row[key] for key in keys)]
        for name, value in expected(group).items():
            assert same(row[name], value), name


def normal(key: Any) -> tuple[Any, ...]:
    return tuple("nan" if isinstance(x, float) and math.isnan(x) else (0.0 if x == 0 else x) for x in key)


def feed(harnesses: list[OperatorHarness], rows: list[dict[str, Any]], given: int, keys: tuple[str, ...]) -> int:
    """A quarter of the rows, each to the subtask that owns its key group."""
    part = rows[given : given + len(rows) // 4]
    batch = pa.RecordBatch.from_pylist(part, SCHEMA)
    groups = key_groups(hash_keys(batch, keys, 7), 128)
    for harness in harnesses:
        mine = [row for row, group in zip(part, groups, strict=True) if int(group) in harness.key_groups]
        harness.rows(mine)
    return given + len(part)


def test_a_delta_holds_what_changed_since_its_base_also_past_an_aborted_snapshot() -> None:
    harness = direct(("k",))
    harness.rows([{"k": k, "v": k, "t": 0} for k in range(1000)])
    full = harness.snapshot(1)
    harness.rows([{"k": 3, "v": 10, "t": 1}, {"k": 5000, "v": 1, "t": 1}])
    harness.snapshot(2, base_id=1)  # aborted: nothing builds on it
    harness.rows([{"k": 4, "v": 20, "t": 2}])
    delta = harness.snapshot(3, base_id=1)
    assert full.written["rows"].num_rows == 1000
    assert sorted(delta.written["rows"].column("k").to_pylist()) == [3, 4, 5000]
    nothing = harness.snapshot(4, base_id=3)
    assert "rows" not in nothing.written
    (again,) = restore(lambda: operator(("k",)), [nothing], 1)
    again.rows([{"k": 3, "v": 100, "t": 3}, {"k": 5000, "v": 100, "t": 3}, {"k": 4, "v": 100, "t": 3}])
    assert newest(again.output_rows(), ("k",))[(3,)]["total"] == 113
    on_restored = again.snapshot(5, base_id=4)
    assert sorted(on_restored.written["rows"].column("k").to_pylist()) == [3, 4, 5000]
    final = restore(lambda: operator(("k",), "final"), [on_restored], 1)[0].end().output_rows()
    totals = {row["k"]: row["total"] for row in final}
    assert totals == {**{k: k for k in range(1000)}, 3: 113, 4: 124, 5000: 101}


def test_deltas_that_exceed_half_of_the_rows_give_way_to_a_full_snapshot() -> None:
    harness = direct(("k",))
    harness.rows([{"k": k, "t": 0} for k in range(1000)]).snapshot(1)
    sizes = []
    for checkpoint in range(2, 9):
        harness.rows([{"k": k, "t": 0} for k in range(120)])
        sizes.append(harness.snapshot(checkpoint, base_id=checkpoint - 1).written["rows"].num_rows)
    assert sizes == [120, 120, 120, 120, 1000, 120, 120]


def test_a_capture_does_not_see_rows_given_after_it() -> None:
    harness = direct(("name",))
    harness.rows([{"name": "a", "v": 1, "t": 0}])
    finish = harness.capture(1)
    harness.rows([{"name": "a", "v": 1, "t": 0}, {"name": "b", "v": 1, "t": 0}])
    chunk = finish().written["rows"]
    assert chunk.column("name").to_pylist() == ["a"]
    assert chunk.column("_a0_0").to_pylist() == [1]


def test_a_sum_that_overflows_fails_the_job_and_names_it() -> None:
    harness = direct(("k",))
    harness.rows([{"k": 1, "v": 2**62, "t": 0}])
    with pytest.raises(FlinkrayError, match=r"total=sum\(v\).*int64"):
        harness.rows([{"k": 1, "v": 2**62, "t": 0}])


def test_a_mean_of_large_ints_is_exact_where_a_sum_would_overflow() -> None:
    operator_ = KeyedAggregateOperator(keys=("k",), aggregates=(Aggregate("avg", "mean", "v"),))
    harness = OperatorHarness(operator_, input_schemas=SCHEMA, event_time="t")
    harness.rows([{"k": 1, "v": 2**62 + 1024 * i, "t": 0} for i in range(5)])
    assert harness.output().column("avg").to_pylist() == [float(2**62 + 2048)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int8(), [1, -5, 3]),
        (pa.uint64(), [2**63 + 5, 7, 2**64 - 1]),
        (pa.float32(), [1.5, -2.5, 0.25]),
        (pa.bool_(), [True, False, True]),
        (pa.date32(), [3, 1, 2]),
        (pa.timestamp("us", "UTC"), [30, -10, 20]),
        (pa.timestamp("ms"), [30, -10, 20]),
        (pa.time32("s"), [3, 1, 2]),
        (pa.duration("us"), [3, -1, 2]),
    ],
)
def test_values_keep_their_type(kind: pa.DataType, values: list[Any]) -> None:
    schema = pa.schema([("k", pa.int64()), ("x", kind)])
    column = (
        pa.array(values, kind)
        if not pa.types.is_temporal(kind)
        else pa.array(values, pa.int64()).cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    )
    wanted = ("min", "max", "first", "last")
    aggregates = (*(Aggregate(f, f, "x") for f in wanted), Aggregate("by", "max_by", "x", "x"))
    harness = OperatorHarness(KeyedAggregateOperator(keys=("k",), aggregates=aggregates), input_schemas=schema)
    harness.rows(pa.record_batch([pa.array([1] * 3), column], schema=schema))
    out = harness.output()
    assert all(out.schema.field(name).type == kind for name in (*wanted, "by"))
    plain = column.to_pylist()
    assert [out.column(name)[0].as_py() for name in (*wanted, "by")] == [min(plain), max(plain), plain[0], plain[-1], max(plain)]


def test_plans_that_make_no_sense_are_refused_by_name() -> None:
    cases = [
        (("nope",), (), "nope"),
        (("k",), (Aggregate("k", "count"),), "name of a key"),
        (("k",), (Aggregate("a", "sum", "name"),), "takes numbers"),
        (("k",), (Aggregate("a", "max", "names"),), "has no order"),
        (("k",), (Aggregate("a", "median", "v"),), "no aggregate 'median'"),
        (("k",), (Aggregate("a", "min_by", "v"),), "column to choose by"),
        (("k",), (Aggregate("a", "sum", "zz"),), "'zz'"),
        (("k",), (Aggregate("a", "count"), Aggregate("a", "count")), "another output"),
    ]
    for keys, aggregates, message in cases:
        with pytest.raises(PlanError, match=message):
            result_schema(keys, aggregates, None, INPUT.append(pa.field("names", pa.list_(pa.string()))))
