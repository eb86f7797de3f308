"""Two streams seen together: what `connect` gives."""

from __future__ import annotations

from dataclasses import dataclass

from flinkray.api.columns import OutputSchema, function_schema
from flinkray.api.environment import StreamEnvironment
from flinkray.api.stream import DataStream
from flinkray.graph.logical import LogicalNode
from flinkray.graph.process import KeyedProcessFunction
from flinkray.graph.resolve_co_process import co_process_node, row_co_process_node
from flinkray.graph.row_process import ProcessFunction


@dataclass(frozen=True)
class ConnectedStreams:
    """A stream with another one: keyed alike, both without keys, or the other broadcast."""

    _environment: StreamEnvironment
    _left: LogicalNode
    keys: tuple[str, ...] | None
    """None: without keys."""
    _right: LogicalNode
    right_keys: tuple[str, ...] | None
    """None: without keys, or broadcast."""
    _broadcast: bool

    def process(
        self,
        function: KeyedProcessFunction | ProcessFunction,
        output_schema: OutputSchema | None = None,
        *,
        uid: str | None = None,
        name: str | None = None,
    ) -> DataStream:
        """An instance of a `fr.KeyedCoProcessFunction`, or of a `fr.KeyedBroadcastProcessFunction` where the other stream is broadcast; of streams without
        keys of a `fr.CoProcessFunction` or `fr.BroadcastProcessFunction`. Columns and side outputs as for `KeyedStream.process`."""
        schema = function_schema(function, output_schema, "process")  # type: ignore[arg-type]
        node: LogicalNode
        if self.keys is None:
            node = row_co_process_node(self._left, self._right, self._broadcast, function, schema)  # type: ignore[arg-type]  # it is checked there
        else:
            node = co_process_node(self._left, self.keys, self._right, self.right_keys, function, schema)  # type: ignore[arg-type]
        return DataStream(self._environment, node)._label(uid, name)


@dataclass(frozen=True)
class BroadcastStream:
    """A stream every row of which goes to every subtask: what `broadcast` gives, for `connect`."""

    _environment: StreamEnvironment
    _node: LogicalNode
