"""Rows by pane of event time, only ever appended to: what was appended since a generation is the end of each pane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from flinkray.state.row_buffer import RowBuffer


class _Pane:
    __slots__ = ("marks", "rows")

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = RowBuffer(schema)
        self.marks: list[tuple[int, int]] = []
        """(generation, first row of it), ascending."""


class PaneRows:
    """Panes by their start; `schema` as in `RowBuffer`."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self.memory_bytes = 0
        self._panes: dict[int, _Pane] = {}

    def __contains__(self, start_us: int) -> bool:
        return start_us in self._panes

    def starts(self) -> list[int]:
        return list(self._panes)

    def add(self, start_us: int, rows: pa.RecordBatch, generation: int) -> None:
        """Rows of this pane, of the types of the schema, which are its own from now on."""
        pane = self._panes.get(start_us)
        if pane is None:
            pane = self._panes[start_us] = _Pane(self.schema)
        if not pane.marks or pane.marks[-1][0] != generation:
            pane.marks.append((generation, len(pane.rows)))
        before = pane.rows.memory_bytes
        pane.rows.own(rows)
        self.rows += rows.num_rows
        self.memory_bytes += pane.rows.memory_bytes - before

    def count(self, starts_us: Iterable[int]) -> int:
        """Rows of the panes that there are."""
        return sum(len(self._panes[start].rows) for start in starts_us if start in self._panes)

    def among(self, starts_us: Iterable[int]) -> list[pa.RecordBatch]:
        """The rows of the panes that there are."""
        return [batch for start in starts_us if start in self._panes for batch in self._panes[start].rows.view().batches]

    def joined(self, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        """The rows of all batches in one."""
        if len(batches) == 1:
            return batches[0]
        return pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], self.schema)

    def drop(self, starts_us: Sequence[int]) -> None:
        for start in starts_us:
            pane = self._panes.pop(start)
            self.rows -= len(pane.rows)
            self.memory_bytes -= pane.rows.memory_bytes

    def appended_since(self, generation: int | None) -> dict[int, list[pa.RecordBatch]]:
        """Rows by pane that came after a generation (None: all)."""
        found = {}
        for start, pane in self._panes.items():
            first = next((row for stamp, row in pane.marks if generation is None or stamp > generation), None)
            if first is not None:
                found[start] = pane.rows.view().after(first)
        return found
