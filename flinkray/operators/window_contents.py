"""What general windows keep: parts of aggregates, or the rows themselves.

A part stands for rows that came together: keys, the window's end, words of the accumulators (`state.layout`) and accumulators that are
Arrow values. Parts of a window are merged when it answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.graph.aggregates import Aggregate, keeps_words
from flinkray.operators.array_aggregates import RowGroups, array_aggregate, columns_of
from flinkray.state.arrow_buffers import value_type
from flinkray.state.layout import AggregateLayout, Program

Int64Array = npt.NDArray[np.int64]

END = "_end"
"""int64 column of what is kept: end of the window, 0 where windows have no end that is known."""


class PartialAggregates:
    """Aggregates of groups of rows, as parts and as results."""

    def __init__(self, keys: Sequence[str], aggregates: Sequence[Aggregate], rows: pa.Schema) -> None:
        self._keys, self._aggregates = tuple(keys), tuple(aggregates)
        by_words = [aggregate for aggregate in aggregates if keeps_words(aggregate, rows)]
        self._layout = AggregateLayout.of_rows(by_words, rows)
        self._words = {aggregate.output: place for place, aggregate in enumerate(by_words)}
        self._arrays = {a.output: array_aggregate(a, rows) for a in aggregates if a.output not in self._words}
        self._by_output = {aggregate.output: aggregate for aggregate in aggregates}
        fields = [pa.field(END, pa.int64()), *(pa.field(key, value_type(rows.field(key).type)) for key in keys)]
        fields += [pa.field(name, pa.int64()) for name in self._layout.names]
        fields += [pa.field(self._name(output), each.types()[0]) for output, each in self._arrays.items()]
        self.schema = pa.schema(fields)

    def _name(self, output: str) -> str:
        return f"_x{list(self._by_output).index(output)}"

    def parts(self, rows: pa.RecordBatch, ends: Int64Array, groups: RowGroups) -> pa.RecordBatch:
        """One part for each group of the rows, which stand in order of their groups; `ends`: of each group."""
        firsts = pa.array(groups.starts[:-1])
        arrays: list[pa.Array] = [pa.array(ends), *(rows.column(key).take(firsts) for key in self._keys)]
        arrays += self._folded(self._layout.update(rows), groups)
        for output, each in self._arrays.items():
            arrays.append(each.accumulate(groups, *columns_of(self._by_output[output], rows)))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def merged(self, parts: pa.RecordBatch, groups: RowGroups, ends: Int64Array | None = None) -> pa.RecordBatch:
        """One part for each group of parts, which stand in order of their groups and, in each, of arrival. `ends`: of each group, where the
        parts have none."""
        firsts = pa.array(groups.starts[:-1])
        first_ends = parts.column(END).take(firsts) if ends is None else pa.array(ends)
        arrays: list[pa.Array] = [first_ends, *(parts.column(name).take(firsts) for name in self._keys)]
        arrays += self._folded(self._layout.merge(parts), groups)
        arrays += [each.merge(groups, parts.column(self._name(output))) for output, each in self._arrays.items()]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def results(self, parts: pa.RecordBatch) -> dict[str, pa.Array]:
        """By the name of the aggregate; of rows that were made one by their own."""
        names = self._layout.names
        words = np.array([parts.column(name).to_numpy() for name in names], np.int64).reshape(len(names), parts.num_rows)
        by_words = self._layout.results(words) if names else []
        found = {output: by_words[place] for output, place in self._words.items()}
        found |= {output: each.finish(parts.column(self._name(output))) for output, each in self._arrays.items()}
        for output in [output for output, aggregate in self._by_output.items() if aggregate.function == "reduce"]:
            row = found.pop(output)
            found |= {field.name: pc.struct_field(row, field.name) for field in row.type if field.name not in self._keys}
        return found

    def _folded(self, program: Program, groups: RowGroups) -> list[pa.Array]:
        layout = self._layout
        rows = np.empty((len(groups), layout.width), np.int64)
        rows[:] = layout.initial
        layout.run(program, rows, groups.of_row.astype(np.int32))
        return [pa.array(column) for column in layout.gather(rows, np.arange(len(groups), dtype=np.int32))]
