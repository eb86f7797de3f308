"""CSV files as a source and as a sink. UTF-8; an unquoted empty field is null, a quoted one the empty string."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from flinkray.columns import TIMESTAMP
from flinkray.config import Duration
from flinkray.connectors.file_sink import FileSink, FileWriter
from flinkray.connectors.files import InputFile, Missing, Paths
from flinkray.connectors.lines import ParsePlain, count_byte, row_ends
from flinkray.connectors.schemas import SchemaLike, convert, engine_schema, file_columns
from flinkray.connectors.text import OnError, RowParser, TextSource
from flinkray.errors import ConfigError, PlanError, SourceError

_NEWLINE = ord("\n")
_RETURN = ord("\r")
_BOM = b"\xef\xbb\xbf"
_COLUMN_ERROR = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?(?:CSV conversion error to )?(.*)", re.DOTALL)
_ROW_NUMBER = re.compile(r"Row #\d+: ")
_TIME_TYPES = (pa.timestamp("us"), TIMESTAMP, pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
"""How a column of times may be written: without or with a zone, with up to six digits of a second or with nine. Tried in turn."""


@dataclass(frozen=True, init=False)
class CsvSource(TextSource):
    """Reads CSV files, directories, globs or URLs; `.gz .bz2 .zst .lz4 .br` are decompressed. Columns by the names in the header.

    `multiline=False`: a newline ends a row, always, so that large files are split anywhere. Set it where quoted values contain newlines:
    each file is then read from its start by one reader, and the quote character may stand around values only. `header=False` takes the
    names, in order, from `schema`. `null_values`: unquoted fields that mean null. Without `schema`, types are those of the first MiB of
    the first file that has rows. `split_bytes` bounds a split's size.
    """

    delimiter: str
    quotechar: str
    header: bool
    multiline: bool
    null_values: tuple[str, ...]

    def __init__(
        self, paths: Paths, schema: SchemaLike | None = None, missing: Missing = "error", watch: Duration | None = None,
        max_skew: Duration | None = "10s", rate: float | None = None, on_error: OnError = "fail", *, delimiter: str = ",",
        quotechar: str = '"', header: bool = True, multiline: bool = False, null_values: tuple[str, ...] = ("",),
        storage_options: Mapping[str, Any] | None = None, split_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self._init(paths, schema, missing, watch, max_skew, rate, storage_options)
        self._check_text(on_error, split_bytes)
        for name, value in (("delimiter", delimiter), ("quotechar", quotechar)):
            if len(value.encode()) != 1 or value in "\r\n":
                raise ConfigError(f"{name}={value!r}: one ASCII character")
        if not header and schema is None:
            raise ConfigError("header=False: name the columns, in the order of the file, with schema={'column': 'int64', ...}")
        for field in self.declared or ():
            if pa.types.is_nested(field.type) or pa.types.is_duration(field.type):
                raise PlanError(f"schema: column {field.name!r}: CSV cannot hold {field.type}; read it as 'string'")
        self._set(on_error=on_error, split_bytes=split_bytes, delimiter=delimiter, quotechar=quotechar, header=header)
        self._set(multiline=multiline, null_values=tuple(null_values))

    @property
    def quote(self) -> int | None:
        return ord(self.quotechar) if self.multiline else None

    def parse_options(self) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(delimiter=self.delimiter, quote_char=self.quotechar, newlines_in_values=self.multiline)

    def infer(self, file: InputFile) -> tuple[pa.Schema | None, bool]:
        names, body_start, head = self.read_header(file)
        body = head[body_start:]
        options = self.parse_options()
        options.invalid_row_handler = lambda row: "skip"
        if not bytes(body).strip():
            return (pa.schema([(name, pa.string()) for name in names]) if names else None), False
        table = pacsv.read_csv(
            pa.BufferReader(pa.py_buffer(body)),
            pacsv.ReadOptions(use_threads=False, column_names=names, block_size=len(body) + 1),
            options,
            self._convert_options({}, names),
        )
        return engine_schema(table.schema, file.path), table.num_rows > 0

    def read_header(self, file: InputFile) -> tuple[list[str], int, memoryview]:
        """(column names, first byte of the first row, the first rows with the header)."""
        head = self.head(file)
        start = len(_BOM) if bytes(head[:3]) == _BOM else 0
        if not self.header:
            assert self.declared is not None
            return self.declared.names, start, head
        ends = row_ends(head[start:], ord(self.quotechar) if self.multiline else None)
        body_start = start + int(ends[0]) if len(ends) else len(head)
        line = bytes(head[start:body_start]).decode("utf-8", errors="replace").rstrip("\r\n")
        if "\r" in line:
            raise SourceError(f"{file.path}, line 1: the header holds a carriage return; rows must end with a newline")
        names = next(csv.reader(line.splitlines(keepends=True), delimiter=self.delimiter, quotechar=self.quotechar), [])
        return names, body_start, head

    def parser(self, file: InputFile) -> CsvParser:
        return CsvParser(self, file)

    def _convert_options(self, types: Mapping[str, pa.DataType], include: list[str]) -> pacsv.ConvertOptions:
        return pacsv.ConvertOptions(
            column_types=dict(types),
            include_columns=include,
            null_values=list(self.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )


class CsvParser(RowParser):
    """One file's columns and how they are written."""

    def __init__(self, source: CsvSource, file: InputFile) -> None:
        self._source = source
        self._path = file.path
        self._names, self.body_start, head = source.read_header(file)
        wanted = source.schema()
        if len(head) == 0:
            present: tuple[str, ...] = ()
        else:
            found = pa.schema([(name, pa.null()) for name in self._names])
            present = file_columns(found, wanted, source.missing, file.path)
        self._types = {name: wanted.field(name).type for name in present}
        self._include = list(present) or self._names[:1]
        self._times = {name: 0 for name, kind in self._types.items() if kind == TIMESTAMP}
        """For each column of times, which of `_TIME_TYPES` its values had last."""
        self._options = source.parse_options()

    def plain(self) -> ParsePlain | None:
        types = {name: self._types.get(name, pa.string()) for name in self._include}
        if self._source.multiline or self._source.null_values != ("",) or len(set(self._names)) < len(self._names):
            return None
        from flinkray.connectors import csv_plain  # compiled kernels: not wanted by those who only describe a source

        if not csv_plain.is_plain(types):
            return None
        return csv_plain.PlainRows(self._names, types, self._source.delimiter, self._source.quotechar).parse

    def parse(self, block: pa.Buffer) -> pa.RecordBatch:
        if not self._source.multiline and _has_bare_return(memoryview(block)):
            raise pa.ArrowInvalid("a carriage return stands inside of a line")
        before = dict(self._times)
        tried: set[tuple[str, int]] = set()
        while True:
            try:
                batch = self._parse(block)
                self._check_closed(block)
                return batch
            except pa.ArrowInvalid as error:
                name = self._column_of(error)
                if name not in self._times:
                    self._times = before
                    raise
                tried.add((name, self._times[name]))
                untried = [i for i in range(len(_TIME_TYPES)) if (name, i) not in tried]
                if not untried:
                    self._times = before
                    raise
                self._times[name] = untried[0]

    def _check_closed(self, block: pa.Buffer) -> None:
        """pyarrow takes the end of a block for the end of an open quote. Elsewhere it swallows rows, which shows in their number."""
        text = memoryview(block)
        if self._source.multiline:
            is_open = np.count_nonzero(np.frombuffer(text, np.uint8) == ord(self._source.quotechar)) % 2 == 1
        else:
            last = _last_line(text)
            odd = last.count(self._source.quotechar.encode()) % 2
            is_open = bool(odd) and self._parse(pa.py_buffer(last + b"\n" + last)).num_rows != 2
        if is_open:
            hint = "" if self._source.multiline else " in its line (if quoted values contain newlines, set multiline=True)"
            raise pa.ArrowInvalid(f"a quote is not closed{hint}")

    def _parse(self, block: pa.Buffer) -> pa.RecordBatch:
        types = self._types | {name: _TIME_TYPES[i] for name, i in self._times.items()}
        table = pacsv.read_csv(
            pa.BufferReader(block),
            pacsv.ReadOptions(use_threads=False, column_names=self._names, block_size=block.size + 1),
            self._options,
            self._source._convert_options(types, self._include),
        )
        columns = []
        for name in self._include:
            column = table.column(name)
            array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            columns.append(convert(array, TIMESTAMP, self._path) if name in self._times else array)
        return pa.RecordBatch.from_arrays(columns, self._include)

    def _column_of(self, error: Exception) -> str | None:
        match = _COLUMN_ERROR.search(str(error))
        return self._names[int(match[1])] if match else None

    def explain(self, row: pa.Buffer, error: Exception) -> str:
        match = _COLUMN_ERROR.search(str(error))
        if match:
            name = self._names[int(match[1])]
            return f"column {name!r} is not {self._types.get(name, pa.string())}: {match[2].partition(': ')[2] or match[2]}"
        return _ROW_NUMBER.sub("", str(error)).removeprefix("CSV parse error: ")


def _has_bare_return(text: memoryview) -> bool:
    """Whether one of several lines holds a carriage return that ends no line. pyarrow ends a row there unless it is quoted: with an open
    quote elsewhere that swallows a line, the number of rows would still look right. A single line is safe to parse."""
    if not count_byte(text, _RETURN):
        return False
    chars = np.frombuffer(text, np.uint8)
    returns = chars == _RETURN
    newlines = chars == _NEWLINE
    bare = returns[:-1] & ~newlines[1:]
    return bool(bare.any() and newlines[:-1].any())


def _last_line(text: memoryview) -> bytes:
    size = 256
    while True:
        tail = bytes(text[-size:]).rstrip(b"\r\n")
        if b"\n" in tail or size >= len(text):
            return tail.rpartition(b"\n")[2]
        size *= 4


@dataclass(frozen=True)
class CsvSink(FileSink):
    """Writes CSV files with a header into a directory, exactly once: everything under `dir/*.csv` is committed."""

    suffix = ".csv"

    def open_writer(self, handle: BinaryIO, schema: pa.Schema) -> CsvFileWriter:
        return CsvFileWriter(handle, schema)


class CsvFileWriter(FileWriter):
    """Rows go out as they come."""

    def __init__(self, handle: BinaryIO, schema: pa.Schema) -> None:
        self._writer = pacsv.CSVWriter(handle, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()
