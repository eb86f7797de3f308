"""What the JobManager asks of the sinks of a graph, before the first row and after the last."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from flinkray.columns import HIDDEN
from flinkray.connectors.base import Sink
from flinkray.graph.job_graph import JobGraph


def sinks_of(graph: JobGraph) -> Iterator[tuple[str, Sink, pa.Schema | None]]:
    """uid, sink, and the schema that it writes (None: only the first batch tells)."""
    for vertex in graph.vertices:
        for spec in vertex.operators:
            if spec.kind == "sink":
                yield spec.uid, spec.params["sink"], spec.output_schema


def transactional_uids(graph: JobGraph) -> frozenset[str]:
    """Sinks whose committed rows are visible to others."""
    return frozenset(uid for uid, sink, _ in sinks_of(graph) if sink.transactional)


def check_fresh_start(graph: JobGraph) -> None:
    """Raises UsageError when an output holds another run's rows."""
    for uid, sink, _ in sinks_of(graph):
        sink.check_fresh_start(uid)


def finish_sinks(graph: JobGraph) -> None:
    """After the last commit: every output exists, also an empty one."""
    for _, sink, schema in sinks_of(graph):
        if schema is not None:
            keep = [field for field in schema if field.name not in HIDDEN]
            sink.finish(pa.schema(keep))
