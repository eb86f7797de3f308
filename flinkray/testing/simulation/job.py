"""A user's job made ready for simulation: planned once, its sinks replaced by simulated ones, its input cut short where asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flinkray.config import Checkpointing, Resources, RestartStrategy
from flinkray.connectors.base import Sink, Source, Split, SplitReader
from flinkray.connectors.wrapped import WrappedReader, WrappedSource
from flinkray.errors import UsageError
from flinkray.graph.job_graph import JobGraph
from flinkray.runtime.task_manager import JobBundle
from flinkray.testing.simulation.cluster import Plan
from flinkray.testing.simulation.output import SimulatedSink

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.stream import DataStream

BuildJob = Callable[["StreamEnvironment"], "DataStream | None"]
"""Makes the user's graph: with sinks of its own, or returns the stream whose rows are compared."""

APPLICATION = "simulated"

OTHER_PARALLELISMS = (1, 3)
"""What `rescale` chooses from."""


@dataclass(frozen=True)
class Settings:
    """What is simulated besides the job: everything that the failure-free answer may depend on."""

    parallelism: int = 2
    checkpoint_interval: str = "100ms"
    retained: int = 2
    spares: int = 1
    standbys: int = 1
    rows: int | None = None
    """At most so many rows of each split are read; None: all."""


_plans: dict[tuple[BuildJob, Settings], Plan] = {}
_keys = itertools.count()


def plan_of(build_job: BuildJob, settings: Settings) -> Plan:
    """The plan, made once for a process. Raises UsageError when the job is none, or not bounded."""
    known = _plans.get((build_job, settings))
    if known is None:
        known = _plans[(build_job, settings)] = _plan(build_job, settings)
    return known


def remember(build_job: BuildJob, settings: Settings, plan: Plan) -> None:
    _plans[(build_job, settings)] = plan


def _plan(build_job: BuildJob, settings: Settings) -> Plan:
    key = f"output-{next(_keys)}"
    others = [parallelism for parallelism in OTHER_PARALLELISMS if parallelism != settings.parallelism]
    bundle, *rescaled = (_bundle(build_job, replace(settings, parallelism=p), key) for p in (settings.parallelism, *others))
    graphs = tuple((one.config.parallelism, one.graph) for one in (bundle, *rescaled))
    first, *more = (RehearsedBundle(one.graph, one.config, one.application, graphs=graphs) for one in (bundle, *rescaled))
    return Plan(first, key, tuple(more), standbys=settings.standbys)


@dataclass(frozen=True)
class RehearsedBundle(JobBundle):
    """Has been planned at every parallelism that the job may be asked to run at."""

    graphs: tuple[tuple[int, JobGraph], ...] = ()

    def graph_at(self, parallelism: int) -> JobGraph:
        return dict(self.graphs)[parallelism] if parallelism else self.graph


def _bundle(build_job: BuildJob, settings: Settings, key: str) -> JobBundle:
    from flinkray.api.environment import StreamEnvironment

    env = StreamEnvironment(
        APPLICATION,
        parallelism=settings.parallelism,
        runtime="local",
        checkpointing=Checkpointing(
            interval=settings.checkpoint_interval, min_pause="0s", timeout="3s", storage="memory://simulated", retained=settings.retained
        ),
        restart=RestartStrategy(initial="50ms", maximum="1s"),
        resources=Resources(spare_task_managers=settings.spares),
        buffer_timeout="80ms",
    )
    stream = build_job(env)
    if stream is not None:
        stream.sink_to(SimulatedSink(key), uid="simulated")
    graph = _rehearsed(env.job_graph(), key, settings.rows)
    config = replace(env.config, heartbeat_timeout="1s", orphan_timeout="20s", runtime="ray")
    return JobBundle(graph, config, APPLICATION)


def _rehearsed(graph: JobGraph, key: str, rows: int | None) -> JobGraph:
    """The same graph, its sinks simulated and its sources cut short."""

    def param(value: Any) -> Any:
        if isinstance(value, Sink) and not isinstance(value, SimulatedSink):
            return SimulatedSink(key, value.accepts_changelog)
        if isinstance(value, Source):
            if not value.bounded:
                raise UsageError(f"{value.describe()} has no end: a simulated job must finish; give it rows=, or another source")
            return CappedSource(value, rows) if rows is not None else value
        return value

    def params(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: param(value) for name, value in mapping.items()}

    vertices = tuple(
        replace(vertex, operators=tuple(replace(spec, params=params(spec.params)) for spec in vertex.operators))
        for vertex in graph.vertices
    )
    if not any(isinstance(value, SimulatedSink) for v in vertices for spec in v.operators for value in spec.params.values()):
        raise UsageError("build_job(env) neither returned a stream nor added a sink: there is nothing to compare")
    return replace(graph, vertices=vertices)


@dataclass(frozen=True)
class CappedSource(WrappedSource):
    """Reads at most `rows` rows of each split of `inner`."""

    rows: int

    def open_split(self, split: Split, offset: Any | None) -> SplitReader:
        at, left = (None, self.rows) if offset is None else (offset["at"], offset["left"])
        return _CappedReader(self.inner.open_split(split, at), left)

    def describe(self) -> str:
        return f"{self.inner.describe()}, {self.rows} rows of each split"


class _CappedReader(WrappedReader):
    def __init__(self, inner: SplitReader, left: int) -> None:
        super().__init__(inner)
        self._left = left

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        if self._left <= 0:
            return None
        batch = self._inner.read(min(max_rows, self._left))
        if batch is not None:
            self._left -= batch.num_rows
        return batch

    def offset(self) -> Any:
        return {"at": self._inner.offset(), "left": self._left}
