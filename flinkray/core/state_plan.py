"""Which state of a checkpoint goes to which slot, at whatever parallelism. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from flinkray.core.messages import StateRef
from flinkray.errors import RestoreError
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


def check_fit(graph: JobGraph, max_parallelism: int, states: Iterable[StateRef], allow_non_restored: bool) -> None:
    """Raises RestoreError when the checkpoint does not fit the graph: other key groups, or state whose operator is gone."""
    if max_parallelism != graph.max_parallelism:
        raise RestoreError(
            f"the checkpoint was taken with max_parallelism {max_parallelism}, the job has {graph.max_parallelism}: "
            "key groups cannot be regrouped; set max_parallelism back, or start afresh with --restore none"
        )
    known = set(graph.uids())
    gone = sorted({state.uid for state in states if state.uid not in known})
    if gone and not allow_non_restored:
        raise RestoreError(
            f"the checkpoint holds state of operators that the job does not have: {', '.join(gone)}; give --allow-non-restored-state to drop it, "
            "or start afresh with --restore none"
        )
