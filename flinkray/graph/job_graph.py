"""The frozen, physical job: vertices of chained operators, and the edges between them.

Made by the planner from the logical plan; pickled once to the JobManager and to every TaskManager. No actor handle, port or
path of a run is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flinkray.graph.key_groups import key_group_range
from flinkray.ids import KeyGroupRange, TaskId


@dataclass(frozen=True)
class Forward:
    """Subtask i to subtask i; both sides have the same parallelism."""


@dataclass(frozen=True)
class Hash:
    """By key group of the key columns."""

    columns: tuple[str, ...]


@dataclass(frozen=True)
class Rebalance:
    """Round robin over the consumers, a batch at a time (a row at a time for splits)."""


@dataclass(frozen=True)
class Broadcast:
    """Every batch to every consumer."""


Partitioning = Forward | Hash | Rebalance | Broadcast


@dataclass(frozen=True)
class ToOperator:
    """Rows go on to another operator of the same chain, without leaving the thread."""

    index: int


@dataclass(frozen=True)
class ToEdge:
    """Rows leave the vertex through an edge."""

    edge: int


@dataclass(frozen=True)
class Route:
    """Where what an operator emits goes. `tag` is None for the main output, else a side output's name."""

    target: ToOperator | ToEdge
    tag: str | None = None


@dataclass(frozen=True)
class OperatorSpec:
    """One operator of a chain. `kind` finds the class in `operators.registry`; `params` are its constructor's arguments."""

    uid: str
    name: str
    kind: str
    params: Mapping[str, Any]
    routes: tuple[Route, ...]
    output_schema: pa.Schema | None
    """Schema of the main output, exactly: visible columns, then hidden ones; None where only the first batch will tell."""
    notes: tuple[str, ...] = ()
    """What the planner did here, for `explain()`."""


@dataclass(frozen=True)
class JobVertex:
    """Operators that run in one thread, in topological order; `operators[0]` takes the vertex's input."""

    index: int
    operators: tuple[OperatorSpec, ...]
    parallelism: int

    @property
    def name(self) -> str:
        return " -> ".join(operator.name for operator in self.operators)


@dataclass(frozen=True)
class JobEdge:
    """Batches from one vertex to another. `target_input` is the input number of the target's head operator."""

    index: int
    source_vertex: int
    target_vertex: int
    target_input: int
    partitioning: Partitioning
    schema: pa.Schema | None


@dataclass(frozen=True)
class JobGraph:
    """The whole job. Vertices are in topological order and `vertices[i].index == i`; the same for edges."""

    vertices: tuple[JobVertex, ...]
    edges: tuple[JobEdge, ...]
    max_parallelism: int
    fingerprint: str
    """Digest of uids, kinds and state schemas: what a restore must fit."""
    warnings: tuple[str, ...] = field(default=())
    state_digests: Mapping[str, str] = field(default_factory=dict)
    """By uid of each operator that has state: a digest of its kind and of what its state is."""

    def inputs_of(self, vertex: int) -> tuple[JobEdge, ...]:
        return tuple(edge for edge in self.edges if edge.target_vertex == vertex)

    def outputs_of(self, vertex: int) -> tuple[JobEdge, ...]:
        return tuple(edge for edge in self.edges if edge.source_vertex == vertex)

    def tasks(self) -> tuple[TaskId, ...]:
        return tuple(TaskId(v.index, s) for v in self.vertices for s in range(v.parallelism))

    def source_tasks(self) -> tuple[TaskId, ...]:
        """Tasks without input: where a checkpoint's barriers start."""
        fed = {edge.target_vertex for edge in self.edges}
        return tuple(task for task in self.tasks() if task.vertex not in fed)

    def slots(self) -> int:
        """Slots needed: subtask i of every vertex shares slot i."""
        return max(vertex.parallelism for vertex in self.vertices)

    def key_groups(self, task: TaskId) -> KeyGroupRange:
        return key_group_range(self.max_parallelism, self.vertices[task.vertex].parallelism, task.subtask)

    def uids(self) -> tuple[str, ...]:
        return tuple(operator.uid for vertex in self.vertices for operator in vertex.operators)
