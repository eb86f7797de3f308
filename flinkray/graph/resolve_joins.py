"""Makes the logical nodes of joins, checked against the rows of both sides."""

from __future__ import annotations

from datetime import timedelta

from flinkray.config import Duration, duration_us
from flinkray.errors import PlanError
from flinkray.graph.joins import HALVES, HOWS, AsOf, Interval, Join, Unbounded, check_join_keys, half_columns, join_columns, join_schema
from flinkray.graph.logical import JoinNode, LogicalNode, RowType
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
    join = Join(left_keys, right_keys, how, columns, AsOf(None if tolerance is None else duration_us(tolerance, "asof_join tolerance")))
    return JoinNode(inputs=(left, right), rows=RowType(join_schema(mine, its, columns), event_time=True), join=join)


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
