"""The fast way through CSV: rows without quotes whose wanted columns are integers, floats, times or text, read by kernels that look for the
wanted fields only. pyarrow cuts every field of every row into columns first, wanted or not, and takes three to four times as long.

Nothing is decided here about odd rows: a block that holds one is refused whole, and goes the careful way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from flinkray.columns import TIMESTAMP
from flinkray.connectors.csv_kernels import REFUSED, copy_texts, find_fields, measure_texts, read_integers, read_times

PIECE_ROWS = 4096
"""Rows found and converted in turn, so that their bytes are still in the cache."""
_PAUSE_BLOCKS = 16
"""Blocks that go the careful way after one was refused."""


def is_plain(types: Mapping[str, pa.DataType]) -> bool:
    """Whether columns of these types can be read this way."""
    return all(pa.types.is_integer(kind) or pa.types.is_floating(kind) or kind in (pa.string(), TIMESTAMP) for kind in types.values())


class PlainRows:
    """Parses blocks of one file."""

    def __init__(self, names: Sequence[str], types: Mapping[str, pa.DataType], delimiter: str, quotechar: str) -> None:
        """`names`: all columns of the file; `types`: those that are wanted, in order."""
        self._types = dict(types)
        self._places = np.full(len(names), -1, np.int32)
        for place, name in enumerate(self._types):
            self._places[names.index(name)] = place
        self._delimiter, self._quote = ord(delimiter), ord(quotechar)
        self._starts = self._ends = np.empty((len(self._types), 0), np.int32)
        self._pause = 0

    def parse(self, text: np.ndarray, max_rows: int) -> tuple[pa.RecordBatch, int] | None:
        """(the first rows, at most `max_rows`; the byte after them), or None when the text must go the careful way.

        `text`: uint8, whole rows, the last with its newline, and `lines.SLACK_BYTES` more behind them in memory.
        """
        if self._pause:
            self._pause -= 1
            return None
        if self._starts.shape[1] < max_rows:
            self._starts = np.empty((len(self._types), max_rows), np.int32)
            self._ends = np.empty_like(self._starts)
        found = self._parse(text, max_rows)
        if found is None:
            self._pause = _PAUSE_BLOCKS
        return found

    def _parse(self, text: np.ndarray, max_rows: int) -> tuple[pa.RecordBatch, int] | None:
        columns = [_Column(kind, max_rows) for kind in self._types.values()]
        rows, at = 0, 0
        while at < len(text) and rows < max_rows:
            stop = min(rows + PIECE_ROWS, max_rows)
            row, at = find_fields(text, at, self._delimiter, self._quote, self._places, rows, stop, self._starts, self._ends)
            if at == REFUSED:
                return None
            for column, starts, ends in zip(columns, self._starts, self._ends, strict=True):
                if not column.read(text, starts, ends, rows, row):
                    return None
            rows = row
        try:
            arrays = [column.array(text, s[:rows], e[:rows]) for column, s, e in zip(columns, self._starts, self._ends, strict=True)]
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return None
        return pa.RecordBatch.from_arrays(arrays, list(self._types)), at


class _Column:
    """One column of one block."""

    def __init__(self, kind: pa.DataType, max_rows: int) -> None:
        self._kind = kind
        self._text = kind == pa.string() or pa.types.is_floating(kind)
        self._values = np.empty(0 if self._text else max_rows, np.int64)
        self._valid = np.empty(max_rows, np.uint8)
        self._kinds = 0

    def read(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray, first: int, stop: int) -> bool:
        """Convert rows `first` to `stop`. False when a field is not understood."""
        if self._text:
            return True
        piece = slice(first, stop)
        values, valid = self._values[piece], self._valid[piece]
        if self._kind != TIMESTAMP:
            return bool(read_integers(text, starts[piece], ends[piece], values, valid))
        kinds = read_times(text, starts[piece], ends[piece], values, valid)
        self._kinds |= max(kinds, 0)
        return bool(kinds != REFUSED) and self._kinds != 3  # with and without a zone in one block: the careful way tells

    def array(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
        """The column; pa.ArrowInvalid when its values do not fit the type or are not UTF-8."""
        rows = len(starts)
        if self._text:
            texts = self._texts(text, starts, ends)
            return texts if self._kind == pa.string() else texts.cast(self._kind)
        nulls, bitmap = self._validity(rows)
        kind = self._kind if self._kind == TIMESTAMP else pa.int64()
        array = pa.Array.from_buffers(kind, rows, [bitmap, pa.py_buffer(self._values[:rows])], nulls)
        return array if kind == self._kind else array.cast(self._kind)

    def _texts(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
        rows = len(starts)
        offsets = np.empty(rows + 1, np.int32)
        data = np.empty(measure_texts(starts, ends, offsets, self._valid), np.uint8)
        copy_texts(text, starts, offsets, data)
        nulls, bitmap = self._validity(rows)
        array = pa.Array.from_buffers(pa.string(), rows, [bitmap, pa.py_buffer(offsets), pa.py_buffer(data)], nulls)
        array.validate(full=True)
        return array

    def _validity(self, rows: int) -> tuple[int, pa.Buffer | None]:
        valid = self._valid[:rows]
        nulls = rows - int(np.count_nonzero(valid))
        return nulls, pa.py_buffer(np.packbits(valid, bitorder="little")) if nulls else None
