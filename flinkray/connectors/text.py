"""What CSV and JSON lines share: byte-range splits, the reader of a split, and what happens to malformed rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pyarrow as pa

from flinkray.connectors.base import DEAD_LETTER, Rejected, Split, SplitReader
from flinkray.connectors.enumerators import SPLITS_PER_READER
from flinkray.connectors.files import FileSource, InputFile
from flinkray.connectors.lines import (
    ByteStream,
    ParsePlain,
    RowBlocks,
    compression_of,
    count_newlines,
    first_row_from,
    newlines_in,
    salvage,
)
from flinkray.connectors.schemas import conform
from flinkray.errors import ConfigError, SourceError

OnError = Literal["fail", "skip", "dead_letter"]

MIN_SPLIT_BYTES = 4 << 20
INFER_BYTES = 1 << 20
_SHOWN_CHARS = 200


class RowParser(ABC):
    """Parses blocks of rows of one file, with the columns that were chosen."""

    body_start: int = 0
    """The first byte after the header."""

    @abstractmethod
    def parse(self, block: pa.Buffer) -> pa.RecordBatch:
        """Rows of some whole lines; raises pa.ArrowInvalid when any of them is malformed."""

    def plain(self) -> ParsePlain | None:
        """A fast way to parse plain rows, if there is one."""
        return None

    @abstractmethod
    def explain(self, row: pa.Buffer, error: Exception) -> str:
        """What is wrong with one row, naming the column where that is known."""


@dataclass(frozen=True, init=False)
class TextSource(FileSource):
    """Base of the sources of lines. `on_error`: a malformed row fails the job, is skipped and counted, or goes to the side output
    "dead_letter" (columns `source line row error`) and is counted."""

    on_error: OnError
    split_bytes: int | None

    def _check_text(self, on_error: OnError, split_bytes: int | None) -> None:
        if on_error not in ("fail", "skip", "dead_letter"):
            raise ConfigError(f"on_error={on_error!r}: 'fail', 'skip' or 'dead_letter'")
        if split_bytes is not None and split_bytes < 1:
            raise ConfigError(f"split_bytes={split_bytes}: bytes of a file that one reader takes, at least 1")

    @property
    def quote(self) -> int | None:
        """The quote character when rows may contain newlines in quotes: such files are not split."""
        return None

    @abstractmethod
    def parser(self, file: InputFile) -> RowParser:
        """For one file; SourceError when a column is missing."""

    def split_files(self, files: Sequence[InputFile], event_time_column: str | None, parallelism: int) -> list[Split]:
        """Not more splits than readers hold open at once, where there are not more files: their event times are unknown, so that a split
        which nobody has opened would hold the watermark altogether."""
        total = sum(file.size for file in files)
        target = max(total // (SPLITS_PER_READER * parallelism), MIN_SPLIT_BYTES)
        return [split for file in files if file.size for split in self._byte_ranges(file, target)]

    def _byte_ranges(self, file: InputFile, target: int) -> list[Split]:
        if self.quote is not None or compression_of(file.path) is not None:
            return [Split(f"{file.path}#0", file.payload(start=0, stop=None), size=file.size)]
        count = max(1, file.size // target)
        if self.split_bytes is not None:
            count = max(count, -(-file.size // self.split_bytes))
        bounds = [file.size * i // count for i in range(count + 1)]
        return [Split(f"{file.path}#{start}", file.payload(start=start, stop=stop), size=stop - start) for start, stop in pairwise(bounds)]

    def open_split(self, split: Split, offset: Any | None) -> LineReader:
        return LineReader(self, split, offset)

    def head(self, file: InputFile) -> memoryview:
        """The first rows of a file, whole lines, about `INFER_BYTES`."""
        stream = ByteStream(file, self.storage_options)
        size = INFER_BYTES
        buffer = bytearray(size)
        filled = stream.fill(buffer)
        while filled == len(buffer) and b"\n" not in buffer:
            buffer.extend(bytes(len(buffer)))
            filled = stream.fill(buffer, filled)
        stream.close()
        if filled == len(buffer):
            filled = buffer.rindex(b"\n") + 1
        return memoryview(buffer)[:filled]


class LineReader(SplitReader):
    """Reads the rows that start in a byte range of one file."""

    def __init__(self, source: TextSource, split: Split, offset: Any | None) -> None:
        self._file = InputFile.of(split.payload)
        self._options = source.storage_options
        self._policy = source.on_error
        self._schema = source.schema()
        self._quote = source.quote
        self._file.check_unchanged(self._options)
        self._parser = source.parser(self._file)
        start = self._first_byte(split.payload["start"]) if offset is None else offset["byte"]
        self._blocks = RowBlocks(self._file, self._options, start, split.payload["stop"], self._quote, self._parser.plain())
        self._block_start = start
        self._lines_before: int | None = None
        """Lines of the file before `_block_start`, once something asked for them."""
        self._skipped_rows = 0
        self._dead_letters: list[dict[str, Any]] = []

    def _first_byte(self, start: int) -> int:
        if start <= self._parser.body_start:
            return self._parser.body_start
        return first_row_from(self._file, self._options, start)

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        while True:
            self._block_start = self._blocks.position
            block = self._blocks.next(max_rows)
            if block is None:
                self._file.check_unchanged(self._options)
                return None
            batch = block.batch if block.batch is not None else self._parse(block.text, block.rows)
            if self._lines_before is not None:
                self._lines_before += newlines_in(block.text)
            if batch is not None:
                return conform(batch, self._schema, self._file.path)

    def _parse(self, block: memoryview, rows: int) -> pa.RecordBatch | None:
        """The good rows; None when there are none."""
        try:
            batch = self._parser.parse(pa.py_buffer(block))
            if batch.num_rows == rows:
                return batch
        except pa.ArrowInvalid:
            pass
        good = salvage(block, self._quote, self._parser.parse, lambda at, row, error: self._reject(block, at, row, error))
        if not good:
            return None
        return good[0] if len(good) == 1 else pa.concat_batches(good)

    def _reject(self, block: memoryview, at: int, row: memoryview, error: Exception) -> None:
        line = self._line_of(block, at)
        reason = self._parser.explain(pa.py_buffer(row), error)
        text = bytes(row).rstrip(b"\r\n").decode("utf-8", errors="replace")
        if self._policy == "fail":
            shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
            raise SourceError(
                f"{self._file.path}, line {line}: {reason}; the row is {shown!r}. Fix the file, declare other types with schema=, "
                'or leave such rows out with on_error="skip" or "dead_letter"'
            )
        if self._policy == "skip":
            self._skipped_rows += 1
        else:
            self._dead_letters.append({"source": self._file.path, "line": line, "row": text, "error": reason})

    def _line_of(self, block: memoryview, at: int) -> int:
        if self._lines_before is None:
            self._lines_before = count_newlines(self._file, self._options, self._block_start)
        return self._lines_before + newlines_in(block[:at]) + 1

    def take_rejected(self) -> Rejected:
        letters = pa.RecordBatch.from_pylist(self._dead_letters, schema=DEAD_LETTER) if self._dead_letters else None
        rejected = Rejected(self._skipped_rows, letters)
        self._skipped_rows, self._dead_letters = 0, []
        return rejected

    def offset(self) -> Any:
        return {"byte": self._blocks.position}

    def close(self) -> None:
        self._blocks.close()
