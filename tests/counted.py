"""A source that says how many rows each process has read of it, so that rows read again after a failure can be told."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from flinkray.connectors.base import Split, SplitReader
from flinkray.connectors.wrapped import WrappedReader, WrappedSource

_READ: Counter[str] = Counter()
"""Rows that this process has read, by folder."""


@dataclass(frozen=True)
class Counted(WrappedSource):
    """`inner`; the file `<pid>` in `folder` has the rows that a process has read so far."""

    folder: str

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _CountedReader(self.folder, self.inner.open_split(split, offset))


class _CountedReader(WrappedReader):
    def __init__(self, folder: str, inner: SplitReader) -> None:
        super().__init__(inner)
        self._folder = folder

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        batch = self._inner.read(max_rows)
        if batch is not None and batch.num_rows:
            _READ[self._folder] += batch.num_rows
            Path(self._folder, str(os.getpid())).write_text(str(_READ[self._folder]))
        return batch


def rows_read(folder: Path) -> int:
    """By all processes together."""
    return sum(int(file.read_text()) for file in folder.iterdir())
