"""A source that stops short of its end until it is let go: the job runs for as long as a test needs it to, on however slow a machine."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from flinkray.connectors.base import Rejected, Source, Split, SplitEnumerator, SplitReader

_GIVEN: Counter[str] = Counter()
"""Rows that this process has read, by gate."""


@dataclass(frozen=True)
class Held(Source):
    """`inner`, of which each process reads not much more than `rows` rows before there is a file at `gate`."""

    inner: Source
    rows: int
    gate: str

    @property
    def rate(self) -> float | None:  # type: ignore[override]
        return self.inner.rate

    @property
    def max_skew_us(self) -> int | None:  # type: ignore[override]
        return self.inner.max_skew_us

    @property
    def bounded(self) -> bool:
        return self.inner.bounded

    def schema(self) -> pa.Schema:
        return self.inner.schema()

    def with_columns(self, columns: tuple[str, ...]) -> Held:
        return replace(self, inner=self.inner.with_columns(columns))

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        return self.inner.enumerator(state, event_time_column, parallelism)

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return _HeldReader(self, self.inner.open_split(split, offset))

    def let_go(self) -> None:
        with open(self.gate, "w"):
            pass


class _HeldReader(SplitReader):
    def __init__(self, held: Held, inner: SplitReader) -> None:
        self._held = held
        self._inner = inner

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        left = self._held.rows - _GIVEN[self._held.gate]
        if left <= 0 and not os.path.exists(self._held.gate):
            return pa.RecordBatch.from_pylist([], self._held.schema())
        batch = self._inner.read(max_rows if left <= 0 else min(max_rows, left))
        _GIVEN[self._held.gate] += batch.num_rows if batch is not None else 0
        return batch

    def offset(self) -> Any:
        return self._inner.offset()

    def take_rejected(self) -> Rejected:
        return self._inner.take_rejected()

    def close(self) -> None:
        self._inner.close()
