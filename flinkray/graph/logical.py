"""What the user asked for: a DAG of frozen nodes whose row types are resolved when each is made.

Nodes are made by `graph.resolve`, which checks them, so that a mistake is reported at the user's own line. Two nodes are never
equal: a stream that is used twice is one node with two consumers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa

from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.connectors.base import DEAD_LETTER, FAILED_ROW, LookupTable, Sink, Source
from flinkray.expressions import Expression
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.general_windows import DynamicSessionWindow, Windows
from flinkray.graph.joins import Join, JoinColumn
from flinkray.graph.process import KeyedProcessFunction
from flinkray.graph.windows import WatermarkStrategy, Window

DEAD_LETTER_TAG = "dead_letter"
"""Side output of a source with `on_error="dead_letter"`."""

ALL = "_all"
"""A column of zeros: the key of an aggregate over all rows, which runs in one subtask."""

ChangeMode = Literal["append", "upsert", "retract"]

Emit = str | float
"""`"batch" "row" "final"`, or the least seconds between two answers of a key."""


@dataclass(frozen=True)
class RowType:
    """What the rows of a stream look like."""

    schema: pa.Schema | None
    """Visible columns; None after a function that does not declare them."""
    event_time: bool = False
    """Rows carry the hidden event time."""
    change_key: tuple[str, ...] | None = None
    """The columns that identify a row which later rows may replace (an upsert stream); None: rows never replace each other."""
    retracts: bool = False
    """Rows may be taken back as a whole (a retract stream)."""

    @property
    def changelog(self) -> bool:
        return self.change_key is not None or self.retracts

    @property
    def changes(self) -> ChangeMode:
        """How the stream changes what it said before."""
        if self.retracts:
            return "retract"
        return "append" if self.change_key is None else "upsert"

    def names(self) -> tuple[str, ...]:
        return () if self.schema is None else tuple(self.schema.names)

    def physical(self) -> pa.Schema | None:
        """Visible columns, then hidden ones: how the rows travel. None when unknown."""
        if self.schema is None:
            return None
        hidden = [pa.field(EVENT_TIME, pa.int64(), nullable=False)] if self.event_time else []
        hidden += [pa.field(CHANGE, pa.int8(), nullable=False)] if self.changelog else []
        return pa.schema([*self.schema, *hidden])


@dataclass
class Label:
    """What may be said of a node after it was made: `stream.uid("x")`. The only part of the plan that is not frozen."""

    uid: str | None = None
    name: str | None = None
    parallelism: int | None = None


_serials = itertools.count()


@dataclass(frozen=True, eq=False, kw_only=True)
class LogicalNode:
    """One step of the plan. `serial` grows with time, so sorting by it is a topological order."""

    inputs: tuple[LogicalNode, ...]
    rows: RowType
    label: Label = field(default_factory=Label)
    serial: int = field(default_factory=lambda: next(_serials))

    kind: ClassVar[str]
    operator: ClassVar[bool] = True
    """False: only says how rows travel, and cannot have a uid."""
    stateful: ClassVar[bool] = False
    """Keeps something in checkpoints that a restore finds by uid."""

    def side_outputs(self) -> Mapping[str, RowType]:
        return {}

    @property
    def display_name(self) -> str:
        return self.label.name or self.label.uid or self.kind.removesuffix("_fn")


@dataclass(frozen=True, eq=False, kw_only=True)
class SourceNode(LogicalNode):
    kind: ClassVar[str] = "source"
    stateful: ClassVar[bool] = True

    source: Source
    watermark: WatermarkStrategy | None

    def side_outputs(self) -> Mapping[str, RowType]:
        if getattr(self.source, "on_error", None) != DEAD_LETTER_TAG:
            return {}
        return {DEAD_LETTER_TAG: RowType(DEAD_LETTER)}


@dataclass(frozen=True, eq=False, kw_only=True)
class FilterNode(LogicalNode):
    kind: ClassVar[str] = "filter"

    predicate: Expression


@dataclass(frozen=True, eq=False, kw_only=True)
class ProjectNode(LogicalNode):
    kind: ClassVar[str] = "select"

    columns: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class FunctionNode(LogicalNode):
    """`filter_fn`, `map`, `flat_map` or `map_batches`: user code, which may look at every column."""

    function_kind: str
    function: Callable[..., Any]
    parameters: Mapping[str, Any]

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.function_kind

    def side_outputs(self) -> Mapping[str, RowType]:
        return {DEAD_LETTER_TAG: RowType(FAILED_ROW)} if self.parameters.get("on_error") == DEAD_LETTER_TAG else {}


@dataclass(frozen=True, eq=False, kw_only=True)
class WatermarkNode(LogicalNode):
    kind: ClassVar[str] = "assign_watermarks"
    stateful: ClassVar[bool] = True

    watermark: WatermarkStrategy


@dataclass(frozen=True, eq=False, kw_only=True)
class UnionNode(LogicalNode):
    kind: ClassVar[str] = "union"


@dataclass(frozen=True, eq=False, kw_only=True)
class RebalanceNode(LogicalNode):
    kind: ClassVar[str] = "rebalance"
    operator: ClassVar[bool] = False


@dataclass(frozen=True, eq=False, kw_only=True)
class SideOutputNode(LogicalNode):
    kind: ClassVar[str] = "side_output"
    operator: ClassVar[bool] = False

    tag: str


@dataclass(frozen=True, eq=False, kw_only=True)
class KeyedNode(LogicalNode):
    """What window aggregates, running aggregates and top n have in common."""

    stateful: ClassVar[bool] = True

    keys: tuple[str, ...]
    """Empty: all rows are one group."""
    window: Window | None = None
    lateness_us: int = 0
    late_tag: str | None = None

    def side_outputs(self) -> Mapping[str, RowType]:
        return {} if self.late_tag is None else {self.late_tag: self.inputs[0].rows}


def inputs_of(aggregates: Iterable[Aggregate], arguments: Iterable[tuple[str, Expression]], others: set[str]) -> frozenset[str]:
    """Columns that aggregates are made of, through computed arguments, and others."""
    computed = dict(arguments)
    plain = {name for aggregate in aggregates for name in aggregate.inputs() if name not in computed}
    return frozenset(plain | others).union(*(expression.columns() for expression in computed.values()))


@dataclass(frozen=True, eq=False, kw_only=True)
class AggregateNode(KeyedNode):
    """Aggregates per key, and per window if there is one."""

    kind: ClassVar[str] = "aggregate"

    aggregates: tuple[Aggregate, ...]
    arguments: tuple[tuple[str, Expression], ...] = ()
    """Columns to be computed first, because an aggregate was given an expression."""
    emit: Emit = "final"
    """When running answers are given; windows answer when they end."""

    def columns_used(self) -> frozenset[str]:
        """Columns of the input that the aggregates and keys are made of."""
        return inputs_of(self.aggregates, self.arguments, set(self.keys))


@dataclass(frozen=True, eq=False, kw_only=True)
class TopNNode(KeyedNode):
    """The `n` rows of each window (and key) that are first by `by`; rows that tie with the last of them are kept."""

    kind: ClassVar[str] = "top_n"

    by: tuple[tuple[str, str], ...]
    n: int


@dataclass(frozen=True, eq=False, kw_only=True)
class GeneralWindowNode(KeyedNode):
    """Aggregates, or a function, over windows of any kind; also running aggregates that keep more than words."""

    kind: ClassVar[str] = "general_window"

    windows: Windows
    aggregates: tuple[Aggregate, ...] = ()
    arguments: tuple[tuple[str, Expression], ...] = ()
    function: Callable[..., Any] | None = None

    def columns_used(self) -> frozenset[str] | None:
        """Columns of the input that are looked at; None: all."""
        if self.function is not None:
            return None
        return inputs_of(self.aggregates, self.arguments, {*self.keys, *self.others()})

    def others(self) -> tuple[str, ...]:
        """Columns that the windows look at."""
        return (self.windows.assigner.gap_column,) if isinstance(self.windows.assigner, DynamicSessionWindow) else ()


@dataclass(frozen=True, eq=False, kw_only=True)
class JoinNode(LogicalNode):
    """Rows of two keyed streams that meet in a window or an interval of event time."""

    kind: ClassVar[str] = "join"
    stateful: ClassVar[bool] = True

    join: Join


@dataclass(frozen=True, eq=False, kw_only=True)
class RankNode(LogicalNode):
    """The best `n` rows of each key, of all so far."""

    kind: ClassVar[str] = "rank"
    stateful: ClassVar[bool] = True

    keys: tuple[str, ...]
    by: tuple[tuple[str, str], ...]
    """The event time is one of them under its hidden name."""
    n: int
    ties: bool
    newest: bool
    """Of equal rows the last to come is best."""
    ttl_us: int | None
    rank: str | None = None
    """A column for each row's number among the best of its key."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FirstNode(LogicalNode):
    """The first row of each key, and no other."""

    kind: ClassVar[str] = "first"
    stateful: ClassVar[bool] = True

    keys: tuple[str, ...]
    by_time: bool
    ttl_us: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class ChangesNode(LogicalNode):
    """A changelog as rows like any others, with the change kind as a column."""

    kind: ClassVar[str] = "changes"

    column: str


@dataclass(frozen=True, eq=False, kw_only=True)
class LookupJoinNode(LogicalNode):
    """Rows with those of a table that have their key."""

    kind: ClassVar[str] = "lookup_join"

    table: Source | LookupTable
    keys: tuple[str, ...]
    table_keys: tuple[str, ...]
    how: str
    columns: tuple[JoinColumn, ...]
    cache_us: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class ProcessNode(LogicalNode):
    """A user's function with state and timers per key."""

    kind: ClassVar[str] = "process"
    stateful: ClassVar[bool] = True

    keys: tuple[str, ...]
    function: KeyedProcessFunction
    sides: Mapping[str, pa.Schema]
    """Declared side outputs."""

    def side_outputs(self) -> Mapping[str, RowType]:
        return {tag: RowType(schema, self.rows.event_time) for tag, schema in self.sides.items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class SinkNode(LogicalNode):
    kind: ClassVar[str] = "sink"

    sink: Sink


def reachable(sinks: Iterable[LogicalNode]) -> tuple[LogicalNode, ...]:
    """Every node that the sinks need, inputs before consumers."""
    found: dict[int, LogicalNode] = {}
    pending = list(sinks)
    while pending:
        node = pending.pop()
        if node.serial not in found:
            found[node.serial] = node
            pending.extend(node.inputs)
    return tuple(found[serial] for serial in sorted(found))
