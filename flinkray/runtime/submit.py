"""From a frozen graph and its configuration to a running job."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Sequence

from flinkray.api.job_handle import JobHandle
from flinkray.config import JobConfig
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.logical import SinkNode
from flinkray.runtime.job_manager import auto_savepoints
from flinkray.runtime.kernels import kernel_groups
from flinkray.runtime.task_manager import JobBundle

_THREAD = "flinkray-kernels"


def submit(graph: JobGraph, config: JobConfig, sinks: Sequence[SinkNode] = ()) -> JobHandle:
    """Start the job on the runtime that the configuration names; `sinks`: what the graph was planned from, so that it can be rescaled. UsageError and ResourceError before anything is written."""
    auto_savepoints(config)  # a retention that makes no sense is told now
    bundle = JobBundle(graph, config, config.name, code_digest(), tuple(sinks))
    for warning in graph.warnings if config.checkpointing is not None else ():
        _say(f"warning: {warning}")
    groups = kernel_groups(graph)
    if config.runtime == "local":
        from flinkray.runtime import local
        from flinkray.state.warm import warm_kernels

        warm_kernels(groups, _say)
        return local.submit(bundle)
    from flinkray.runtime.ray.submit import submit as submit_to_ray

    begin_to_compile(groups)
    return submit_to_ray(bundle)


def code_digest() -> str:
    """SHA-256 of the script that this process runs, hex; empty in a notebook or shell."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        with open(script or "", "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def begin_to_compile(groups: Sequence[str]) -> None:
    """On a fresh machine, compile beside the start of the runtime; whoever needs the kernels waits for the lock."""
    from flinkray.state.warm import compile_kernels, kernels_compiled

    if not kernels_compiled(groups) and not any(thread.name == _THREAD for thread in threading.enumerate()):
        threading.Thread(target=compile_kernels, args=(groups, _say), name=_THREAD, daemon=True).start()


def _say(text: str) -> None:
    print(f"flinkray: {text}", file=sys.stderr, flush=True)
