"""From logical nodes to physical operators: pushdown, local pre-aggregation and the shuffles are decided here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from flinkray.expressions import Expression
from flinkray.graph import logical
from flinkray.graph.job_graph import Forward, Rebalance
from flinkray.graph.logical import LogicalNode, RowType
from flinkray.graph.logical_aggregates import ChangelogAggregateNode, DistinctAggregateNode
from flinkray.graph.logical_calls import CallNode
from flinkray.graph.logical_co_process import CoProcessNode, RowCoProcessNode
from flinkray.graph.planner_aggregates import lower_changelog, lower_distinct
from flinkray.graph.planner_calls import lower_call
from flinkray.graph.planner_co_process import lower_co_process, lower_row_co_process
from flinkray.graph.planner_columns import Need, OutputKey, all_columns, input_need, kept
from flinkray.graph.planner_drafts import Draft, Drafts, Link, Port
from flinkray.graph.planner_joins import lower_join
from flinkray.graph.planner_keyed import lower_aggregate, lower_top_n
from flinkray.graph.planner_process import lower_process, lower_row_process
from flinkray.graph.planner_rows import lower_changes, lower_first, lower_lookup, lower_rank
from flinkray.graph.planner_windows import lower_windows
from flinkray.graph.resolve import written_schema
from flinkray.graph.row_process import RowProcessNode

SPLITS = pa.schema([("split", pa.string()), ("size", pa.int64())])
"""What an enumerator sends to its readers."""


class Lowering:
    """One pass over the nodes, inputs first. `ports` says where each node's rows can be had."""

    def __init__(self, nodes: Sequence[LogicalNode], uids: Mapping[int, str], needs: Mapping[OutputKey, Need], parallelism: int) -> None:
        self.drafts = Drafts()
        self.uids = uids
        self.default_parallelism = parallelism
        self._needs = needs
        self._consumers = Counter(stream.serial for node in nodes for stream in node.inputs)
        self._ports: dict[int, Port] = {}
        self.late: dict[int, Port] = {}
        """Where the late rows of a windowed node leave."""
        self._sole: set[int] = set()
        """Projections that the user did not name and that have one consumer: it may be merged into them."""
        for node in nodes:
            self._ports[node.serial] = self._lower(node)

    # -- what every kind of node asks -----------------------------------------------------------------------------

    def need(self, node: LogicalNode, tag: str | None = None) -> Need:
        """What is needed of a node's output."""
        return self._needs.get((node.serial, tag), Need())

    def asked(self, node: LogicalNode) -> Need:
        """What the node needs of its input."""
        return input_need(node, self.need(node), self._needs)

    def port(self, node: LogicalNode) -> Port:
        """Where the node's first input is to be had."""
        return self._ports[node.inputs[0].serial]

    def parallelism(self, node: LogicalNode) -> int:
        return node.label.parallelism or self.default_parallelism

    def draft(self, node: LogicalNode, kind: str, params: Mapping[str, object], rows: RowType, links: Sequence[Link]) -> Draft:
        return self.drafts.add(
            Draft(
                uid=self.uids[node.serial],
                name=node.display_name,
                kind=kind,
                params=params,
                parallelism=self.parallelism(node),
                rows=rows,
                links=tuple(links),
            )
        )

    # -- kind by kind ---------------------------------------------------------------------------------------------

    def _lower(self, node: LogicalNode) -> Port:
        match node:
            case logical.SourceNode():
                return self._source(node)
            case logical.ProjectNode():
                return self._project(node)
            case logical.UnionNode():
                return self._union(node)
            case logical.RebalanceNode():
                return replace(self.port(node), rebalanced=True)
            case logical.SideOutputNode():
                return self._side_output(node)
            case DistinctAggregateNode():
                return lower_distinct(self, node)
            case ChangelogAggregateNode():
                return lower_changelog(self, node)
            case logical.AggregateNode():
                return lower_aggregate(self, node)
            case logical.GeneralWindowNode():
                return lower_windows(self, node)
            case logical.TopNNode():
                return lower_top_n(self, node)
            case logical.JoinNode():
                left, right = (self._ports[stream.serial] for stream in node.inputs)
                return lower_join(self, node, (left, right))
            case logical.RankNode():
                return lower_rank(self, node)
            case logical.FirstNode():
                return lower_first(self, node)
            case logical.LookupJoinNode():
                return lower_lookup(self, node)
            case logical.ChangesNode():
                return lower_changes(self, node)
            case CoProcessNode():
                first, second = (self._ports[stream.serial] for stream in node.inputs)
                return lower_co_process(self, node, (first, second))
            case logical.ProcessNode():
                return lower_process(self, node)
            case RowCoProcessNode():
                first, second = (self._ports[stream.serial] for stream in node.inputs)
                return lower_row_co_process(self, node, (first, second))
            case RowProcessNode():
                return lower_row_process(self, node)
            case CallNode():
                return lower_call(self, node)
            case logical.SinkNode():
                return self._sink(node)
            case _:
                return self._row_wise(node)

    def _source(self, node: logical.SourceNode) -> Port:
        need, uid, parallelism = self.need(node), self.uids[node.serial], self.parallelism(node)
        watermark = node.watermark
        if watermark is not None and not need.event_time and watermark.on_null == "error":
            watermark = None
        if watermark is not None:
            need = need.with_columns(frozenset({watermark.column}))
        names = kept(node.rows, need)
        everything = node.rows.names()
        source = node.source if names == everything else node.source.with_columns(names)
        time_column = watermark.column if watermark is not None else None
        splits = self.drafts.add(
            Draft(
                uid=f"{uid}/splits",
                name=f"{node.display_name} splits",
                kind="enumerate",
                params={"source": source, "event_time_column": time_column, "readers": parallelism},
                parallelism=1,
                rows=RowType(SPLITS),
                state="splits",
            )
        )
        assert node.rows.schema is not None
        schema = pa.schema([node.rows.schema.field(name) for name in names])
        reader = self.draft(
            node,
            "source",
            {"source": source, "watermark": watermark},
            RowType(schema, event_time=watermark is not None),
            [Link(splits.output, Rebalance())],
        )
        reader.state = "offsets"
        share = f"{len(names)} of {len(everything)}" if len(names) < len(everything) else f"all {len(names)}"
        reader.notes.append(f"{share} columns: {', '.join(names)}")
        if watermark is not None:
            reader.notes.append(f"event time {watermark.describe()}")
        elif node.watermark is not None:
            reader.notes.append(f"event time of {node.watermark.column} is not tracked: nothing after it needs it")
        return reader.output

    def _row_wise(self, node: LogicalNode) -> Port:
        port = self.port(node)
        link = self.drafts.feed(port, self.parallelism(node), self.asked(node))
        fed = link.port.rows
        match node:
            case logical.FilterNode():
                return self.draft(node, "filter", {"predicate": node.predicate}, fed, [link]).output
            case logical.WatermarkNode():
                rows = replace(fed, event_time=True)
                draft = self.draft(node, "assign_watermarks", {"watermark": node.watermark}, rows, [link])
                draft.state = "watermark"
                return draft.output
            case logical.FunctionNode(function_kind="filter_fn"):
                return self.draft(node, "filter_fn", {"function": node.function, **node.parameters}, fed, [link]).output
            case logical.FunctionNode():
                params = {"function": node.function, **node.parameters, "output_schema": node.rows.schema}
                rows = RowType(node.rows.schema, event_time=fed.event_time)
                return self.draft(node, node.kind, params, rows, [link]).output
        raise AssertionError(f"no operator for {node.kind}")

    def _project(self, node: logical.ProjectNode) -> Port:
        port, need = self.port(node), self.need(node)
        wanted = set(kept(node.rows, need)) if node.rows.schema is not None else {name for name, _ in node.columns}
        columns = tuple((name, expression) for name, expression in node.columns if name in wanted)
        schema = None
        if node.rows.schema is not None:
            schema = pa.schema([node.rows.schema.field(name) for name, _ in columns])
        rows = RowType(schema, port.rows.event_time, node.rows.change_key, node.rows.retracts)
        unnamed = node.label.uid is None and node.label.name is None
        same_thread = not port.rebalanced and port.draft.parallelism == self.parallelism(node)
        renames = {name: expression.plain_column for name, expression in columns}
        sole = unnamed and self._consumers[node.serial] == 1
        if unnamed and same_thread and None not in renames.values():
            merge = node.inputs[0].serial in self._sole
            self._sole.update({node.serial} if sole and merge else ())
            if rows == port.rows and all(name == old for name, old in renames.items()):
                return port
            if merge:
                return self._absorb(port, columns, rows)
        self._sole.update({node.serial} if sole else ())
        link = self.drafts.feed(port, self.parallelism(node), self.asked(node))
        rows = replace(rows, event_time=link.port.rows.event_time)
        return self.draft(node, "project", {"columns": columns}, rows, [link]).output

    @staticmethod
    def _absorb(port: Port, columns: Sequence[tuple[str, Expression]], rows: RowType) -> Port:
        """Pick, order and rename in the projection before, instead of in one more."""
        before = dict(port.draft.params["columns"])
        renamed = tuple((name, before[expression.plain_column]) for name, expression in columns)
        port.draft.params = {"columns": renamed}
        port.draft.rows = rows
        return port.draft.output

    def _union(self, node: logical.UnionNode) -> Port:
        need, parallelism = self.need(node), self.parallelism(node)
        links = []
        for stream in node.inputs:
            port = self._ports[stream.serial]
            narrow = self.drafts.narrow(port, need, node.rows)
            spread = port.rebalanced or port.draft.parallelism != parallelism
            links.append(Link(narrow, Rebalance() if spread else Forward()))
        return self.draft(node, "passthrough", {}, links[0].port.rows, links).output

    def _side_output(self, node: logical.SideOutputNode) -> Port:
        port = self.port(node)
        if isinstance(node.inputs[0], logical.SourceNode | logical.ProcessNode | RowProcessNode | logical.FunctionNode):
            return Port(port.draft, node.rows, node.tag)
        # Late rows are as they came to the operator: maybe with computed arguments that the user does not know of.
        return self.drafts.narrow(self.late[node.inputs[0].serial], self.need(node), node.rows)

    def _sink(self, node: logical.SinkNode) -> Port:
        port = self.port(node)
        link = self.drafts.feed(port, self.parallelism(node), all_columns(port.rows))
        draft = self.draft(node, "sink", {"sink": node.sink}, replace(link.port.rows, event_time=False), [link])
        if draft.rows.schema is not None:
            draft.schema_override = written_schema(draft.rows)
        draft.state = "transactions" if node.sink.transactional else None
        return draft.output
