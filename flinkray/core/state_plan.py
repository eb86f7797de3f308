"""Which state of a checkpoint goes to which slot, at whatever parallelism. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from flinkray.core.messages import StateRef
from flinkray.graph.job_graph import JobGraph
from flinkray.ids import KeyGroupRange, TaskId


def states_for_slot(graph: JobGraph, states: Iterable[StateRef], slot: int) -> tuple[StateRef, ...]:
    """States that the tasks of `slot` restore: keyed ones whose key groups overlap theirs, list states of every origin."""
    wanted: dict[str, KeyGroupRange] = {}
    for vertex in graph.vertices:
        if slot < vertex.parallelism:
            groups = graph.key_groups(TaskId(vertex.index, slot))
            wanted.update((operator.uid, groups) for operator in vertex.operators)
    return tuple(state for state in states if state.uid in wanted and _concerns(state, wanted[state.uid]))


def _concerns(state: StateRef, groups: KeyGroupRange) -> bool:
    return state.kind == "list" or groups.overlaps(KeyGroupRange(state.key_group_start, state.key_group_stop))
