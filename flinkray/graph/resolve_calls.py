"""Makes the logical nodes of stages and async calls, checked as far as arguments go."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from flinkray.config import Duration, duration_s
from flinkray.errors import ConfigError, PlanError
from flinkray.graph.logical import LogicalNode, RowType
from flinkray.graph.logical_calls import AsyncCalls, CallNode, Stage
from flinkray.graph.resolve import check_names, require_append_only

Concurrency = int | tuple[int, int]

BATCH_SIZE = 1024
CAPACITY = 100
RETRY_PAUSE = "100ms"


def stage_of(
    concurrency: Concurrency | None,
    batch_size: int | None,
    max_latency: Duration | None,
    timeout: Duration | None,
    num_cpus: float | None,
    num_gpus: float | None,
) -> Stage:
    """Of what `map_batches` was given. Raises PlanError."""
    least, most = _workers(1 if concurrency is None else concurrency)
    gpus = _amount(num_gpus or 0, "num_gpus")
    cpus = _amount((0 if gpus else 1) if num_cpus is None else num_cpus, "num_cpus")
    return Stage(
        workers=(least, most),
        batch_size=_count(BATCH_SIZE if batch_size is None else batch_size, "map_batches: batch_size"),
        max_latency_s=_seconds(max_latency, "map_batches: max_latency"),
        timeout_s=_seconds(timeout, "map_batches: timeout"),
        cpus=cpus,
        gpus=gpus,
    )


def async_calls(
    ordered: bool,
    capacity: int,
    batch_size: int | None,
    max_latency: Duration | None,
    timeout: Duration | None,
    retries: int,
    retry_pause: Duration,
) -> AsyncCalls:
    """Of what `async_map` was given. Raises PlanError."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise PlanError(f"async_map: retries {retries!r}: a whole number, 0 or more")
    if max_latency is not None and batch_size is None:
        raise PlanError("async_map: max_latency is for batches; give batch_size as well")
    return AsyncCalls(
        ordered=bool(ordered),
        capacity=_count(capacity, "async_map: capacity"),
        batch_size=None if batch_size is None else _count(batch_size, "async_map: batch_size"),
        max_latency_s=_seconds(max_latency, "async_map: max_latency"),
        timeout_s=_seconds(timeout, "async_map: timeout"),
        retries=retries,
        pause_s=_seconds(retry_pause, "async_map: retry_pause") or 0.0,
    )


def call_node(
    stream: LogicalNode,
    kind: str,
    function: Callable[..., Any],
    output_schema: pa.Schema | None,
    calls: Stage | AsyncCalls,
    **parameters: Any,
) -> CallNode:
    """`kind`: stage or async_map. Rows are `output_schema` (None: unknown), with the event time of the rows that they come from."""
    what = "map_batches" if kind == "stage" else kind
    require_append_only(stream, what)
    if output_schema is not None:
        check_names(output_schema.names, f"{what}: output_schema")
    rows = RowType(output_schema, stream.rows.event_time)
    return CallNode(inputs=(stream,), rows=rows, function_kind=kind, function=function, parameters=parameters, calls=calls)


def is_coroutine(function: object) -> bool:
    """A coroutine function, an object that is called as one, or a class of such."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _workers(concurrency: Concurrency) -> tuple[int, int]:
    both = (concurrency, concurrency) if isinstance(concurrency, int) else tuple(concurrency)
    if len(both) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in both) or not 1 <= both[0] <= both[1]:
        raise PlanError(f"map_batches: concurrency {concurrency!r}: how many workers, 1 or more, or (at least, at most)")
    return both


def _count(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanError(f"{what} {value!r}: a whole number, 1 or more")
    return value


def _amount(value: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise PlanError(f"map_batches: {what} {value!r}: a number, 0 or more")
    return float(value)


def _seconds(value: Duration | None, what: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = duration_s(value, what)
    except ConfigError as error:
        raise PlanError(str(error)) from error
    if not seconds:
        raise PlanError(f"{what}: {value!r} is not above zero")
    return seconds
