"""Sinks: two phases, names that never fight, what a fresh start may find, and what the formats write."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from flinkray.columns import CHANGE
from flinkray.connectors.base import SinkContext
from flinkray.connectors.csv import CsvSink, CsvSource
from flinkray.connectors.file_sink import SEQUENCE, FileSink, file_safe
from flinkray.connectors.json import JsonSink, JsonSource
from flinkray.connectors.json_text import json_lines
from flinkray.connectors.memory import BlackholeSink, CollectSink, MemorySink, PrintSink
from flinkray.connectors.parquet import ParquetSink
from flinkray.errors import ConfigError, PlanError, SinkError, UsageError
from flinkray.testing.connector_suite import EXAMPLE, SinkSuite, drain, rows_of, with_event_time


class TestParquetSink(SinkSuite):
    def sink(self, place: Path) -> ParquetSink:
        return ParquetSink(place / "out")

    def committed(self, place: Path) -> pa.Table:
        files = sorted((place / "out").glob("*.parquet"))
        tables = [pq.ParquetFile(file).read() for file in files]
        return pa.concat_tables(tables) if tables else self.schema().empty_table()


class TestParquetSinkInAnotherFilesystem(SinkSuite):
    """What fsspec gives: no rename, no fsync."""

    def sink(self, place: Path) -> ParquetSink:
        return ParquetSink(f"memory://{place}/out")

    def committed(self, place: Path) -> pa.Table:
        memory = fsspec.filesystem("memory")
        tables = [pq.read_table(memory.open(name)) for name in memory.glob(f"{place}/out/*.parquet")]
        return pa.concat_tables(tables) if tables else self.schema().empty_table()


class TestCsvSink(SinkSuite):
    def sink(self, place: Path) -> CsvSink:
        return CsvSink(place / "out")

    def committed(self, place: Path) -> pa.Table:
        if not list((place / "out").glob("*.csv")):
            return self.schema().empty_table()
        source = CsvSource(place / "out", schema=self.schema(), multiline=True)
        assert next((place / "out").glob("*.csv")).read_text().startswith('"id","name","price","at"')
        splits = source.enumerator(None, None, 1).discover()
        return pa.Table.from_batches([b for s in splits for b in drain(source.open_split(s, None), 100)], self.schema())


class TestJsonSink(SinkSuite):
    def sink(self, place: Path) -> JsonSink:
        return JsonSink(place / "out")

    def committed(self, place: Path) -> pa.Table:
        if not list((place / "out").glob("*.json")):
            return self.schema().empty_table()
        source = JsonSource(place / "out", schema=self.schema())
        splits = source.enumerator(None, None, 1).discover()
        return pa.Table.from_batches([b for s in splits for b in drain(source.open_split(s, None), 100)], self.schema())


class TestMemorySink(SinkSuite):
    def sink(self, place: Path) -> MemorySink:
        return MemorySink(str(place))

    def committed(self, place: Path) -> pa.Table:
        MemorySink(str(place)).finish(self.schema())
        return MemorySink.rows(str(place))


def context(attempt: int = 1, schema: pa.Schema = EXAMPLE.schema, uid: str = "out", claim: int = 1, subtask: int = 0) -> SinkContext:
    return SinkContext(uid, subtask, 1, claim, attempt, "0" * 32, schema)


def write(sink: FileSink, rows: pa.RecordBatch, checkpoint: int = 1, **where: object) -> list[dict]:
    writer = sink.writer(context(schema=rows.schema, **where))
    writer.write(rows)
    transactions = writer.prepare(checkpoint)
    writer.commit(transactions)
    return transactions


def names(place: Path) -> list[str]:
    return sorted(os.listdir(place)) if place.exists() else []


def test_final_names_carry_everything_that_makes_them_unique(tmp_path):
    write(ParquetSink(tmp_path), EXAMPLE, checkpoint=7, attempt=3, claim=2, subtask=4)
    assert names(tmp_path) == ["_pending", f"out-c2-k7-a3-{'0' * 32}-4.parquet"]
    assert names(tmp_path / "_pending") == []


def test_a_transaction_that_is_in_neither_place_is_an_error(tmp_path):
    sink = ParquetSink(tmp_path)
    writer = sink.writer(context())
    writer.write(EXAMPLE)
    transactions = writer.prepare(1)
    for name in names(tmp_path / "_pending"):
        os.unlink(tmp_path / "_pending" / name)
    with pytest.raises(SinkError, match="is gone, and was not committed as out-c1-k1"):
        writer.commit(transactions)


def test_a_commit_that_was_cut_off_between_copy_and_delete_is_finished(tmp_path):
    sink = ParquetSink(f"memory://{tmp_path}")
    memory = fsspec.filesystem("memory")
    writer = sink.writer(context())
    writer.write(EXAMPLE)
    (transaction,) = writer.prepare(1)
    memory.copy(f"{tmp_path}/_pending/{transaction['pending']}", f"{tmp_path}/{transaction['final']}")
    sink.writer(context(attempt=2)).commit([transaction])
    assert memory.ls(f"{tmp_path}/_pending", detail=False) == []
    assert len(memory.glob(f"{tmp_path}/*.parquet")) == 1


def test_only_pending_files_of_the_same_uid_are_discarded(tmp_path):
    others = []
    for uid in ("out", "out-c9", "ou", "out-c0-a0-x"):
        writer = ParquetSink(tmp_path).writer(context(uid=uid))
        writer.write(EXAMPLE)
        others += [t["pending"] for t in writer.prepare(1) if uid != "out"]
    (tmp_path / "_pending" / "notes.txt").write_text("mine")
    ParquetSink(tmp_path).writer(context(attempt=2)).discard_older()
    assert names(tmp_path / "_pending") == sorted([*others, "notes.txt"])


def test_an_older_claim_is_older_whatever_its_attempt(tmp_path):
    writer = ParquetSink(tmp_path).writer(context(attempt=9, claim=1))
    writer.write(EXAMPLE)
    writer.prepare(1)
    ParquetSink(tmp_path).writer(context(attempt=1, claim=2)).discard_older()
    assert names(tmp_path / "_pending") == []


def test_a_uid_becomes_a_file_name_that_is_visible_and_its_own():
    uids = ["a/b", "a%2Fb", "_a", "%5Fa", ".a", "ü", "a b", "a"]
    safe = [file_safe(uid) for uid in uids]
    assert len(set(safe)) == len(uids)
    assert not any("/" in name or name.startswith(("_", ".")) for name in safe)


def test_a_fresh_start_refuses_files_of_another_run(tmp_path):
    sink = ParquetSink(tmp_path)
    sink.check_fresh_start("out")
    (tmp_path / "readme.txt").write_text("hello")
    sink.check_fresh_start("out")
    write(sink, EXAMPLE)
    with pytest.raises(UsageError, match=r'holds 1 \.parquet files of another run, the first out-c1.*mode="append"'):
        sink.check_fresh_start("out")
    ParquetSink(tmp_path, mode="append").check_fresh_start("out")
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_overwrite_deletes_files_of_the_format_and_nothing_else(tmp_path):
    sink = ParquetSink(tmp_path, mode="overwrite")
    write(sink, EXAMPLE)
    writer = sink.writer(context())
    writer.write(EXAMPLE)
    writer.prepare(2)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "sub").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "sub" / "a.parquet")
    sink.check_fresh_start("out")
    assert names(tmp_path) == ["_pending", "readme.txt", "sub"]
    assert names(tmp_path / "_pending") == []
    assert names(tmp_path / "sub") == ["a.parquet"]


def test_a_run_without_rows_leaves_one_file_with_the_columns_and_nothing_pending(tmp_path):
    sink = ParquetSink(tmp_path / "out")
    sink.finish(with_event_time(EXAMPLE).schema)
    sink.finish(EXAMPLE.schema)
    assert names(tmp_path / "out") == ["empty.parquet"]
    assert pq.read_schema(tmp_path / "out" / "empty.parquet").equals(EXAMPLE.schema)


DAYS = pa.record_batch(
    {
        "day": pa.array([date(2026, 1, 2), date(2026, 1, 1), None, date(2026, 1, 2)]),
        "place": ["a/b:c", "a/b:c", "x", "é ="],
        "n": [1, 2, 3, 4],
    }
)


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_partitions_are_folders_that_other_programs_read(tmp_path, scheme):
    sink = ParquetSink(f"{scheme}{tmp_path}/out", partition_by=("day", "place"))
    write(sink, DAYS, checkpoint=3)
    assert sink.newest_checkpoint("out") == 3
    with pytest.raises(UsageError, match=r"holds 4 .parquet files of another run, the first day=2026-01-01/place=a%2Fb%3Ac/out-c1-k3"):
        sink.check_fresh_start("out")
    filesystem = None if not scheme else fsspec.filesystem("memory")
    read = pyarrow.dataset.dataset(f"{tmp_path}/out", filesystem=filesystem, format="parquet", partitioning="hive").to_table()
    assert sorted(zip(*(read[name].to_pylist() for name in ("n", "day", "place")), strict=True)) == [
        (1, "2026-01-02", "a/b:c"),
        (2, "2026-01-01", "a/b:c"),
        (3, None, "x"),
        (4, "2026-01-02", "é ="),
    ]
    ParquetSink(f"{scheme}{tmp_path}/out", mode="overwrite", partition_by=("day", "place")).check_fresh_start("out")
    assert sink.committed(sink.folder()) == []
    sink.finish(DAYS.schema)
    assert sink.committed(sink.folder()) == [], "no row, no folder"


def test_very_many_partitions_share_the_files_that_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("flinkray.connectors.file_sink.MAX_OPEN", 2)
    sink = CsvSink(tmp_path, partition_by="k")
    rows = pa.record_batch({"k": [1, 2, 3, 1], "n": [1, 2, 3, 4]})
    writer = sink.writer(context(schema=rows.schema))
    writer.write(rows.slice(0, 3))
    writer.write(rows.slice(3))
    transactions = writer.prepare(1)
    finals = sorted(transaction["final"] for transaction in transactions)
    assert finals == [f"k={k}/out-c1-k1-a1-{'0' * 32}-0{again}.csv" for k, again in ((1, "-2"), (1, ""), (2, ""), (3, ""))]
    assert sink.committed(sink.folder()) == []
    writer.commit(transactions)
    writer.commit(transactions)
    assert [(tmp_path / name).read_text() for name in sorted(finals)] == ['"n"\n4\n', '"n"\n1\n', '"n"\n2\n', '"n"\n3\n']
    assert sink.newest_checkpoint("out") == 1
    writer.write(rows)
    writer.close()
    assert names(tmp_path / "_pending") == []


def test_columns_that_make_no_folders_are_refused():
    with pytest.raises(ConfigError, match="none twice"):
        CsvSink("out", partition_by=("a", "a"))
    with pytest.raises(PlanError, match="names 'hour', which is no column; there are: day, place, n"):
        CsvSink("out", partition_by="hour").check_schema(DAYS.schema)
    with pytest.raises(PlanError, match="'x' is double; strings, integers"):
        CsvSink("out", partition_by="x").check_schema(pa.schema([("x", pa.float64()), ("y", pa.int64())]))
    with pytest.raises(PlanError, match="names every column"):
        CsvSink("out", partition_by="x").check_schema(pa.schema([("x", pa.int64())]))


def test_a_run_with_rows_leaves_no_empty_file(tmp_path):
    sink = ParquetSink(tmp_path)
    write(sink, EXAMPLE)
    sink.finish(EXAMPLE.schema)
    assert len(names(tmp_path)) == 1
    assert "empty.parquet" not in names(tmp_path)


def test_small_batches_become_large_row_groups(tmp_path):
    writer = ParquetSink(tmp_path).writer(context())
    for _ in range(50):
        writer.write(EXAMPLE)
    writer.commit(writer.prepare(1))
    (file,) = tmp_path.glob("*.parquet")
    metadata = pq.read_metadata(file)
    assert (metadata.num_rows, metadata.num_row_groups) == (350, 1)


def test_a_changelog_keeps_changes_and_a_sequence_that_grows_over_attempts(tmp_path):
    sink = ParquetSink(tmp_path, changelog=True)
    rows = pa.RecordBatch.from_pydict({"k": [1, 2], CHANGE: pa.array([1, -1], pa.int8())})
    for attempt, checkpoint in ((1, 1), (1, 2), (2, 3)):
        write(sink, with_event_time(rows), checkpoint=checkpoint, attempt=attempt)
    tables = [pq.ParquetFile(file).read() for file in sorted(tmp_path.glob("*.parquet"))]
    assert tables[0].column_names == ["k", CHANGE, SEQUENCE]
    assert tables[0][CHANGE].to_pylist() == [1, -1]
    assert max(tables[1][SEQUENCE].to_pylist()) < min(tables[2][SEQUENCE].to_pylist())
    writer = sink.writer(context(schema=rows.schema))
    writer.write(rows)
    writer.write(rows)
    writer.commit(writer.prepare(9))
    (file,) = tmp_path.glob("*-k9-*.parquet")
    sequence = pq.ParquetFile(file).read()[SEQUENCE].to_pylist()
    assert sequence == sorted(set(sequence))


def test_rows_without_changes_are_all_newest_in_a_changelog(tmp_path):
    write(ParquetSink(tmp_path, changelog=True), EXAMPLE)
    (file,) = tmp_path.glob("*.parquet")
    assert set(pq.ParquetFile(file).read()[CHANGE].to_pylist()) == {1}


def test_only_sinks_that_can_show_changes_accept_them(tmp_path):
    assert not ParquetSink(tmp_path).accepts_changelog
    assert ParquetSink(tmp_path, changelog=True).accepts_changelog
    assert all(sink.accepts_changelog for sink in (MemorySink("m"), CollectSink(), PrintSink(), BlackholeSink()))
    assert not any(sink.transactional for sink in (PrintSink(), BlackholeSink()))


@pytest.mark.parametrize(
    ("sink", "kind"),
    [
        (CsvSink("out"), pa.list_(pa.int64())),
        (JsonSink("out"), pa.binary()),
        (JsonSink("out"), pa.map_(pa.string(), pa.int64())),
        (ParquetSink("out"), pa.month_day_nano_interval()),
    ],
    ids=["csv", "json", "json map", "parquet"],
)
def test_a_type_that_a_format_cannot_hold_is_a_plan_error_naming_the_column(sink, kind):
    with pytest.raises(PlanError, match="column 'bad'"):
        sink.check_schema(pa.schema([("good", pa.int64()), ("bad", kind)]))
    sink.check_schema(EXAMPLE.schema)


def test_a_column_that_the_changelog_writes_itself_is_a_plan_error():
    with pytest.raises(PlanError, match="'_seq'"):
        ParquetSink("out", changelog=True).check_schema(pa.schema([("_seq", pa.int64())]))


def test_rows_of_another_schema_are_an_error(tmp_path):
    writer = ParquetSink(tmp_path).writer(context(schema=pa.schema([("a", pa.int64())])))
    with pytest.raises(SinkError, match="column 'a' is string, and was int64 before"):
        writer.write(pa.RecordBatch.from_pydict({"a": ["x"]}))


def test_wrong_arguments_say_which(tmp_path):
    with pytest.raises(ConfigError, match="mode='replace'"):
        ParquetSink(tmp_path, mode="replace")
    with pytest.raises(ConfigError, match="dir is empty"):
        ParquetSink("")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        ParquetSink(tmp_path / "file").check_fresh_start("out")
    with pytest.raises(UsageError, match="nosuch://"):
        ParquetSink("nosuch://bucket").check_fresh_start("out")


def test_a_place_that_cannot_be_written_is_an_error_naming_it(tmp_path):
    (tmp_path / "out").write_text("a file where the directory should be")
    writer = ParquetSink(tmp_path / "out" / "deeper").writer(context())
    with pytest.raises(SinkError, match="deeper: cannot be written"):
        writer.write(EXAMPLE)


def test_json_text_holds_every_type_and_reads_back():
    hostile = "".join(chr(code) for code in range(32)) + '"\\/é😀\u2028'
    batch = pa.RecordBatch.from_pydict(
        {
            'na"me': pa.array([True, None]),
            "text": pa.array([hostile, ""]),
            "float": pa.array([float("nan"), 1e-300]),
            "decimal": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
            "date": pa.array([date(2020, 1, 2), None]),
            "at": pa.array([datetime(2020, 1, 2, 3, 4, 5, 6, UTC), None], pa.timestamp("us", "UTC")),
            "list": pa.array([["a", None, '"'], None], pa.list_(pa.string())),
            "deep": pa.array([[], [[{"x": 1, "y": None}], None]], pa.list_(pa.list_(pa.struct([("x", pa.int64()), ("y", pa.string())])))),
        }
    )
    lines = json_lines(batch).to_pybytes().decode().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [
        {
            'na"me': True,
            "text": hostile,
            "float": None,
            "decimal": 1.5,
            "date": "2020-01-02",
            "at": "2020-01-02T03:04:05.000006Z",
            "list": ["a", None, '"'],
            "deep": [],
        },
        {
            'na"me': None,
            "text": "",
            "float": 1e-300,
            "decimal": None,
            "date": None,
            "at": None,
            "list": None,
            "deep": [[{"x": 1, "y": None}], None],
        },
    ]
    assert json_lines(batch.slice(1)).to_pybytes().decode() == lines[1] + "\n"
    assert json_lines(batch.slice(2)).size == 0


def test_a_fresh_start_empties_the_memory_sink():
    sink = MemorySink("fresh")
    writer = sink.writer(context())
    writer.write(EXAMPLE)
    writer.commit(writer.prepare(1))
    assert MemorySink.rows("fresh").num_rows == 7
    sink.check_fresh_start("out")
    with pytest.raises(UsageError, match="no job of this process has written to 'fresh'"):
        MemorySink.rows("fresh")


def test_a_memory_sink_may_learn_its_columns_from_the_first_batch():
    sink = MemorySink("untold")
    sink.writer(context(schema=pa.schema([])))
    assert MemorySink.rows("untold").num_rows == 0
    writer = sink.writer(context())
    assert MemorySink.rows("untold").schema == EXAMPLE.schema
    writer.write(EXAMPLE)
    writer.commit(writer.prepare(1))
    assert MemorySink.rows("untold").num_rows == 7


def test_rows_that_a_lost_process_kept_in_memory_are_an_error_to_commit():
    with pytest.raises(SinkError, match="prepared by a process that is gone"):
        MemorySink("lost").writer(context()).commit([{"id": "out-c1-k1-a1-x-0"}])
    with pytest.raises(SinkError, match="gone"):
        CollectSink().writer(context()).commit([{"collect": 5}])


def test_collected_rows_are_those_of_commits():
    writer = CollectSink().writer(context())
    writer.write(with_event_time(EXAMPLE))
    transactions = writer.prepare(1)
    writer.write(EXAMPLE)
    assert writer.committed == []
    writer.commit(transactions)
    writer.commit(transactions)
    assert rows_of(pa.Table.from_batches(writer.committed)) == rows_of(pa.Table.from_batches([EXAMPLE]))
    assert writer.prepare(2) != []
    assert writer.prepare(3) == []


def test_collecting_stops_at_the_limit_but_not_for_rows_that_are_refined():
    writer = CollectSink(limit=10).writer(context())
    for _ in range(3):
        writer.write(EXAMPLE)
    writer.commit(writer.prepare(1))
    assert writer.full
    assert sum(batch.num_rows for batch in writer.committed) == 10
    refined = CollectSink(limit=1).writer(context())
    refined.write(pa.RecordBatch.from_pydict({"k": [1, 1], CHANGE: pa.array([1, 1], pa.int8())}))
    refined.commit(refined.prepare(1))
    assert refined.committed[0].num_rows == 2


def test_collecting_too_much_names_the_way_out():
    writer = CollectSink(max_bytes=EXAMPLE.nbytes).writer(context())
    writer.write(EXAMPLE)
    with pytest.raises(SinkError, match=r"collect: over \d+ bytes.*sinks\.Parquet"):
        writer.write(EXAMPLE)


def test_printed_rows_are_json_lines_after_a_prefix(capsys):
    PrintSink().writer(context()).write(with_event_time(EXAMPLE.slice(0, 1)))
    PrintSink("x").writer(context()).write(pa.RecordBatch.from_pydict({"b": [b"raw"]}))
    assert capsys.readouterr().out.splitlines() == [
        'out[0]> {"id":1,"name":"a","price":0.1,"at":"1970-01-01T00:00:00.000000Z"}',
        "x> {'b': b'raw'}",
    ]


def test_the_blackhole_counts():
    writer = BlackholeSink().writer(context())
    writer.write(EXAMPLE)
    assert writer.prepare(1) == []
    assert writer.rows == 7
