"""From a frozen graph and its configuration to a running job."""

from __future__ import annotations

import sys
import threading

from flinkray.api.job_handle import JobHandle
from flinkray.config import JobConfig
from flinkray.graph.job_graph import JobGraph
from flinkray.runtime.task_manager import JobBundle

_THREAD = "flinkray-kernels"


def submit(graph: JobGraph, config: JobConfig) -> JobHandle:
    """Start the job on the runtime that the configuration names. UsageError and ResourceError before anything is written."""
    bundle = JobBundle(graph, config, config.name)
    compile_kernels()
    if config.runtime == "local":
        from flinkray.runtime import local

        return local.submit(bundle)
    from flinkray.runtime.ray.submit import submit as submit_to_ray

    return submit_to_ray(bundle)


def compile_kernels() -> None:
    """On a fresh machine, begin to compile beside the start of the runtime; whoever needs the kernels waits for the lock."""
    from flinkray.state.warm import kernels_compiled, warm_kernels

    if not kernels_compiled() and not any(thread.name == _THREAD for thread in threading.enumerate()):
        threading.Thread(target=warm_kernels, args=(_say,), name=_THREAD, daemon=True).start()


def _say(text: str) -> None:
    print(f"flinkray: {text}", file=sys.stderr, flush=True)
