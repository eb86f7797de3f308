"""flinkray: a stateful, exactly-once, columnar stream processor for Python on Ray.

`import flinkray as fr` loads almost nothing; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flinkray.api import agg, sinks, sources, windows
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.expressions import coalesce, col, lit, to_datetime, when
    from flinkray.api.job_handle import JobHandle, JobResult
    from flinkray.api.keyed_stream import KeyedStream, WindowedStream
    from flinkray.api.stream import DataStream, DataStreamSink
    from flinkray.api.watermarks import Watermarks
    from flinkray.config import Checkpointing, HighAvailability, KeyEnv, KeyFile, Resources, RestartStrategy
    from flinkray.errors import (
        ConfigError,
        DamagedObjectError,
        DeposedError,
        ExpressionError,
        FlinkrayError,
        JobCancelledError,
        JobExistsError,
        JobFailedError,
        KeyUnavailableError,
        OperatorError,
        PlanError,
        ProtocolError,
        ResourceError,
        RestoreError,
        SinkError,
        SourceError,
        StorageError,
        UsageError,
        WaitTimeoutError,
    )

__version__ = "0.1.0"

_MODULES = {name: f"flinkray.api.{name}" for name in ("agg", "sinks", "sources", "windows")}

_NAMES = {
    "flinkray.api.environment": ("StreamEnvironment",),
    "flinkray.api.expressions": ("coalesce", "col", "lit", "to_datetime", "when"),
    "flinkray.api.job_handle": ("JobHandle", "JobResult"),
    "flinkray.api.keyed_stream": ("KeyedStream", "WindowedStream"),
    "flinkray.api.stream": ("DataStream", "DataStreamSink"),
    "flinkray.api.watermarks": ("Watermarks",),
    "flinkray.config": ("Checkpointing", "HighAvailability", "KeyEnv", "KeyFile", "Resources", "RestartStrategy"),
    "flinkray.errors": (
        "ConfigError",
        "DamagedObjectError",
        "DeposedError",
        "ExpressionError",
        "FlinkrayError",
        "JobCancelledError",
        "JobExistsError",
        "JobFailedError",
        "KeyUnavailableError",
        "OperatorError",
        "PlanError",
        "ProtocolError",
        "ResourceError",
        "RestoreError",
        "SinkError",
        "SourceError",
        "StorageError",
        "UsageError",
        "WaitTimeoutError",
    ),
}

_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [  # noqa: PLE0604
    "__version__",
    *sorted([*_MODULES, *_HOMES]),
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(_MODULES[name])
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'flinkray' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
