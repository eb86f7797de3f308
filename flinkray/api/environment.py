"""`StreamEnvironment`: where a job is put together and run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa

from flinkray.api.job_handle import JobHandle, JobResult
from flinkray.api.run_options import Planned, RunOptions
from flinkray.api.stream import DataStream
from flinkray.config import (
    Checkpointing,
    Duration,
    HighAvailability,
    JobConfig,
    Resources,
    RestartStrategy,
)
from flinkray.connectors.base import Source
from flinkray.errors import PlanError
from flinkray.graph.explain import explain
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.logical import SinkNode
from flinkray.graph.planner import plan
from flinkray.graph.resolve import source_node
from flinkray.graph.windows import WatermarkStrategy

if TYPE_CHECKING:
    from flinkray.api.job_handle import JobHandle

Runtime = Literal["ray", "local"]


class StreamEnvironment:
    """Collects the streams of one job and runs them. Options of `flinkray run` override what is given here.

    Arguments: `name` (default: the script's stem), `parallelism`, `max_parallelism` (key groups; fixed for the life of a state),
    `runtime` ("ray" or "local"; default FLINKRAY_RUNTIME, else "ray"), `batch_rows` and `buffer_timeout` (a batch is sent when it
    has so many rows, or is so old). Raises ConfigError.
    """

    def __init__(
        self,
        name: str | None = None,
        parallelism: int = 1,
        max_parallelism: int = 128,
        runtime: Runtime | None = None,
        *,
        checkpointing: Checkpointing | None = None,
        restart: RestartStrategy | None = None,
        high_availability: HighAvailability | None = None,
        resources: Resources | None = None,
        batch_rows: int = 262_144,
        buffer_timeout: Duration = "5ms",
    ) -> None:
        self._options = RunOptions.from_environment()
        self.config = self._options.apply(
            JobConfig(
                name=name or script_stem(),
                parallelism=parallelism,
                max_parallelism=max_parallelism,
                runtime=cast(Runtime, runtime or os.environ.get("FLINKRAY_RUNTIME") or "ray"),
                checkpointing=checkpointing or Checkpointing(),
                restart=restart or RestartStrategy(),
                high_availability=high_availability or HighAvailability(),
                resources=resources or Resources(),
                batch_rows=batch_rows,
                buffer_timeout=buffer_timeout,
            )
        )
        self._sinks: list[SinkNode] = []

    def from_source(
        self,
        source: Source,
        *,
        watermark: WatermarkStrategy | None = None,
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """The rows of a source. Windows need `watermark`, which says where event time is and how late rows come."""
        if not isinstance(source, Source):
            raise PlanError(f"from_source: {source!r} is no source; write fr.sources.Parquet(...) or the like")
        return DataStream(self, source_node(source, watermark))._label(uid, name)

    def from_batches(
        self,
        record_batches: Iterable[pa.RecordBatch] | pa.Table,
        *,
        watermark: WatermarkStrategy | None = None,
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Rows that are in memory already: record batches, or a table. They travel with the job."""
        from flinkray.connectors.memory import MemorySource

        batches = record_batches.to_batches() if isinstance(record_batches, pa.Table) else tuple(record_batches)
        return self.from_source(MemorySource(batches), watermark=watermark, uid=uid, name=name)

    def from_ray_data(
        self,
        dataset: Any,
        *,
        watermark: WatermarkStrategy | None = None,
        uid: str | None = None,
        name: str | None = None,
        rate: float | None = None,
    ) -> DataStream:
        """The rows of a `ray.data.Dataset`, which is computed now, as far as it is not yet, before the job takes its CPUs. Its blocks stay
        in Ray's object store, in which they must fit, and are read from there. `rate`: rows/s at most.

        Raises PlanError when it has no columns, when blocks have different ones, or for a type that the engine has not.
        """
        from flinkray.runtime.ray.dataset_source import dataset_source

        if not hasattr(dataset, "materialize"):
            raise PlanError(f"from_ray_data: {dataset!r} is no ray.data.Dataset; other rows come by from_batches() or from_source()")
        column = None if watermark is None else watermark.column
        source = dataset_source(dataset, column, rate, self.config.name if self.config.detached else "")
        return self.from_source(source, watermark=watermark, uid=uid, name=name)

    def execute(self) -> JobResult:
        """Run all sinks added since the last run as one job, and wait for its end.

        Raises PlanError, JobExistsError and the like before anything runs, JobFailedError when the job failed, JobCancelledError.
        Ctrl-C cancels the job. With `flinkray run --detach` returns as soon as the job is submitted.
        """
        handle = self.execute_async()
        if self.config.detached:
            from flinkray.runtime.progress import say_detached

            say_detached(handle.name)
            return JobResult.from_status(handle.status())
        return wait_or_cancel(handle)

    def execute_async(self) -> JobHandle:
        """Like `execute`, but returns when the job is submitted."""
        from flinkray.runtime.submit import submit

        graph, sinks = self.job_graph(), tuple(self._sinks)
        self._sinks.clear()
        if self._options.plan:
            raise Planned(graph, self.config)
        return submit(graph, self.config, sinks)

    def explain(self) -> str:
        """The plan of all sinks added since the last run, as text."""
        return explain(self.job_graph())

    def job_graph(self) -> JobGraph:
        """The plan itself, as it would be submitted."""
        return plan(self._sinks, self.config.parallelism, self.config.max_parallelism)

    def _add_sink(self, sink: SinkNode) -> None:
        self._sinks.append(sink)


def wait_or_cancel(handle: JobHandle) -> JobResult:
    """Wait for the end; an interrupt cancels the job, waits until it is gone, and goes on as an interrupt."""
    from flinkray.runtime.progress import wait_with_progress

    return wait_with_progress(handle)


def script_stem() -> str:
    """The name of a job that was given none: its script's, without folder and suffix."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None) or ""
    stem = os.path.splitext(os.path.basename(path))[0]
    return re.sub(r"[^A-Za-z0-9_.-]", "-", stem)[:128] or "notebook"
