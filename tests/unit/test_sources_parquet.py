"""Parquet sources: splits by row groups, exact positions, statistics, and the rules by which files may differ."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flinkray.columns import TIMESTAMP
from flinkray.connectors.parquet import ParquetSource
from flinkray.errors import ConfigError, PlanError, SourceError, UsageError
from flinkray.testing.connector_suite import SourceSuite, drain, rows_of


def table_of(rows: int, start: int = 0) -> pa.Table:
    numbers = np.arange(start, start + rows)
    return pa.table(
        {
            "id": numbers,
            "name": pa.array([f"n{i % 17}" for i in numbers]).dictionary_encode(),
            "price": numbers / 8,
            "at": pa.array((numbers * 7919) % 10_000_000, pa.timestamp("ms")),
        }
    )


def read_all(source: ParquetSource, parallelism: int = 1) -> pa.Table:
    splits = source.enumerator(None, None, parallelism).discover()
    return pa.Table.from_batches([b for s in splits for b in drain(source.open_split(s, None), 1000)], source.schema())


class TestParquetSource(SourceSuite):
    event_time_column = "at"

    def source(self, place: Path) -> ParquetSource:
        for i, rows in enumerate((500, 0, 333)):
            pq.write_table(table_of(rows, i * 1000), place / f"part-{i}.parquet", row_group_size=64)
        return ParquetSource(place, split_rows=100)

    def expected(self) -> pa.Table:
        table = pa.concat_tables([table_of(500), table_of(333, 2000)])
        wanted = pa.schema([("id", pa.int64()), ("name", pa.string()), ("price", pa.float64()), ("at", TIMESTAMP)])
        return table.set_column(1, "name", table["name"].cast(pa.string())).cast(wanted)


class TestParquetInMemoryFilesystem(TestParquetSource):
    def source(self, place: Path) -> ParquetSource:
        super().source(place)
        memory = fsspec.filesystem("memory")
        for file in place.glob("*.parquet"):
            memory.pipe(f"{place}/{file.name}", file.read_bytes())
        return ParquetSource(f"memory://{place}/*.parquet", split_rows=100)


def test_each_reader_gets_several_splits_where_row_groups_allow(tmp_path):
    pq.write_table(table_of(4_000), tmp_path / "a.parquet", row_group_size=100)
    splits = ParquetSource(tmp_path, split_rows=100).enumerator(None, None, 1).discover()
    assert len(splits) == 40
    assert sum(split.size for split in splits) == 4_000


def test_splits_of_a_large_input_balance_readers(tmp_path):
    pq.write_table(pa.table({"x": np.arange(1_000_000)}), tmp_path / "a.parquet", row_group_size=50_000)
    splits = ParquetSource(tmp_path).enumerator(None, None, 2).discover()
    assert len(splits) >= 6
    assert max(split.size for split in splits) <= 150_000


@pytest.mark.parametrize(
    ("unit", "minimum"), [("ms", 1_000_000), ("us", 1_000), ("ns", 1)], ids=["milliseconds", "microseconds", "nanoseconds"]
)
def test_statistics_bound_event_times_of_any_unit(tmp_path, unit, minimum):
    values = pa.array([1_999, 1_000, 3_000], pa.timestamp(unit))
    pq.write_table(pa.table({"at": values}), tmp_path / "a.parquet")
    (split,) = ParquetSource(tmp_path).enumerator(None, "at", 1).discover()
    assert split.min_event_time_us == minimum


def test_integer_event_times_have_bounds_and_files_without_statistics_come_first(tmp_path):
    pq.write_table(pa.table({"at": [50, 40]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"at": [20, 30]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"at": [99]}), tmp_path / "c.parquet", write_statistics=False)
    splits = ParquetSource(tmp_path).enumerator(None, "at", 1).discover()
    assert [split.min_event_time_us for split in splits] == [None, 20, 40]


def test_times_are_microseconds_utc_and_nanoseconds_are_floored(tmp_path, caplog):
    values = pa.array([1_999, -1, None], pa.timestamp("ns"))
    pq.write_table(pa.table({"at": values, "paris": pa.array([0, 1, 2], pa.timestamp("ms", "Europe/Paris"))}), tmp_path / "a.parquet")
    table = read_all(ParquetSource(tmp_path))
    assert table.schema.types == [TIMESTAMP, TIMESTAMP]
    assert table["at"].cast(pa.int64()).to_pylist() == [1, -1, None]
    assert "floored to microseconds" in caplog.text
    assert table["paris"][0].as_py() == datetime(1970, 1, 1, tzinfo=UTC)


def test_integers_and_floats_widen_to_the_type_of_the_first_file(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": [1.5], "c": [2.5]}), tmp_path / "1.parquet")
    narrow = pa.schema([("c", pa.int16()), ("b", pa.float32()), ("a", pa.uint32())])
    pq.write_table(pa.Table.from_pylist([{"a": 2, "b": 2.5, "c": 7}], narrow), tmp_path / "2.parquet")
    table = read_all(ParquetSource(tmp_path))
    assert table.schema.types == [pa.int64(), pa.float64(), pa.float64()]
    assert table.to_pylist() == [{"a": 1, "b": 1.5, "c": 2.5}, {"a": 2, "b": 2.5, "c": 7.0}]


@pytest.mark.parametrize("kind", [pa.int32(), pa.string(), pa.float64()], ids=str)
def test_a_type_that_does_not_widen_is_an_error_naming_file_and_column(tmp_path, kind):
    pq.write_table(pa.table({"a": pa.array([1], pa.int16())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": pa.array([1]).cast(kind)}), tmp_path / "2.parquet")
    with pytest.raises(SourceError, match=r"2\.parquet: column 'a' is .*int16 is expected"):
        read_all(ParquetSource(tmp_path))


def test_an_integer_that_no_double_holds_is_an_error_rather_than_rounded(tmp_path):
    pq.write_table(pa.table({"a": [1.5]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [2**60 + 1]}), tmp_path / "2.parquet")
    with pytest.raises(SourceError, match=r"2\.parquet: column 'a'"):
        read_all(ParquetSource(tmp_path))


def test_a_missing_column_is_an_error_or_null_and_extra_ones_are_ignored(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"z": [9.0], "a": [2]}), tmp_path / "2.parquet")
    with pytest.raises(SourceError, match=r"2\.parquet: column 'b' is missing; the file has z, a"):
        read_all(ParquetSource(tmp_path))
    source = ParquetSource(tmp_path, missing="null")
    assert read_all(source).to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert read_all(source.with_columns(("b",))).to_pylist() == [{"b": "x"}, {"b": None}]
    assert read_all(ParquetSource(tmp_path).with_columns(("a",))).to_pylist() == [{"a": 1}, {"a": 2}]


def test_the_schema_is_that_of_the_first_file_with_rows(tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"")
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "2.parquet")
    source = ParquetSource([tmp_path / "2.parquet", tmp_path / "0.parquet", tmp_path / "2.parquet"])
    assert source.schema() == pa.schema([("a", pa.int64())])
    assert read_all(source).to_pylist() == [{"a": 1}]


def test_only_empty_files_give_no_rows(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "1.parquet")
    source = ParquetSource(tmp_path)
    assert source.schema() == pa.schema([("a", pa.int64())])
    assert read_all(source).num_rows == 0


def test_a_declared_schema_names_types_by_name(tmp_path):
    pq.write_table(pa.table({"a": pa.array([1], pa.int32()), "b": [1]}), tmp_path / "1.parquet")
    source = ParquetSource(tmp_path, schema={"b": "float64", "a": "int64"})
    assert read_all(source).to_pylist() == [{"b": 1.0, "a": 1}]


def test_no_column_at_all_still_counts_rows(tmp_path):
    pq.write_table(table_of(10), tmp_path / "1.parquet")
    assert read_all(ParquetSource(tmp_path).with_columns(())).num_rows == 10


def test_hidden_names_are_skipped_below_directories_and_globs_and_read_when_named(tmp_path):
    base = tmp_path / "_mine"
    for name in ("a.parquet", "_b.parquet", ".c.parquet", "sub/d.parquet", "_pending/e.parquet"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [name]}), base / name)
    assert sorted(read_all(ParquetSource(base))["x"].to_pylist()) == ["a.parquet", "sub/d.parquet"]
    assert sorted(read_all(ParquetSource(str(base / "*.parquet")))["x"].to_pylist()) == ["a.parquet"]
    assert sorted(read_all(ParquetSource(str(base / "**" / "*.parquet")))["x"].to_pylist()) == ["a.parquet", "sub/d.parquet"]
    assert read_all(ParquetSource(base / "_b.parquet"))["x"].to_pylist() == ["_b.parquet"]


@pytest.mark.parametrize(
    "path", ["", "nowhere", "*.parquet", "nowhere/*.parquet"], ids=["empty directory", "no such path", "glob", "glob below nothing"]
)
def test_nothing_to_read_is_a_usage_error_unless_watched(tmp_path, path):
    with pytest.raises(UsageError, match="no file there"):
        ParquetSource(tmp_path / path).schema()
    with pytest.raises(UsageError, match="no file there"):
        ParquetSource(tmp_path / path, schema={"a": "int64"}).schema()
    watched = ParquetSource(tmp_path / path, schema={"a": "int64"}, watch="1s")
    assert watched.schema().names == ["a"]
    assert not watched.bounded
    with pytest.raises(UsageError, match="declare it with schema="):
        ParquetSource(tmp_path / path, watch="1s").schema()


def test_an_unknown_filesystem_is_a_usage_error():
    with pytest.raises(UsageError, match="nosuch://bucket"):
        ParquetSource("nosuch://bucket/x").schema()


def test_a_file_that_is_no_parquet_is_an_error_naming_it(tmp_path):
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(SourceError, match=r"x\.parquet: is no Parquet file"):
        ParquetSource(tmp_path).schema()


def test_a_damaged_page_is_an_error_naming_the_file(tmp_path):
    pq.write_table(pa.table({"x": np.random.default_rng(0).integers(0, 1 << 60, 1000)}), tmp_path / "x.parquet", use_dictionary=False)
    source = ParquetSource(tmp_path)
    source.schema()
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[4:60] = b"\xff" * 56
    (tmp_path / "x.parquet").write_bytes(bytes(data))
    with pytest.raises(SourceError, match=r"x\.parquet: cannot be decoded"):
        read_all(source)


def test_a_file_that_changes_after_it_was_found_is_an_error(tmp_path):
    pq.write_table(table_of(10), tmp_path / "1.parquet")
    source = ParquetSource(tmp_path)
    (split,) = source.enumerator(None, None, 1).discover()
    pq.write_table(table_of(20), tmp_path / "1.parquet")
    with pytest.raises(SourceError, match="has changed since it was found"):
        source.open_split(split, None)
    os.unlink(tmp_path / "1.parquet")
    with pytest.raises(SourceError, match="is gone"):
        source.open_split(split, None)


def test_a_watched_directory_gives_new_files_once_also_after_a_restore(tmp_path):
    source = ParquetSource(tmp_path, schema={"x": "int64"}, watch="100ms")
    enumerator = source.enumerator(None, None, 1)
    assert enumerator.discover() == []
    (tmp_path / "0.parquet").write_bytes(b"")
    assert enumerator.discover() == []
    pq.write_table(pa.table({"x": [1]}), tmp_path / "1.parquet")
    (first,) = enumerator.discover()
    assert enumerator.discover() == []
    assert not enumerator.finished
    assert enumerator.poll_interval_s == 0.1
    restored = source.enumerator(enumerator.state(), None, 1)
    pq.write_table(pa.table({"x": [2]}), tmp_path / "2.parquet")
    (second,) = restored.discover()
    assert [drain(source.open_split(s, None), 9).__next__().to_pylist() for s in (first, second)] == [[{"x": 1}], [{"x": 2}]]


def test_a_watched_file_that_is_written_again_is_an_error(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "1.parquet")
    enumerator = ParquetSource(tmp_path, watch="1s").enumerator(None, None, 1)
    enumerator.discover()
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "1.parquet")
    with pytest.raises(SourceError, match=r"1\.parquet: has changed since it was read"):
        enumerator.discover()


def test_a_symbolic_link_is_the_file_it_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "real" / "1.parquet")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.parquet").symlink_to(tmp_path / "real" / "1.parquet")
    assert read_all(ParquetSource(tmp_path / "links")).to_pylist() == [{"x": 1}]


def test_workers_read_no_footer_again_for_the_schema(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "1.parquet")
    source = ParquetSource(tmp_path)
    source.schema()
    os.unlink(tmp_path / "1.parquet")
    assert pickle.loads(pickle.dumps(source)).schema().names == ["x"]


def test_wrong_arguments_say_which(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "1.parquet")
    for arguments, message in (
        ({"missing": "maybe"}, "missing='maybe'"),
        ({"rate": 0}, "rate=0"),
        ({"watch": "0s"}, "watch=0"),
        ({"max_skew": "ten"}, "max_skew"),
    ):
        with pytest.raises(ConfigError, match=message):
            ParquetSource(tmp_path, **arguments)
    with pytest.raises(ConfigError, match="paths is empty"):
        ParquetSource([])
    with pytest.raises(PlanError, match="no column 'y'"):
        ParquetSource(tmp_path).with_columns(("y",))


def test_two_columns_of_one_name_or_a_type_without_support_are_plan_errors(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "1.parquet")
    with pytest.raises(PlanError, match="column 'a' occurs more than once"):
        ParquetSource(tmp_path).schema()
    pq.write_table(pa.table({"d": pa.array([1], pa.decimal256(50, 2))}), tmp_path / "1.parquet")
    with pytest.raises(PlanError, match="column 'd'"):
        ParquetSource(tmp_path).schema()


def test_nested_columns_come_in_engine_types(tmp_path):
    kind = pa.struct([("at", pa.timestamp("ms")), ("tags", pa.large_list(pa.large_string()))])
    pq.write_table(pa.table({"s": pa.array([{"at": 5, "tags": ["a"]}, None], kind), "x": [1, 2]}), tmp_path / "1.parquet")
    table = read_all(ParquetSource(tmp_path).with_columns(("s",)))
    assert table.schema.field("s").type == pa.struct([("at", TIMESTAMP), ("tags", pa.list_(pa.string()))])
    assert rows_of(table) == rows_of(pa.table({"s": [{"at": datetime(1970, 1, 1, 0, 0, 0, 5000, UTC), "tags": ["a"]}, None]}))
