"""The operator harness drives an operator as a slot does, and refuses what a slot must never see."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flinkray.columns import EVENT_TIME, MAX_WATERMARK, TIMESTAMP
from flinkray.errors import ProtocolError, RestoreError, UsageError
from flinkray.ids import KeyGroupRange
from flinkray.operators.base import Operator, RestoredState
from flinkray.operators.restore import KEY_GROUP, StateChain, TableCapture, restored_states
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("key", pa.int64()), ("at", TIMESTAMP)])
COUNTS = pa.schema([(KEY_GROUP, pa.uint16()), ("key", pa.int64()), ("count", pa.int64())])


class CountingOperator(Operator):
    """Counts rows per key (the key is its key group); deltas hold the keys touched since the last snapshot."""

    def open(self, context, restored, restored_checkpoint):
        super().open(context, restored, restored_checkpoint)
        self.counts, self.touched, self.watermarks, self.ended = {}, set(), [], False
        self.lists = []
        self.delta_base = None
        for state in restored:
            if state.kind == "list":
                self.lists = [table.column("from")[0].as_py() for (table,) in state.chains]
                continue
            self.delta_base = restored_checkpoint if state.continues else None
            for chain in state.chains:
                for table in chain:
                    self.counts.update(zip(table["key"].to_pylist(), table["count"].to_pylist(), strict=True))

    def process(self, batch, input_index, out):
        for key in batch.column("key").to_pylist():
            self.counts[key] = self.counts.get(key, 0) + 1
            self.touched.add(key)
        out.emit(batch)

    def on_watermark(self, watermark_us, out):
        self.watermarks.append(watermark_us)

    def on_end(self, out):
        self.ended = True

    def snapshot(self, checkpoint_id, base_id):
        full = base_id is None or base_id != self.delta_base
        keys = sorted(self.counts if full else self.touched)
        counts = [self.counts[key] for key in keys]
        self.touched, self.delta_base = set(), checkpoint_id

        def make():
            return pa.table([keys, keys, counts], schema=COUNTS) if full or keys else None

        where = pa.table({"from": [self.context.subtask]})
        return [TableCapture("counts", "keyed", full, make), TableCapture("where", "list", True, lambda: where)]


def harness(operator=None, **options):
    return OperatorHarness(operator or CountingOperator(), input_schemas=SCHEMA, **options)


def keys(*values):
    return [{"key": value, "at": 0} for value in values]


def test_rows_come_out_as_a_table_once():
    driven = harness().rows([{"key": 1, "at": 5}, {"key": 2, "at": None}])
    assert driven.output_rows() == [{"key": 1, "at": 5}, {"key": 2, "at": None}]
    assert driven.output().num_rows == 0


def test_the_event_time_is_filled_from_its_column():
    driven = harness(event_time="at").rows([{"key": 1, "at": 5}])
    assert driven.operator.context.input_schemas[0].names == ["key", "at", EVENT_TIME]
    assert driven.output()[EVENT_TIME].to_pylist() == [5]


def test_batches_and_tables_are_taken_as_they_are():
    batch = pa.RecordBatch.from_pylist(keys(1, 2), SCHEMA)
    driven = harness().rows(batch).rows(pa.Table.from_batches([batch, batch]))
    assert driven.output().num_rows == 6


def test_a_misspelt_column_is_refused():
    with pytest.raises(UsageError, match="kye"):
        harness().rows([{"kye": 1}])


def test_an_input_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="input 1"):
        harness().rows(keys(1), input=1)


def test_only_growing_watermarks_arrive_and_the_end_brings_the_last_one():
    driven = harness().watermark(5).watermark(5).watermark(3).watermark(7)
    driven.end()
    assert driven.operator.watermarks == [5, 7, MAX_WATERMARK]
    assert driven.operator.ended
    with pytest.raises(UsageError, match="end of input"):
        driven.rows(keys(1))


def test_processing_time_moves_the_clock_forward_only():
    driven = harness()
    driven.processing_time(2.5)
    assert driven.operator.context.clock() == 2.5
    with pytest.raises(UsageError, match="before"):
        driven.processing_time(2.0)


def test_an_operator_that_breaks_its_schema_is_caught():
    with pytest.raises(ProtocolError, match="CountingOperator"):
        harness(output_schema=pa.schema([("other", pa.int64())])).rows(keys(1))


def test_null_event_times_in_the_output_are_caught():
    hidden = SCHEMA.append(pa.field(EVENT_TIME, pa.int64()))
    with pytest.raises(ProtocolError, match="null"):
        OperatorHarness(CountingOperator(), input_schemas=hidden).rows(keys(1))


def test_only_sources_are_polled():
    with pytest.raises(UsageError, match="no source"):
        harness().poll()


def test_a_snapshot_does_not_see_later_rows_and_carries_its_whole_chain():
    driven = harness().rows(keys(1, 2))
    finish = driven.capture(1)
    driven.rows(keys(2))
    first = finish()
    assert first.written["counts"]["count"].to_pylist() == [1, 1]
    second = driven.snapshot(2, base_id=1)
    assert second.written["counts"].to_pylist() == [{KEY_GROUP: 2, "key": 2, "count": 2}]
    (restored,) = restore(CountingOperator, [second], 1)
    assert restored.operator.counts == {1: 1, 2: 2}
    third = driven.snapshot(3, base_id=2)
    assert "counts" not in third.written
    assert restore(CountingOperator, [third], 1)[0].operator.counts == {1: 1, 2: 2}


def test_state_moves_to_the_owners_of_its_key_groups():
    one = harness(max_parallelism=10).rows(keys(*range(10))).snapshot(1)
    three = restore(CountingOperator, [one], 3)
    assert [sorted(driven.operator.counts) for driven in three] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert all(driven.operator.lists == [0] for driven in three)
    two = restore(CountingOperator, [driven.snapshot(2) for driven in three], 2)
    assert [sorted(driven.operator.counts) for driven in two] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert all(driven.operator.lists == [0, 1, 2] for driven in two)


def test_a_restored_subtask_goes_on_with_its_own_chain_only_when_nothing_moved():
    two = restore(CountingOperator, [harness(max_parallelism=10).rows(keys(*range(10))).snapshot(1)], 2)
    moved = two[0].rows(keys(1)).snapshot(2)
    assert moved.written["counts"].num_rows == 5
    again = restore(CountingOperator, [moved, two[1].snapshot(2)], 2)
    delta = again[0].rows(keys(1)).snapshot(3, base_id=2)
    assert delta.written["counts"].to_pylist() == [{KEY_GROUP: 1, "key": 1, "count": 3}]


def test_a_base_that_was_never_taken_is_refused():
    with pytest.raises(UsageError, match="base 4"):
        harness().snapshot(5, base_id=4)


class BadCapture(CountingOperator):
    def __init__(self, full, table):
        self.capture = TableCapture("bad", "keyed", full, lambda: table)

    def snapshot(self, checkpoint_id, base_id):
        return [self.capture]


def chunk(groups):
    return pa.table({KEY_GROUP: pa.array(groups, pa.uint16())})


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (BadCapture(True, None), "None"),
        (BadCapture(False, chunk([1])), "no base"),
        (BadCapture(True, pa.table({"x": [1]})), "leading uint16"),
        (BadCapture(True, chunk([2, 1])), "not sorted"),
        (BadCapture(True, chunk([64])), "outside"),
    ],
)
def test_captures_that_break_the_contract_are_caught(operator, message):
    with pytest.raises(ProtocolError, match=message):
        harness(operator, parallelism=2).snapshot(1)


def test_snapshots_of_different_checkpoints_are_not_mixed():
    driven = harness().rows(keys(1))
    first, second = driven.snapshot(1), driven.snapshot(2)
    with pytest.raises(UsageError, match="one checkpoint"):
        restore(CountingOperator, [first, second], 1)
    with pytest.raises(UsageError, match="two snapshots"):
        restore(CountingOperator, [first, first], 1)


def chain(subtask, start, stop, kind="keyed"):
    groups = list(range(start, stop))
    return StateChain("counts", kind, subtask, KeyGroupRange(start, stop), (chunk(groups),))


def test_restored_state_is_cut_in_order_of_origin():
    chains = [chain(1, 4, 8), chain(0, 0, 4)]
    (state,) = restored_states(chains, KeyGroupRange(2, 6), subtask=0)
    assert [[t[KEY_GROUP].to_pylist() for t in tables] for tables in state.chains] == [[[2, 3]], [[4, 5]]]
    assert not state.continues
    (own,) = restored_states(chains, KeyGroupRange(0, 4), subtask=0)
    assert own.continues
    assert own.chains[0][0][KEY_GROUP].to_pylist() == [0, 1, 2, 3]
    (other,) = restored_states(chains, KeyGroupRange(0, 4), subtask=1)
    assert not other.continues


def test_a_checkpoint_that_contradicts_itself_is_refused():
    with pytest.raises(RestoreError, match="keyed in one chunk"):
        restored_states([chain(0, 0, 4), chain(1, 4, 8, "list")], KeyGroupRange(0, 8), 0)
    broken = StateChain("counts", "keyed", 0, KeyGroupRange(0, 8), (pa.table({"x": [1]}),))
    with pytest.raises(RestoreError, match="no leading"):
        restored_states([broken], KeyGroupRange(0, 8), 0)


def test_restored_state_can_be_given_by_hand():
    table = pa.table([[3], [3], [9]], schema=COUNTS)
    driven = harness(restored=[RestoredState("counts", "keyed", ((table,),), continues=True)], restored_checkpoint=4)
    assert driven.rows(keys(3)).snapshot(5, base_id=4).written["counts"]["count"].to_pylist() == [10]
