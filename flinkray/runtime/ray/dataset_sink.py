"""A stream's rows as a `ray.data.Dataset`: written into Ray's object store in two phases, and there when the job is done."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from flinkray.columns import visible
from flinkray.connectors.base import Sink, SinkContext, SinkWriter
from flinkray.errors import SinkError
from flinkray.runtime.ray.blocks import Blocks, BlocksLostError, Ref, Written, blocks_actor


@dataclass(frozen=True)
class DatasetSink(Sink):
    """Blocks of one transaction each, held by the actor until `dataset_of` takes them."""

    actor: str
    dataset: str

    @property
    def transactional(self) -> bool:
        return True

    def writer(self, context: SinkContext) -> SinkWriter:
        return _Writer(self, context)

    def describe(self) -> str:
        return "Dataset"


def dataset_sink() -> DatasetSink:
    return DatasetSink(blocks_actor(), secrets.token_hex(8))


def dataset_of(sink: DatasetSink, schema: pa.Schema) -> Any:
    """The Dataset of what is committed; `schema`: of its columns, if there are no rows."""
    import ray.data

    refs: list[Ref] = Blocks(sink.actor).call("take", sink.dataset)
    return ray.data.from_arrow_refs(refs) if refs else ray.data.from_arrow(schema.empty_table())


class _Writer(SinkWriter):
    def __init__(self, sink: DatasetSink, context: SinkContext) -> None:
        self._sink, self._context = sink, context
        self._batches: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch.select(visible(batch.schema).names))

    def prepare(self, checkpoint_id: int) -> list[dict[str, Any]]:
        if not self._batches:
            return []
        c = self._context
        name = f"{c.uid}-c{c.claim}-k{checkpoint_id}-a{c.attempt}-{c.instance}-{c.subtask}"
        rows, self._batches = pa.Table.from_batches(self._batches).combine_chunks(), []
        self._call("prepare", self._sink.dataset, name, Written(c.uid, c.claim, c.attempt, [ray.put(rows)]))
        return [{"id": name}]

    def commit(self, transactions: list[dict[str, Any]]) -> None:
        unknown = self._call("commit", self._sink.dataset, [one["id"] for one in transactions])
        if unknown:
            raise SinkError(f"Dataset: {unknown[0]} was written in another process's time, and its rows are gone with it", permanent=True)

    def discard_older(self) -> None:
        c = self._context
        self._call("discard_older", self._sink.dataset, c.uid, c.claim, c.attempt)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return Blocks(self._sink.actor).call(method, *arguments)
        except BlocksLostError as error:
            raise SinkError(
                f"Dataset: the process that holds its rows is gone ({error}); run it again, or write Parquet and read that with Ray Data",
                permanent=True,
            ) from error
