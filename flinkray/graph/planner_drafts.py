"""Physical operators while the planner is still putting them together, and how one takes another's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from flinkray.expressions import col
from flinkray.graph.aggregates import is_key_type
from flinkray.graph.job_graph import Hash, Partitioning, Rebalance
from flinkray.graph.logical import RowType
from flinkray.graph.planner_columns import Need, kept


@dataclass(frozen=True)
class Port:
    """An output of an operator: what flows there, and whether the user asked to spread it anew."""

    draft: Draft
    rows: RowType
    tag: str | None = None
    rebalanced: bool = False


@dataclass(frozen=True)
class Link:
    """`partitioning=None`: rows stay in the thread, the two operators are chained."""

    port: Port
    partitioning: Partitioning | None = None
    input: int = 0
    """Which input of the operator it feeds."""


@dataclass(eq=False)
class Draft:
    """One operator of the job, with links to what it reads."""

    uid: str
    name: str
    kind: str
    params: Mapping[str, Any]
    parallelism: int
    rows: RowType
    links: tuple[Link, ...] = ()
    notes: list[str] = field(default_factory=list)
    state: Any = None
    """What a restore must fit, JSON-able; None: nothing that a restore could miss."""
    schema_override: pa.Schema | None = None

    @property
    def output(self) -> Port:
        return Port(self, self.rows)

    @property
    def output_schema(self) -> pa.Schema | None:
        return self.schema_override if self.schema_override is not None else self.rows.physical()


class Drafts:
    """The operators of a job in topological order, and the ways to connect the next one."""

    def __init__(self) -> None:
        self.all: list[Draft] = []
        self._narrowed: dict[tuple[Draft, str | None, RowType], Port] = {}

    def add(self, draft: Draft) -> Draft:
        self.all.append(draft)
        return draft

    def feed(self, port: Port, parallelism: int, need: Need, rows: RowType | None = None) -> Link:
        """A link to an operator of `parallelism`: chained where possible, else spread, with only the columns in `need`.

        `rows` gives the order of columns that the consumer wants, where it must be exact.
        """
        key = port.rows.change_key
        if port.rebalanced or port.draft.parallelism != parallelism:
            # Rows of a key must not overtake each other where the last one is the answer.
            if port.rows.retracts and port.rows.schema is not None:
                key = tuple(field.name for field in port.rows.schema if is_key_type(field.type)) or None
            partitioning = Rebalance() if key is None else Hash(key)
            return Link(self.narrow(port, need, rows), partitioning)
        return Link(port)

    def narrow(self, port: Port, need: Need, rows: RowType | None = None) -> Port:
        """The port with only the needed columns: a projection is put behind it when there are more."""
        if port.rows.schema is None or (rows is not None and rows.schema is None):
            return port
        wanted = rows or port.rows
        names = kept(wanted, need)
        event_time = port.rows.event_time and need.event_time
        schema = pa.schema([port.rows.schema.field(name) for name in names])
        target = replace(port.rows, schema=schema, event_time=event_time)
        if target == port.rows:
            return port
        memo = (port.draft, port.tag, target)
        if memo not in self._narrowed:
            self._narrowed[memo] = self._projection(port, target)
        return replace(self._narrowed[memo], rebalanced=port.rebalanced)

    def _projection(self, port: Port, target: RowType) -> Port:
        assert target.schema is not None
        base = f"{port.draft.uid}/columns" if port.tag is None else f"{port.draft.uid}/{port.tag}"
        return self.add(
            Draft(
                uid=self.unused(base),
                name="columns",
                kind="project",
                params={"columns": tuple((name, col(name)) for name in target.schema.names)},
                parallelism=port.draft.parallelism,
                rows=target,
                links=(Link(replace(port, rebalanced=False)),),
            )
        ).output

    def unused(self, uid: str) -> str:
        """`uid`, or with a number behind it when it is taken."""
        taken = {draft.uid for draft in self.all}
        number, candidate = 2, uid
        while candidate in taken:
            candidate, number = f"{uid}{number}", number + 1
        return candidate
