"""Columns read from a Parquet file's pages are what pyarrow reads, whoever wrote the file; damage is an error, never a crash or other rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flinkray.connectors import parquet_kernels, parquet_pages, parquet_text
from flinkray.connectors.parquet import ParquetSource
from flinkray.connectors.parquet_pages import PagedFile
from flinkray.errors import SourceError
from flinkray.testing.connector_suite import drain

ROWS = 20_000
WORDS = ["", "a", "a word", "thirty-one bytes of text: 0123456", "thirty-two bytes of text: 01234567", "ein längeres Wort " * 9]
RNG = np.random.default_rng(7)


def table() -> pa.Table:
    few, many = RNG.integers(-9, 9, ROWS), RNG.integers(-(1 << 40), 1 << 40, ROWS)
    return pa.table(
        {
            "constant": pa.array(np.full(ROWS, 3)),
            "sorted": pa.array(np.sort(few)),
            "few": pa.array(few),
            "many": pa.array(many),
            "unsigned": pa.array(many.view(np.uint64)),
            "small": pa.array(few.astype(np.int32)),
            "double": pa.array(few / 7),
            "single": pa.array((many / 3).astype(np.float32)),
            "at": pa.array(many, pa.timestamp("us", "UTC")),
            "day": pa.array(few.astype(np.int32), pa.date32()),
            "took": pa.array(many, pa.duration("us")),
            "word": pa.array([WORDS[n % len(WORDS)] for n in few.tolist()]),
            "line": pa.array(["é" * (n % 97) + str(n) for n in many.tolist()]),
            "empty": pa.array([""] * ROWS),
            "rarely": pa.array(["x" * 3_000 if n % 1_000 == 0 else "" for n in range(ROWS)]),
            "bytes": pa.array([bytes([n & 255]) * (n % 40) for n in many.tolist()], pa.binary()),
        }
    )


def read(path: Path, names: list[str], step: int = 7_001) -> pa.Table:
    """All that can be read from the pages, `step` rows at a time, over all row groups."""
    parquet = pq.ParquetFile(path)
    pages = PagedFile(str(path), parquet.metadata, parquet.schema_arrow)
    parts: list[pa.Table] = []
    for group in range(parquet.metadata.num_row_groups):
        columns = pages.columns(group, names)
        rows = parquet.metadata.row_group(group).num_rows
        for start in range(0, rows, step):
            count = min(step, rows - start)
            parts.append(pa.table({name: column.take(count) for name, column in columns.items()}))
    pages.close()
    return pa.concat_tables(parts)


WRITTEN: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "plain": {"use_dictionary": False},
    "not compressed": {"compression": "none"},
    "zstd": {"compression": "zstd"},
    "small pages": {"data_page_size": 512, "write_batch_size": 64},
    "a dictionary that overflows": {"dictionary_pagesize_limit": 2048, "data_page_size": 4096},
    "several row groups": {"row_group_size": 6_000},
    "page checksums": {"write_page_checksum": True},
}


@pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN.keys())
def test_every_type_is_read_as_pyarrow_reads_it(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = table()
    pq.write_table(expected, tmp_path / "a.parquet", **options)
    found = read(tmp_path / "a.parquet", expected.column_names)
    assert set(found.column_names) == set(expected.column_names), "all of them come from pages"
    assert found.select(expected.column_names).equals(pq.read_table(tmp_path / "a.parquet"))


def test_columns_that_may_not_be_null_have_no_levels(tmp_path: Path) -> None:
    expected = table().select(["few", "many"])
    strict = expected.cast(pa.schema([field.with_nullable(False) for field in expected.schema]))
    pq.write_table(strict, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", ["few", "many"]).to_pydict() == expected.to_pydict()


@pytest.mark.parametrize("codec", ["snappy", "zstd", "uncompressed"])
def test_a_file_of_another_writer_is_read(tmp_path: Path, codec: str) -> None:
    """DuckDB writes its levels and dictionaries in other runs than pyarrow."""
    given_table = table()
    connection = duckdb.connect()
    connection.register("given_table", given_table)
    connection.execute(
        f"COPY (SELECT few, many, small, double, sorted, word, line FROM given_table) TO '{tmp_path}/a.parquet' (FORMAT parquet, COMPRESSION {codec})"
    )
    found = read(tmp_path / "a.parquet", ["few", "many", "small", "double", "sorted", "word", "line"])
    assert found.num_columns > 0
    assert found.equals(pq.read_table(tmp_path / "a.parquet", columns=found.column_names))


def test_what_is_not_plain_enough_is_left_to_pyarrow(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "whole": np.arange(ROWS),
            "text": pa.array([f"n{i % 7}" if i % 3 else None for i in range(ROWS)]),
            "large": pa.array([f"n{i % 7}" for i in range(ROWS)], pa.large_string()),
            "holes": pa.array([None if i % 5 == 0 else i for i in range(ROWS)]),
            "list": pa.array([[i] for i in range(ROWS)]),
            "byte": pa.array(np.zeros(ROWS, np.int8)),
            "delta": np.arange(ROWS),
            "true": pa.array([True] * ROWS),
        }
    )
    pq.write_table(rows, tmp_path / "a.parquet", use_dictionary=["whole"], column_encoding={"delta": "DELTA_BINARY_PACKED"})
    assert read(tmp_path / "a.parquet", rows.column_names).column_names == ["whole"]
    source = ParquetSource(tmp_path).with_columns(("delta", "text", "whole", "holes"))
    split = source.enumerator(None, None, 1).discover()[0]
    found = pa.Table.from_batches(drain(source.open_split(split, None), 3_000))
    assert found.equals(rows.select(found.column_names)), "and both together are the rows of the file"


def test_chunks_that_are_too_large_to_be_read_whole_are_left_to_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    monkeypatch.setattr(parquet_pages, "LARGEST_CHUNK_BYTES", 50_000)
    assert "few" in read(tmp_path / "a.parquet", ["few", "many"]).column_names
    assert "many" not in read(tmp_path / "a.parquet", ["few", "many"]).column_names


def test_text_that_could_be_too_long_for_one_array_is_left_to_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary is short, the rows that it stands for need not be: offsets have 32 bits."""
    pq.write_table(table().select(["few", "word", "empty"]), tmp_path / "a.parquet")
    monkeypatch.setattr(parquet_text, "LARGEST_BYTES", 2_000_000)
    assert read(tmp_path / "a.parquet", ["few", "word", "empty"]).column_names == ["few", "empty"]
    monkeypatch.setattr(parquet_text, "LARGEST_BYTES", 4_000_000)
    assert "word" in read(tmp_path / "a.parquet", ["few", "word", "empty"]).column_names


def test_data_pages_of_version_2_are_left_to_pyarrow(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet", data_page_version="2.0")
    source = ParquetSource(tmp_path).with_columns(("few", "at"))
    split = source.enumerator(None, None, 1).discover()[0]
    found = pa.Table.from_batches(drain(source.open_split(split, None), 3_000))
    assert found.column("few").equals(pq.read_table(tmp_path / "a.parquet").column("few"))


def test_reading_goes_on_from_a_position_in_the_middle(tmp_path: Path) -> None:
    expected = pa.table({"few": RNG.integers(0, 9, 60_000), "many": RNG.integers(0, 1 << 40, 60_000)})
    pq.write_table(expected, tmp_path / "a.parquet", row_group_size=20_000)
    source = ParquetSource(tmp_path)
    split = source.enumerator(None, None, 1).discover()[0]
    first = source.open_split(split, None)
    parts = [first.read(7_000) for _ in range(4)]
    rest = drain(source.open_split(split, first.offset()), 9_000)
    assert pa.Table.from_batches([*parts, *rest]).equals(expected)


@settings(max_examples=200, deadline=None)
@given(
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(1, 255),
    options=st.sampled_from(["small pages", "plain", "not compressed", "zstd"]),
)
def test_a_flipped_byte_is_an_error_or_another_value(
    tmp_path_factory: pytest.TempPathFactory, place: float, byte: int, options: str
) -> None:
    """Parquet has no checksums unless asked for: a value may differ, but neither the number of rows nor the process."""
    folder = tmp_path_factory.mktemp("flipped")
    numbers = np.random.default_rng(3).integers(0, 500, 2_000)
    text = [WORDS[n % len(WORDS)] + str(n) for n in numbers.tolist()]
    written = pa.table({"few": numbers, "many": numbers * 977, "text": text})
    pq.write_table(written, folder / "a.parquet", **WRITTEN[options])
    parquet = pq.ParquetFile(folder / "a.parquet")
    group = parquet.metadata.row_group(0)
    size = sum(group.column(i).total_compressed_size for i in range(3))
    data = bytearray((folder / "a.parquet").read_bytes())
    data[4 + int(place * size)] ^= byte  # within the column chunks, which begin behind PAR1
    (folder / "a.parquet").write_bytes(data)
    pages = PagedFile(str(folder / "a.parquet"), parquet.metadata, parquet.schema_arrow)
    try:
        columns = pages.columns(0, written.column_names)
        taken = [column.take(1_000) for column in columns.values() for _ in range(2)]
    except (pa.ArrowInvalid, OSError):  # what the reader makes a SourceError of
        return
    finally:
        pages.close()
    assert all(len(array) == 1_000 and array.null_count == 0 for array in taken)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"many": RNG.integers(0, 1 << 60, ROWS)}), tmp_path / "a.parquet", use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:2_000] = bytes(1_996)
    source = ParquetSource(tmp_path)
    split = source.enumerator(None, None, 1).discover()[0]
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.parquet: (cannot be decoded|has changed)"):
        drain(source.open_split(split, None), 1_000)


def test_readers_that_take_turns_do_not_share_memory_and_what_is_closed_serves_the_next(tmp_path: Path) -> None:
    """Chunks, pages and dictionaries are decoded in memory that is used again."""
    tables = [pa.table({"value": pa.array(RNG.integers(0, 3_000, ROWS) * (n + 1))}) for n in range(3)]
    for n, written in enumerate(tables):
        pq.write_table(written, tmp_path / f"{n}.parquet", row_group_size=5_000)
    files = [pq.ParquetFile(tmp_path / f"{n}.parquet") for n in range(3)]
    paged = [PagedFile(str(tmp_path / f"{n}.parquet"), file.metadata, file.schema_arrow) for n, file in enumerate(files)]
    found: list[list[Any]] = [[], [], []]
    for group in range(files[0].metadata.num_row_groups):
        columns = [file.columns(group, ["value"])["value"] for file in paged]
        for _ in range(0, 5_000, 500):
            for n, column in enumerate(columns):
                found[n] += column.take(500).to_pylist()
        for column in columns:
            column.close()
            with pytest.raises(pa.ArrowInvalid):
                column.take(1)
    assert found == [written.column("value").to_pylist() for written in tables]


def test_an_index_beyond_the_dictionary_is_an_error_though_memory_lies_there(tmp_path: Path) -> None:
    run, values = np.zeros(parquet_kernels.RUN_FIELDS, np.int64), np.zeros(8, np.uint64)
    page = np.array([2, 3, 0b11100100, 0b11100100] + [0] * parquet_kernels.PADDING, np.uint8)  # two bits each: 0 1 2 3 0 1 2 3
    dictionary = np.arange(100, 164, dtype=np.uint64)
    parquet_kernels.begin_page(page, 4, 8, False, 0, run)
    assert parquet_kernels.take_from_dictionary(page, 4, run, dictionary, 4, values, 0, 8) == 8
    assert values.tolist() == [100, 101, 102, 103] * 2
    for room in (64, 3):
        parquet_kernels.begin_page(page, 4, 8, False, 0, run)
        assert parquet_kernels.take_from_dictionary(page, 4, run, dictionary[:room], 3, values, 0, 8) == parquet_kernels.BROKEN


def test_a_reader_decodes_as_many_rows_at_once_as_are_asked_for(tmp_path: Path) -> None:
    """The first batch of a source is small, and the rest of a row group should not be read in batches of that size."""
    pq.write_table(pa.table({"value": np.arange(200_000)}), tmp_path / "a.parquet")
    source = ParquetSource(tmp_path)
    reader = source.open_split(source.enumerator(None, None, 1).discover()[0], None)
    found = [reader.read(rows) for rows in (100, 100_000, 100_000, 50_000, 100_000)]
    assert [len(batch) for batch in found if batch is not None] == [100, 16_284, 100_000, 50_000, 33_616]
    assert pa.Table.from_batches(found).column("value").to_pylist() == list(range(200_000))
