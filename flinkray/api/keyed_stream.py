"""`KeyedStream` and `WindowedStream`: aggregates per key, and per key and window of event time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flinkray.api.columns import OutputSchema, function_schema
from flinkray.api.connected import BroadcastStream, ConnectedStreams
from flinkray.api.environment import StreamEnvironment
from flinkray.api.stream import DataStream
from flinkray.config import Duration, duration_us
from flinkray.errors import PlanError
from flinkray.graph.general_windows import AnyWindow, ByClock, CountWindow, Evictor, GlobalWindow, Trigger, Windows
from flinkray.graph.joins import How
from flinkray.graph.logical import LogicalNode
from flinkray.graph.planner_uids import check_uid
from flinkray.graph.process import KeyedProcessFunction
from flinkray.graph.resolve_joins import asof_join_node, interval, join_node, lives, regular_join_node
from flinkray.graph.resolve_keyed import AggregateCall, require_event_time, top_n_node
from flinkray.graph.resolve_process import process_node
from flinkray.graph.resolve_rows import best_node, top_node
from flinkray.graph.resolve_windows import reduced, running_aggregates, window_function, windowed_aggregates
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow, Window

Half = Literal["semi", "anti"]
By = str | tuple[str, Literal["asc", "desc"]]


@dataclass(frozen=True)
class KeyedStream:
    """A stream seen per key: what `key_by` gives."""

    _environment: StreamEnvironment
    _node: LogicalNode
    keys: tuple[str, ...]

    def aggregate(self, *, emit: str | Duration = "batch", **aggregates: AggregateCall) -> DataStream:
        """Running aggregates: rows of the key columns and `name=fr.agg...`, whose answers change as rows come.

        `emit`: "batch" gives each key that a batch touched once, "row" answers each row, a duration answers each key at most that
        often, "final" gives only the last answers, at the end of the input; these are rows like any others, and every sink takes them.
        """
        return DataStream(self._environment, running_aggregates(self._node, self.keys, aggregates, emit))

    def reduce(self, function: Callable[[Any, Any], Any], *, emit: str | Duration = "batch") -> DataStream:
        """All rows of a key made one: `function(first, second)` gets two rows as dicts (times as int microseconds) and gives one with the same
        columns; the key's own are left as they are. Rows of a batch are put together before they are sent, so that the function must not
        mind how rows are grouped (it is associative). `emit`: as in `aggregate`, but for "row"."""
        node = reduced(self._node, function, lambda calls: running_aggregates(self._node, self.keys, calls, emit))
        return DataStream(self._environment, node)

    def window(self, assigner: AnyWindow) -> WindowedStream:
        """Aggregate per window: `fr.windows.Tumbling(...)`, `Sliding`, `Session`, `Cumulative`, `Count` or `Global`."""
        return WindowedStream(self._environment, self._node, self.keys, assigner)

    def process(
        self,
        function: KeyedProcessFunction,
        output_schema: OutputSchema | None = None,
        *,
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """A function of your own with state and timers per key: an instance of a class that extends `fr.KeyedProcessFunction`.

        Its columns are `output_schema`, or the attribute of that name; without one they are known only when the first rows come. Rows
        given to `ctx.output(tag, row)` are had by `get_side_output(tag)`, of the schemas in its attribute `side_outputs`.
        """
        schema = function_schema(function, output_schema, "process")  # type: ignore[arg-type]
        return DataStream(self._environment, process_node(self._node, self.keys, function, schema))._label(uid, name)

    def join(
        self, other: KeyedStream, how: How | Half = "inner", ttl: Duration | tuple[Duration | None, Duration | None] | None = None
    ) -> DataStream:
        """Rows of this stream with all rows of the other that have the same key, whenever they come. Both sides are kept in state, for
        `ttl` after their event time (a pair: of the left, of the right side; by the clock where rows have no event time), or for ever.

        Rows: the key columns under this stream's names, its other columns, then the other stream's (with the suffix `_right` where a
        name is taken). `how`: "inner", "left", "right", "full", or "semi" and "anti" for this stream's rows that have, or have not, a
        partner. Where a row may have to be taken back (all but "inner" and "semi", and all where an input is itself a changelog) the
        result is a retract stream. Null keys match nothing.
        """
        _check_side(self, other, "join")
        node = regular_join_node(self._node, self.keys, other._node, other.keys, how, lives(ttl))
        return DataStream(self._environment, node)

    def asof_join(self, other: KeyedStream, how: Literal["inner", "left"] = "left", tolerance: Duration | None = None) -> DataStream:
        """Each row of this stream with the newest row of the other that has the same key and is not later, and at most `tolerance` earlier.
        Rows wait for the watermark, so that the answer does not depend on the order of arrival. `how`: "left" keeps rows that find none.

        Rows: the key columns under this stream's names, its other columns, then the other stream's (with the suffix `_right` where a
        name is taken); the event time is this stream's. Null keys match nothing.
        """
        _check_side(self, other, "asof_join")
        node = asof_join_node(self._node, self.keys, other._node, other.keys, how, tolerance)
        return DataStream(self._environment, node)

    def temporal_join(self, versions: KeyedStream, how: Literal["inner", "left"] = "inner") -> DataStream:
        """Each row of this stream with the version of the other stream's row that was valid at its event time: every row of `versions`
        replaces the one before of its key, and a deletion (in a changelog) ends it. An `asof_join` without a tolerance."""
        return self.asof_join(versions, how)

    def deduplicate(
        self,
        order_by: By | Sequence[By] | None = None,
        keep: Literal["first", "last"] = "first",
        ttl: Duration | None = None,
    ) -> DataStream:
        """One row of each key: the first or the last by event time, or by columns (names, smallest first, or `(name, "desc")`).

        The first by event time is given once, when the watermark has passed it. Any other may be replaced by a better one: an upsert
        stream, keyed by the key. With `ttl` a key is forgotten so long after its row's event time, and begins anew.
        """
        order = None if order_by is None else _order(order_by, "asc", "deduplicate: order_by")
        return DataStream(self._environment, best_node(self._node, self.keys, order, keep, ttl))

    def top_n(self, n: int, by: By | Sequence[By], *, rank: str | None = None) -> DataStream:
        """The `n` best rows of each key of all so far: names (largest first) or `(name, "asc")`. Rows that tie with the last of them are
        kept too. A retract stream: rows that are not among the best any more are taken back.

        With `rank`, the name of a column to add, rows are numbered from 1 (SQL's ROW_NUMBER; of equal rows the first to come is first), there
        are exactly `n`, and the stream is an upsert stream by key and rank: a row replaces the one that had its rank."""
        return DataStream(self._environment, top_node(self._node, self.keys, n, _order(by, "desc", "top_n: by"), rank))

    def connect(self, other: KeyedStream | BroadcastStream) -> ConnectedStreams:
        """This stream and another one, for a function that has state for both: a stream keyed alike (as many columns of the same kinds), or
        `other.broadcast()`, every row of which goes to every subtask."""
        if not isinstance(other, KeyedStream | BroadcastStream):
            raise PlanError(f"connect: {other!r} is neither keyed nor broadcast; write other.key_by('column') or other.broadcast()")
        if other._environment is not self._environment:
            raise PlanError("connect: the streams belong to different environments")
        right_keys = other.keys if isinstance(other, KeyedStream) else None
        return ConnectedStreams(self._environment, self._node, self.keys, other._node, right_keys, right_keys is None)

    def interval_join(self, other: KeyedStream, lower: Duration, upper: Duration, how: How = "inner") -> DataStream:
        """Rows of this stream with those rows of the other that have the same key and `lower` to `upper` later event time, both bounds
        included: `("-5s", "0s")` are the five seconds before.

        Rows: the key columns under this stream's names, its other columns, then the other stream's (with the suffix `_right` where a
        name is taken); the event time is the larger of both. `how`: "inner", or "left", "right", "full" for rows that find no partner
        as well, padded with nulls; they come out when their interval is over.
        """
        _check_side(self, other, "interval_join")
        node = join_node(self._node, self.keys, other._node, other.keys, how, interval(lower, upper))
        return DataStream(self._environment, node)


def _order(by: By | Sequence[By], direction: str, what: str) -> list[tuple[str, str]]:
    """Columns with their directions."""
    single = isinstance(by, str) or (len(by) == 2 and by[1] in ("asc", "desc"))
    listed: Sequence[Any] = [by] if single else by
    order = [(item, direction) if isinstance(item, str) else tuple(item) for item in listed]
    if any(len(item) != 2 for item in order):
        raise PlanError(f"{what}={by!r}: give column names, or pairs like ('price', 'asc')")
    return order


def _check_side(stream: KeyedStream | WindowedStream, other: KeyedStream, what: str) -> None:
    if not isinstance(other, KeyedStream):
        raise PlanError(f"{what}: the other side is {other!r}, not a keyed stream; write other.key_by('column')")
    if other._environment is not stream._environment:
        raise PlanError(f"{what}: the streams belong to different environments")


@dataclass(frozen=True)
class WindowedStream:
    """Rows per key and window: what `window` gives. A window answers when the watermark passes its end."""

    _environment: StreamEnvironment
    _node: LogicalNode
    keys: tuple[str, ...]
    assigner: AnyWindow
    _lateness_us: int = 0
    _late_tag: str | None = None
    _trigger: Trigger | None = None
    _evictor: Evictor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.assigner, AnyWindow):
            raise PlanError(f"window: {self.assigner!r} is no window; write fr.windows.Tumbling('10s') or the like")
        if not isinstance(self.assigner, ByClock | CountWindow | GlobalWindow):
            require_event_time(self._node, "window")

    def allowed_lateness(self, lateness: Duration) -> WindowedStream:
        """A row is late when its window's last microsecond + lateness is at or before the watermark. Until then a late row changes the answer,
        which is given again."""
        return replace(self, _lateness_us=duration_us(lateness, "allowed_lateness"))

    def side_output_late(self, tag: str) -> WindowedStream:
        """Send late rows to `get_side_output(tag)` of the result, instead of counting and dropping them."""
        return replace(self, _late_tag=check_uid(tag))

    def trigger(self, trigger: Trigger) -> WindowedStream:
        """Answer before the window's end: `fr.windows.Trigger(rows=1000)`, `Trigger(every="5s")`. Each answer replaces the one before (an
        upsert stream, keyed by keys and window; of sessions, which grow, a retract stream); with `purge=True` a row is in one answer only, and
        they add up."""
        if not isinstance(trigger, Trigger):
            raise PlanError(f"trigger: {trigger!r} is none; write fr.windows.Trigger(every='5s') or Trigger(rows=1000)")
        return replace(self, _trigger=trigger)

    def evict(self, *, rows: int | None = None, within: Duration | None = None) -> WindowedStream:
        """Let a window forget rows before it answers: all but the last `rows` to come, or those more than `within` before its newest."""
        if (rows is None) == (within is None) or (rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1)):
            raise PlanError(f"evict: rows={rows!r}, within={within!r}: give one of them, a whole number above 0 or a duration")
        return replace(self, _evictor=Evictor(rows, None if within is None else duration_us(within, "evict within")))

    def aggregate(self, **aggregates: AggregateCall) -> DataStream:
        """Rows of the key columns, `window_start`, `window_end` (not of Count and Global) and `name=fr.agg...`, one per key and window."""
        node = windowed_aggregates(self._node, self.keys, aggregates, self._windows(), self._lateness_us, self._late_tag)
        return DataStream(self._environment, node)

    def reduce(self, function: Callable[[Any, Any], Any]) -> DataStream:
        """All rows of each key and window made one, as in `KeyedStream.reduce`, beside `window_start` and `window_end` (not of Count and Global)."""
        windows, late = self._windows(), (self._lateness_us, self._late_tag)
        node = reduced(self._node, function, lambda calls: windowed_aggregates(self._node, self.keys, calls, windows, *late))
        return DataStream(self._environment, node)

    def process(
        self,
        function: Callable[..., Any],
        output_schema: OutputSchema | None = None,
        *,
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """`function(rows, window)` over all rows of each key and window, a RecordBatch in order of arrival; it gives a RecordBatch, a dict of
        arrays, dicts, or None. `window` has `key`, `start`, `end` (int microseconds) and `watermark`. Where an aggregate will do it keeps
        much less: a function over aggregates is `aggregate(...).map_batches(...)`."""
        schema = function_schema(function, output_schema, "window process")
        node = window_function(self._node, self.keys, function, schema, self._windows(), self._lateness_us, self._late_tag)
        return DataStream(self._environment, node)._label(uid, name)

    def top_n(self, n: int, by: By | Sequence[By]) -> DataStream:
        """The `n` rows of each key and window that are first by `by`: names (largest first) or `(name, "asc")`. Rows that tie with
        the last of them are kept too. Rows get `window_start` and `window_end`, unless they come from a window and have them."""
        order = _order(by, "desc", "top_n: by")
        window = self._aligned("top_n")
        node = top_n_node(self._node, self.keys, n, order, window=window, lateness_us=self._lateness_us, late_tag=self._late_tag)
        return DataStream(self._environment, node)

    def join(self, other: KeyedStream, how: How = "inner") -> DataStream:
        """Rows of this stream with rows of the other that have the same key and lie in the same tumbling or sliding window.

        Rows: the key columns under this stream's names, `window_start`, `window_end`, the other columns of this stream, then those of
        the other (with the suffix `_right` where a name is taken). `how`: "inner", or "left", "right", "full" for rows that find no
        partner in a window as well, padded with nulls. Null keys match nothing.
        """
        _check_side(self, other, "join")
        if self._lateness_us or self._late_tag is not None:
            raise PlanError("join: a window is joined once, when it ends; leave out allowed_lateness and side_output_late")
        return DataStream(self._environment, join_node(self._node, self.keys, other._node, other.keys, how, self._aligned("join")))

    def _windows(self) -> Windows:
        return Windows(self.assigner, self._trigger, self._evictor)

    def _aligned(self, what: str) -> Window:
        """Windows of event time without trigger and evictor, which is all that some operators know."""
        if self._trigger is not None or self._evictor is not None:
            raise PlanError(f"{what}: takes windows without trigger and evict")
        if not isinstance(self.assigner, TumblingWindow | SlidingWindow | SessionWindow):
            raise PlanError(f"{what}: takes tumbling or sliding windows of event time, not {self.assigner.describe()}")
        return self.assigner
