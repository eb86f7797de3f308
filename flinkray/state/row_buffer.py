"""Rows kept as they came, in Arrow columns: appended in batches, taken by position. Batches are joined, so that there are few of them and
each row is copied a few times in its life."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.state.arrow_buffers import contiguous, value_type
from flinkray.state.arrow_memory import largest_bytes, settled_batch

Int64Array = npt.NDArray[np.int64]

_JOINED = 8
"""So many batches become one."""
LARGEST_BYTES = 1 << 27
"""Batches above are not joined: the offsets of strings are 32 bits wide, and a merge should not take long."""


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with dictionaries as their values, every column nullable."""
    return pa.schema([pa.field(field.name, value_type(field.type)) for field in schema])


@dataclass(frozen=True)
class RowView:
    """The rows of a buffer at one moment; they never change."""

    schema: pa.Schema
    batches: tuple[pa.RecordBatch, ...]

    def select(self, names: Sequence[str]) -> RowView:
        """Only these columns, without a copy."""
        return RowView(pa.schema([self.schema.field(name) for name in names]), tuple(batch.select(names) for batch in self.batches))

    def take(self, positions: Int64Array) -> pa.RecordBatch:
        """The rows at these positions, in this order; a copy, unless they stand together in one batch."""
        if not len(positions):
            return pa.RecordBatch.from_pylist([], self.schema)
        if positions[-1] - positions[0] == len(positions) - 1 and np.all(np.diff(positions) == 1):
            parts = self.between(int(positions[0]), int(positions[-1]) + 1)
            return parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        if len(self.batches) == 1:
            return self.batches[0].take(pa.array(positions))
        bases = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        number = np.searchsorted(bases, positions, side="right") - 1
        order = None
        if np.any(number[1:] < number[:-1]):
            order = np.argsort(number, kind="stable")
            positions, number = positions[order], number[order]
        bounds = np.searchsorted(number, np.arange(len(self.batches) + 1))
        parts = [
            self.batches[i].take(pa.array(positions[bounds[i] : bounds[i + 1]] - bases[i]))
            for i in range(len(self.batches))
            if bounds[i] < bounds[i + 1]
        ]
        rows = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        if order is None:
            return rows
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return rows.take(pa.array(back))

    def after(self, row: int) -> list[pa.RecordBatch]:
        """The rows from position `row` on, without a copy."""
        return self.between(row, sum(batch.num_rows for batch in self.batches))

    def between(self, first: int, stop: int) -> list[pa.RecordBatch]:
        """The rows from position `first` to before `stop`, without a copy."""
        found, base = [], 0
        for batch in self.batches:
            start, end = max(first - base, 0), min(stop - base, batch.num_rows)
            if start < end:
                found.append(batch.slice(start, end - start))
            base += batch.num_rows
        return found


class RowBuffer:
    """Rows of `schema` (see `plain_schema`), by position from 0."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.memory_bytes = 0
        self._batches: list[pa.RecordBatch] = []
        self._levels: list[int] = []
        """Of each batch: how often it was joined."""
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: pa.RecordBatch, chosen: Int64Array) -> None:
        """Copies of the rows at `chosen`; columns by name, of the types of the schema or dictionaries of them."""
        arrays = [contiguous(rows.column(field.name).take(pa.array(chosen))) for field in self.schema]
        arrays = [a if a.type == f.type else a.cast(f.type) for a, f in zip(arrays, self.schema, strict=True)]
        self._add(pa.RecordBatch.from_arrays(arrays, schema=self.schema))

    def own(self, rows: pa.RecordBatch) -> None:
        """Rows of just these columns that nobody else changes, without a copy."""
        self._add(rows)

    def view(self) -> RowView:
        return RowView(self.schema, tuple(self._batches))

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Only the rows where it is true; they move up."""
        batches, base = self._batches, 0
        self._batches, self._levels, self._rows, self.memory_bytes = [], [], 0, 0
        for batch in batches:
            kept = batch.filter(pa.array(mask[base : base + batch.num_rows]))
            base += batch.num_rows
            if kept.num_rows:
                self._add(kept)

    def _add(self, batch: pa.RecordBatch) -> None:
        """Batches of one level become one of the next when they are `_JOINED`: a row is copied once a level."""
        self._rows += batch.num_rows
        self.memory_bytes += batch.nbytes
        self._batches.append(settled_batch(batch))
        self._levels.append(0)
        while self._levels[-_JOINED:] == [self._levels[-1]] * _JOINED:
            if sum(last.nbytes for last in self._batches[-_JOINED:]) > largest_bytes(LARGEST_BYTES):
                break
            self._batches[-_JOINED:] = [settled_batch(pa.concat_batches(self._batches[-_JOINED:]))]
            self._levels[-_JOINED:] = [self._levels[-1] + 1]
