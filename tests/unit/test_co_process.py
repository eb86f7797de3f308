"""Connected streams: state for rows of both, broadcast state, restores; and streams that are split."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import flinkray as fr
from flinkray.operators.co_process import CoProcessOperator
from flinkray.operators.row_co_process import RowCoProcessOperator
from flinkray.testing.harness import OperatorHarness, restore

LEFT = pa.schema([("user", pa.int64()), ("n", pa.int64())])
RIGHT = pa.schema([("who", pa.int32()), ("limit", pa.int64())])
RULES = pa.schema([("name", pa.string()), ("limit", pa.int64())])
GIVEN = pa.schema([("user", pa.int64()), ("text", pa.string())])


class Limits(fr.KeyedCoProcessFunction):
    """Rows of the first stream that are above their user's limit, which the second stream sets."""

    limit = fr.ValueState("limit", int)

    def process1(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        if self.limit.value is not None and row["n"] > self.limit.value:
            yield {"user": ctx.key, "text": f"{row['n']} > {self.limit.value}"}

    def process2(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        self.limit.value = row["limit"]
        ctx.register_event_timer(100)

    def on_timer(self, timestamp: int, ctx: fr.ProcessContext) -> Any:
        yield {"user": ctx.key, "text": f"limit {self.limit.value} is over"}


class Rules(fr.KeyedBroadcastProcessFunction):
    """Tells of each row the rules that it breaks, and how many rows its user had."""

    output_schema = {"user": "int64", "text": "string"}
    side_outputs = {"removed": {"name": "string"}}
    rules = fr.BroadcastState("rules", str, {"limit": int})
    seen = fr.ValueState("seen", int)

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        self.seen.value = (self.seen.value or 0) + 1
        broken = sorted(name for name, rule in self.rules.items() if row["n"] > rule["limit"])
        yield {"user": ctx.key, "text": f"{self.seen.value}: {','.join(broken)}"}

    def process_broadcast(self, row: dict[str, Any], ctx: Any) -> None:
        if row["limit"] is None:
            self.rules.pop(row["name"])
            ctx.output("removed", {"name": row["name"]})
        else:
            self.rules[row["name"]] = {"limit": row["limit"]}


def co() -> CoProcessOperator:
    return CoProcessOperator(keys=["user"], right_keys=["who"], function=Limits(), output_schema=GIVEN, side_schemas={})


def broadcast() -> CoProcessOperator:
    sides = {"removed": pa.schema([("name", pa.string())])}
    return CoProcessOperator(keys=["user"], right_keys=None, function=Rules(), output_schema=GIVEN, side_schemas=sides)


class Shown(fr.CoProcessFunction):
    """Rows of both streams as text, without keys."""

    output_schema = {"text": "string"}
    side_outputs = {"large": {"n": "int64"}}

    def process1(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        if row["n"] > 5:
            ctx.output("large", {"n": row["n"]})
        yield {"text": f"{row['user']} at {ctx.timestamp}, {max(ctx.watermark, 0)}"}

    def process2(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        yield from ({"text": f"{row['who']}: {number}"} for number in range(row["limit"]))


class Ruled(fr.BroadcastProcessFunction):
    """The rules that a row breaks, without keys."""

    output_schema = {"text": "string"}
    side_outputs = {"removed": {"name": "string"}}
    rules = fr.BroadcastState("rules", str, {"limit": int})

    def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
        yield {"text": ",".join(sorted(name for name, rule in self.rules.items() if row["n"] > rule["limit"]))}

    process_broadcast = Rules.process_broadcast


TEXT = pa.schema([("text", pa.string())])


def shown() -> RowCoProcessOperator:
    sides = {"large": pa.schema([("n", pa.int64())])}
    return RowCoProcessOperator(function=Shown(), output_schema=TEXT, side_schemas=sides, broadcast=False)


def ruled() -> RowCoProcessOperator:
    sides = {"removed": pa.schema([("name", pa.string())])}
    return RowCoProcessOperator(function=Ruled(), output_schema=TEXT, side_schemas=sides, broadcast=True)


def texts(harness: OperatorHarness) -> list[str]:
    return sorted(row["text"] for row in harness.output_rows())


def test_rows_of_both_streams_share_state_and_timers_of_their_key_whatever_its_width() -> None:
    left = LEFT.append(pa.field("_event_time", pa.int64(), nullable=False))
    right = RIGHT.append(pa.field("_event_time", pa.int64(), nullable=False))
    given = GIVEN.append(pa.field("_event_time", pa.int64(), nullable=False))
    one = OperatorHarness(co(), input_schemas=[left, right], output_schema=given)
    one.rows([{"who": 1, "limit": 3, "_event_time": 1}, {"who": 2, "limit": 9, "_event_time": 1}], input=1)
    one.rows([{"user": 1, "n": 5, "_event_time": 2}, {"user": 2, "n": 5, "_event_time": 2}])
    assert texts(one) == ["5 > 3"]
    again = restore(co, [one.snapshot(1)], 2)
    for part in again:
        part.watermark(100)
    assert sorted(text for part in again for text in texts(part)) == ["limit 3 is over", "limit 9 is over"]


def test_what_is_broadcast_is_seen_by_rows_of_every_key() -> None:
    one = OperatorHarness(broadcast(), input_schemas=[LEFT, RULES])
    one.rows([{"name": "low", "limit": 2}, {"name": "high", "limit": 8}], input=1)
    one.rows([{"user": 1, "n": 5}, {"user": 2, "n": 9}, {"user": 1, "n": 1}])
    assert texts(one) == ["1: high,low", "1: low", "2: "]
    one.rows([{"name": "low", "limit": None}], input=1)
    assert one.output_rows("removed") == [{"name": "low"}]
    one.rows([{"user": 1, "n": 5}])
    assert texts(one) == ["3: "]


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_every_subtask_restores_what_was_broadcast_at_any_parallelism(parallelism: int) -> None:
    both = [OperatorHarness(broadcast(), input_schemas=[LEFT, RULES], subtask=i, parallelism=2) for i in range(2)]
    for one in both:
        one.rows([{"name": "low", "limit": 2}], input=1)
    snapshots = [one.snapshot(1) for one in both]
    assert [snapshot.written["broadcast:rules"].num_rows for snapshot in snapshots] == [1, 0], "written once"
    for one in restore(broadcast, snapshots, parallelism):
        one.rows([{"user": 1, "n": 5}])
        assert texts(one) == ["1: low"]


def test_only_process_broadcast_may_change_what_is_broadcast() -> None:
    class Wrong(Rules):
        def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
            self.rules["mine"] = {"limit": 1}

    class Types(Rules):
        def process_broadcast(self, row: dict[str, Any], ctx: Any) -> None:
            self.rules["mine"] = {"limit": "many"}  # type: ignore[dict-item]

    class Gives(Rules):
        def process_broadcast(self, row: dict[str, Any], ctx: Any) -> Any:
            return [row]

    def harness(function: fr.KeyedBroadcastProcessFunction) -> OperatorHarness:
        operator = CoProcessOperator(keys=["user"], right_keys=None, function=function, output_schema=GIVEN, side_schemas={})
        return OperatorHarness(operator, input_schemas=[LEFT, RULES])

    with pytest.raises(fr.UsageError, match="only process_broadcast may change it"):
        harness(Wrong()).rows([{"user": 1, "n": 5}])
    with pytest.raises(fr.OperatorError, match=r"'rules'.* is no struct<limit: int64>"):
        harness(Types()).rows([{"name": "low", "limit": 2}], input=1)
    with pytest.raises(fr.OperatorError, match="every subtask would give it"):
        harness(Gives()).rows([{"name": "low", "limit": 2}], input=1)


def test_rows_of_both_streams_come_to_one_function_without_keys() -> None:
    timed = pa.field("_event_time", pa.int64(), nullable=False)
    given = TEXT.append(timed)
    one = OperatorHarness(shown(), input_schemas=[LEFT.append(timed), RIGHT.append(timed)], output_schema=given).watermark(4)
    one.rows([{"user": 1, "n": 9, "_event_time": 7}, {"user": 2, "n": 5, "_event_time": 8}])
    one.rows([{"who": 3, "limit": 2, "_event_time": 9}, {"who": 4, "limit": 0, "_event_time": 9}], input=1)
    answer = one.output()
    assert list(zip(answer["text"].to_pylist(), answer["_event_time"].to_pylist(), strict=True)) == [
        ("1 at 7, 4", 7),
        ("2 at 8, 4", 8),
        ("3: 0", 9),
        ("3: 1", 9),
    ]
    assert one.output_rows("large") == [{"n": 9}]


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_what_is_broadcast_is_seen_without_keys_and_restored_at_any_parallelism(parallelism: int) -> None:
    both = [OperatorHarness(ruled(), input_schemas=[LEFT, RULES], subtask=i, parallelism=2) for i in range(2)]
    for one in both:
        one.rows([{"user": 1, "n": 5}]).rows([{"name": "low", "limit": 2}, {"name": "high", "limit": 8}], input=1)
        one.rows([{"user": 1, "n": 5}, {"user": 2, "n": 9}]).rows([{"name": "high", "limit": None}], input=1)
        assert texts(one) == ["", "high,low", "low"]
        assert one.output_rows("removed") == [{"name": "high"}]
    for one in restore(ruled, [one.snapshot(1) for one in both], parallelism):
        assert texts(one.rows([{"user": 1, "n": 9}])) == ["low"]


def test_without_keys_too_only_process_broadcast_may_change_what_is_broadcast() -> None:
    class Wrong(Ruled):
        def process(self, row: dict[str, Any], ctx: fr.ProcessContext) -> Any:
            self.rules.clear()  # type: ignore[attr-defined]

    operator = RowCoProcessOperator(function=Wrong(), output_schema=TEXT, side_schemas={}, broadcast=True)
    with pytest.raises(fr.UsageError, match="only process_broadcast may change it"):
        OperatorHarness(operator, input_schemas=[LEFT, RULES]).rows([{"user": 1, "n": 5}])


@pytest.fixture
def env() -> fr.StreamEnvironment:
    return fr.StreamEnvironment("connected", parallelism=2, runtime="local")


def test_connected_streams_are_checked_at_plan_time(env: fr.StreamEnvironment) -> None:
    left = env.from_batches(pa.table({"user": [1], "n": [5]}), uid="left")
    right = env.from_batches(pa.table({"name": ["low"], "limit": [2]}), uid="right")
    with pytest.raises(fr.PlanError, match="key 'user' of the left side is int64, 'name' of the right is string"):
        left.key_by("user").connect(right.key_by("name")).process(Limits())
    with pytest.raises(fr.PlanError, match=r"is no fr\.KeyedBroadcastProcessFunction, which a broadcast stream needs"):
        left.key_by("user").connect(right.broadcast()).process(Limits())
    with pytest.raises(fr.PlanError, match=r"other\.key_by\('column'\) or other\.broadcast\(\)"):
        left.key_by("user").connect(right)  # type: ignore[arg-type]
    text = left.key_by("user").connect(right.broadcast()).process(Rules()).explain()
    assert "to every subtask" in text
    assert "keeps value 'seen', broadcast 'rules'" in text


def test_a_split_stream_goes_one_way_for_each_row(env: fr.StreamEnvironment) -> None:
    rows = env.from_batches(pa.table({"n": [1, 5, None, 50, 500]}))
    small, large, rest = rows.split(fr.col("n") < 10, fr.col("n") < 100)
    found = [sorted(part.collect()["n"].to_pylist(), key=str) for part in (small, large, rest)]
    assert found == [[1, 5], [50], [500, None]]


def test_streams_without_keys_are_connected_and_checked_at_plan_time(env: fr.StreamEnvironment) -> None:
    left = env.from_batches(pa.table({"user": [1, 2], "n": [5, 6]}), uid="left")
    right = env.from_batches(pa.table({"who": [3], "limit": [2]}), uid="right")
    assert sorted(left.connect(right).process(Shown(), uid="shown").select("text").collect()["text"].to_pylist()) == [
        "1 at None, 0",
        "2 at None, 0",
        "3: 0",
        "3: 1",
    ]
    rules = env.from_batches(pa.table({"name": ["low"], "limit": [2]}), uid="rules")
    text = left.connect(rules.broadcast()).process(Ruled(), uid="ruled").explain()
    assert "to every subtask" in text
    assert "calls Ruled with what is broadcast to all; keeps broadcast 'rules'" in text
    with pytest.raises(fr.PlanError, match=r"is no fr\.CoProcessFunction, which two streams need"):
        left.connect(right).process(Limits())
    with pytest.raises(fr.PlanError, match=r"is no fr\.BroadcastProcessFunction, which a broadcast stream needs"):
        left.connect(right.broadcast()).process(Shown())
    with pytest.raises(fr.PlanError, match=r"of keyed streams both are keyed"):
        left.connect(right.key_by("who"))  # type: ignore[arg-type]
    with pytest.raises(fr.PlanError, match="different environments"):
        left.connect(fr.StreamEnvironment("other", runtime="local").from_batches(pa.table({"who": [3]}), uid="right"))
