"""A transactional sink whose transactions outlive the simulated processes: what the simulator compares."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flinkray.columns import visible
from flinkray.connectors.base import Sink, SinkContext, SinkWriter
from flinkray.errors import SinkError


class SimulatedOutput:
    """Outside of all processes: prepared transactions, and those committed, with how often each was."""

    def __init__(self) -> None:
        self.prepared: dict[str, bytes] = {}
        self.committed: dict[str, bytes] = {}

    def rows(self) -> list[dict[str, Any]]:
        tables = [pa.ipc.open_stream(io.BytesIO(data)).read_all() for data in self.committed.values()]
        rows = pa.concat_tables(tables).to_pylist() if tables else []
        return sorted(rows, key=repr)


OUTPUTS: dict[str, SimulatedOutput] = {}


@dataclass(frozen=True)
class SimulatedSink(Sink):
    name: str

    @property
    def transactional(self) -> bool:
        return True

    def writer(self, context: SinkContext) -> SinkWriter:
        return _Writer(OUTPUTS.setdefault(self.name, SimulatedOutput()), context)


class _Writer(SinkWriter):
    def __init__(self, output: SimulatedOutput, context: SinkContext) -> None:
        self._output = output
        self._context = context
        self._batches: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch.select(visible(batch.schema).names))

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        if not self._batches:
            return []
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self._batches[0].schema) as writer:
            for batch in self._batches:
                writer.write_batch(batch)
        self._batches.clear()
        context = self._context
        name = f"{context.uid}-c{context.claim}-k{checkpoint_id}-a{context.attempt}-{context.instance}-{context.subtask}"
        self._output.prepared[name] = sink.getvalue()
        return [{"name": name}]

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        for transaction in transactions:
            name = transaction["name"]
            if name in self._output.committed:
                continue
            if name not in self._output.prepared:
                raise SinkError(f"transaction {name} was never prepared")
            self._output.committed[name] = self._output.prepared[name]
