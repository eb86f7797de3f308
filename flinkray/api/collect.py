"""`collect()`: a small job of its own that brings a stream's rows to the driver."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.api.notebook import Drawing, shell, show_tables, table_html
from flinkray.columns import CHANGE
from flinkray.config import Checkpointing, HighAvailability, JobConfig, RestartStrategy
from flinkray.errors import JobCancelledError, PlanError, WaitTimeoutError
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.logical import LogicalNode, SourceNode, reachable
from flinkray.graph.planner import plan
from flinkray.graph.resolve import sink_node, written_schema

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.job_handle import JobHandle

COLLECT_UID = "collect"
POLL_S = 0.2


def collect(environment: StreamEnvironment, node: LogicalNode, limit: int | None, max_bytes: int) -> pa.Table:
    """See `DataStream.collect`."""
    from flinkray.api.environment import wait_or_cancel
    from flinkray.runtime.submit import submit

    endless = _check(node, limit)
    graph, uid = collect_graph(environment, node, limit, max_bytes)
    handle = submit(graph, collect_config(environment.config, endless))
    if endless and limit is not None:
        wait_for_rows(handle, uid, limit)
    else:
        wait_or_cancel(handle)
    show_tables()
    table = _answer(handle, uid, node)
    return table if limit is None else table.slice(0, limit)


def _answer(handle: JobHandle, uid: str, node: LogicalNode) -> pa.Table:
    """The rows that are there by now; of a changelog those that still hold."""
    table = handle.results(uid)
    if table.num_columns == 0 and node.rows.schema is not None:
        table = written_schema(node.rows).empty_table()
    if node.rows.change_key is not None:
        return final_rows(table, node.rows.change_key)
    return remaining_rows(table) if node.rows.retracts else table


def live(environment: StreamEnvironment, node: LogicalNode, seconds: float | None, refresh_s: float, rows: int) -> pa.Table:
    """See `DataStream.live`."""
    from flinkray.api.stream import COLLECT_MAX_BYTES
    from flinkray.runtime.submit import submit

    graph, uid = collect_graph(environment, node, None, COLLECT_MAX_BYTES)
    handle = submit(graph, collect_config(environment.config, endless=True))
    drawing = Drawing() if shell() is not None else None
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        while deadline is None or time.monotonic() < deadline:
            with suppress(WaitTimeoutError):
                handle.wait(timeout=refresh_s)
                break
            if drawing is not None:
                drawing.draw(table_html(_answer(handle, uid, node), rows))
        else:
            _end(handle)
    except KeyboardInterrupt:
        handle.cancel()
        raise
    show_tables()
    return _answer(handle, uid, node)


def _end(handle: JobHandle) -> None:
    handle.cancel()
    with suppress(JobCancelledError):
        handle.wait()


def collect_graph(environment: StreamEnvironment, node: LogicalNode, limit: int | None, max_bytes: int) -> tuple[JobGraph, str]:
    """The plan, and the uid of the sink that gathers the rows."""
    from flinkray.connectors.memory import CollectSink

    # Of a running aggregate every answer is needed to know the last ones.
    sink = sink_node(node, CollectSink(None if node.rows.changelog else limit, max_bytes))
    sink.label.uid = uid = free_uid(node)
    if limit is not None:
        sink.label.parallelism = 1  # so that it is known when there are enough
    config = environment.config
    return plan([sink], config.parallelism, config.max_parallelism), uid


def _check(node: LogicalNode, limit: int | None) -> bool:
    """Whether the stream has no end."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise PlanError(f"collect(limit={limit!r}): a whole number, 0 or more")
    endless = [n.source for n in reachable([node]) if isinstance(n, SourceNode) and not n.source.bounded]
    if endless and limit is None:
        raise PlanError(f"collect: {endless[0].describe()} never ends; give collect(limit=...), or use a sink")
    if endless and node.rows.changelog:
        raise PlanError(
            f"collect: {endless[0].describe()} never ends, so a running aggregate has no last answers; aggregate in windows, "
            "or use a sink that takes changes"
        )
    return bool(endless)


def wait_for_rows(handle: JobHandle, uid: str, rows: int) -> None:
    """Wait until enough rows are committed, and end the job, which would not end by itself."""
    try:
        while handle.results(uid).num_rows < rows:
            with suppress(WaitTimeoutError):
                handle.wait(timeout=POLL_S)
                return
    except KeyboardInterrupt:
        handle.cancel()
        raise
    _end(handle)


def free_uid(node: LogicalNode) -> str:
    """The collecting sink's uid: one that the user has not taken."""
    taken = {other.label.uid for other in reachable([node])}
    uid = COLLECT_UID
    while uid in taken:
        uid += "-"
    return uid


def collect_config(config: JobConfig, endless: bool = False) -> JobConfig:
    """Nothing is retried: the caller is there, and can do it again. Only without an end are there checkpoints, which commit rows."""
    checkpointing = None
    if endless:
        checkpointing = replace(config.checkpointing or Checkpointing(), interval=POLL_S, min_pause=0.0)
        if config.runtime == "local":
            checkpointing = replace(checkpointing, storage="memory://collect", storage_options=None)
    return replace(
        config,
        name=f"{config.name[:100]}-collect-{uuid.uuid4().hex[:8]}",
        checkpointing=checkpointing,
        restart=RestartStrategy.none(),
        high_availability=HighAvailability(standbys=0),
        resources=replace(config.resources, spare_task_managers=0),
        restore="none",
        detached=False,
    )


def remaining_rows(changes: pa.Table) -> pa.Table:
    """Each row as often as it was added and not taken back; the order of the changes does not matter."""
    names = [name for name in changes.column_names if name != CHANGE]
    signs = pc.sign(changes[CHANGE]).cast(pa.int64())
    try:
        counted = changes.select(names).append_column("_times", signs).group_by(names, use_threads=False).aggregate([("_times", "sum")])
    except pa.ArrowNotImplementedError as error:
        raise PlanError(f"collect: rows that take each other back are compared column by column: {error}; select other columns") from None
    times = np.maximum(counted["_times_sum"].to_numpy(), 0)
    return counted.select(names).take(pa.array(np.repeat(np.arange(len(times)), times)))


def final_rows(changes: pa.Table, key: Sequence[str]) -> pa.Table:
    """The last row of each key that was not deleted. All changes of a key are in the order in which they were made."""
    if changes.num_rows == 0:
        return changes.drop_columns([CHANGE])
    numbered = changes.select(list(key)).append_column("_row", pa.array(np.arange(changes.num_rows)))
    last = numbered.group_by(list(key), use_threads=False).aggregate([("_row", "max")])["_row_max"]
    rows = changes.take(last)
    return rows.filter(pc.greater(rows[CHANGE], 0)).drop_columns([CHANGE])
