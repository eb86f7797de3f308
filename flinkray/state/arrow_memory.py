"""Arrow data that is kept, within a budget of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from flinkray.state.memory import StateMemory, current


class TablesOnDemand(Sequence[pa.Table]):
    """Tables of which each is made when it is asked for, and is in memory as long as who asked holds it."""

    def __init__(self, makers: Sequence[Callable[[], pa.Table]], rows: int) -> None:
        """`rows`: of all tables, at most."""
        self._makers, self.rows = makers, rows

    def __len__(self) -> int:
        return len(self._makers)

    def __getitem__(self, at: Any) -> Any:
        return TablesOnDemand(self._makers[at], self.rows) if isinstance(at, slice) else self._makers[at]()

    def each(self, function: Callable[[pa.Table], pa.Table]) -> TablesOnDemand:
        """What the function makes of each; no longer than it was."""
        return TablesOnDemand([lambda maker=maker: function(maker()) for maker in self._makers], self.rows)  # type: ignore[misc]


def rows_of(tables: Sequence[pa.Table]) -> int:
    """All of them, at most; none is made for that."""
    return tables.rows if isinstance(tables, TablesOnDemand) else sum(table.num_rows for table in tables)


def settled_table(table: pa.Table) -> pa.Table:
    """The same rows, in the memory of state where that is limited and they are many."""
    memory = current()
    if memory is None or table.nbytes < memory.smallest_bytes:
        return table
    settled: pa.Table = pa.ipc.open_stream(_written(memory, table)).read_all()
    return settled


def settled_tables(tables: Sequence[pa.Table]) -> tuple[pa.Table, ...]:
    """All of them at once, likewise."""
    return tuple(settled_table(table) for table in tables)


def settled_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same for a batch."""
    memory = current()
    if memory is None or batch.nbytes < memory.smallest_bytes:
        return batch
    return pa.ipc.open_stream(_written(memory, batch)).read_next_batch()


def largest_bytes(otherwise: int) -> int:
    """What may be put together in ordinary memory before it is settled."""
    memory = current()
    return otherwise if memory is None else min(otherwise, memory.budget_bytes // 16)


def _written(memory: StateMemory, rows: pa.Table | pa.RecordBatch) -> pa.Buffer:
    size = pa.MockOutputStream()
    with pa.ipc.new_stream(size, rows.schema) as writer:
        writer.write(rows)
    array = memory.zeros(size.size(), "u1")
    memory.pass_over(array, 0, len(array))
    with pa.FixedSizeBufferWriter(pa.py_buffer(array)) as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return pa.py_buffer(array)
