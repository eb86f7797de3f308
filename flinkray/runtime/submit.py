"""From a frozen graph and its configuration to a running job."""

from __future__ import annotations

from flinkray.api.job_handle import JobHandle
from flinkray.config import JobConfig
from flinkray.graph.job_graph import JobGraph
from flinkray.runtime.task_manager import JobBundle


def submit(graph: JobGraph, config: JobConfig) -> JobHandle:
    """Start the job on the runtime that the configuration names. UsageError and ResourceError before anything is written."""
    bundle = JobBundle(graph, config, config.name)
    if config.runtime == "local":
        from flinkray.runtime import local

        return local.submit(bundle)
    from flinkray.runtime.ray.submit import submit as submit_to_ray

    return submit_to_ray(bundle)
