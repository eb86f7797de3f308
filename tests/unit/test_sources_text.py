"""CSV and JSON sources: byte ranges, exact positions, inferred types, and malformed rows under each policy."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from flinkray.columns import TIMESTAMP
from flinkray.connectors import lines, text
from flinkray.connectors.base import DEAD_LETTER, Split
from flinkray.connectors.csv import CsvSource
from flinkray.connectors.files import find_files
from flinkray.connectors.json import JsonSource
from flinkray.connectors.lines import RowBlocks
from flinkray.connectors.text import TextSource
from flinkray.errors import ConfigError, PlanError, SourceError, UsageError
from flinkray.testing.connector_suite import SourceSuite, drain, rows_of


def read_all(source: TextSource, parallelism: int = 1) -> pa.Table:
    splits = source.enumerator(None, None, parallelism).discover()
    return pa.Table.from_batches([b for s in splits for b in drain(source.open_split(s, None), 1000)], source.schema())


ROWS = [
    {"id": i, "name": None if i % 7 == 0 else f"name {i}" + "é" * (i % 5), "price": None if i % 5 == 0 else i / 4, "at": 1000 * i}
    for i in range(400)
]
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("price", pa.float64()), ("at", TIMESTAMP)])


def csv_text(rows: list[dict], end: str = "\n") -> str:
    lines = [",".join("" if value is None else str(value) for value in (r["id"], r["name"], r["price"], iso(r["at"]))) for r in rows]
    return end.join(["id,name,price,at", *lines]) + end


def json_text(rows: list[dict]) -> str:
    return "".join(json.dumps(row | {"at": iso(row["at"]), "extra": [1]}) + "\n" for row in rows)


def iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class TestCsvSource(SourceSuite):
    event_time_column = "at"

    def source(self, place: Path) -> CsvSource:
        (place / "a.csv").write_text(csv_text(ROWS[:300]))
        (place / "b.csv").write_text(csv_text([]))
        (place / "c.csv").write_text(csv_text(ROWS[300:], end="\r\n").removesuffix("\r\n"), newline="")
        return CsvSource(place, split_bytes=777)

    def expected(self) -> pa.Table:
        return pa.Table.from_pylist(ROWS, schema=SCHEMA)


class TestGzippedCsvSource(TestCsvSource):
    def source(self, place: Path) -> CsvSource:
        (place / "a.csv.gz").write_bytes(gzip.compress(csv_text(ROWS[:200]).encode()))
        (place / "b.csv.bz2").write_bytes(bz2.compress(csv_text(ROWS[200:]).encode()))
        return CsvSource(place)


class TestMultilineCsvSource(TestCsvSource):
    def source(self, place: Path) -> CsvSource:
        rows = [",".join(field(row[name]) for name in ("id", "name", "price")) + "," + iso(row["at"]) for row in self.rows()]
        (place / "a.csv").write_text("\n".join(["id,name,price,at", *rows]))
        return CsvSource(place, multiline=True)

    def rows(self) -> list[dict]:
        return [row | {"name": row["name"] and row["name"] + '\n"x",\n\n'} for row in ROWS]

    def expected(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows(), schema=SCHEMA)


def field(value: object) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"' if isinstance(value, str) else str(value)


class TestJsonSource(SourceSuite):
    event_time_column = "at"

    def source(self, place: Path) -> JsonSource:
        (place / "a.json").write_text(json_text(ROWS[:300]))
        (place / "b.json").write_text("\n\n")
        (place / "c.json").write_text(json_text(ROWS[300:]).removesuffix("\n"))
        return JsonSource(place, schema=SCHEMA, split_bytes=777)

    def expected(self) -> pa.Table:
        return pa.Table.from_pylist(ROWS, schema=SCHEMA)


class TestGzippedJsonSource(TestJsonSource):
    def source(self, place: Path) -> JsonSource:
        (place / "a.json.gz").write_bytes(gzip.compress(json_text(ROWS).encode()))
        return JsonSource(place, schema=SCHEMA)


def test_byte_ranges_partition_a_file_whatever_their_bounds(tmp_path):
    content = csv_text(ROWS[:40], end="\r\n") + "\n\n" + "400,last,,2020-01-01T00:00:00Z"
    (tmp_path / "a.csv").write_text(content, newline="")
    source = CsvSource(tmp_path, schema=SCHEMA)
    whole = read_all(source)["id"].to_pylist()
    assert whole == [*range(40), 400]
    (file,) = find_files([str(tmp_path / "a.csv")], None)
    chance = random.Random(1)
    for _ in range(120):
        bounds = sorted({0, file.size, *(chance.randrange(file.size + 1) for _ in range(chance.randrange(6)))})
        pieces = [Split(str(a), file.payload(start=a, stop=b)) for a, b in pairwise(bounds)]
        ids = [i for piece in pieces for batch in drain(source.open_split(piece, None), 3) for i in batch["id"].to_pylist()]
        assert ids == whole, bounds


@pytest.mark.parametrize("max_rows", [1, 2, 5, 1000])
@pytest.mark.parametrize("block_bytes", [1, 7, 64, 4096])
def test_blocks_hold_whole_rows_whatever_their_size(tmp_path, monkeypatch, max_rows, block_bytes):
    monkeypatch.setattr(lines, "_MIN_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(lines, "MAX_BLOCK_BYTES", block_bytes)
    rows = [b"x" * (i * 13 % 50) + b"\n" for i in range(60)] + [b"end"]
    (tmp_path / "a").write_bytes(b"".join(rows))
    (file,) = find_files([str(tmp_path / "a")], None)
    blocks = RowBlocks(file, None, 0, file.size, None)
    seen = b""
    while (block := blocks.next(max_rows)) is not None:
        assert 0 < block.rows <= max_rows
        assert block.rows == len(bytes(block.text).splitlines())
        seen += block.text
        assert blocks.position == len(seen)
        assert seen.endswith((b"\n", b"end"))
    assert seen == b"".join(rows)


@pytest.mark.parametrize(("files", "wanted"), [(1, 8), (2, 8), (3, 6), (20, 20)])
def test_readers_can_open_all_splits_at_once_unless_there_are_more_files(tmp_path, monkeypatch, files, wanted):
    monkeypatch.setattr(text, "MIN_SPLIT_BYTES", 10)
    for i in range(files):
        (tmp_path / f"{i}.csv").write_text("a\n" + "1\n" * 1000)
    assert len(CsvSource(tmp_path, schema={"a": "int64"}).enumerator(None, None, 2).discover()) == wanted


def test_a_row_without_end_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 1 << 16)
    (tmp_path / "a.csv").write_bytes(b"a\n1\n" + b"7" * (1 << 20) + b"\n")
    with pytest.raises(SourceError, match=r"a\.csv: the row at byte 4 is over"):
        read_all(CsvSource(tmp_path, schema={"a": "string"}))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeffa,b\n1,2\n".encode())
    assert read_all(CsvSource(tmp_path)).to_pylist() == [{"a": 1, "b": 2}]
    (tmp_path / "a.json").write_bytes('\ufeff{"a": 1}\n'.encode())
    assert read_all(JsonSource(tmp_path / "a.json")).to_pylist() == [{"a": 1}]


def test_types_are_inferred_from_the_first_file_with_rows(tmp_path):
    (tmp_path / "0.csv").write_text("i,f,b,d,naive,zoned,s,nothing\n")
    row = "1,1.5,true,2020-01-02,2020-01-02 00:00:00,2020-01-02T00:00:00+02:00,x,"
    (tmp_path / "1.csv").write_text(f"i,f,b,d,naive,zoned,s,nothing\n{row}\n")
    source = CsvSource(tmp_path)
    assert source.schema().types == [pa.int64(), pa.float64(), pa.bool_(), pa.date32(), TIMESTAMP, TIMESTAMP, pa.string(), pa.string()]
    (values,) = read_all(source).to_pylist()
    assert values["zoned"] == datetime(2020, 1, 1, 22, tzinfo=UTC)
    assert values["nothing"] is None
    row = '{"i": 1, "f": 1.5, "b": true, "t": "2020-01-02T00:00:00.5Z", "s": "x", "l": [1], "n": null}'
    (tmp_path / "1.json").write_text(row + '\n{"late": 1}\n')
    inferred = JsonSource(tmp_path / "1.json").schema()
    assert inferred.names == ["i", "f", "b", "t", "s", "l", "n", "late"]
    assert inferred.types == [pa.int64(), pa.float64(), pa.bool_(), TIMESTAMP, pa.string(), pa.list_(pa.int64()), pa.string(), pa.int64()]


def test_only_headers_give_columns_of_text_and_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("a,b")
    source = CsvSource(tmp_path)
    assert source.schema() == pa.schema([("a", pa.string()), ("b", pa.string())])
    assert read_all(source).num_rows == 0


def test_files_without_a_single_byte_need_a_declared_schema(tmp_path):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UsageError, match="declare it with schema="):
        CsvSource(tmp_path).schema()
    assert read_all(CsvSource(tmp_path, schema={"a": "int64"})).num_rows == 0
    with pytest.raises(UsageError, match="declare it with schema="):
        JsonSource(tmp_path).schema()
    assert read_all(JsonSource(tmp_path, schema={"a": "int64"})).num_rows == 0


def test_an_unquoted_empty_field_is_null_and_a_quoted_one_is_empty_text(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n,1\n"",2\nNA,\n')
    assert read_all(CsvSource(tmp_path)).to_pylist() == [{"a": None, "b": 1}, {"a": "", "b": 2}, {"a": "NA", "b": None}]
    assert read_all(CsvSource(tmp_path, null_values=("", "NA")))["a"].to_pylist() == [None, "", None]


def test_columns_are_found_by_name_in_any_order_and_extra_ones_ignored(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "2.csv").write_text("z,b,a\nq,y,2\n")
    assert read_all(CsvSource(tmp_path)).to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    (tmp_path / "3.csv").write_text("a\n3\n")
    with pytest.raises(SourceError, match=r"3\.csv: column 'b' is missing; the file has a"):
        read_all(CsvSource(tmp_path))
    assert read_all(CsvSource(tmp_path, missing="null"))["b"].to_pylist() == ["x", "y", None]
    assert read_all(CsvSource(tmp_path, missing="null").with_columns(("b",)))["b"].to_pylist() == ["x", "y", None]


def test_a_key_that_a_json_file_has_nowhere_is_missing_and_one_that_a_row_lacks_is_null(tmp_path):
    (tmp_path / "1.json").write_text('{"a": 1, "b": "x"}\n{"a": 2}\n')
    (tmp_path / "2.json").write_text('{"a": 3}\n')
    with pytest.raises(SourceError, match=r"2\.json: column 'b' is missing; the file has a"):
        read_all(JsonSource(tmp_path))
    assert read_all(JsonSource(tmp_path, missing="null"))["b"].to_pylist() == ["x", None, None]


def test_times_of_one_column_may_be_written_in_several_ways(tmp_path):
    moments = ["2020-01-01 00:00:00", "2020-01-01T00:00:00Z", "2020-01-01T02:00:00.000000+02:00", "2020-01-01 00:00:00.000000999"]
    (tmp_path / "a.csv").write_text("at\n" + "\n".join(moments * 5))
    table = read_all(CsvSource(tmp_path, schema={"at": "timestamp"}))
    assert set(table["at"].to_pylist()) == {datetime(2020, 1, 1, tzinfo=UTC)}
    assert len(table) == 20


def test_without_header_names_come_from_the_schema(tmp_path):
    (tmp_path / "a.csv").write_text("1;'x;y'\n2;z\n")
    source = CsvSource(tmp_path, schema={"a": "int64", "b": "string"}, header=False, delimiter=";", quotechar="'")
    assert read_all(source).to_pylist() == [{"a": 1, "b": "x;y"}, {"a": 2, "b": "z"}]
    with pytest.raises(ConfigError, match="header=False"):
        CsvSource(tmp_path, header=False)


BAD_CSV = 'id,name\n1,a\nx2,b\n3,c\n4\n5,e,f\n\n6,f\n7,g\r7,h\n8,"h\n9,i\n'


def bad_csv(tmp_path: Path, filler: int = 0) -> Path:
    head, _, body = BAD_CSV.partition("\n")
    (tmp_path / "bad.csv").write_text(head + "\n" + "0,z\n" * filler + body, newline="")
    return tmp_path


BAD_JSON = '{"id": 1}\n{"id": "x"}\n{"id": 3}\n{"id": 4\n{"id": 5.5}\n\n[6]\n{"id": 7}{"id": 7}\n{"id": 8, "id": 8}\n{"id": 9}\n'


@pytest.mark.parametrize("filler", [0, 5000])
def test_a_malformed_csv_row_fails_with_file_line_and_column(tmp_path, filler):
    source = CsvSource(bad_csv(tmp_path, filler), schema={"id": "int64", "name": "string"}, split_bytes=1000)
    with pytest.raises(SourceError, match=rf"bad\.csv, line {filler + 3}: column 'id' is not int64: invalid value 'x2'; the row is 'x2,b'"):
        read_all(source)


def test_malformed_csv_rows_are_skipped_and_only_these(tmp_path):
    source = CsvSource(bad_csv(tmp_path), schema={"id": "int64", "name": "string"}, on_error="skip")
    (split,) = source.enumerator(None, None, 1).discover()
    reader = source.open_split(split, None)
    assert reader.read(100)["id"].to_pylist() == [1, 3, 6, 9]
    assert reader.take_rejected().skipped_rows == 5
    assert reader.take_rejected().skipped_rows == 0


def test_malformed_csv_rows_become_dead_letters_with_file_line_and_reason(tmp_path):
    source = CsvSource(bad_csv(tmp_path, 100), schema={"id": "int64", "name": "string"}, on_error="dead_letter", split_bytes=100)
    splits = source.enumerator(None, None, 1).discover()
    assert len(splits) > 3
    letters = [letter for split in splits for letter in dead_letters(source, split)]
    assert [letter["line"] for letter in letters] == [103, 105, 106, 109, 110]
    assert [letter["row"] for letter in letters] == ["x2,b", "4", "5,e,f", "7,g\r7,h", '8,"h']
    assert {letter["source"] for letter in letters} == {str(tmp_path / "bad.csv")}
    reasons = [letter["error"] for letter in letters]
    assert reasons[0] == "column 'id' is not int64: invalid value 'x2'"
    assert reasons[1].startswith("Expected 2 columns, got 1")
    assert reasons[3] == "the line holds 2 rows, and must hold one"
    assert reasons[4] == "a quote is not closed in its line (if quoted values contain newlines, set multiline=True)"


def dead_letters(source: TextSource, split: Split) -> list[dict]:
    reader = source.open_split(split, None)
    while reader.read(7) is not None:
        pass
    batch = reader.take_rejected().dead_letters
    assert batch is None or batch.schema == DEAD_LETTER
    return batch.to_pylist() if batch is not None else []


def test_a_dead_letter_belongs_to_one_side_of_each_offset(tmp_path):
    source = CsvSource(bad_csv(tmp_path, 20), schema={"id": "int64", "name": "string"}, on_error="dead_letter")
    (split,) = source.enumerator(None, None, 1).discover()
    everything = [letter["line"] for letter in dead_letters(source, split)]
    assert len(everything) > 1
    reader = source.open_split(split, None)
    seen: list[int] = []
    while True:
        offset = reader.offset()
        rest = source.open_split(split, offset)
        while rest.read(100) is not None:
            pass
        letters = rest.take_rejected().dead_letters
        assert seen + (letters["line"].to_pylist() if letters else []) == everything
        if reader.read(2) is None:
            break
        letters = reader.take_rejected().dead_letters
        seen += letters["line"].to_pylist() if letters else []


def test_an_open_quote_is_malformed_wherever_a_block_ends(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,"x\n2,6" pipe\n3,"y""z"\n4,"w')
    source = CsvSource(tmp_path, schema={"a": "int64", "b": "string"}, on_error="skip")
    (split,) = source.enumerator(None, None, 1).discover()
    for max_rows in (1, 2, 3, 100):
        rows = [row for batch in drain(source.open_split(split, None), max_rows) for row in batch.to_pylist()]
        assert rows == [{"a": 2, "b": '6" pipe'}, {"a": 3, "b": 'y"z'}]
    multiline = CsvSource(tmp_path, schema={"a": "int64", "b": "string"}, multiline=True)
    (tmp_path / "a.csv").write_text('a,b\n1,"x\n2"\n4,"w')
    with pytest.raises(SourceError, match=r"a\.csv, line 4: a quote is not closed"):
        read_all(multiline)


def test_text_that_is_not_utf8_is_a_malformed_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,ok\n2,\xff\xfe\n")
    source = CsvSource(tmp_path, schema={"a": "int64", "b": "string"})
    with pytest.raises(SourceError, match=r"a\.csv, line 3: column 'b' is not string: invalid UTF8 data"):
        read_all(source)
    assert read_all(source.with_columns(("a",)))["a"].to_pylist() == [1, 2]


def test_a_malformed_multiline_row_is_named_by_its_first_line(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,"x\ny"\n"2\n",z\n3,w\n')
    source = CsvSource(tmp_path, schema={"a": "int64", "b": "string"}, multiline=True, on_error="dead_letter")
    (split,) = source.enumerator(None, None, 4).discover()
    (letter,) = dead_letters(source, split)
    assert (letter["line"], letter["row"]) == (4, '"2\n",z')


def test_a_malformed_json_row_fails_with_file_line_and_column(tmp_path):
    (tmp_path / "bad.json").write_text(BAD_JSON)
    with pytest.raises(SourceError, match=r"bad\.json, line 2: column 'id' is not int64: Column\(/id\) changed from number to string"):
        read_all(JsonSource(tmp_path, schema={"id": "int64"}))


def test_malformed_json_rows_become_dead_letters_with_line_and_reason(tmp_path):
    (tmp_path / "bad.json").write_text(BAD_JSON)
    source = JsonSource(tmp_path, schema={"id": "int64"}, on_error="dead_letter")
    (split,) = source.enumerator(None, None, 1).discover()
    letters = dead_letters(source, split)
    assert [letter["line"] for letter in letters] == [2, 4, 5, 7, 8, 9]
    reasons = dict(zip([2, 4, 5, 7, 8, 9], [letter["error"] for letter in letters], strict=True))
    assert reasons[4].startswith("Missing a comma")
    assert reasons[5] == "column 'id' is not int64: Failed to convert JSON to int64, couldn't parse:5.5"
    assert reasons[8] == "the line holds 2 rows, and must hold one"
    skipping = JsonSource(tmp_path, schema={"id": "int64"}, on_error="skip")
    assert read_all(skipping)["id"].to_pylist() == [1, 3, 9]


def test_two_objects_in_a_line_do_not_make_up_for_one_over_two_lines(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}{"a": 2}\n{"a":\n3}\n  {"a": 4} \t\r\n   \n\n{"a": 5}')
    source = JsonSource(tmp_path, schema={"a": "int64"}, on_error="dead_letter")
    (split,) = source.enumerator(None, None, 1).discover()
    assert [letter["line"] for letter in dead_letters(source, split)] == [1, 2, 3]
    assert read_all(source)["a"].to_pylist() == [4, 5]


def test_malformed_rows_do_not_disturb_inference(tmp_path):
    (tmp_path / "bad.json").write_text('{"id": 1}\n{"id": oops\n{"id": 3, "x": 2}\n{"id": "text"}\n')
    source = JsonSource(tmp_path, on_error="skip")
    assert source.schema() == pa.schema([("id", pa.int64()), ("x", pa.int64())])
    assert read_all(source)["id"].to_pylist() == [1, 3]
    (tmp_path / "none.json").write_text("hello\n")
    with pytest.raises(SourceError, match=r"none\.json, line 1: .*one object per line"):
        JsonSource(tmp_path / "none.json").schema()


def test_a_type_that_changes_between_files_is_an_error_naming_file_line_and_column(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("b,a\n3,4\n5,six\n")
    with pytest.raises(SourceError, match=r"2\.csv, line 3: column 'a' is not int64: invalid value 'six'.*schema="):
        read_all(CsvSource(tmp_path))


@pytest.mark.parametrize("share", [2, 50], ids=["half", "one in fifty"])
def test_many_malformed_rows_are_all_found(tmp_path, share):
    rows = [f"{i},ok" if i % share else f"{i},extra,column" for i in range(2000)]
    (tmp_path / "a.csv").write_text("a,b\n" + "\n".join(rows))
    source = CsvSource(tmp_path, schema={"a": "int64", "b": "string"}, on_error="skip")
    assert read_all(source)["a"].to_pylist() == [i for i in range(2000) if i % share]


def test_line_ends_without_newlines_are_an_error(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\r1,2\r3,4\r")
    with pytest.raises(SourceError, match=r"a\.csv, line 1: the header .*carriage return"):
        read_all(CsvSource(tmp_path))


def test_types_that_csv_cannot_hold_are_plan_errors():
    with pytest.raises(PlanError, match=r"column 'l': CSV cannot hold list"):
        CsvSource("x", schema={"l": "list[int64]"})


def test_wrong_arguments_say_which():
    for arguments, message in (
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"split_bytes": 0}, "split_bytes=0"),
        ({"delimiter": "::"}, "delimiter='::'"),
        ({"quotechar": ""}, "quotechar=''"),
    ):
        with pytest.raises(ConfigError, match=message):
            CsvSource("x", **arguments)


def test_a_text_file_that_grows_while_it_is_read_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    source = CsvSource(tmp_path)
    (split,) = source.enumerator(None, None, 1).discover()
    reader = source.open_split(split, None)
    assert reader.read(1)["a"].to_pylist() == [1]
    with open(tmp_path / "a.csv", "a") as file:
        file.write("3\n")
    assert reader.read(1)["a"].to_pylist() == [2]
    with pytest.raises(SourceError, match=r"a\.csv: has changed since it was found"):
        reader.read(1)


def test_dead_letters_and_rows_keep_every_line(tmp_path):
    chance = random.Random(3)
    good = [f"{i}," + chance.choice(["", "x", '"a,b"']) for i in range(500)]
    bad = ["nope", "1,2,3", "x,y"]
    body = [chance.choice([*bad, ""]) if chance.random() < 0.1 else chance.choice(good) for _ in range(500)]
    (tmp_path / "a.csv").write_text("a,b\n" + "\n".join(body))
    source = CsvSource(tmp_path, schema={"a": "int64", "b": "string"}, on_error="dead_letter", split_bytes=333)
    splits = source.enumerator(None, None, 1).discover()
    letters = [letter for split in splits for letter in dead_letters(source, split)]
    assert [letter["row"] for letter in letters] == [row for row in body if row in bad]
    assert [letter["line"] for letter in letters] == [i + 2 for i, row in enumerate(body) if row in bad]
    assert read_all(source)["a"].to_pylist() == [int(row.split(",")[0]) for row in body if row and row not in bad]


def test_rows_of_is_a_multiset():
    assert rows_of(pa.table({"a": [1, 1]})) != rows_of(pa.table({"a": [1]}))
