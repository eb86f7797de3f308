"""`explain()`: the job graph as text that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flinkray.columns import HIDDEN
from flinkray.graph.job_graph import (
    Forward,
    Hash,
    JobEdge,
    JobGraph,
    JobVertex,
    OperatorSpec,
    Partitioning,
    Rebalance,
    ToOperator,
)


def explain(graph: JobGraph) -> str:
    """Vertices in the order of the flow, each with its operators and how its rows arrive; warnings at the end."""
    lines: list[str] = []
    for vertex in graph.vertices:
        lines.extend(_arrivals(graph, vertex))
        lines.extend(_vertex(vertex))
    if graph.warnings:
        lines.append("")
        lines.extend(f"warning: {warning}" for warning in graph.warnings)
    return "\n".join(lines) + "\n"


def _arrivals(graph: JobGraph, vertex: JobVertex) -> Iterator[str]:
    edges = graph.inputs_of(vertex.index)
    if not edges and vertex.index:
        yield ""
    for edge in edges:
        how = _partitioning(edge.partitioning)
        direct = len(edges) == 1 and edge.source_vertex == vertex.index - 1
        origin = "" if direct else f"from [{edge.source_vertex}] "
        yield f" └─▶ {origin}{how}{_shipped(edge)}"


def _partitioning(partitioning: Partitioning) -> str:
    match partitioning:
        case Forward():
            return "one to one"
        case Hash(columns):
            return f"shuffled by hash of {', '.join(columns)}"
        case Rebalance():
            return "dealt out in turn"
        case _:
            return "to every subtask"


def _shipped(edge: JobEdge) -> str:
    if edge.schema is None:
        return ""
    return ": " + ", ".join(edge.schema.names)


def _vertex(vertex: JobVertex) -> Iterator[str]:
    chained = f", {len(vertex.operators)} operators chained" if len(vertex.operators) > 1 else ""
    yield f"[{vertex.index}] parallelism {vertex.parallelism}{chained}"
    for operator, depth in _tree(vertex):
        indent = "     " + "  " * depth
        uid = f" ({operator.uid})" if operator.uid != operator.name else ""
        yield f"{indent}{operator.kind} {operator.name}{uid}{_details(operator)}"
        for note in operator.notes:
            yield f"{indent}  {note}"


def _tree(vertex: JobVertex) -> Iterator[tuple[OperatorSpec, int]]:
    """Operators in order; one further in where an operator hands rows to several, so that branches can be seen."""
    depths = {0: 0}
    for index, operator in enumerate(vertex.operators):
        targets = [route.target.index for route in operator.routes if isinstance(route.target, ToOperator)]
        step = 1 if len(operator.routes) > 1 else 0
        depths.update((target, depths[index] + step) for target in targets)
        yield operator, depths[index]


def _details(operator: OperatorSpec) -> str:
    params: Mapping[str, Any] = operator.params
    match operator.kind:
        case "enumerate" | "source":
            watermark = params.get("watermark")
            time = f", event time {watermark.describe()}" if watermark is not None else ""
            return f": {params['source'].describe()}{time}"
        case "filter":
            return f": {params['predicate']}"
        case "project":
            return ": " + ", ".join(_column(name, expression) for name, expression in params["columns"])
        case "assign_watermarks":
            return f": event time {params['watermark'].describe()}"
        case "sink":
            return f": {params['sink'].describe()}"
        case "map" | "flat_map" | "map_batches" | "filter_fn":
            return f": {getattr(params['function'], '__qualname__', type(params['function']).__name__)}"
        case _:
            return ""


def _column(name: str, expression: object) -> str:
    text = str(expression)
    return name if text == name or name in HIDDEN else f"{name} = {text}"
