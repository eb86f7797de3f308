"""Makes the logical nodes of operators that keep rows by key: rankings, deduplication, and changelogs seen as rows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.config import Duration, duration_us
from flinkray.errors import PlanError
from flinkray.graph.logical import ChangesNode, FirstNode, LogicalNode, RankNode, RowType
from flinkray.graph.resolve import check_column, check_names, require_append_only
from flinkray.graph.resolve_keyed import check_keys, require_schema

Order = Sequence[tuple[str, str]]


def top_node(stream: LogicalNode, keys: tuple[str, ...], n: int, by: Order, rank: str | None = None) -> RankNode:
    """The best rows of each key so far: ties kept, as a retract stream; with a rank exactly n, as an upsert stream by keys and rank."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise PlanError(f"top_n: n is {n!r}, and must be 1 or more")
    if not by:
        raise PlanError("top_n: name at least one column in by=")
    schema = _ranked(stream, by, "top_n")
    if rank is not None:
        check_names([rank], "top_n: rank")
        if rank in schema.names:
            raise PlanError(f"top_n: rank={rank!r} is the name of a column; choose another one")
        rows = RowType(schema.append(pa.field(rank, pa.int64())), stream.rows.event_time, change_key=(*keys, rank))
        return RankNode(inputs=(stream,), rows=rows, keys=keys, by=tuple(by), n=n, ties=False, newest=False, ttl_us=None, rank=rank)
    rows = RowType(schema, stream.rows.event_time, retracts=True)
    return RankNode(inputs=(stream,), rows=rows, keys=keys, by=tuple(by), n=n, ties=True, newest=False, ttl_us=None)


def best_node(stream: LogicalNode, keys: tuple[str, ...], by: Order | None, keep: str, ttl: Duration | None) -> RankNode | FirstNode:
    """One row of each key: by event time (`by=None`) or by columns the first, or the last. The first by event time is certain when the
    watermark has passed it, and comes once; anything else may be replaced."""
    if keep not in ("first", "last"):
        raise PlanError(f"deduplicate: keep={keep!r}; 'first' or 'last'")
    if by is not None and not by:
        raise PlanError("deduplicate: name at least one column in order_by=, or leave it out")
    ttl_us = _life(ttl, "deduplicate")
    if by is None and not stream.rows.event_time:
        raise PlanError(f"deduplicate: the {keep} row by event time, but the rows have none; give order_by=, or the source a watermark")
    if ttl_us is not None and not stream.rows.event_time:
        raise PlanError("deduplicate: ttl counts by event time, but the rows have none; give the source a watermark")
    if by is None and keep == "first":
        require_append_only(stream, "deduplicate")
        schema = require_schema(stream, "deduplicate")
        return FirstNode(inputs=(stream,), rows=RowType(schema, True), keys=keys, by_time=True, ttl_us=ttl_us)
    schema = _ranked(stream, by or (), "deduplicate")
    order = tuple(by or ((EVENT_TIME, "asc"),))
    if keep == "last":
        order = tuple((name, "desc" if direction == "asc" else "asc") for name, direction in order)
    rows = RowType(schema, stream.rows.event_time, change_key=keys)
    return RankNode(inputs=(stream,), rows=rows, keys=keys, by=order, n=1, ties=False, newest=keep == "last", ttl_us=ttl_us)


def distinct_node(stream: LogicalNode, columns: Sequence[str], ttl: Duration | None) -> FirstNode:
    """The first row to come of each combination of values."""
    require_append_only(stream, "distinct")
    schema = require_schema(stream, "distinct")
    keys = check_keys(stream, columns or schema.names)
    return FirstNode(inputs=(stream,), rows=stream.rows, keys=keys, by_time=False, ttl_us=_life(ttl, "distinct"))


def changes_node(stream: LogicalNode, column: str) -> ChangesNode:
    """Rows that are only added, with the change kind (`+I -U +U -D`) as a column."""
    schema = require_schema(stream, "changes")
    check_names([column], "changes")
    if column in schema.names:
        raise PlanError(f"changes: the rows have a column {column!r}; choose another name")
    if not stream.rows.changelog:
        raise PlanError(f"changes: rows of {stream.display_name!r} are only added; there is no change kind")
    rows = RowType(schema.append(pa.field(column, pa.string(), False)), stream.rows.event_time)
    return ChangesNode(inputs=(stream,), rows=rows, column=column)


def _ranked(stream: LogicalNode, by: Order, what: str) -> pa.Schema:
    require_append_only(stream, what)
    schema = require_schema(stream, what)
    for name, direction in by:
        kind = check_column(stream.rows, name, what)
        if direction not in ("asc", "desc"):
            raise PlanError(f"{what}: order {direction!r} of {name!r}; 'asc' or 'desc'")
        if kind is not None and pa.types.is_nested(kind):
            raise PlanError(f"{what}: column {name!r} is {kind}, which has no order")
    return schema


def _life(ttl: Duration | None, what: str) -> int | None:
    if ttl is None:
        return None
    micros = duration_us(ttl, f"{what} ttl")
    if micros <= 0:
        raise PlanError(f"{what}: ttl={ttl!r} is not above zero")
    return micros
