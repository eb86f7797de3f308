"""The fast way through CSV gives what pyarrow gives, or refuses."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flinkray.columns import TIMESTAMP
from flinkray.connectors.csv import CsvSource
from flinkray.connectors.csv_plain import PIECE_ROWS, PlainRows, is_plain
from flinkray.connectors.files import find_files
from flinkray.connectors.lines import SLACK_BYTES
from flinkray.errors import SourceError

TYPES = {"id": pa.int64(), "small": pa.int16(), "price": pa.float64(), "at": TIMESTAMP, "name": pa.string()}


def plain(
    text: bytes, types: dict[str, pa.DataType] = TYPES, names: list[str] | None = None, max_rows: int = 1_000_000
) -> pa.RecordBatch | None:
    buffer = bytearray(text) + bytearray(SLACK_BYTES)
    rows = PlainRows(names or list(types), types, ",", '"')
    parsed = rows.parse(np.frombuffer(memoryview(buffer)[: len(text)], np.uint8), max_rows)
    return parsed[0] if parsed else None


def careful(text: bytes, folder: Path, types: dict[str, pa.DataType] = TYPES) -> pa.RecordBatch | None:
    path = folder / "rows.csv"
    path.write_bytes(text)
    source = CsvSource(path, schema=pa.schema(types), header=False)
    (file,) = find_files([str(path)], None)
    try:
        return source.parser(file).parse(pa.py_buffer(text))
    except pa.ArrowInvalid:
        return None


def test_every_type_is_read_as_pyarrow_reads_it(tmp_path: Path) -> None:
    text = b"1,-7,2.5,2024-02-29 23:59:59.123456,one\n-20,0,-1e3,1969-12-31T00:00:00,\n,,,,\n007,32767,inf,2100-03-01 00:00:00.5,\xc3\xa9t\xc3\xa9\n"
    assert plain(text).equals(careful(text, tmp_path))
    assert plain(text).to_pylist()[1] | {"at": None} == {"id": -20, "small": 0, "price": -1000.0, "at": None, "name": None}


@pytest.mark.parametrize(
    "row",
    [
        b'1,1,1,2024-01-01 00:00:00,"quoted"', b"1,1,1,2024-01-01 00:00:00", b"1,1,1,2024-01-01 00:00:00,a,b", b"", b"x,1,1,2024-01-01 00:00:00,a",
        b"1,40000,1,2024-01-01 00:00:00,a", b"1,1,one,2024-01-01 00:00:00,a", b"1,1,1,2023-02-29 00:00:00,a", b"1,1,1,2024-01-01 24:00:00,a",
        b"1,1,1,2024-01-01,a", b"1,1,1,2024-01-01 00:00:00.,a", b"1,1,1,2024-01-01 00:00:00.1234567,a", b"1,1,1,2024-01-01 00:00:00+01:00,a",
        b"1,1,1,2024-01-01 00:00:00,\xff", b"+1,1,1,2024-01-01 00:00:00,a", b" 1,1,1,2024-01-01 00:00:00,a", b"-,1,1,2024-01-01 00:00:00,a",
        b"1234567890123456789,1,1,2024-01-01 00:00:00,a", b"1,1,1,2024-01-01 00:00:00,a\r", b"1,1,1,2024-01-01 00:00:00Z,a",
    ],
)  # fmt: skip
def test_a_row_that_is_odd_sends_its_block_the_careful_way(row: bytes) -> None:
    good = b"1,1,1,2024-01-01 00:00:00,a\n"
    assert plain(good * 3).num_rows == 3
    assert plain(good * 5000 + row + b"\n" + good) is None


def test_times_with_a_z_are_read_when_all_have_one(tmp_path: Path) -> None:
    types = {"at": TIMESTAMP}
    text = b"2024-01-01 00:00:00Z\n2024-01-01T10:20:30.25Z\n"
    assert plain(text, types).equals(careful(text, tmp_path, types))


def test_random_rows_are_read_as_pyarrow_reads_them(tmp_path: Path) -> None:
    chosen = random.Random(7)
    alphabet = '0123456789-+. :TZaé,\n\r"x'
    agreed = 0
    for _ in range(3000):
        fields = [
            chosen.choice(["", "0", "-1", "12", "999999999999999999", "9223372036854775808", "1.0", "0x1F"]),
            chosen.choice(["", "1", "-32768", "32768"]),
            chosen.choice(["", "1", "1.5", "-2e-3", "inf", "NaN", "1,5"]),
            chosen.choice(
                [
                    "",
                    "2024-02-29 01:02:03",
                    "2023-02-29 01:02:03",
                    "2024-02-29T01:02:03.1Z",
                    "1960-01-01 00:00:00.000001",
                    "0000-01-01 00:00:00",
                ]
            ),
            "".join(chosen.choice("abcé ") for _ in range(chosen.randrange(5))),
        ]
        line = ",".join(fields)
        if chosen.random() < 0.3:
            at = chosen.randrange(len(line) + 1)
            line = line[:at] + chosen.choice(alphabet) + line[at:]
        text = ("5,5,5,2024-01-01 00:00:00,five\n" + line + "\n").encode()
        read = plain(text)
        if read is not None:
            expected = careful(text, tmp_path)
            assert expected is not None, line
            assert read.equals(expected) or "NaN" in line or "nan" in line, (line, read.to_pylist(), expected.to_pylist())
            agreed += 1
    assert agreed > 500


def test_columns_that_are_not_wanted_are_passed_over_and_rows_are_limited() -> None:
    text = b"".join(b"%d,skipped %d,%d\n" % (i, i, 2 * i) for i in range(3 * PIECE_ROWS))
    batch = plain(text, {"c": pa.int64(), "a": pa.int64()}, ["a", "b", "c"], max_rows=PIECE_ROWS + 5)
    assert batch.num_rows == PIECE_ROWS + 5
    assert batch.column("c").to_pylist() == [2 * i for i in range(PIECE_ROWS + 5)]
    assert batch.column("a").to_pylist() == list(range(PIECE_ROWS + 5))


def test_other_types_go_the_careful_way() -> None:
    assert is_plain(TYPES)
    assert not is_plain({"a": pa.bool_()})
    assert not is_plain({"a": pa.decimal128(10, 2)})


def test_a_file_with_an_odd_row_far_inside_is_read_whole(tmp_path: Path) -> None:
    lines = [f"{i},plain" for i in range(60_000)]
    lines[40_000] = '40000,"quo,ted"'
    (tmp_path / "a.csv").write_text("id,name\n" + "\n".join(lines) + "\n")
    source = CsvSource(tmp_path, schema={"id": "int64", "name": "string"})
    (split,) = source.enumerator(None, None, 1).discover()
    reader = source.open_split(split, None)
    batches = []
    while (batch := reader.read(7000)) is not None:
        assert batch.num_rows <= 7000
        batches.append(batch)
    table = pa.Table.from_batches(batches)
    assert table.column("id").to_pylist() == list(range(60_000))
    assert table.column("name")[40_000].as_py() == "quo,ted"


def test_a_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    lines = [f"{i}" for i in range(30_000)]
    lines[20_000] = "many"
    (tmp_path / "a.csv").write_text("id\n" + "\n".join(lines) + "\n")
    source = CsvSource(tmp_path, schema={"id": "int64"})
    (split,) = source.enumerator(None, None, 1).discover()
    reader = source.open_split(split, None)
    assert reader.read(7000) is not None
    assert reader.read(7000) is not None
    with pytest.raises(SourceError, match="line 20002: column 'id' is not int64"):
        reader.read(7000)
