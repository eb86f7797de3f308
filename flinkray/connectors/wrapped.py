"""A source around another, and a reader around its reader: for what stands between the two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa

from flinkray.connectors.base import Rejected, Source, Split, SplitEnumerator, SplitReader


@dataclass(frozen=True)
class WrappedSource(Source):
    """`inner` in all that a subclass does not say. A subclass is a frozen dataclass, and mostly gives `open_split`."""

    inner: Source

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

    def with_columns(self, columns: tuple[str, ...]) -> Self:
        return replace(self, inner=self.inner.with_columns(columns))

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        return self.inner.enumerator(state, event_time_column, parallelism)

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        return self.inner.open_split(split, offset)

    def describe(self) -> str:
        return self.inner.describe()


class WrappedReader(SplitReader):
    """`inner` in all that a subclass does not say."""

    def __init__(self, inner: SplitReader) -> None:
        self._inner = inner

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        return self._inner.read(max_rows)

    def offset(self) -> Any:
        return self._inner.offset()

    def take_rejected(self) -> Rejected:
        return self._inner.take_rejected()

    def close(self) -> None:
        self._inner.close()
