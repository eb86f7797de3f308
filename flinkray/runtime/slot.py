"""All tasks of one slot and one attempt: built, run turn by turn, captured for checkpoints. Used by one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from flinkray.checkpoint.base import ChunkRef
from flinkray.columns import MAX_WATERMARK
from flinkray.core.messages import Counters, Deploy, Stats, Work
from flinkray.exchange.base import Barrier, ChannelId, ChannelSpec, Endpoint, Exchange, InputChannel, OutputChannel
from flinkray.graph.execution_graph import channels
from flinkray.graph.job_graph import JobGraph
from flinkray.ids import KeyGroupRange, TaskId
from flinkray.operators.base import OperatorContext, OperatorMetrics, RestoredState
from flinkray.operators.calls import Calls, CallSpec, no_calls
from flinkray.operators.restore import StateChain, restored_states
from flinkray.runtime.chain import Chain
from flinkray.runtime.edge_writer import EdgeWriter
from flinkray.runtime.task import InputPort, Task, TaskSnapshot
from flinkray.state.arrow_memory import TablesOnDemand
from flinkray.state.memory import current

ReadChunk = Callable[[ChunkRef], pa.Table]


@dataclass
class SlotCheckpoint:
    """What the tasks of a slot have captured for one checkpoint so far."""

    barrier: Barrier
    counters: Counters
    first_row_at_us: int | None = None
    parts: dict[TaskId, TaskSnapshot] = field(default_factory=dict)


@dataclass
class Turn:
    """What one turn over the tasks did."""

    worked: bool = False
    wait_s: float = 0.05
    complete: list[SlotCheckpoint] = field(default_factory=list)


@dataclass(frozen=True)
class SlotPlace:
    """Where and for which attempt a slot runs."""

    slot: int
    attempt: int
    claim: int
    instance: str
    hash_seed: int
    batch_rows: int
    buffer_timeout_s: float
    clock: Callable[[], float]
    open_calls: Callable[[CallSpec], Calls] = no_calls


class Slot:
    """Subtask `slot` of every vertex that has one."""

    def __init__(self, graph: JobGraph, place: SlotPlace, exchange: Exchange, secret: bytes, peers: Sequence[Endpoint]) -> None:
        self._graph = graph
        self._place = place
        self._collecting: dict[int, SlotCheckpoint] = {}
        outputs, inputs = self._open_channels(exchange, secret, peers)
        self.tasks = [self._make_task(v.index, outputs, inputs) for v in graph.vertices if place.slot < v.parallelism]
        self.tasks.reverse()  # consumers first: what is queued goes on before more is read
        self.ended = False
        self._longest_s = 0.0
        """What the slowest task needed for its part of the last turn."""
        self.first_row_at_us: int | None = None
        """When the first row of this attempt reached a sink here."""
        self._sinks = [task.chain.metrics[spec.uid] for task in self.tasks for spec in task.chain.vertex.operators if spec.kind == "sink"]

    @property
    def claim(self) -> int:
        return self._place.claim

    # -- building -------------------------------------------------------------------------------------------------

    def _open_channels(
        self, exchange: Exchange, secret: bytes, peers: Sequence[Endpoint]
    ) -> tuple[dict[ChannelId, OutputChannel], dict[ChannelId, InputChannel]]:
        outgoing, incoming = [], []
        for edge, source, target in channels(self._graph):
            channel, schema = ChannelId(edge, source, target), self._graph.edges[edge].schema
            if source.subtask == self._place.slot:
                outgoing.append(ChannelSpec(channel, peers[target.subtask], schema))
            if target.subtask == self._place.slot:
                incoming.append(ChannelSpec(channel, peers[source.subtask], schema))
        return exchange.open(self._place.attempt, secret, outgoing, incoming)

    def _make_task(self, vertex: int, outputs: dict[ChannelId, OutputChannel], inputs: dict[ChannelId, InputChannel]) -> Task:
        task = TaskId(vertex, self._place.slot)
        writers = {}
        for edge in self._graph.outputs_of(vertex):
            own = sorted((id for id in outputs if id.edge == edge.index and id.source == task), key=lambda id: id.target.subtask)
            writers[edge.index] = EdgeWriter(
                edge, [outputs[id] for id in own], self._graph.max_parallelism, self._place.hash_seed, task.subtask
            )
        ports = [
            InputPort(inputs[id], edge.target_input)
            for edge in self._graph.inputs_of(vertex)
            for id in sorted(id for id in inputs if id.edge == edge.index and id.target == task)
        ]
        return Task(task, Chain(self._graph.vertices[vertex], task.subtask, writers), ports)

    def open(self, deploy: Deploy, read_chunk: ReadChunk) -> None:
        """Open every operator with its state; reads chunks from storage."""
        for task in self.tasks:
            vertex = self._graph.vertices[task.id.vertex]
            groups = self._graph.key_groups(task.id)
            restored = {spec.uid: self._restored(deploy, spec.uid, groups, read_chunk) for spec in vertex.operators}

            def context(index: int, metrics: OperatorMetrics, task: Task = task, groups: KeyGroupRange = groups) -> OperatorContext:
                return self._context(task.id, index, groups, metrics)

            task.chain.open(context, restored, deploy.restored_checkpoint)

    def _restored(self, deploy: Deploy, uid: str, groups: KeyGroupRange, read_chunk: ReadChunk) -> list[RestoredState]:
        chains = [
            StateChain(
                state.name,
                state.kind,
                state.subtask,
                KeyGroupRange(state.key_group_start, state.key_group_stop),
                restored_tables(state.chunks, read_chunk),
            )
            for state in deploy.states
            if state.uid == uid and (state.kind == "list" or groups.overlaps(KeyGroupRange(state.key_group_start, state.key_group_stop)))
        ]
        return restored_states(chains, groups, self._place.slot)

    def _context(self, task: TaskId, index: int, groups: KeyGroupRange, metrics: OperatorMetrics) -> OperatorContext:
        vertex = self._graph.vertices[task.vertex]
        spec = vertex.operators[index]
        return OperatorContext(
            uid=spec.uid,
            name=spec.name,
            subtask=task.subtask,
            parallelism=vertex.parallelism,
            max_parallelism=self._graph.max_parallelism,
            key_groups=groups,
            hash_seed=self._place.hash_seed,
            claim=self._place.claim,
            attempt=self._place.attempt,
            instance=self._place.instance,
            input_schemas=_input_schemas(self._graph, task.vertex, index),
            output_schema=spec.output_schema,
            batch_rows=self._place.batch_rows,
            clock=self._place.clock,
            metrics=metrics,
            buffer_timeout_s=self._place.buffer_timeout_s,
            open_calls=self._place.open_calls,
        )

    # -- running --------------------------------------------------------------------------------------------------

    def turn(self) -> Turn:
        """Every task once, consumers first; and those that only consume for as long as the longest had lately, while there is something: else a reader
        whose batches take long would fill the queues, and barriers would wait in them."""
        turn = Turn()
        longest_s = 0.0
        for task in self.tasks:
            spent_s = more_s = self._run(task, turn)
            longest_s = max(longest_s, spent_s)
            while more_s and task.only_consumes and spent_s < self._longest_s:
                more_s = self._run(task, turn)
                spent_s += more_s
        self._longest_s = longest_s
        self.ended = all(task.ended for task in self.tasks)
        return turn

    def _run(self, task: Task, turn: Turn) -> float:
        """Once. Returns the seconds that it was at work, 0 when there was nothing for it."""
        began_s = self._place.clock()
        progress = task.run_once()
        spent_s = self._place.clock() - began_s if progress.worked else 0.0
        task.busy_s += spent_s
        turn.worked = turn.worked or progress.worked
        if progress.wait_s is not None and not progress.worked:
            turn.wait_s = min(turn.wait_s, progress.wait_s or turn.wait_s)
        if self.first_row_at_us is None and progress.worked:
            self._note_first_row()
        for barrier, snapshot in progress.snapshots:
            self._collect(barrier, snapshot, turn)
        return spent_s

    def inject(self, barrier: Barrier) -> list[SlotCheckpoint]:
        """Begin a checkpoint at the sources of this slot. Returns what is complete by that alone."""
        turn = Turn()
        for task in self.tasks:
            snapshot = task.inject(barrier)
            if snapshot is not None:
                self._collect(barrier, snapshot, turn)
        return turn.complete

    def halt(self) -> None:
        """Sources read nothing more."""
        for task in self.tasks:
            task.halt()

    def drain(self) -> None:
        """Sources read nothing more, and end."""
        for task in self.tasks:
            task.drain()

    def abandon(self, checkpoint: int) -> None:
        for task in self.tasks:
            task.abandon(checkpoint)
        for old in [known for known in self._collecting if known <= checkpoint]:
            del self._collecting[old]

    def commit(self, checkpoint: int) -> bool:
        done = [task.chain.commit(checkpoint) for task in self.tasks]  # every task is told, whatever the others answer
        return all(done)

    def processing_time(self, now_s: float) -> None:
        for task in self.tasks:
            task.chain.processing_time(now_s)

    def close(self) -> None:
        for task in self.tasks:
            task.chain.close()

    # -- looking --------------------------------------------------------------------------------------------------

    def counters(self) -> Counters:
        total = Counters()
        for task in self.tasks:
            total = total.plus(task.counters())
        return total

    def stats(self) -> Stats:
        metrics = [m for task in self.tasks for m in task.chain.metrics.values()]
        return Stats(
            self.counters(),
            min((task.watermark_us for task in self.tasks if _tells_time(task)), default=MAX_WATERMARK),
            self.first_row_at_us,
            sum(task.backlog_bytes for task in self.tasks),
            sum(m.state_rows for m in metrics),
            sum(m.state_bytes for m in metrics),
            memory.spilled_bytes if (memory := current()) is not None else 0,
            tuple(Work(task.id.vertex, task.busy_s, task.rows) for task in self.tasks),
        )

    def operator_metrics(self) -> dict[str, OperatorMetrics]:
        return {uid: metrics for task in self.tasks for uid, metrics in task.chain.metrics.items()}

    def _collect(self, barrier: Barrier, snapshot: TaskSnapshot, turn: Turn) -> None:
        part = self._collecting.get(barrier.checkpoint)
        if part is None:
            part = self._collecting[barrier.checkpoint] = SlotCheckpoint(barrier, Counters())
        part.parts[snapshot.task] = snapshot
        part.counters = part.counters.plus(snapshot.counters)
        if len(part.parts) == len(self.tasks):
            del self._collecting[barrier.checkpoint]
            part.first_row_at_us = self.first_row_at_us
            turn.complete.append(part)

    def _note_first_row(self) -> None:
        if any(metrics.rows_in for metrics in self._sinks):
            self.first_row_at_us = round(self._place.clock() * 1e6)


def _tells_time(task: Task) -> bool:
    """Readers with a watermark: how far event time is, is how far they are."""
    head = task.chain.vertex.operators[0]
    return head.kind == "source" and head.params["watermark"] is not None


def _input_schemas(graph: JobGraph, vertex: int, index: int) -> tuple[object, ...]:
    """Schemas of an operator's inputs: of the edges for the head, of the operator before for the others."""
    if index == 0:
        edges = graph.inputs_of(vertex)
        count = max((edge.target_input for edge in edges), default=-1) + 1
        return tuple(next(edge.schema for edge in edges if edge.target_input == number) for number in range(count))
    for spec in graph.vertices[vertex].operators:
        for route in spec.routes:
            if getattr(route.target, "index", None) == index:
                return (spec.output_schema if route.tag is None else None,)
    return (None,)


def restored_tables(chunks: Sequence[ChunkRef], read_chunk: ReadChunk) -> Sequence[pa.Table]:
    """Within a budget of memory each is read when an operator asks for it, and again whenever it does."""
    if current() is None:
        return tuple(read_chunk(chunk) for chunk in chunks)
    return TablesOnDemand([partial(read_chunk, chunk) for chunk in chunks], sum(chunk.rows for chunk in chunks))
