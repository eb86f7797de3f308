"""Operators that hand rows on in the same thread become one vertex; what is left between them are the edges."""

from __future__ import annotations

from collections.abc import Sequence

from flinkray.graph.job_graph import JobEdge, JobVertex, OperatorSpec, Route, ToEdge, ToOperator
from flinkray.graph.planner_drafts import Draft


def chain(drafts: Sequence[Draft]) -> tuple[tuple[JobVertex, ...], tuple[JobEdge, ...]]:
    """`drafts` in topological order, which vertices and edges keep."""
    place: dict[Draft, tuple[int, int]] = {}
    vertices: list[list[Draft]] = []
    for draft in drafts:
        if len(draft.links) == 1 and draft.links[0].partitioning is None:
            vertex = place[draft.links[0].port.draft][0]
        else:
            vertex = len(vertices)
            vertices.append([])
        place[draft] = (vertex, len(vertices[vertex]))
        vertices[vertex].append(draft)
    edges: list[JobEdge] = []
    routes: dict[Draft, list[Route]] = {draft: [] for draft in drafts}
    for draft in sorted(drafts, key=place.__getitem__):
        for link in draft.links:
            target: ToOperator | ToEdge
            if link.partitioning is None:
                target = ToOperator(place[draft][1])
            else:
                target = ToEdge(len(edges))
                source = place[link.port.draft][0]
                schema = link.port.rows.physical()
                edges.append(JobEdge(len(edges), source, place[draft][0], link.input, link.partitioning, schema))
            routes[link.port.draft].append(Route(target, link.port.tag))
    made = tuple(
        JobVertex(index, tuple(_spec(draft, routes[draft]) for draft in members), members[0].parallelism)
        for index, members in enumerate(vertices)
    )
    return made, tuple(edges)


def _spec(draft: Draft, routes: Sequence[Route]) -> OperatorSpec:
    return OperatorSpec(
        uid=draft.uid,
        name=draft.name,
        kind=draft.kind,
        params=dict(draft.params),
        routes=tuple(routes),
        output_schema=draft.output_schema,
        notes=tuple(draft.notes),
    )
