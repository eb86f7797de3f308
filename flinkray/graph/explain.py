"""`explain()`: the job graph as text that people read."""

from __future__ import annotations

from collections.abc import Iterator

from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.expressions import Expression
from flinkray.graph.job_graph import (
    Forward,
    Hash,
    JobEdge,
    JobGraph,
    JobVertex,
    OperatorSpec,
    Partitioning,
    Rebalance,
    ToEdge,
    ToOperator,
)
from flinkray.graph.logical import ALL

_HIDDEN = {EVENT_TIME: "event time", CHANGE: "change"}


def explain(graph: JobGraph) -> str:
    """Vertices in the order of the flow, each with what its operators do and how its rows arrive; warnings at the end."""
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
    if vertex.index:
        yield " │" if edges else ""
    for edge in edges:
        straight_on = len(edges) == 1 and edge.source_vertex == vertex.index - 1
        origin = "" if straight_on else f"from [{edge.source_vertex}], "
        yield f" ▼  {origin}{_partitioning(edge.partitioning)}{_shipped(graph, edge)}"


def _partitioning(partitioning: Partitioning) -> str:
    match partitioning:
        case Forward():
            return "one to one"
        case Hash((key,)) if key == ALL:
            return "brought together"
        case Hash(columns):
            return f"shuffled by hash of {', '.join(columns)}"
        case Rebalance():
            return "dealt out in turn"
        case _:
            return "to every subtask"


def _shipped(graph: JobGraph, edge: JobEdge) -> str:
    senders = [o for o in graph.vertices[edge.source_vertex].operators if any(r.target == ToEdge(edge.index) for r in o.routes)]
    if senders[0].kind == "enumerate":
        return ""
    if senders[0].kind in ("pre_aggregate", "window_parts"):
        keys = [key for key in senders[0].params["keys"] if key != ALL]
        return f"; sends {', '.join([*keys, 'partial aggregates'])}"
    if edge.schema is None:
        return ""
    return f"; sends {', '.join(_HIDDEN.get(name, name) for name in edge.schema.names)}"


def _vertex(vertex: JobVertex) -> Iterator[str]:
    chained = f", {len(vertex.operators)} operators chained" if len(vertex.operators) > 1 else ""
    yield f"[{vertex.index}] parallelism {vertex.parallelism}{chained}"
    named = [(prefix + operator.name, operator) for prefix, operator in _tree(vertex, 0, "", "")]
    width = max(len(name) for name, _ in named)
    for name, operator in named:
        for number, line in enumerate([*_does(operator), *operator.notes]):
            yield f" │  {name if number == 0 else '':<{width}}  {line}"


def _tree(vertex: JobVertex, index: int, prefix: str, indent: str) -> Iterator[tuple[str, OperatorSpec]]:
    """Operators in the order of the flow; branches are set in where one hands its rows to several."""
    operator = vertex.operators[index]
    yield prefix, operator
    for route in operator.routes:
        if isinstance(route.target, ToOperator):
            branch = len(operator.routes) > 1
            further = indent + "  " if branch else indent
            yield from _tree(vertex, route.target.index, indent + "↳ " if branch else indent, further)


def _does(operator: OperatorSpec) -> list[str]:
    params = operator.params
    match operator.kind:
        case "enumerate":
            return [f"finds splits of {params['source'].describe()}"]
        case "source":
            return [f"reads {params['source'].describe()}"]
        case "filter":
            return [f"keeps rows where {params['predicate']}"]
        case "project":
            return ["gives " + ", ".join(_column(name, expression) for name, expression in params["columns"])]
        case "assign_watermarks":
            return [f"takes event time from {params['watermark'].describe()}"]
        case "filter_fn":
            return [f"keeps rows for which {_name(params['function'])} says so"]
        case "map" | "flat_map":
            return [f"calls {_name(params['function'])} for each row"]
        case "map_batches":
            return [f"calls {_name(params['function'])} for each batch ({params['batch_format']})"]
        case "sink":
            return [f"writes {params['sink'].describe()}"]
        case "passthrough":
            return ["brings streams together"]
        case _:
            return [] if operator.notes else [operator.kind]


def _column(name: str, expression: Expression) -> str:
    return name if expression.plain_column == name else f"{name} = {expression}"


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
