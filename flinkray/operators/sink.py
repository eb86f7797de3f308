"""Sinks: rows are written at once, prepared at a barrier, and visible when the checkpoint is known to be complete (rule 14)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.connectors.base import Sink, SinkContext, SinkWriter
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.functions import user_errors
from flinkray.operators.list_state import ListCapture, origin_tables, share

_STATE = "transactions"
_STATE_SCHEMA = pa.schema([("checkpoint", pa.int64()), ("transaction", pa.string())])


class SinkOperator(Operator):
    """Drives a SinkWriter. Hidden columns stay behind, but for the change where the sink takes it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._prepared: dict[int, list[dict[str, Any]]] = {}
        self._columns: list[str] | None = None
        self._discarded = False
        self._restored_checkpoint = -1

    @property
    def transactions_uncommitted(self) -> list[dict[str, Any]]:
        """Prepared and not known to be committed."""
        return [transaction for transactions in self._prepared.values() for transaction in transactions]

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._guard = user_errors(context)
        schema = context.output_schema or context.input_schemas[0]
        self._writes = schema is not None
        self._open_writer(self._written(schema) if schema is not None else pa.schema([]))
        rows = [row for table in origin_tables(restored, _STATE) for row in table.to_pylist()]
        transactions = [json.loads(row["transaction"]) for row in share(rows, context)]
        with self._guard:
            if transactions:
                self._writer.commit(transactions)
            if restored_checkpoint is None:
                self._discard_older()
            else:
                self._restored_checkpoint = restored_checkpoint

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        if not self._writes:
            self._begin_writing(batch.schema)
        assert self._columns is not None
        if batch.schema.names != self._columns:
            batch = batch.select(self._columns)
        with self._guard:
            self._writer.write(batch)

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        with self._guard:
            transactions = self._writer.prepare(checkpoint_id)
        if transactions:
            self._prepared.setdefault(checkpoint_id, []).extend(transactions)
        rows = [
            {"checkpoint": checkpoint, "transaction": json.dumps(transaction)}
            for checkpoint, prepared in self._prepared.items()
            for transaction in prepared
        ]
        return [ListCapture(_STATE, pa.Table.from_pylist(rows, _STATE_SCHEMA))]

    def on_notify(self, checkpoint_id: int) -> bool:
        due = sorted(checkpoint for checkpoint in self._prepared if checkpoint <= checkpoint_id)
        transactions = [transaction for checkpoint in due for transaction in self._prepared[checkpoint]]
        with self._guard:
            if transactions:
                self._writer.commit(transactions)
            for checkpoint in due:
                del self._prepared[checkpoint]
            if not self._discarded and checkpoint_id > self._restored_checkpoint:
                # A checkpoint of this attempt is complete: all subtasks have opened, and committed their shares of what was restored.
                self._discard_older()
        return True

    def take_collected(self) -> bytes | None:
        """What a collecting writer has committed since the last call, as an Arrow IPC stream; None when there is nothing (`collect()`)."""
        committed: list[pa.RecordBatch] = getattr(self._writer, "committed", [])
        if not committed:
            return None
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, committed[0].schema) as writer:
            for batch in committed:
                writer.write_batch(batch)
        committed.clear()
        return stream.getvalue().to_pybytes()

    def close(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()

    def _discard_older(self) -> None:
        if self.context.subtask == 0:
            self._writer.discard_older()
        self._discarded = True

    def _begin_writing(self, schema: pa.Schema) -> None:
        """The first batch tells the schema; the writer until now was for commits only."""
        self._writer.close()
        self._open_writer(self._written(schema))
        self._writes = True

    def _open_writer(self, schema: pa.Schema) -> None:
        context = self.context
        self._columns = schema.names
        with self._guard:
            self._writer: SinkWriter = self._sink.writer(
                SinkContext(
                    uid=context.uid,
                    subtask=context.subtask,
                    parallelism=context.parallelism,
                    claim=context.claim,
                    attempt=context.attempt,
                    instance=context.instance,
                    schema=schema,
                )
            )

    def _written(self, schema: pa.Schema) -> pa.Schema:
        dropped = {EVENT_TIME} if self._sink.accepts_changelog else {EVENT_TIME, CHANGE}
        return pa.schema([field for field in schema if field.name not in dropped])
