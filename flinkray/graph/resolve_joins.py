"""Makes the logical nodes of joins, checked against the rows of both sides."""

from __future__ import annotations

from datetime import timedelta

from flinkray.config import Duration, duration_us
from flinkray.errors import PlanError
from flinkray.graph.joins import Interval, Join, check_join_keys, join_columns, join_schema
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
