"""JSON lines (one object per line) as a source and as a sink."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from flinkray.columns import TIMESTAMP
from flinkray.config import Duration
from flinkray.connectors.file_sink import FileSink, FileWriter
from flinkray.connectors.files import InputFile, Missing, Paths
from flinkray.connectors.json_text import json_lines
from flinkray.connectors.lines import row_ends, salvage
from flinkray.connectors.schemas import SchemaLike, engine_schema
from flinkray.connectors.text import OnError, RowParser, TextSource
from flinkray.errors import SourceError

_OPEN, _CLOSE = b"{}"
_BLANK = np.isin(np.arange(256), list(b" \t\r\n"))
_MAX_BLANKS = 32
"""More blanks at one end of a line make its block slow to read, not wrong."""
_BOM = b"\xef\xbb\xbf"
_ROW_NUMBER = re.compile(r" in row \d+$")


@dataclass(frozen=True, init=False)
class JsonSource(TextSource):
    """Reads files of one JSON object per line, directories, globs or URLs; `.gz .bz2 .zst .lz4 .br` are decompressed. Columns by key.

    A key that a row lacks is null. `missing="error"`: a file whose first MiB of rows has a key nowhere is an error. Without `schema`, types
    are those of the first MiB of the first file that has rows; strings that all look like ISO 8601 are times. `split_bytes` bounds a
    split's size.
    """

    def __init__(
        self, paths: Paths, schema: SchemaLike | None = None, missing: Missing = "error", watch: Duration | None = None,
        max_skew: Duration | None = "10s", rate: float | None = None, on_error: OnError = "fail", *,
        storage_options: Mapping[str, Any] | None = None, split_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self._init(paths, schema, missing, watch, max_skew, rate, storage_options)
        self._check_text(on_error, split_bytes)
        self._set(on_error=on_error, split_bytes=split_bytes)

    def infer(self, file: InputFile) -> tuple[pa.Schema | None, bool]:
        table = infer_table(self.head(file), file.path)
        if table is None:
            return None, False
        fields = [(name, TIMESTAMP if _all_times(table.column(name)) else table.schema.field(name).type) for name in table.column_names]
        return engine_schema(pa.schema(fields), file.path), True

    def parser(self, file: InputFile) -> JsonParser:
        return JsonParser(self, file)


def infer_table(head: memoryview, path: str) -> pa.Table | None:
    """The first rows with the types they show; malformed ones are left out here, since reading them will report them. None: no rows."""
    body = head[len(_BOM) :] if bytes(head[:3]) == _BOM else head
    if not bytes(body).strip():
        return None
    problems: list[Exception] = []
    pieces = salvage(body, None, _parse_inferring, lambda at, row, error: problems.append(error))
    if not pieces:
        raise SourceError(f"{path}, line 1: {problems[0]}; JSON input has one object per line")
    table = pa.Table.from_batches(pieces[:1])
    for piece in pieces[1:]:
        try:
            table = pa.concat_tables([table, pa.Table.from_batches([piece])], promote_options="permissive")
        except pa.ArrowException:
            continue  # the type changes between rows: the one seen first counts, and reading names the line
    return table


def _parse_inferring(block: pa.Buffer) -> pa.RecordBatch:
    return _one_batch(pajson.read_json(pa.BufferReader(block), pajson.ReadOptions(use_threads=False, block_size=block.size + 1)))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _all_times(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return False
    for kind in (TIMESTAMP, pa.timestamp("us")):
        try:
            column.cast(kind)
        except pa.ArrowInvalid:
            continue
        return True
    return False


class JsonParser(RowParser):
    """One file's rows; keys that were not chosen are not converted."""

    def __init__(self, source: JsonSource, file: InputFile) -> None:
        self._wanted = source.schema()
        head = source.head(file)
        self.body_start = len(_BOM) if bytes(head[:3]) == _BOM else 0
        if source.missing == "error":
            self._check_keys(head, file.path)

    def _check_keys(self, head: memoryview, path: str) -> None:
        text = bytes(head)
        if all(f'"{name}"'.encode() in text for name in self._wanted.names):
            return
        try:
            table = infer_table(head, path)
        except SourceError:
            return  # malformed rows are reported, with their lines, when they are read
        if table is None:
            return
        for name in self._wanted.names:
            if name not in table.column_names:
                raise SourceError(
                    f"{path}: column {name!r} is missing; the file has {', '.join(table.column_names)}. "
                    'Fix the file, or read such columns as null with missing="null"'
                )

    def parse(self, block: pa.Buffer) -> pa.RecordBatch:
        if not _objects_stand_in_lines(memoryview(block)):
            raise pa.ArrowInvalid("a line is no object")
        return self._parse(block, self._wanted)

    def _parse(self, block: pa.Buffer, schema: pa.Schema) -> pa.RecordBatch:
        table = pajson.read_json(
            pa.BufferReader(block),
            pajson.ReadOptions(use_threads=False, block_size=block.size + 1),
            pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        return _one_batch(table)

    def explain(self, row: pa.Buffer, error: Exception) -> str:
        """The parser does not always name the column: each is tried alone, unless the row is no object at all."""
        text = _ROW_NUMBER.sub("", str(error)).removeprefix("JSON parse error: ")
        if self._fails(row, pa.schema([("\0", pa.null())])):
            return text
        bad = next((field for field in self._wanted if self._fails(row, pa.schema([field]))), None)
        return text if bad is None else f"column {bad.name!r} is not {bad.type}: {text}"

    def _fails(self, row: pa.Buffer, schema: pa.Schema) -> bool:
        try:
            self._parse(row, schema)
        except pa.ArrowInvalid:
            return True
        return False


def _objects_stand_in_lines(text: memoryview) -> bool:
    """Whether each of several lines begins with `{` and ends with `}`. pyarrow takes objects wherever they end, so two in one line and one
    over two lines would together give the right number of rows; but no line inside of an object both ends so and is followed by such a
    beginning. A single line is safe to parse."""
    chars = np.frombuffer(text, np.uint8)
    ends = row_ends(text, None)
    if len(ends) <= 1 and (not len(ends) or ends[0] == len(chars)):
        return True
    if ends[-1] < len(chars):
        ends = np.append(ends, len(chars))
    starts = np.concatenate([[0], ends[:-1]])
    if (chars[starts] == _OPEN).all() and (chars[ends[:-1] - 2] == _CLOSE).all() and _CLOSE in bytes(text[-2:]):
        return True  # the common case, without white space
    first = _skip_blanks(chars, starts, ends - 1, 1)
    last = _skip_blanks(chars, ends - 1, starts, -1)
    blank = first > last
    return bool((blank | ((chars[first] == _OPEN) & (chars[last] == _CLOSE))).all())


def _skip_blanks(chars: np.ndarray, positions: np.ndarray, limits: np.ndarray, step: int) -> np.ndarray:
    """Positions moved by `step` over white space, at most to one after their limits."""
    positions = positions.copy()
    for _ in range(_MAX_BLANKS):
        blank = _BLANK[chars[np.clip(positions, 0, len(chars) - 1)]] & ((limits - positions) * step >= 0)
        if not blank.any():
            break
        positions[blank] += step
    return np.clip(positions, 0, len(chars) - 1)


@dataclass(frozen=True)
class JsonSink(FileSink):
    """Writes files of one JSON object per line into a directory, exactly once: everything under `dir/*.json` is committed."""

    suffix = ".json"

    def open_writer(self, handle: BinaryIO, schema: pa.Schema) -> JsonFileWriter:
        return JsonFileWriter(handle)


class JsonFileWriter(FileWriter):
    """Rows go out as they come."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle

    def write(self, batch: pa.RecordBatch) -> None:
        self._handle.write(json_lines(batch))

    def close(self) -> None:
        """Nothing of its own to end a file with."""
