"""The job graph unrolled: which subtask talks to which. Pure. Subtask i of every vertex runs in slot i."""

from __future__ import annotations

from collections.abc import Iterator

from flinkray.graph.job_graph import Forward, JobEdge, JobGraph
from flinkray.ids import TaskId

Channel = tuple[int, TaskId, TaskId]
"""(edge, sending task, receiving task)."""


def channels(graph: JobGraph) -> tuple[Channel, ...]:
    """Every channel of the job, edge by edge, then by sender, then by receiver."""
    return tuple(channel for edge in graph.edges for channel in edge_channels(graph, edge))


def edge_channels(graph: JobGraph, edge: JobEdge) -> Iterator[Channel]:
    """Forward: subtask i to subtask i. All others: each to each."""
    senders = graph.vertices[edge.source_vertex].parallelism
    receivers = graph.vertices[edge.target_vertex].parallelism
    for sender in range(senders):
        mine = (sender,) if isinstance(edge.partitioning, Forward) else range(receivers)
        for receiver in mine:
            yield edge.index, TaskId(edge.source_vertex, sender), TaskId(edge.target_vertex, receiver)
