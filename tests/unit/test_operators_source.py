from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME, MIN_WATERMARK
from flinkray.connectors.base import DEAD_LETTER, Rejected, Source, Split, SplitEnumerator, SplitReader
from flinkray.errors import OperatorError
from flinkray.graph.windows import WatermarkStrategy
from flinkray.operators.base import Output
from flinkray.operators.rate_limit import RateLimit
from flinkray.operators.source import DISCOVERED_US, SPLIT_SCHEMA, TURN_S, EnumerateOperator, ReadOperator
from flinkray.operators.splits import split_from_json, split_to_json
from flinkray.testing.harness import OperatorHarness, SnapshotTables, restore

SCHEMA = pa.schema([("t", pa.timestamp("us", "UTC")), ("id", pa.string())])

NOTHING_YET, BAD = "nothing yet", "bad"


class ListReader(SplitReader):
    """Reads a list of event times; NOTHING_YET is an empty batch, BAD a rejected row."""

    def __init__(self, split: Split, rows: Sequence[Any], offset: int) -> None:
        self.split, self.rows, self.at = split, rows, offset
        self.rejected = Rejected()
        self.closed = False

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self.at == len(self.rows):
            return None
        times: list[int] = []
        while self.at < len(self.rows) and len(times) < max_rows:
            row = self.rows[self.at]
            if row == NOTHING_YET and times:
                break
            self.at += 1
            if row == NOTHING_YET:
                break
            if row == BAD:
                letter = {"source": self.split.id, "line": self.at, "row": "?", "error": "bad"}
                self.rejected = Rejected(1, pa.RecordBatch.from_pylist([letter], DEAD_LETTER))
                break
            times.append(row)
        ids = [f"{self.split.id}:{self.at - len(times) + i}" for i in range(len(times))]
        return pa.RecordBatch.from_pydict({"t": times, "id": ids}, schema=SCHEMA)

    def offset(self) -> int:
        return self.at

    def take_rejected(self) -> Rejected:
        taken, self.rejected = self.rejected, Rejected()
        return taken

    def close(self) -> None:
        self.closed = True


class ListEnumerator(SplitEnumerator):
    """Discovers the rounds of splits one by one."""

    def __init__(self, rounds: Sequence[Sequence[Split]], done: int, endless: bool) -> None:
        self.rounds, self.done, self.endless = rounds, done, endless

    def discover(self) -> list[Split]:
        if self.done == len(self.rounds):
            return []
        self.done += 1
        return list(self.rounds[self.done - 1])

    @property
    def finished(self) -> bool:
        return not self.endless and self.done == len(self.rounds)

    def state(self) -> Any:
        return {"done": self.done}


@dataclass
class ListSource(Source):
    contents: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    rounds: Sequence[Sequence[Split]] = ()
    endless: bool = False
    rate: float | None = None
    max_skew_us: int | None = None
    opened: list[ListReader] = field(default_factory=list)

    @property
    def bounded(self) -> bool:
        return not self.endless

    def schema(self) -> pa.Schema:
        return SCHEMA

    def with_columns(self, columns: tuple[str, ...]) -> Source:
        raise NotImplementedError

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        return ListEnumerator(self.rounds, 0 if state is None else state["done"], self.endless)

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        self.opened.append(ListReader(split, self.contents[split.id], offset or 0))
        return self.opened[-1]


BOUNDED = WatermarkStrategy("t", delay_us=5)


def reader(source: ListSource, watermark: WatermarkStrategy | None = BOUNDED, rows: int = 2, **options: Any) -> OperatorHarness:
    return OperatorHarness(ReadOperator(source, watermark), input_schemas=SPLIT_SCHEMA, batch_rows=rows, uid="src", **options)


def give(driven: OperatorHarness, *splits: Split) -> None:
    driven.rows([{"split": split_to_json(split), "size": split.size} for split in splits])
    driven.watermark(DISCOVERED_US)


def split(name: str, min_us: int | None = None, size: int = 1) -> Split:
    return Split(name, {"path": name}, min_us, size)


def mark(driven: OperatorHarness) -> int:
    operator = driven.operator
    assert isinstance(operator, ReadOperator)
    return operator.watermark_us()


def drain(driven: OperatorHarness) -> list[str]:
    """Poll to the end; ids in the order of emission. No row may be late by the watermark before it."""
    ids: list[str] = []
    for _ in range(10_000):
        before = mark(driven)
        status = driven.poll()
        for row in driven.output_rows():
            ids.append(row["id"])
            assert row["t"] > before, f"{row} is late"
        assert mark(driven) >= before
        if status.ended:
            return ids
        driven.processing_time(driven._now_s + status.wait_s)
    raise AssertionError("it never ended")


# ------------------------------------------------------------------------------------------------ reading


def test_rows_get_event_times_and_the_end_comes_after_all_splits() -> None:
    driven = reader(ListSource({"a": [1, 2, 3]}))
    assert not driven.poll().ended
    give(driven, split("a"))
    driven.watermark(DISCOVERED_US)
    assert driven.poll().emitted
    assert driven.output().to_pylist()[0][EVENT_TIME] == 1
    assert mark(driven) == 2 - 5 - 1
    driven.operator.on_end(driven)
    assert drain(driven) == ["a:2"]
    assert driven.operator._source.opened[0].closed


def test_without_a_watermark_rows_stay_as_they_are_and_splits_are_read_one_by_one() -> None:
    source = ListSource({"a": [1, 2], "b": [1], "c": [3]})
    driven = reader(source, watermark=None)
    give(driven, split("a"), split("b"), split("c"))
    driven.operator.on_end(driven)
    driven.poll()
    assert driven.output().schema == SCHEMA
    assert len(source.opened) == 1
    assert drain(driven) == ["b:0", "c:0"]
    assert mark(driven) == MIN_WATERMARK


def test_pending_splits_hold_the_watermark_by_their_smallest_event_time() -> None:
    driven = reader(ListSource({"a": [100, 500], "b": [200]}))
    give(driven, split("a", 100), split("b", 200))
    assert mark(driven) == 100 - 5 - 1
    driven.poll()
    assert mark(driven) == 200 - 5 - 1, "a is at 500, b is not read yet"


def test_a_split_of_unknown_event_times_holds_the_watermark_altogether() -> None:
    contents = {name: [100, 200, 300] for name in "abcdef"}
    driven = reader(ListSource(contents), rows=1)
    give(driven, *(split(name) for name in "abcdef"))
    for _ in range(8):
        driven.poll()
        assert mark(driven) == MIN_WATERMARK
    driven.operator.on_end(driven)
    assert sorted(drain(driven)) == sorted(f"{name}:{i}" for name in "abcdef" for i in range(3))


def test_splits_whose_times_do_not_overlap_are_opened_one_at_a_time_and_others_side_by_side() -> None:
    source = ListSource({"a": [10, 20, 30], "b": [100, 110], "c": [105, 120]})
    driven = reader(source, rows=1)
    give(driven, split("a", 10), split("b", 100), split("c", 105))
    driven.operator.on_end(driven)
    ids = drain(driven)
    assert ids == ["a:0", "a:1", "a:2", "b:0", "b:1", "c:0", "c:1"]
    source = ListSource({"a": [10, 200, 300], "b": [50, 60, 400]})
    driven = reader(source, rows=1)
    give(driven, split("a", 10), split("b", 50))
    driven.operator.on_end(driven)
    assert drain(driven) == ["a:0", "a:1", "b:0", "b:1", "b:2", "a:2"], "the furthest behind is read first"


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_reading_never_makes_rows_late(seed: int) -> None:
    """Rows of a split come in order up to the delay; `drain` looks at every row."""
    chance = random.Random(seed)
    contents, splits = {}, []
    for number in range(12):
        start = chance.randrange(0, 1000)
        times = sorted(chance.randrange(start, start + 300) for _ in range(chance.randrange(0, 9)))
        contents[f"s{number}"] = [time + chance.randrange(0, 5) for time in times]
        known = chance.random() < 0.7
        splits.append(split(f"s{number}", start if known else None))
    driven = reader(ListSource(contents), rows=chance.choice([1, 2, 5]))
    half = chance.randrange(0, 12)
    give(driven, *splits[:half]) if half else None
    give(driven, *splits[half:])
    driven.operator.on_end(driven)
    assert sorted(drain(driven)) == sorted(f"{name}:{i}" for name, rows in contents.items() for i in range(len(rows)))


def test_a_split_far_ahead_of_one_that_is_waited_for_is_paused() -> None:
    source = ListSource({"live": [0, NOTHING_YET, NOTHING_YET, 50], "far": list(range(0, 100, 10))}, max_skew_us=25)
    driven = reader(source, WatermarkStrategy("t"), rows=1)
    give(driven, split("live", 0), split("far", 0))
    seen = []
    for _ in range(8):
        driven.poll()
        seen += [row["id"] for row in driven.output_rows()]
    assert seen == ["live:0", "far:0", "far:1", "far:2", "far:3"], "paused beyond 25 us"
    driven.operator.on_end(driven)
    assert len(drain(driven)) == 7


def test_an_idle_split_holds_nobody_back_until_it_has_rows_again() -> None:
    strategy = WatermarkStrategy("t", idle_us=1_000_000)
    source = ListSource({"live": [10] + [NOTHING_YET] * 3 + [60], "other": [20, 30, 40, 45, 50]})
    driven = reader(source, strategy, rows=1)
    give(driven, split("live", 0), split("other", 0))
    driven.poll()
    driven.poll()
    driven.poll()
    assert mark(driven) == 9, "the live one stands at 10"
    driven.processing_time(2.0)
    driven.poll()
    driven.poll()
    assert mark(driven) > 9
    for step in range(30):
        driven.processing_time(2.0 + step / 100)
        driven.poll()
    assert [row["id"] for row in driven.output_rows()][-1] == "live:4"


def test_a_subtask_whose_splits_are_all_idle_says_so() -> None:
    source = ListSource({"live": [10] + [NOTHING_YET] * 9})
    driven = reader(source, WatermarkStrategy("t", idle_us=1_000_000))
    give(driven, split("live", 0))
    assert not driven.poll().idle
    assert not driven.poll().idle
    driven.processing_time(1.0)
    assert driven.poll().idle
    assert mark(driven) == 9


def test_a_reader_without_any_split_holds_nobody_back_once_discovery_is_through() -> None:
    driven = reader(ListSource())
    assert not driven.poll().idle, "splits may be on their way"
    driven.watermark(DISCOVERED_US)
    status = driven.poll()
    assert status.idle
    assert not status.ended
    driven.operator.on_end(driven)
    assert driven.poll().ended


def test_rejected_rows_are_counted_and_go_to_the_side_output() -> None:
    driven = reader(ListSource({"a": [1, BAD, 2, BAD]}))
    give(driven, split("a", 0))
    driven.operator.on_end(driven)
    for _ in range(5):
        status = driven.poll()
    assert status.ended
    assert [row["t"] for row in driven.output_rows()] == [1, 2]
    letters = driven.output("dead_letter")
    assert letters.schema == DEAD_LETTER
    assert letters.column("line").to_pylist() == [2, 4]
    assert (driven.metrics.skipped_rows, driven.metrics.dead_letter_rows) == (2, 2)


def test_an_error_of_a_reader_names_the_operator() -> None:
    driven = reader(ListSource({}))
    give(driven, split("missing"))
    with pytest.raises(OperatorError, match="operator 'src', subtask 0: KeyError: 'missing'"):
        driven.poll()


# ------------------------------------------------------------------------------------------------ rate


def test_the_rate_is_shared_by_the_subtasks_and_never_exceeded() -> None:
    driven = reader(ListSource({"a": list(range(10_000))}, rate=2000.0), rows=100_000, subtask=0, parallelism=2)
    give(driven, split("a", 0))
    emitted = 0
    for step in range(1, 2001):
        driven.processing_time(step / 1000)
        driven.poll()
        emitted += driven.output().num_rows
        assert emitted <= step
    assert emitted >= 1990


@dataclass
class ManualClock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class SlowOutput(Output):
    """What is chained to the reader takes its time for each row."""

    clock: ManualClock
    row_s: float
    sizes: list[int] = field(default_factory=list)

    def emit(self, batch: pa.RecordBatch, tag: str | None = None) -> None:
        self.clock.now_s += self.row_s * batch.num_rows
        self.sizes.append(batch.num_rows)


def test_batches_are_small_where_a_row_takes_long_for_a_barrier_waits_for_each() -> None:
    driven = reader(ListSource({"a": list(range(200_000))}), rows=1 << 18)
    give(driven, split("a", 0))
    clock = ManualClock()
    driven.operator.context = replace(driven.operator.context, clock=clock, buffer_timeout_s=0.0)
    out = SlowOutput(clock, row_s=1e-4)
    for _ in range(20):
        driven.operator.poll(out)
    assert max(out.sizes[1:]) * out.row_s <= 1.1 * TURN_S
    out.row_s = 1e-7
    for _ in range(20):
        driven.operator.poll(out)
    assert max(out.sizes) > 50_000, "large again when rows are cheap again"


def test_batches_do_not_become_single_rows_however_long_one_takes() -> None:
    driven = reader(ListSource({"a": list(range(10_000))}), rows=1 << 18)
    give(driven, split("a", 0))
    clock = ManualClock()
    driven.operator.context = replace(driven.operator.context, clock=clock, buffer_timeout_s=0.0)
    out = SlowOutput(clock, row_s=60.0)
    for _ in range(3):
        driven.operator.poll(out)
    assert out.sizes[1:] == [64, 64]


def test_a_waiting_reader_says_for_how_long() -> None:
    driven = reader(ListSource({"a": list(range(1000))}, rate=10.0))
    give(driven, split("a", 0))
    assert driven.poll().wait_s == pytest.approx(0.1)
    driven.processing_time(0.1)
    assert driven.poll().emitted


def test_a_stall_is_made_good_for_a_moment_only() -> None:
    limit = RateLimit(1000.0, now_s=0.0)
    assert limit.allowance(0.0) == 0
    assert limit.allowance(3600.0) == 250
    limit.take(250)
    assert limit.allowance(3600.0) == 0
    assert limit.wait_s() == pytest.approx(0.005)


def test_a_restored_reader_reads_again_at_once_what_it_is_owed_since_its_checkpoint() -> None:
    limit = RateLimit(1000.0, now_s=0.0, owed_s=2.0)
    assert limit.allowance(0.1) == 2000
    limit.take(2000)
    assert limit.allowance(0.2) == 100
    assert RateLimit(1000.0, now_s=0.0, owed_s=86_400.0).allowance(0.0) == 10_000
    assert RateLimit(1000.0, now_s=0.0, owed_s=-5.0).allowance(0.0) == 0


def test_a_low_rate_still_gives_whole_rows() -> None:
    limit = RateLimit(0.5, now_s=0.0)
    assert limit.allowance(1.9) == 0
    assert limit.allowance(2.0) == 1


# ------------------------------------------------------------------------------------------------ restore


@pytest.mark.parametrize("parallelism", [1, 2, 3])
@pytest.mark.parametrize("polls", [0, 1, 3, 7, 12])
def test_no_row_is_lost_or_doubled_by_a_restore(polls: int, parallelism: int) -> None:
    contents = {f"s{i}": list(range(i * 40, i * 40 + 100, 10)) for i in range(5)}
    known = {name: split(name, rows[0] if name != "s3" else None) for name, rows in contents.items()}
    both = [reader(ListSource(contents), rows=3, subtask=subtask, parallelism=2) for subtask in range(2)]
    give(both[0], known["s0"], known["s2"], known["s4"])
    give(both[1], known["s1"], known["s3"])
    before: list[str] = []
    for driven in both:
        for _ in range(polls):
            driven.poll()
        before += [row["id"] for row in driven.output_rows()]
    low = min(mark(driven) for driven in both)
    snapshots = [driven.snapshot(1) for driven in both]
    for driven in both:
        driven.poll()
    after: list[str] = []
    restored = restore(lambda: ReadOperator(ListSource(contents), BOUNDED), snapshots, parallelism)
    assert min(mark(driven) for driven in restored) == low
    for driven in restored:
        driven.operator.on_end(driven)
        after += drain(driven)
    assert sorted(before + after) == sorted(f"{name}:{i}" for name in contents for i in range(10))


def marks_after(contents: Mapping[str, Sequence[Any]], snapshots: Sequence[SnapshotTables], parallelism: int) -> list[int]:
    restored = restore(lambda: ReadOperator(ListSource(contents), BOUNDED), snapshots, parallelism)
    for driven in restored:
        driven.watermark(DISCOVERED_US)
    return [mark(driven) for driven in restored]


def test_the_watermark_after_a_restore_is_the_smallest_of_those_that_held_it() -> None:
    contents = {"a": [100, 200], "b": [300, 400]}
    both = [reader(ListSource(contents), rows=1, subtask=subtask, parallelism=3) for subtask in range(3)]
    give(both[0], split("a", 100))
    give(both[1], split("b", 300))
    for driven in both:
        driven.watermark(DISCOVERED_US)
        driven.poll()
    snapshots = [driven.snapshot(1) for driven in both]
    assert marks_after(contents, snapshots, 1) == [94]
    assert marks_after(contents, snapshots, 2) == [94, 294]
    both[0].operator.on_end(both[0])
    drain(both[0])
    snapshots = [driven.snapshot(2) for driven in both]
    assert marks_after(contents, snapshots, 1) == [294], "a reader that has ended holds nobody"


def test_a_snapshot_of_a_snapshot_keeps_offsets_of_splits_that_were_not_opened_again() -> None:
    contents = {f"s{i}": [i * 1000 + j for j in range(4)] for i in range(6)}
    driven = reader(ListSource(contents), rows=1)
    give(driven, *(split(name) for name in contents))
    driven.poll()
    read = [row["id"] for row in driven.output_rows()]
    (again,) = restore(lambda: ReadOperator(ListSource(contents), BOUNDED), [driven.snapshot(1)], 1)
    (third,) = restore(lambda: ReadOperator(ListSource(contents), BOUNDED), [again.snapshot(2)], 1)
    third.operator.on_end(third)
    assert sorted(read + drain(third)) == sorted(f"{name}:{i}" for name in contents for i in range(4))


# ------------------------------------------------------------------------------------------------ enumerating


def enumerator(source: ListSource, readers: int) -> OperatorHarness:
    return OperatorHarness(EnumerateOperator(source, "t", readers), output_schema=SPLIT_SCHEMA)


def test_a_bounded_enumeration_is_one_batch_and_the_end() -> None:
    driven = enumerator(ListSource(rounds=[[split("a", 1, 10), split("b", 2, 20)]]), 1)
    operator = driven.operator
    assert isinstance(operator, EnumerateOperator)
    assert operator.watermark_us() == MIN_WATERMARK
    status = driven.poll()
    assert (status.emitted, status.ended) == (True, True)
    assert operator.watermark_us() == DISCOVERED_US
    rows = driven.output().to_pylist()
    assert [split_from_json(row["split"]).id for row in rows] == ["a", "b"]
    assert [row["size"] for row in rows] == [10, 20]
    assert driven.poll().ended


def test_the_watermark_does_not_move_before_the_first_discovery_is_through() -> None:
    driven = reader(ListSource({"a": [100, 200]}))
    driven.rows([{"split": split_to_json(split("a", 100)), "size": 1}])
    driven.poll()
    assert mark(driven) == MIN_WATERMARK
    driven.watermark(DISCOVERED_US)
    assert mark(driven) == 194


def test_a_large_discovery_comes_in_batches_that_are_still_dealt_row_by_row() -> None:
    driven = enumerator(ListSource(rounds=[[split(f"s{i}", i, 1) for i in range(10_000)]]), 3)
    assert driven.poll().ended
    batches = driven._emitted[None]
    assert [batch.num_rows for batch in batches] == [4096, 4096, 1808]


def test_splits_survive_the_way_through_json() -> None:
    original = Split("x#1", {"path": "ä.csv", "start": 1, "groups": [1, 2]}, -5, 9)
    assert split_from_json(split_to_json(original)) == original
    assert json.loads(split_to_json(original))["id"] == "x#1"


def test_dealing_one_by_one_loads_readers_alike_and_keeps_the_turns_in_order() -> None:
    sizes = [9, 1, 1, 9, 9, 1, 1, 9]
    driven = enumerator(ListSource(rounds=[[split(f"s{i}", i, size) for i, size in enumerate(sizes)]]), 2)
    driven.poll()
    rows = driven.output().to_pylist()
    loads = [sum(row["size"] for row in rows[reader::2]) for reader in range(2)]
    assert loads == [20, 20]
    names = [split_from_json(row["split"]).id for row in rows]
    assert [set(names[i : i + 2]) for i in range(0, 8, 2)] == [{f"s{i}", f"s{i + 1}"} for i in range(0, 8, 2)]


def test_turns_go_on_where_the_last_discovery_stopped() -> None:
    driven = enumerator(ListSource(rounds=[[split("a", 0, 5)], [split("b", 0, 1), split("c", 0, 7)]], endless=True), 2)
    driven.poll()
    driven.processing_time(1.0)
    driven.poll()
    names = [split_from_json(row["split"]).id for row in driven.output().to_pylist()]
    assert names == ["a", "b", "c"], "reader 1's turn is a turn of its own"


def test_a_watched_source_waits_between_discoveries_and_goes_on_after_a_restore() -> None:
    source = ListSource(rounds=[[split("a")], [], [split("b")]], endless=True)
    driven = enumerator(source, 1)
    first = driven.poll()
    assert (first.emitted, first.ended, first.wait_s) == (True, False, 1.0)
    driven.processing_time(0.4)
    assert driven.poll().wait_s == pytest.approx(0.6)
    driven.processing_time(1.0)
    assert not driven.poll().emitted
    (again,) = restore(lambda: EnumerateOperator(source, "t", 1), [driven.snapshot(1)], 1)
    assert again.poll().emitted
    assert [split_from_json(row["split"]).id for row in again.output().to_pylist()] == ["b"]
