"""`to_ray_data()`: a job of its own that leaves a stream's rows as a `ray.data.Dataset`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flinkray.api.collect import free_uid
from flinkray.errors import PlanError
from flinkray.graph.logical import LogicalNode, SourceNode, reachable
from flinkray.graph.planner import plan
from flinkray.graph.resolve import sink_node, written_schema

if TYPE_CHECKING:
    from flinkray.api.environment import StreamEnvironment


def to_ray_data(environment: StreamEnvironment, node: LogicalNode) -> Any:
    """See `DataStream.to_ray_data`."""
    from flinkray.api.environment import wait_or_cancel
    from flinkray.runtime.ray.dataset_sink import dataset_of, dataset_sink
    from flinkray.runtime.ray.submit import connect
    from flinkray.runtime.submit import submit

    if node.rows.schema is None:
        raise PlanError("to_ray_data: the columns are not known here; declare output_schema= in the function before, or use select()")
    if node.rows.changelog:
        raise PlanError(
            "to_ray_data: the rows of a Dataset stay as they are, and these are refined; aggregate with emit='final', or use .changes()"
        )
    for other in reachable([node]):
        if isinstance(other, SourceNode) and not other.source.bounded:
            raise PlanError(f"to_ray_data: {other.source.describe()} never ends; write files, and read them with Ray Data")
    connect()
    sink = dataset_sink()
    end = sink_node(node, sink)
    end.label.uid = free_uid(node)
    config = environment.config
    config = replace(config, name=f"{config.name[:119]}-dataset", restore="none", detached=False)
    wait_or_cancel(submit(plan([end], config.parallelism, config.max_parallelism), config, (end,)))
    return dataset_of(sink, written_schema(node.rows))
