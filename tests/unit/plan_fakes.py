"""Sources and sinks that are only described, for tests of plans: nothing is ever read or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from flinkray.columns import TIMESTAMP
from flinkray.connectors.base import Sink, SinkContext, SinkWriter, Source, Split, SplitEnumerator, SplitReader
from flinkray.graph.job_graph import JobGraph, OperatorSpec, Partitioning

BIDS = pa.schema(
    [
        ("auction", pa.int64()),
        ("bidder", pa.int64()),
        ("price", pa.int64()),
        ("channel", pa.string()),
        ("url", pa.string()),
        ("date_time", TIMESTAMP),
        ("extra", pa.string()),
    ]
)


@dataclass(frozen=True)
class FakeSource(Source):
    columns: pa.Schema = BIDS
    path: str = "bids/*.parquet"
    rate: float | None = None
    on_error: str = "fail"
    endless: bool = False
    max_skew_us: int | None = None

    @property
    def bounded(self) -> bool:
        return not self.endless

    def schema(self) -> pa.Schema:
        return self.columns

    def with_columns(self, columns: tuple[str, ...]) -> Source:
        return replace(self, columns=pa.schema([self.columns.field(name) for name in columns]))

    def enumerator(self, state: Any | None, event_time_column: str | None, parallelism: int) -> SplitEnumerator:
        raise AssertionError("nothing is read in a test of plans")

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        raise AssertionError("nothing is read in a test of plans")

    def describe(self) -> str:
        return f"Parquet {self.path}"


@dataclass(frozen=True)
class FakeSink(Sink):
    path: str = "out/"
    changes: bool = False
    refuse: Callable[[pa.Schema], None] | None = None

    @property
    def accepts_changelog(self) -> bool:  # type: ignore[override]
        return self.changes

    @property
    def transactional(self) -> bool:
        return True

    def check_schema(self, schema: pa.Schema) -> None:
        if self.refuse is not None:
            self.refuse(schema)

    def writer(self, context: SinkContext) -> SinkWriter:
        raise AssertionError("nothing is written in a test of plans")

    def describe(self) -> str:
        return f"Parquet {self.path}"


def operator(graph: JobGraph, kind: str, uid: str | None = None) -> OperatorSpec:
    """The one operator of this kind (and uid)."""
    (found,) = [o for v in graph.vertices for o in v.operators if o.kind == kind and uid in (None, o.uid)]
    return found


def kinds(graph: JobGraph) -> list[list[str]]:
    """Kinds of operators, vertex by vertex."""
    return [[o.kind for o in v.operators] for v in graph.vertices]


def partitionings(graph: JobGraph) -> list[Partitioning]:
    return [edge.partitioning for edge in graph.edges]


def shipped(graph: JobGraph) -> list[Sequence[str]]:
    """Columns on every edge but those that carry splits."""
    return [e.schema.names for e in graph.edges if e.schema is not None and e.schema.names != ["split", "size"]]
