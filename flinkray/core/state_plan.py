"""Which state of a checkpoint goes to which slot, at whatever parallelism. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from flinkray.core.messages import StateRef
from flinkray.graph.job_graph import JobGraph, JobVertex
from flinkray.graph.key_groups import subtask_of


class StatePlan:
    """Made once for a deployment: to look through all states for every slot would be quadratic."""

    def __init__(self, graph: JobGraph, states: Iterable[StateRef]) -> None:
        vertex_of = {operator.uid: vertex for vertex in graph.vertices for operator in vertex.operators}
        self._lists: list[tuple[int, StateRef]] = []
        """List states, with the parallelism of their vertex."""
        self._keyed: dict[int, list[StateRef]] = {}
        """Keyed ones, by the slots whose key groups overlap theirs."""
        self._lists_at: dict[tuple[int, ...], tuple[StateRef, ...]] = {}
        self._parallelisms = sorted({vertex.parallelism for vertex in graph.vertices})
        for state in states:
            vertex = vertex_of.get(state.uid)
            if vertex is None:
                continue
            if state.kind == "list":
                self._lists.append((vertex.parallelism, state))
            else:
                for slot in _owners(graph, vertex, state):
                    self._keyed.setdefault(slot, []).append(state)

    def for_slot(self, slot: int) -> tuple[StateRef, ...]:
        """States that the tasks of `slot` restore: list states of every origin, then keyed ones whose key groups overlap theirs; both in the
        checkpoint's order."""
        here = tuple(parallelism for parallelism in self._parallelisms if slot < parallelism)
        if here not in self._lists_at:
            self._lists_at[here] = tuple(state for parallelism, state in self._lists if parallelism in here)
        return (*self._lists_at[here], *self._keyed.get(slot, ()))


def _owners(graph: JobGraph, vertex: JobVertex, state: StateRef) -> range:
    if state.key_group_start == state.key_group_stop:
        return range(0)
    first = subtask_of(state.key_group_start, graph.max_parallelism, vertex.parallelism)
    return range(first, subtask_of(state.key_group_stop - 1, graph.max_parallelism, vertex.parallelism) + 1)
