"""Makes the logical nodes of joins, checked against the rows of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa

from flinkray.config import Duration, duration_us
from flinkray.connectors.base import LookupTable, Source
from flinkray.errors import PlanError
from flinkray.graph.joins import (
    HALVES,
    HOWS,
    SUFFIX,
    AsOf,
    Interval,
    Join,
    JoinColumn,
    Unbounded,
    check_join_keys,
    half_columns,
    join_columns,
    join_schema,
    plain_type,
)
from flinkray.graph.logical import JoinNode, LogicalNode, LookupJoinNode, RowType
from flinkray.graph.resolve import check_column, require_append_only
from flinkray.graph.resolve_keyed import require_event_time, require_schema
from flinkray.graph.windows import SlidingWindow, TumblingWindow, Window


def interval(lower: Duration, upper: Duration) -> Interval:
    """From `lower` to `upper` around the left row's time, both included; negative is earlier."""
    found = Interval(_signed_us(lower, "interval_join lower"), _signed_us(upper, "interval_join upper"))
    if found.lower_us > found.upper_us:
        raise PlanError(f"interval_join: lower {lower!r} is above upper {upper!r}; no row could ever match")
    return found


def _signed_us(value: Duration, what: str) -> int:
    if isinstance(value, str):
        text = value.strip()
        return -duration_us(text[1:], what) if text.startswith("-") else duration_us(text, what)
    negative = value < timedelta() if isinstance(value, timedelta) else value < 0
    return -duration_us(-value, what) if negative else duration_us(value, what)


def lives(ttl: Duration | tuple[Duration | None, Duration | None] | None) -> tuple[int | None, int | None]:
    """How long rows of the left and of the right side are kept, in microseconds; None: for ever."""
    left, right = ttl if isinstance(ttl, tuple) else (ttl, ttl)
    found = tuple(None if each is None else duration_us(each, "join ttl") for each in (left, right))
    if 0 in found:
        raise PlanError(f"join: ttl={ttl!r}: rows that are not kept meet nobody; give a time above zero")
    return found  # type: ignore[return-value]


def regular_join_node(
    left: LogicalNode,
    left_keys: tuple[str, ...],
    right: LogicalNode,
    right_keys: tuple[str, ...],
    how: str,
    ttl_us: tuple[int | None, int | None],
) -> JoinNode:
    """Rows of both sides whenever they come. What the result said is taken back where it does not hold any more. Raises PlanError."""
    mine, its = require_schema(left, "join"), require_schema(right, "join")
    check_join_keys(mine, its, left_keys, right_keys, how, (*HOWS, *HALVES))
    for stream, keys in ((left, left_keys), (right, right_keys)):
        if stream.rows.change_key is not None and set(stream.rows.change_key) != set(keys):
            raise PlanError(
                f"join: rows of {stream.display_name!r} replace each other by {', '.join(stream.rows.change_key)}, but are joined by "
                f"{', '.join(keys)}; join by the same columns, or aggregate with emit='final'"
            )
    columns = half_columns(mine) if how in HALVES else join_columns(mine, its, left_keys, right_keys, windowed=False)
    changing = left.rows.changelog or right.rows.changelog
    upserts = (left.rows.change_key is not None, right.rows.change_key is not None)
    join = Join(left_keys, right_keys, how, columns, Unbounded(ttl_us, upserts))
    rows = RowType(
        join_schema(mine, its, columns),
        event_time=left.rows.event_time and right.rows.event_time,
        retracts=changing or how not in ("inner", "semi"),
    )
    return JoinNode(inputs=(left, right), rows=rows, join=join)


def asof_join_node(
    left: LogicalNode,
    left_keys: tuple[str, ...],
    right: LogicalNode,
    right_keys: tuple[str, ...],
    how: str,
    tolerance: Duration | None,
    broadcast: bool = False,
) -> JoinNode:
    """Left rows, each with the newest right row of its key. The right stream may be a changelog. Raises PlanError."""
    mine, its = require_schema(left, "asof_join"), require_schema(right, "asof_join")
    require_event_time(left, "asof_join")
    if not right.rows.event_time:
        raise PlanError("asof_join: the right rows have no event time; give its source a watermark")
    if right.rows.change_key is not None and set(right.rows.change_key) != set(right_keys):
        raise PlanError(
            f"asof_join: rows of {right.display_name!r} replace each other by {', '.join(right.rows.change_key)}, but are joined by "
            f"{', '.join(right_keys)}; join by the same columns"
        )
    if how not in ("inner", "left"):
        raise PlanError(f"asof_join: how={how!r}; 'inner' or 'left'")
    check_join_keys(mine, its, left_keys, right_keys, how)
    columns = join_columns(mine, its, left_keys, right_keys, windowed=False)
    tolerance_us = None if tolerance is None else duration_us(tolerance, "asof_join tolerance")
    join = Join(left_keys, right_keys, how, columns, AsOf(tolerance_us, broadcast))
    return JoinNode(inputs=(left, right), rows=RowType(join_schema(mine, its, columns), event_time=True), join=join)


def key_pairs(on: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Columns of the same name on both sides, or one side's name to the other's."""
    return dict(on) if isinstance(on, Mapping) else {name: name for name in ([on] if isinstance(on, str) else on)}


def broadcast_join_node(
    left: LogicalNode, right: LogicalNode, on: str | Sequence[str] | Mapping[str, str], how: str, tolerance: Duration | None
) -> JoinNode:
    """Left rows where they are, each with the newest right row of its key. Raises PlanError."""
    pairs = key_pairs(on)
    for name, other in pairs.items():
        check_column(left.rows, name, "broadcast_join")
        check_column(right.rows, other, "broadcast_join")
    return asof_join_node(left, tuple(pairs), right, tuple(pairs.values()), how, tolerance, broadcast=True)


def lookup_join_node(
    stream: LogicalNode, table: Source | LookupTable, on: str | Sequence[str] | Mapping[str, str], how: str, cache: Duration | None
) -> LookupJoinNode:
    """`on`: columns of the same name on both sides, or the stream's name to the table's. Raises PlanError."""
    require_append_only(stream, "lookup_join")
    mine = require_schema(stream, "lookup_join")
    if not isinstance(table, LookupTable) and not (isinstance(table, Source) and table.bounded):
        raise PlanError(
            f"lookup_join: {table!r} is no bounded source, like fr.sources.Parquet('table/*.parquet'), and no table, like fr.tables.Postgres(...)"
        )
    pairs = key_pairs(on)
    its = table.schema()
    for name, other in pairs.items():
        check_column(stream.rows, name, "lookup_join")
        check_column(RowType(its), other, f"lookup_join: {table.describe()}")
    if how not in ("inner", "left"):
        raise PlanError(f"lookup_join: how={how!r}; 'inner' or 'left'")
    keys, table_keys = tuple(pairs), tuple(pairs.values())
    check_join_keys(mine, its, keys, table_keys, how)
    if isinstance(table, LookupTable):
        table.check_keys(pa.schema([(key, plain_type(mine.field(key).type)) for key in keys]))
    own = tuple(JoinColumn(name, name, None) for name in mine.names)
    added = join_columns(pa.schema([mine.field(key) for key in keys]), its, keys, table_keys, windowed=False)[len(keys) :]
    renamed = tuple(replace(column, name=f"{column.right}{SUFFIX}") if column.name in mine.names else column for column in added)
    columns = (*own, *renamed)
    if len({column.name for column in columns}) < len(columns):
        raise PlanError(f"lookup_join: a column of {table.describe()} gets a name that is there already; rename it")
    cache_us = None if cache is None else duration_us(cache, "lookup_join cache")
    rows = RowType(join_schema(mine, its, columns), event_time=stream.rows.event_time)
    return LookupJoinNode(
        inputs=(stream,), rows=rows, table=table, keys=keys, table_keys=table_keys, how=how, columns=columns, cache_us=cache_us
    )


def join_node(
    left: LogicalNode,
    left_keys: tuple[str, ...],
    right: LogicalNode,
    right_keys: tuple[str, ...],
    how: str,
    over: Window | Interval,
) -> JoinNode:
    """Rows with the columns of both sides. Raises PlanError where they cannot be joined."""
    if not isinstance(over, TumblingWindow | SlidingWindow | Interval):
        raise PlanError("join: give it tumbling or sliding windows; rows of two streams have no sessions in common")
    what = "interval_join" if isinstance(over, Interval) else "join"
    mine, its = require_schema(left, what), require_schema(right, what)
    for stream in (left, right):
        require_event_time(stream, what)
    check_join_keys(mine, its, left_keys, right_keys, how)
    columns = join_columns(mine, its, left_keys, right_keys, windowed=not isinstance(over, Interval))
    join = Join(left_keys, right_keys, how, columns, over)
    return JoinNode(inputs=(left, right), rows=RowType(join_schema(mine, its, columns), event_time=True), join=join)
