"""`DataStream`: rows on their way, and what can be done with each. Every method checks its arguments at once and gives a new stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa

from flinkray.api.columns import OutputSchema, function_schema, listed_columns
from flinkray.config import Duration, duration_s
from flinkray.connectors.base import LookupTable, Sink, Source
from flinkray.errors import PlanError
from flinkray.expressions import Expression, as_expression, col
from flinkray.graph import resolve, resolve_rows
from flinkray.graph.explain import explain
from flinkray.graph.general_windows import AnyWindow
from flinkray.graph.logical import LogicalNode
from flinkray.graph.logical_calls import AsyncCalls, Stage
from flinkray.graph.planner_uids import check_uid
from flinkray.graph.resolve_calls import CAPACITY, RETRY_PAUSE, async_calls, call_node, is_coroutine, stage_of
from flinkray.graph.resolve_joins import broadcast_join_node, lookup_join_node
from flinkray.graph.row_process import ProcessFunction, row_process_node
from flinkray.graph.windows import WatermarkStrategy

if TYPE_CHECKING:
    from flinkray.api.connected import BroadcastStream, ConnectedStreams
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.keyed_stream import KeyedStream, WindowedStream

Row = dict[str, Any]
BatchFormat = Literal["pyarrow", "pandas", "numpy"]
OnError = Literal["fail", "skip", "dead_letter"]
COLLECT_MAX_BYTES = 1 << 30


def checked_policy(on_error: str, what: str) -> str:
    if on_error not in ("fail", "skip", "dead_letter"):
        raise PlanError(f"{what}: on_error {on_error!r}; 'fail', 'skip' or 'dead_letter'")
    return on_error


class _Step:
    """A step of the plan that can be given a uid, a name and a parallelism."""

    def __init__(self, environment: StreamEnvironment, node: LogicalNode) -> None:
        self._environment = environment
        self._node = node

    def uid(self, uid: str) -> Self:
        """Name the operator that made this stream, so that a restore finds its state after the program has changed."""
        self._require_operator("uid")
        if self._node.label.uid not in (None, uid):
            raise PlanError(f"uid({uid!r}): this {self._node.kind} has the uid {self._node.label.uid!r} already")
        self._node.label.uid = check_uid(uid)
        return self

    def name(self, name: str) -> Self:
        """What status, explain() and errors call the operator; the uid, or its kind, where none is given."""
        self._require_operator("name")
        self._node.label.name = name
        return self

    def set_parallelism(self, parallelism: int) -> Self:
        """How many subtasks the operator has; the environment's parallelism where none is given."""
        self._require_operator("set_parallelism")
        if isinstance(parallelism, bool) or not isinstance(parallelism, int) or parallelism < 1:
            raise PlanError(f"set_parallelism({parallelism!r}): a whole number, 1 or more")
        self._node.label.parallelism = parallelism
        return self

    def _require_operator(self, method: str) -> None:
        if not self._node.operator:
            kind = self._node.kind.replace("_", " ")
            raise PlanError(f"{method}: a {kind} is no operator of its own; name what comes before or after it")

    def _label(self, uid: str | None, name: str | None) -> Self:
        if uid is not None:
            self.uid(uid)
        if name is not None:
            self.name(name)
        return self


class DataStreamSink(_Step):
    """The end of a stream: what `sink_to` gives."""


class DataStream(_Step):
    """A stream of rows with columns. Use it several times to send its rows several ways; they are read once."""

    @property
    def schema(self) -> pa.Schema | None:
        """The columns; None after a function that does not declare them."""
        return self._node.rows.schema

    # -- rows -----------------------------------------------------------------------------------------------------

    def filter(
        self,
        predicate: Expression | Callable[[Row], Any],
        *,
        on_error: OnError = "fail",
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Rows for which an expression is true (not false, not null), or a function of the row (a dict) is truthy.

        Here and in `map`, `flat_map`, `map_batches` and `async_map`, `on_error` says what becomes of rows that the function raises on: "fail" fails the
        job, "skip" counts and drops them, "dead_letter" sends them to `get_side_output("dead_letter")`, as rows with `row` (JSON), `error`,
        `operator`, `subtask` and `time`. Which rows of a batch they are is found out by calling the function again with parts of it.
        """
        if callable(predicate) and not isinstance(predicate, Expression):
            parameters = {"on_error": checked_policy(on_error, "filter")}
            return self._then(resolve.function_node(self._node, "filter_fn", predicate, None, **parameters))._label(uid, name)
        return self._then(resolve.filter_node(self._node, as_expression(predicate)))._label(uid, name)

    def select(self, *columns: str | Expression, **named: Any) -> DataStream:
        """Rows of these columns only: names, expressions with `.alias(name)`, or `name=expression`."""
        return self._then(resolve.project_node(self._node, listed_columns(columns, named, "select")))

    def with_columns(self, *columns: Expression, **named: Any) -> DataStream:
        """The rows with columns added, or replaced where the name is there already."""
        given = dict(listed_columns(columns, named, "with_columns"))
        kept = [(name, given.pop(name, col(name))) for name in self._known_names("with_columns")]
        return self._then(resolve.project_node(self._node, [*kept, *given.items()], "with_columns"))

    def drop(self, *names: str) -> DataStream:
        """The rows without these columns."""
        for column in names:
            resolve.check_column(self._node.rows, column, "drop")
        kept = [(name, col(name)) for name in self._known_names("drop") if name not in names]
        return self._then(resolve.project_node(self._node, kept, "drop"))

    def map(
        self,
        function: Callable[[Row], Row],
        output_schema: OutputSchema | None = None,
        *,
        on_error: OnError = "fail",
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """One row for each row, as dicts (times as int microseconds). Without `output_schema`, or a return annotation (a TypedDict
        or dataclass), the columns are known only when the first batch has come, and cannot be checked or aggregated."""
        return self._function("map", function, output_schema, uid, name, on_error=on_error)

    def flat_map(
        self,
        function: Callable[[Row], Any],
        output_schema: OutputSchema | None = None,
        *,
        on_error: OnError = "fail",
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Any number of rows for each row: an iterable of dicts, or a generator."""
        return self._function("flat_map", function, output_schema, uid, name, on_error=on_error)

    def map_batches(
        self,
        function: Callable[..., Any],
        output_schema: OutputSchema | None = None,
        *,
        batch_format: BatchFormat = "pyarrow",
        num_gpus: float | None = None,
        num_cpus: float | None = None,
        concurrency: int | tuple[int, int] | None = None,
        batch_size: int | None = None,
        max_latency: Duration | None = None,
        timeout: Duration | None = None,
        on_error: OnError = "fail",
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Whole batches through a function, or through a class that is made once in each subtask and then called.

        With `num_gpus`, `num_cpus` or `concurrency` it is a stage: it runs on workers of its own (Ray actors, each with so many GPUs and CPUs,
        by default one CPU; on runtime "local" threads), `concurrency` of them in all, or from so many to so many as there is work. The class is
        made once in each worker. Batches have up to `batch_size` rows (1024), fewer where a row would not be answered within `max_latency`
        (None: what is there goes as soon as a worker is free). Rows stay in order. A lost worker is replaced, and its batches are done
        again, as is one that needs longer than `timeout` for a batch; so what is called must keep nothing from batch to batch that counts.
        """
        if batch_format not in ("pyarrow", "pandas", "numpy"):
            raise PlanError(f"map_batches: batch_format {batch_format!r}; 'pyarrow', 'pandas' or 'numpy'")
        if num_gpus is None and num_cpus is None and concurrency is None:
            if not (batch_size is None and max_latency is None and timeout is None):
                raise PlanError(
                    "map_batches: batch_size, max_latency and timeout are for stages; give concurrency= (or num_gpus, num_cpus) as well"
                )
            return self._function("map_batches", function, output_schema, uid, name, batch_format=batch_format, on_error=on_error)
        stage = stage_of(concurrency, batch_size, max_latency, timeout, num_cpus, num_gpus)
        return self._calls("stage", function, output_schema, uid, name, stage, batch_format=batch_format, on_error=on_error)

    def async_map(
        self,
        function: Callable[..., Any],
        output_schema: OutputSchema | None = None,
        *,
        ordered: bool = True,
        capacity: int = CAPACITY,
        timeout: Duration | None = None,
        retries: int = 0,
        retry_pause: Duration = RETRY_PAUSE,
        batch_size: int | None = None,
        max_latency: Duration | None = None,
        batch_format: BatchFormat = "pyarrow",
        on_error: OnError = "fail",
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Rows through a coroutine function (`async def`), `capacity` of them at once in each subtask, for requests to other systems.

        The function gets a dict and gives one, several (a list), or None; with `batch_size` it gets and gives batches of up to so many rows
        (which wait for each other at most `max_latency`). A class is made once in each subtask, with `async open()` and `async close()` if it
        has them. `ordered=False`: rows go on as they are answered; watermarks never overtake rows. A call that needs longer than `timeout`
        fails; a failed one is tried `retries` times more, after `retry_pause`, then twice that and so on, before it fails the job.
        Rows in flight are part of the checkpoint, and are asked for again after a restore: requests should not mind to be repeated.
        """
        if batch_format not in ("pyarrow", "pandas", "numpy"):
            raise PlanError(f"async_map: batch_format {batch_format!r}; 'pyarrow', 'pandas' or 'numpy'")
        if not is_coroutine(function):
            raise PlanError(f"async_map: {function!r} is no coroutine function; write async def, or use map for functions that do not wait")
        calls = async_calls(ordered, capacity, batch_size, max_latency, timeout, retries, retry_pause)
        return self._calls("async_map", function, output_schema, uid, name, calls, batch_format=batch_format, on_error=on_error)

    def process(
        self,
        function: ProcessFunction,
        output_schema: OutputSchema | None = None,
        *,
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """A function of your own over rows, with side outputs: an instance of a class that extends `fr.ProcessFunction`. State and timers belong
        to a key: see `KeyedStream.process`. Columns and side outputs are declared as there."""
        schema = function_schema(function, output_schema, "process")  # type: ignore[arg-type]
        return self._then(row_process_node(self._node, function, schema))._label(uid, name)

    def split(self, *predicates: Expression) -> tuple[DataStream, ...]:
        """One stream for each predicate, and one more for the rest: a row goes to the first whose predicate is true (not null)."""
        if not predicates:
            raise PlanError("split: give at least one predicate, like split(col('price') > 100)")
        streams, rest = [], self
        for predicate in predicates:
            true = as_expression(predicate).fill_null(False)
            streams.append(rest.filter(true))
            rest = rest.filter(~true)
        return (*streams, rest)

    def connect(self, other: DataStream | BroadcastStream) -> ConnectedStreams:
        """This stream and another one, for one function: a `fr.CoProcessFunction`, or a `fr.BroadcastProcessFunction` for `other.broadcast()`, every row of
        which goes to every subtask. For state by key `key_by` both and connect those."""
        from flinkray.api.connected import BroadcastStream, ConnectedStreams

        if not isinstance(other, DataStream | BroadcastStream):
            raise PlanError(
                f"connect: {other!r} is neither a stream nor broadcast; of keyed streams both are keyed: write stream.key_by('column') first"
            )
        if other._environment is not self._environment:
            raise PlanError("connect: the streams belong to different environments")
        return ConnectedStreams(self._environment, self._node, None, other._node, None, isinstance(other, BroadcastStream))

    def broadcast(self) -> BroadcastStream:
        """This stream for `stream.connect(rules.broadcast())`: every row goes to every subtask."""
        from flinkray.api.connected import BroadcastStream

        resolve.require_append_only(self._node, "broadcast")
        return BroadcastStream(self._environment, self._node)

    def union(self, *streams: DataStream) -> DataStream:
        """The rows of all streams, which have the same columns."""
        if any(stream._environment is not self._environment for stream in streams):
            raise PlanError("union: the streams belong to different environments")
        return self._then(resolve.union_node([self._node, *(stream._node for stream in streams)])) if streams else self

    def assign_watermarks(self, watermark: WatermarkStrategy) -> DataStream:
        """Take event time and watermarks from a column here, instead of what the rows had."""
        return self._then(resolve.watermark_node(self._node, watermark))

    def distinct(self, *columns: str, ttl: Duration | None = None) -> DataStream:
        """The first row to come of each combination of values in these columns (all of them where none is named). Each is kept in state,
        with `ttl` for so long after the row's event time (by the clock where rows have none)."""
        return self._then(resolve_rows.distinct_node(self._node, columns, ttl))

    def lookup_join(
        self,
        table: Source | LookupTable,
        on: str | Sequence[str] | Mapping[str, str],
        how: Literal["inner", "left"] = "left",
        *,
        cache: Duration | None = None,
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Each row with the rows of a table that have the same key: a bounded source, like `fr.sources.Parquet("users/*.parquet")`, that is
        read whole into every subtask, and again when it is older than `cache` (None: once); or `fr.tables.Postgres(...)`, which is asked
        once for all keys of a batch, but those whose answer is no older than `cache` (None: for all). `on`: columns by name, or
        `{"mine": "its"}`.

        Rows: this stream's columns, then the table's other ones (with the suffix `_right` where a name is taken). No shuffle, nothing in
        checkpoints: after a restore the table is read anew, so that a table that changes gives other answers then. For calls to a
        service see `async_map`.
        """
        return self._then(lookup_join_node(self._node, table, on, how, cache))._label(uid, name)

    def broadcast_join(
        self,
        other: DataStream,
        on: str | Sequence[str] | Mapping[str, str],
        how: Literal["inner", "left"] = "left",
        tolerance: Duration | None = None,
    ) -> DataStream:
        """An as-of join (see `KeyedStream.asof_join`) without a shuffle of this stream: the other one, which should be small, goes to every
        subtask. `on`: columns by name, or `{"mine": "its"}`."""
        if not isinstance(other, DataStream) or other._environment is not self._environment:
            raise PlanError(f"broadcast_join: {other!r} is no stream of this environment")
        return self._then(broadcast_join_node(self._node, other._node, on, how, tolerance))

    def changes(self, column: str = "change") -> DataStream:
        """A changelog (of a running aggregate, an outer join, a ranking) as rows like any others, with the change kind in a column: "+I"
        and "+U" for a row that is there now, "-D" and "-U" for one that is not any more."""
        return self._then(resolve_rows.changes_node(self._node, column))

    def rebalance(self) -> DataStream:
        """Deal the rows out evenly over the subtasks of what follows."""
        return self._then(resolve.rebalance_node(self._node))

    def get_side_output(self, tag: str) -> DataStream:
        """Late rows of the window that made this stream (`side_output_late`), rows that a source or function rejected ("dead_letter"), or what the
        process function that made it gives to `ctx.output(tag, row)`."""
        return self._then(resolve.side_output_node(self._node, tag))

    # -- keys and windows -----------------------------------------------------------------------------------------

    def key_by(self, *columns: str) -> KeyedStream:
        """The stream seen per value of these columns. Null is a key too."""
        from flinkray.api.keyed_stream import KeyedStream
        from flinkray.graph.resolve_keyed import check_keys

        return KeyedStream(self._environment, self._node, check_keys(self._node, columns))

    def window_all(self, window: AnyWindow) -> WindowedStream:
        """Windows over all rows, whatever their keys; runs in one subtask."""
        from flinkray.api.keyed_stream import WindowedStream

        return WindowedStream(self._environment, self._node, (), window)

    # -- the end of a stream --------------------------------------------------------------------------------------

    def sink_to(self, sink: Sink, *, uid: str | None = None, name: str | None = None) -> DataStreamSink:
        """Write the rows to a sink when the job is executed."""
        if not isinstance(sink, Sink):
            raise PlanError(f"sink_to: {sink!r} is no sink; write fr.sinks.Parquet(...) or the like")
        node = resolve.sink_node(self._node, sink)
        self._environment._add_sink(node)
        return DataStreamSink(self._environment, node)._label(uid, name)

    def print(self, prefix: str = "") -> DataStreamSink:
        """Write the rows to the standard output of the processes that run the job, when it is executed."""
        from flinkray.connectors.memory import PrintSink

        return self.sink_to(PrintSink(prefix))

    def collect(self, limit: int | None = None, *, max_bytes: int = COLLECT_MAX_BYTES) -> pa.Table:
        """Run what this stream needs, now and from the start, and give its rows (of a running aggregate: the last of each key).

        Nothing is checkpointed, row order is unspecified, other sinks do not run. Raises PlanError for a source that never ends
        when there is no `limit`, SinkError above `max_bytes` bytes.
        """
        from flinkray.api.collect import collect

        return collect(self._environment, self._node, limit, max_bytes)

    def to_ray_data(self) -> Any:
        """Run what this stream needs, now and from the start, and give its rows as a `ray.data.Dataset`, each once, whatever fails meanwhile:
        with the environment's checkpoints, as a job of its own whose name ends in `-dataset`. Other sinks do not run.

        The rows lie in Ray's object store, in which they must fit, until this process and all Datasets of them are gone. Raises PlanError
        for a source that never ends, and for rows that change (aggregate with `emit="final"`, or make changes rows with `changes()`).
        """
        from flinkray.api.dataset import to_ray_data

        return to_ray_data(self._environment, self._node)

    def live(self, seconds: float | None = None, *, refresh: Duration = "500ms", rows: int = 20) -> pa.Table:
        """Run what this stream needs, now and from the start, and show its first `rows` rows as they come: a table in a notebook, drawn again
        every `refresh`. Ends with the input, or after so many `seconds`, and gives all rows that had come (of a running aggregate: the
        last of each key). Interrupting it ends the job."""
        from flinkray.api.collect import live

        return live(self._environment, self._node, seconds, duration_s(refresh, "live: refresh"), rows)

    def explain(self) -> str:
        """How this stream would be computed: pushed down, chained, pre-aggregated, shuffled."""
        from flinkray.api.collect import collect_graph

        return explain(collect_graph(self._environment, self._node, None, COLLECT_MAX_BYTES)[0])

    # -- inside ---------------------------------------------------------------------------------------------------

    def _then(self, node: LogicalNode) -> DataStream:
        return DataStream(self._environment, node)

    def _function(
        self,
        kind: str,
        function: Callable[..., Any],
        output_schema: OutputSchema | None,
        uid: str | None,
        name: str | None,
        **parameters: Any,
    ) -> DataStream:
        if not callable(function):
            raise PlanError(f"{kind}: {function!r} cannot be called")
        checked_policy(parameters.get("on_error", "fail"), kind)
        schema = function_schema(function, output_schema, kind)
        return self._then(resolve.function_node(self._node, kind, function, schema, **parameters))._label(uid, name)

    def _calls(
        self,
        kind: str,
        function: Callable[..., Any],
        output_schema: OutputSchema | None,
        uid: str | None,
        name: str | None,
        calls: Stage | AsyncCalls,
        **parameters: Any,
    ) -> DataStream:
        what = "map_batches" if kind == "stage" else kind
        if not callable(function):
            raise PlanError(f"{what}: {function!r} cannot be called")
        checked_policy(parameters.get("on_error", "fail"), what)
        schema = function_schema(function, output_schema, what)
        return self._then(call_node(self._node, kind, function, schema, calls, **parameters))._label(uid, name)

    def _known_names(self, what: str) -> tuple[str, ...]:
        if self._node.rows.schema is None:
            raise PlanError(f"{what}: the columns are not known here; declare output_schema= in the function before, or use select()")
        return self._node.rows.names()
