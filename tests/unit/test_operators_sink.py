from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.connectors.base import Sink, SinkContext, SinkWriter
from flinkray.errors import OperatorError, SinkError
from flinkray.operators.sink import SinkOperator
from flinkray.testing.harness import OperatorHarness, restore

SCHEMA = pa.schema([("x", pa.int64()), (EVENT_TIME, pa.int64()), (CHANGE, pa.int8())])


@dataclass
class Log:
    """What all writers of a test did, in order."""

    committed: list[Any] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    contexts: list[SinkContext] = field(default_factory=list)
    written: list[pa.RecordBatch] = field(default_factory=list)
    refuse: bool = False


class LogWriter(SinkWriter):
    def __init__(self, log: Log, context: SinkContext) -> None:
        self.log, self.subtask, self.rows = log, context.subtask, []
        log.contexts.append(context)

    def write(self, batch: pa.RecordBatch) -> None:
        self.log.written.append(batch)
        self.rows += batch.column("x").to_pylist()

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        rows, self.rows = self.rows, []
        return [{"rows": rows, "of": checkpoint_id}] if rows else []

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        if self.log.refuse:
            raise SinkError("the output is not writable")
        self.log.calls.append(f"commit by {self.subtask}")
        self.log.committed += [transaction["rows"] for transaction in transactions]

    def discard_older(self) -> None:
        self.log.calls.append(f"discard by {self.subtask}")

    def close(self) -> None:
        self.log.calls.append(f"close by {self.subtask}")


@dataclass
class LogSink(Sink):
    log: Log
    accepts_changelog: bool = False

    def writer(self, context: SinkContext) -> SinkWriter:
        return LogWriter(self.log, context)


def rows(*values: int) -> list[dict[str, int]]:
    return [{"x": value, EVENT_TIME: value, CHANGE: 1} for value in values]


def harness(log: Log, subtask: int = 0, parallelism: int = 1, **options: Any) -> OperatorHarness:
    return OperatorHarness(SinkOperator(LogSink(log)), input_schemas=SCHEMA, subtask=subtask, parallelism=parallelism, uid="out", **options)


def uncommitted(driven: OperatorHarness) -> int:
    assert isinstance(driven.operator, SinkOperator)
    return len(driven.operator.transactions_uncommitted)


def test_rows_are_committed_only_when_their_checkpoint_is_known_to_be_complete() -> None:
    log = Log()
    driven = harness(log).rows(rows(1, 2))
    driven.snapshot(1)
    driven.rows(rows(3))
    assert log.committed == []
    assert uncommitted(driven) == 1
    assert driven.notify(1)
    assert log.committed == [[1, 2]]
    assert uncommitted(driven) == 0
    driven.snapshot(2)
    assert driven.notify(2)
    assert log.committed == [[1, 2], [3]]


def test_notify_is_cumulative_repeatable_and_leaves_later_ones() -> None:
    log = Log()
    driven = harness(log)
    for checkpoint in (1, 2, 3):
        driven.rows(rows(checkpoint)).snapshot(checkpoint)
    for _ in range(2):
        assert driven.notify(2)
        assert log.committed == [[1], [2]]
    assert uncommitted(driven) == 1
    assert driven.notify(7)
    assert log.committed == [[1], [2], [3]]


def test_a_snapshot_holds_every_transaction_not_known_to_be_committed() -> None:
    log = Log()
    driven = harness(log).rows(rows(1))
    driven.snapshot(1)
    captured = driven.rows(rows(2)).snapshot(2)
    table = captured.written["transactions"]
    assert table.column("checkpoint").to_pylist() == [1, 2]
    driven.notify(1)
    assert driven.snapshot(3).written["transactions"].column("checkpoint").to_pylist() == [2]


def test_an_aborted_checkpoint_aborts_no_transaction() -> None:
    log = Log()
    driven = harness(log).rows(rows(1))
    driven.snapshot(1)
    driven.rows(rows(2)).snapshot(2)
    driven.notify(2)
    assert log.committed == [[1], [2]]


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_restored_transactions_are_committed_at_once_each_by_one_subtask(parallelism: int) -> None:
    log = Log()
    both = [harness(log, subtask, 2).rows(rows(subtask)) for subtask in range(2)]
    for driven in both:
        driven.snapshot(1)
        driven.rows(rows(10 + driven.subtask))
    snapshots = [driven.snapshot(2) for driven in both]
    after = Log()
    restore(lambda: SinkOperator(LogSink(after)), snapshots, parallelism)
    assert sorted(after.committed) == [[0], [1], [10], [11]]


def test_older_leftovers_are_discarded_at_once_on_a_fresh_start_by_one_subtask() -> None:
    log = Log()
    for subtask in range(2):
        harness(log, subtask, 2)
    assert log.calls == ["discard by 0"]


def test_after_a_restore_they_stay_until_a_checkpoint_of_this_attempt_is_complete() -> None:
    log = Log()
    snapshots = [harness(log, subtask, 2).rows(rows(subtask)).snapshot(4) for subtask in range(2)]
    after = Log()
    first, second = restore(lambda: SinkOperator(LogSink(after)), snapshots, 2)
    first.notify(4)
    assert after.calls == ["commit by 0", "commit by 1"], "a repeated Notify of the old checkpoint says nothing of the others"
    for driven in (first, second):
        driven.snapshot(5)
        driven.notify(5)
        driven.notify(5)
    assert after.calls[2:] == ["discard by 0"]


def test_a_failed_commit_is_an_error_and_the_transaction_is_kept() -> None:
    log = Log()
    driven = harness(log).rows(rows(1))
    driven.snapshot(1)
    log.refuse = True
    with pytest.raises(SinkError, match="not writable"):
        driven.notify(1)
    assert uncommitted(driven) == 1


@pytest.mark.parametrize(("changelog", "names"), [(False, ["x"]), (True, ["x", CHANGE])])
def test_hidden_columns_stay_behind_but_for_the_change_where_the_sink_takes_it(changelog: bool, names: list[str]) -> None:
    log = Log()
    OperatorHarness(SinkOperator(LogSink(log, changelog)), input_schemas=SCHEMA).rows(rows(1))
    assert log.written[0].schema.names == names
    assert log.contexts[0].schema.names == names


def test_an_unknown_schema_is_that_of_the_first_batch() -> None:
    log = Log()
    snapshot = harness(log).rows(rows(1)).snapshot(1)
    after = Log()
    operator = SinkOperator(LogSink(after))
    (driven,) = restore(lambda: operator, [snapshot], 1)
    context = driven.operator.context
    object.__setattr__(context, "input_schemas", (None,))
    operator.open(context, [], 1)
    assert after.contexts[-1].schema == pa.schema([])
    driven.rows([{"x": 5}])
    assert after.contexts[-1].schema.names == ["x"]
    assert after.calls[-1] == "close by 0"
    driven.snapshot(2)
    driven.notify(2)
    assert after.committed == [[1], [5]]


def test_what_a_sink_of_the_users_own_raises_names_the_operator() -> None:
    class Broken(LogWriter):
        def write(self, batch: pa.RecordBatch) -> None:
            raise OSError("disk full")

    @dataclass
    class BrokenSink(LogSink):
        def writer(self, context: SinkContext) -> SinkWriter:
            return Broken(self.log, context)

    driven = OperatorHarness(SinkOperator(BrokenSink(Log())), input_schemas=SCHEMA, uid="out")
    with pytest.raises(OperatorError, match="operator 'out', subtask 0: OSError: disk full"):
        driven.rows(rows(1))


def test_the_writer_is_closed_with_the_operator() -> None:
    log = Log()
    harness(log).close()
    assert log.calls[-1] == "close by 0"
