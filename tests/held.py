"""A source that stops short of its end until it is let go: the job runs for as long as a test needs it to, on however slow a machine."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flinkray.connectors.base import Split, SplitReader
from flinkray.connectors.wrapped import WrappedReader, WrappedSource

_GIVEN: Counter[str] = Counter()
"""Rows that this process has read, by gate."""


@dataclass(frozen=True)
class Held(WrappedSource):
    """`inner`, of which each process reads not much more than `rows` rows before there is a file at `gate`."""

    rows: int
    gate: str

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _HeldReader(self, self.inner.open_split(split, offset))


class _HeldReader(WrappedReader):
    def __init__(self, held: Held, inner: SplitReader) -> None:
        super().__init__(inner)
        self._held = held

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        left = self._held.rows - _GIVEN[self._held.gate]
        if left <= 0 and not os.path.exists(self._held.gate):
            return pa.RecordBatch.from_pylist([], self._held.schema())
        batch = self._inner.read(max_rows if left <= 0 else min(max_rows, left))
        _GIVEN[self._held.gate] += batch.num_rows if batch is not None else 0
        return batch
