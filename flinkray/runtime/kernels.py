"""Which compiled kernels a job needs."""

from __future__ import annotations

from typing import Any

from flinkray.connectors.csv import CsvSource
from flinkray.connectors.parquet import ParquetSource
from flinkray.connectors.wrapped import WrappedSource
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.joins import Join
from flinkray.graph.process import KeyedProcessFunction
from flinkray.graph.windows import SessionWindow
from flinkray.state.warm import CSV, JOINS, KEYED, PARQUET, PROCESS, ROWS, SESSIONS

_KEEP_ROWS = ("regular_join", "asof_join", "broadcast_join", "rank", "first", "general_window")
_LOOK_UP = ("lookup_join", "asked_lookup_join")


def kernel_groups(graph: JobGraph) -> tuple[str, ...]:
    """Groups of `state.warm`."""
    values = [_unwrapped(value) for vertex in graph.vertices for operator in vertex.operators for value in operator.params.values()]
    groups = [KEYED]
    if any(isinstance(value, SessionWindow) for value in values):
        groups.append(SESSIONS)
    if any(isinstance(value, CsvSource) for value in values):
        groups.append(CSV)
    if any(isinstance(value, ParquetSource) for value in values):
        groups.append(PARQUET)
    if any(isinstance(value, Join) for value in values) or any(o.kind in _LOOK_UP for v in graph.vertices for o in v.operators):
        groups.append(JOINS)
    if any(operator.kind in _KEEP_ROWS for vertex in graph.vertices for operator in vertex.operators):
        groups.append(ROWS)
    if any(isinstance(value, KeyedProcessFunction) for value in values):
        groups.append(PROCESS)
    return tuple(groups)


def _unwrapped(value: Any) -> Any:
    while isinstance(value, WrappedSource):
        value = value.inner
    return value
