"""Arrow data that is kept, within a budget of memory."""

from __future__ import annotations

import pyarrow as pa

from flinkray.state.memory import StateMemory, current


def settled_table(table: pa.Table) -> pa.Table:
    """The same rows, in the memory of state where that is limited and they are many."""
    memory = current()
    if memory is None or table.nbytes < memory.smallest_bytes:
        return table
    settled: pa.Table = pa.ipc.open_stream(_written(memory, table)).read_all()
    return settled


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
