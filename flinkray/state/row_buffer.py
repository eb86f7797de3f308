"""Rows kept as they came, in Arrow columns: appended in batches, taken by position. Batches of similar size are joined, so that there
are few of them and each row is copied a few times in its life."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.state.arrow_buffers import contiguous, value_type

Int64Array = npt.NDArray[np.int64]

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

    def take(self, positions: Int64Array) -> pa.RecordBatch:
        """The rows at these positions, in this order, as a copy."""
        if not len(positions):
            return pa.RecordBatch.from_pylist([], self.schema)
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
        found, base = [], 0
        for batch in self.batches:
            if base + batch.num_rows > row:
                found.append(batch.slice(max(0, row - base)))
            base += batch.num_rows
        return found


class RowBuffer:
    """Rows of `schema` (see `plain_schema`), by position from 0."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.memory_bytes = 0
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: pa.RecordBatch, chosen: Int64Array) -> None:
        """Copies of the rows at `chosen`; columns by name, of the types of the schema or dictionaries of them."""
        arrays = [contiguous(rows.column(field.name).take(pa.array(chosen))) for field in self.schema]
        arrays = [a if a.type == f.type else a.cast(f.type) for a, f in zip(arrays, self.schema, strict=True)]
        self._add(pa.RecordBatch.from_arrays(arrays, schema=self.schema))

    def view(self) -> RowView:
        return RowView(self.schema, tuple(self._batches))

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Only the rows where it is true; they move up."""
        batches, base = self._batches, 0
        self._batches, self._rows, self.memory_bytes = [], 0, 0
        for batch in batches:
            kept = batch.filter(pa.array(mask[base : base + batch.num_rows]))
            base += batch.num_rows
            if kept.num_rows:
                self._add(kept)

    def _add(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        self.memory_bytes += batch.nbytes
        while self._batches and self._batches[-1].num_rows <= 2 * batch.num_rows:
            last = self._batches[-1]
            if last.nbytes + batch.nbytes > LARGEST_BYTES:
                break
            batch = pa.concat_batches([self._batches.pop(), batch])
        self._batches.append(batch)
