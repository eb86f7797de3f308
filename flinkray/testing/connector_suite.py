"""What every source and every transactional sink must do, as tests to inherit.

    class TestMySource(SourceSuite):
        def source(self, place): ...           # over rows that you wrote under `place`
        def expected(self): ...                # those rows, as a table

    class TestMySink(SinkSuite):
        def sink(self, place): ...
        def committed(self, place): ...        # what a reader of the output sees, as a table

`place` is pytest's `tmp_path`. Rows are compared without regard to order.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.connectors.base import Sink, SinkContext, SinkWriter, Source, Split, SplitReader


class SourceSuite:
    """Inherit, and say how to make the source. A source without end must be one that ends here (`rows=`, not watched)."""

    event_time_column: str | None = None
    """A column of event times, to check the bounds of splits."""
    parallelism = 2

    def source(self, place: Path) -> Source:
        raise NotImplementedError

    def expected(self) -> pa.Table:
        raise NotImplementedError

    def test_all_splits_together_give_each_row_once(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        batches = [batch for split in self._splits(source) for batch in drain(source.open_split(split, None), 100)]
        assert rows_of(pa.Table.from_batches(batches, source.schema())) == rows_of(self.expected())

    def test_batches_have_the_promised_schema_and_size(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for split in self._splits(source):
            for batch in drain(source.open_split(split, None), 7):
                assert batch.schema.equals(source.schema())
                assert 0 < batch.num_rows <= 7

    def test_reading_goes_on_exactly_after_every_offset(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for split in self._splits(source):
            reader = source.open_split(split, None)
            rows: list[dict[str, Any]] = []
            stops: list[tuple[int, Any]] = [(0, through_json(reader.offset()))]
            for number in _sizes():
                batch = reader.read(number)
                if batch is None:
                    break
                rows += batch.to_pylist()
                stops.append((len(rows), through_json(reader.offset())))
            reader.close()
            for seen, offset in stops[:: max(1, len(stops) // 50)] + stops[-1:]:
                rest = [row for batch in drain(source.open_split(split, offset), 11) for row in batch.to_pylist()]
                assert rest == rows[seen:], f"split {split.id} from {offset}"

    def test_a_reader_at_its_end_stays_there(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        split = self._splits(source)[0]
        reader = source.open_split(split, None)
        while reader.read(1000) is not None:
            pass
        assert reader.read(1000) is None
        again = source.open_split(split, through_json(reader.offset()))
        assert again.read(1000) is None
        reader.close()
        again.close()

    def test_splits_are_json_with_ids_that_are_unique_and_stable(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        splits = self._splits(source)
        assert len({split.id for split in splits}) == len(splits)
        assert [split.id for split in splits] == [split.id for split in self._splits(pickle.loads(pickle.dumps(source)))]
        for split in splits:
            assert through_json(dict(split.payload)) == dict(split.payload)

    def test_a_restored_enumerator_gives_no_split_twice(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        before = source.enumerator(None, self.event_time_column, self.parallelism)
        fresh = source.enumerator(through_json(before.state()), self.event_time_column, self.parallelism)
        given = {split.id for split in before.discover()}
        assert {split.id for split in fresh.discover()} == given
        restored = source.enumerator(through_json(before.state()), self.event_time_column, self.parallelism)
        assert not given & {split.id for split in restored.discover()}
        assert restored.finished == before.finished == source.bounded

    def test_columns_that_are_chosen_have_the_same_values_in_the_order_asked(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        chosen = tuple(reversed(source.schema().names))[:2]
        projected = pickle.loads(pickle.dumps(source.with_columns(chosen)))
        assert tuple(projected.schema().names) == chosen
        batches = [batch for split in self._splits(projected) for batch in drain(projected.open_split(split, None), 100)]
        assert rows_of(pa.Table.from_batches(batches, projected.schema())) == rows_of(self.expected().select(list(chosen)))

    def test_no_row_is_before_the_bound_of_its_split_and_splits_come_in_that_order(self, tmp_path: Path) -> None:
        if self.event_time_column is None:
            return
        source = self.source(tmp_path)
        splits = self._splits(source)
        bounds = [split.min_event_time_us for split in splits if split.min_event_time_us is not None]
        assert bounds == sorted(bounds)
        for split in splits:
            for batch in drain(source.open_split(split, None), 1000):
                times = batch.column(self.event_time_column).cast(pa.int64()).to_pylist()
                assert split.min_event_time_us is None or min(times) >= split.min_event_time_us

    def _splits(self, source: Source) -> list[Split]:
        return source.enumerator(None, self.event_time_column, self.parallelism).discover()


class SinkSuite:
    """Inherit, and say how to make the sink and how its output is read. `EXAMPLE` is what is written; `schema()` may change its columns."""

    def sink(self, place: Path) -> Sink:
        raise NotImplementedError

    def committed(self, place: Path) -> pa.Table:
        raise NotImplementedError

    def schema(self) -> pa.Schema:
        return EXAMPLE.schema

    def writer(self, place: Path, attempt: int = 1, subtask: int = 0, instance: str = "f" * 32) -> SinkWriter:
        sink = pickle.loads(pickle.dumps(self.sink(place)))
        context = SinkContext("out/put-1", subtask, 2, 1, attempt, instance, with_event_time(self.rows(0, 1)).schema)
        return sink.writer(context)

    def rows(self, start: int, stop: int) -> pa.RecordBatch:
        return EXAMPLE.slice(start, stop - start).select(self.schema().names)

    def assert_committed(self, place: Path, *ranges: tuple[int, int]) -> None:
        wanted = pa.Table.from_batches([self.rows(*each) for each in ranges], self.schema())
        assert rows_of(self.committed(place)) == rows_of(wanted)

    def test_rows_are_visible_after_the_commit_and_not_before(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        writer.write(with_event_time(self.rows(0, 3)))
        writer.write(with_event_time(self.rows(3, 5)))
        self.assert_committed(tmp_path)
        transactions = writer.prepare(1)
        self.assert_committed(tmp_path)
        writer.commit(transactions)
        self.assert_committed(tmp_path, (0, 5))

    def test_a_commit_may_be_repeated_by_anybody(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        writer.write(with_event_time(self.rows(0, 3)))
        transactions = through_json(writer.prepare(1))
        writer.commit(transactions)
        writer.commit(transactions)
        self.writer(tmp_path, attempt=2, subtask=1).commit(transactions)
        self.assert_committed(tmp_path, (0, 3))

    def test_after_a_crash_between_prepare_and_commit_a_new_writer_commits(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        writer.write(with_event_time(self.rows(0, 3)))
        transactions = through_json(writer.prepare(1))
        writer.write(with_event_time(self.rows(3, 5)))  # never prepared: lost with the crash, and written again
        successor = self.writer(tmp_path, attempt=2, instance="e" * 32)
        successor.commit(transactions)
        successor.discard_older()
        successor.write(with_event_time(self.rows(3, 6)))
        successor.commit(through_json(successor.prepare(2)))
        self.assert_committed(tmp_path, (0, 3), (3, 6))

    def test_what_was_prepared_and_rolled_back_never_shows(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        writer.write(with_event_time(self.rows(0, 3)))
        writer.prepare(1)
        successor = self.writer(tmp_path, attempt=2)
        successor.discard_older()
        successor.write(with_event_time(self.rows(0, 3)))
        successor.commit(successor.prepare(1))
        self.assert_committed(tmp_path, (0, 3))

    def test_an_older_writer_discards_nothing_of_a_newer_one(self, tmp_path: Path) -> None:
        newer = self.writer(tmp_path, attempt=3)
        newer.write(with_event_time(self.rows(0, 3)))
        transactions = newer.prepare(5)
        newer.write(with_event_time(self.rows(3, 4)))
        self.writer(tmp_path, attempt=2).discard_older()
        self.writer(tmp_path, attempt=3, subtask=1).discard_older()
        newer.commit(transactions + newer.prepare(6))
        self.assert_committed(tmp_path, (0, 3), (3, 4))

    def test_subtasks_and_checkpoints_add_up(self, tmp_path: Path) -> None:
        writers = [self.writer(tmp_path, subtask=subtask) for subtask in (0, 1)]
        transactions = []
        for checkpoint in (1, 2, 3):
            for subtask, writer in enumerate(writers):
                start = 2 * checkpoint - 2 + subtask
                writer.write(with_event_time(self.rows(start, start + 1)))
                transactions += writer.prepare(checkpoint)
        writers[1].commit(transactions)
        self.assert_committed(tmp_path, (0, 6))

    def test_a_checkpoint_without_rows_has_no_transaction(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        assert writer.prepare(1) == []
        writer.commit([])
        self.assert_committed(tmp_path)

    def test_a_writer_that_is_closed_leaves_what_it_prepared(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        writer.write(with_event_time(self.rows(0, 2)))
        transactions = writer.prepare(1)
        writer.write(with_event_time(self.rows(2, 4)))
        writer.close()
        self.writer(tmp_path, attempt=2).commit(transactions)
        self.assert_committed(tmp_path, (0, 2))

    def test_finishing_without_rows_leaves_the_columns(self, tmp_path: Path) -> None:
        sink = self.sink(tmp_path)
        for _ in range(2):
            sink.finish(with_event_time(self.rows(0, 1)).schema)
        assert self.committed(tmp_path).num_rows == 0


EXAMPLE = pa.RecordBatch.from_pydict(
    {
        "id": pa.array([1, 2, 3, 4, 5, 6, 7], pa.int64()),
        "name": pa.array(["a", None, "", 'quo"te', "new\nline", "größe", "back\\slash\t"], pa.string()),
        "price": pa.array([0.1, None, -2.5, 1e300, 3.0, 4.0, 5.0], pa.float64()),
        "at": pa.array([0, 1, None, 1_700_000_000_123_456, 4, 5, 6], pa.timestamp("us", "UTC")),
    }
)
"""Rows with nulls, empty strings and characters that formats must escape."""


def with_event_time(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the hidden column that rows carry inside a job, and that no output shows."""
    return batch.append_column(EVENT_TIME, pa.array([0] * batch.num_rows, pa.int64()))


def through_json(value: Any) -> Any:
    """The value as a checkpoint gives it back."""
    return json.loads(json.dumps(value))


def drain(reader: SplitReader, max_rows: int) -> Iterator[pa.RecordBatch]:
    """All batches of a split that ends."""
    while (batch := reader.read(max_rows)) is not None:
        yield batch
    reader.close()


def rows_of(table: pa.Table) -> list[str]:
    """The rows in an order of their own, to compare tables."""
    return sorted(repr(row) for row in table.to_pylist())


def _sizes() -> Iterator[int]:
    """Sizes of reads, small and large in turn."""
    while True:
        yield from (1, 3, 64, 7, 1000)
