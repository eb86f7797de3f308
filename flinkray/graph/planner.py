"""From the logical plan to the job graph. What happens on the way:

uids are given (`planner_uids`), needed columns are found (`planner_columns`), nodes become physical operators with local stages
and shuffles (`planner_lowering`, `planner_keyed`), and operators that share a thread are chained (`planner_chaining`).
"""

from __future__ import annotations

from collections.abc import Sequence

from flinkray.errors import PlanError
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.logical import LogicalNode, SinkNode, reachable
from flinkray.graph.planner_chaining import chain
from flinkray.graph.planner_columns import needs
from flinkray.graph.planner_lowering import Lowering
from flinkray.graph.planner_uids import assign_uids, fingerprint, uid_warnings


def plan(sinks: Sequence[SinkNode], parallelism: int, max_parallelism: int) -> JobGraph:
    """One job for all sinks; what they share is read and computed once. Raises PlanError."""
    if not sinks:
        raise PlanError("nothing to run: no stream ends in a sink; add .sink_to(...) or .print(), or use .collect()")
    nodes = reachable(sinks)
    _check_parallelism(nodes, max_parallelism)
    uids = assign_uids(nodes)
    drafts = Lowering(nodes, uids, needs(nodes), parallelism).drafts.all
    vertices, edges = chain(drafts)
    states = {draft.uid: (draft.kind, draft.state) for draft in drafts if draft.state is not None}
    digests = {uid: fingerprint({uid: state}, max_parallelism)[:16] for uid, state in states.items()}
    return JobGraph(vertices, edges, max_parallelism, fingerprint(states, max_parallelism), uid_warnings(nodes), digests)


def _check_parallelism(nodes: Sequence[LogicalNode], max_parallelism: int) -> None:
    for node in nodes:
        if node.label.parallelism is not None and node.label.parallelism > max_parallelism:
            raise PlanError(f"{node.display_name}: parallelism {node.label.parallelism} is above max_parallelism {max_parallelism}")
