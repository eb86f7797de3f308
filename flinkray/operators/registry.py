"""From an OperatorSpec to its operator. Classes are imported when they are needed: a job without windows loads no window kernels."""

from __future__ import annotations

from importlib import import_module

from flinkray.errors import ProtocolError
from flinkray.graph.job_graph import OperatorSpec
from flinkray.graph.windows import SessionWindow
from flinkray.operators.base import Operator

_CLASSES = {
    "enumerate": "source:EnumerateOperator",
    "source": "source:ReadOperator",
    "filter": "relational:FilterOperator",
    "project": "relational:ProjectOperator",
    "changes": "relational:ChangesOperator",
    "passthrough": "relational:PassthroughOperator",
    "filter_fn": "functions:FilterFunctionOperator",
    "map": "functions:MapOperator",
    "flat_map": "functions:FlatMapOperator",
    "map_batches": "functions:MapBatchesOperator",
    "assign_watermarks": "watermarks:AssignWatermarksOperator",
    "pre_aggregate": "pre_aggregate:PreAggregateOperator",
    "window_aggregate": "window_aggregate:WindowAggregateOperator",
    "keyed_aggregate": "keyed_aggregate:KeyedAggregateOperator",
    "window_top_n": "window_top_n:WindowTopNOperator",
    "interval_join": "interval_join:IntervalJoinOperator",
    "window_join": "window_join:WindowJoinOperator",
    "window_parts": "window_parts:WindowPartsOperator",
    "general_window": "general_window:GeneralWindowOperator",
    "asked_lookup_join": "asked_lookup:AskedLookupJoinOperator",
    "lookup_join": "lookup_join:LookupJoinOperator",
    "regular_join": "regular_join:RegularJoinOperator",
    "asof_join": "asof_join:AsOfJoinOperator",
    "broadcast_join": "broadcast_join:BroadcastJoinOperator",
    "rank": "rank:RankOperator",
    "first": "first:FirstOperator",
    "count_new": "count_new:CountNewOperator",
    "retract": "retract:RetractOperator",
    "row_process": "row_process:RowProcessOperator",
    "row_co_process": "row_co_process:RowCoProcessOperator",
    "process": "process:ProcessOperator",
    "co_process": "co_process:CoProcessOperator",
    "stage": "stage:StageOperator",
    "async_map": "async_map:AsyncMapOperator",
    "sink": "sink:SinkOperator",
}
_SESSIONS = "session_aggregate:SessionAggregateOperator"


def build(spec: OperatorSpec) -> Operator:
    """A new operator of the spec's kind with its parameters, not opened yet. Raises ProtocolError when there is no such kind."""
    place = _CLASSES.get(spec.kind)
    if place is None:
        raise ProtocolError(f"operator {spec.uid!r}: there is no operator of kind {spec.kind!r}")
    if spec.kind == "window_aggregate" and isinstance(spec.params["window"], SessionWindow):
        place = _SESSIONS
    module, name = place.split(":")
    operator: Operator = getattr(import_module(f"flinkray.operators.{module}"), name)(**spec.params)
    return operator
