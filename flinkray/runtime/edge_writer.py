"""The sending side of one edge in one subtask: splits batches over the consumers' channels."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from flinkray.exchange.base import Barrier, Batch, Element, EndOfInput, OutputChannel, Watermark
from flinkray.graph.job_graph import Broadcast, Forward, Hash, JobEdge, Rebalance

DEAL_ROWS = 4096


class EdgeWriter:
    """`channels` are ordered by consumer subtask (a single one for Forward)."""

    def __init__(self, edge: JobEdge, channels: Sequence[OutputChannel], max_parallelism: int, hash_seed: int, subtask: int) -> None:
        self.edge = edge
        self._channels = tuple(channels)
        self._max_parallelism = max_parallelism
        self._hash_seed = hash_seed
        self._next = subtask
        self._write = self._choose(edge)
        self._names = edge.schema.names if edge.schema is not None else None

    @property
    def ready(self) -> bool:
        """Every channel has credit: the next batch may be made."""
        return all(channel.ready for channel in self._channels)

    def write(self, batch: pa.RecordBatch) -> None:
        if self._names is not None and batch.schema.names != self._names:
            batch = batch.select(self._names)
        self._write(batch)

    def watermark(self, us: int, idle: bool = False) -> None:
        self._to_all(Watermark(us, idle))

    def barrier(self, barrier: Barrier) -> None:
        self._to_all(barrier)

    def end(self) -> None:
        self._to_all(EndOfInput())

    def _choose(self, edge: JobEdge):  # type: ignore[no-untyped-def]
        if isinstance(edge.partitioning, Forward) or len(self._channels) == 1:
            return self._to_single
        if isinstance(edge.partitioning, Hash):
            return self._by_key
        if isinstance(edge.partitioning, Rebalance):
            return self._in_turn
        if isinstance(edge.partitioning, Broadcast):
            return self._copy_to_all
        raise TypeError(f"unknown partitioning {edge.partitioning!r}")

    def _to_all(self, element: Element) -> None:
        for channel in self._channels:
            channel.send(element)

    def _to_single(self, batch: pa.RecordBatch) -> None:
        self._channels[0].send(Batch(batch))

    def _copy_to_all(self, batch: pa.RecordBatch) -> None:
        self._to_all(Batch(batch))

    def _in_turn(self, batch: pa.RecordBatch) -> None:
        """Small batches (splits) are dealt row by row, one batch for each consumer; large ones go whole, one consumer after the other."""
        count = len(self._channels)
        first = self._next % count
        if batch.num_rows > DEAL_ROWS:
            self._channels[first].send(Batch(batch))
            self._next += 1
            return
        for offset in range(min(count, batch.num_rows)):
            rows = pa.array(range(offset, batch.num_rows, count), pa.int64())
            self._channels[(first + offset) % count].send(Batch(batch.take(rows)))
        self._next += batch.num_rows

    def _by_key(self, batch: pa.RecordBatch) -> None:
        from flinkray.state.key_hash import hash_keys, key_groups, partition

        columns = self.edge.partitioning.columns  # type: ignore[union-attr]
        groups = key_groups(hash_keys(batch, columns, self._hash_seed), self._max_parallelism)
        order, bounds = partition(groups, self._max_parallelism, len(self._channels))
        ordered = batch.take(pa.array(order))
        for target, channel in enumerate(self._channels):
            start, stop = int(bounds[target]), int(bounds[target + 1])
            if stop > start:
                channel.send(Batch(ordered.slice(start, stop - start)))
