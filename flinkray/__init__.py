"""flinkray: a stateful, exactly-once, columnar stream processor for Python on Ray.

`import flinkray as fr` loads almost nothing; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flinkray.api import agg, sinks, sources, tables, windows
    from flinkray.api.connected import BroadcastStream, ConnectedStreams
    from flinkray.api.environment import StreamEnvironment
    from flinkray.api.expressions import coalesce, col, lit, to_datetime, when
    from flinkray.api.job_handle import JobHandle, JobResult
    from flinkray.api.keyed_stream import KeyedStream, WindowedStream
    from flinkray.api.state_tables import list_state, read_state, write_savepoint
    from flinkray.api.stream import DataStream, DataStreamSink
    from flinkray.api.watermarks import Watermarks
    from flinkray.config import AwsKms, Checkpointing, HighAvailability, KeyEnv, KeyFile, Resources, RestartStrategy
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
        SpillError,
        StorageError,
        UsageError,
        WaitTimeoutError,
    )
    from flinkray.graph.co_process import (
        BroadcastProcessFunction,
        BroadcastState,
        CoProcessFunction,
        KeyedBroadcastProcessFunction,
        KeyedCoProcessFunction,
    )
    from flinkray.graph.process import (
        AggregateFunction,
        AggregatingState,
        KeyedProcessFunction,
        ListState,
        MapState,
        ProcessContext,
        ReducingState,
        StateTtl,
        ValueState,
    )
    from flinkray.graph.row_process import ProcessFunction
    from flinkray.graph.udaf import Udaf

__version__ = "0.1.0"

__all__ = [
    "AggregateFunction",
    "AggregatingState",
    "AwsKms",
    "BroadcastProcessFunction",
    "BroadcastState",
    "BroadcastStream",
    "Checkpointing",
    "CoProcessFunction",
    "ConfigError",
    "ConnectedStreams",
    "DamagedObjectError",
    "DataStream",
    "DataStreamSink",
    "DeposedError",
    "ExpressionError",
    "FlinkrayError",
    "HighAvailability",
    "JobCancelledError",
    "JobExistsError",
    "JobFailedError",
    "JobHandle",
    "JobResult",
    "KeyEnv",
    "KeyFile",
    "KeyUnavailableError",
    "KeyedBroadcastProcessFunction",
    "KeyedCoProcessFunction",
    "KeyedProcessFunction",
    "KeyedStream",
    "ListState",
    "MapState",
    "OperatorError",
    "PlanError",
    "ProcessContext",
    "ProcessFunction",
    "ProtocolError",
    "ReducingState",
    "ResourceError",
    "Resources",
    "RestartStrategy",
    "RestoreError",
    "SinkError",
    "SourceError",
    "SpillError",
    "StateTtl",
    "StorageError",
    "StreamEnvironment",
    "Udaf",
    "UsageError",
    "ValueState",
    "WaitTimeoutError",
    "Watermarks",
    "WindowedStream",
    "__version__",
    "agg",
    "coalesce",
    "col",
    "list_state",
    "lit",
    "read_state",
    "sinks",
    "sources",
    "tables",
    "to_datetime",
    "when",
    "windows",
    "write_savepoint",
]

_HOMES = {
    "flinkray.api": ("agg", "sinks", "sources", "tables", "windows"),
    "flinkray.api.connected": ("BroadcastStream", "ConnectedStreams"),
    "flinkray.api.environment": ("StreamEnvironment",),
    "flinkray.graph.co_process": (
        "BroadcastProcessFunction",
        "BroadcastState",
        "CoProcessFunction",
        "KeyedBroadcastProcessFunction",
        "KeyedCoProcessFunction",
    ),
    "flinkray.api.expressions": ("coalesce", "col", "lit", "to_datetime", "when"),
    "flinkray.api.job_handle": ("JobHandle", "JobResult"),
    "flinkray.api.keyed_stream": ("KeyedStream", "WindowedStream"),
    "flinkray.api.state_tables": ("list_state", "read_state", "write_savepoint"),
    "flinkray.api.stream": ("DataStream", "DataStreamSink"),
    "flinkray.api.watermarks": ("Watermarks",),
    "flinkray.config": ("AwsKms", "Checkpointing", "HighAvailability", "KeyEnv", "KeyFile", "Resources", "RestartStrategy"),
    "flinkray.graph.process": (
        "AggregateFunction",
        "AggregatingState",
        "KeyedProcessFunction",
        "ListState",
        "MapState",
        "ProcessContext",
        "ReducingState",
        "StateTtl",
        "ValueState",
    ),
    "flinkray.graph.row_process": ("ProcessFunction",),
    "flinkray.graph.udaf": ("Udaf",),
    "flinkray.errors": tuple(name for name in __all__ if name.endswith("Error")),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = import_module(f"{home}.{name}") if home == "flinkray.api" else getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'flinkray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
