"""How keyed operators are laid out: computed arguments, a local stage before the shuffle, the shuffle, the operator itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from flinkray.expressions import Expression, col, lit
from flinkray.graph.aggregates import mergeable, partial_schema
from flinkray.graph.job_graph import Hash, Rebalance
from flinkray.graph.logical import ALL, AggregateNode, GeneralWindowNode, KeyedNode, RowType, TopNNode
from flinkray.graph.planner_columns import Need, kept
from flinkray.graph.planner_drafts import Draft, Link, Port
from flinkray.graph.windows import SessionWindow

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering


def lower_aggregate(lowering: Lowering, node: AggregateNode, port: Port | None = None) -> Port:
    """`port`: the rows to be aggregated, where they are not the node's input as it is."""
    port = with_arguments(lowering, node, lowering.port(node) if port is None else port)
    keys = node.keys or (ALL,)
    parallelism = lowering.parallelism(node) if node.keys else 1
    obstacle = _obstacle(node)
    pre_aggregated = obstacle is None
    if pre_aggregated:
        port = _pre_aggregate(lowering, node, port, keys)
    else:
        port = lowering.drafts.narrow(port, _arrives(lowering, node))
    params: dict[str, object] = {"keys": keys, "aggregates": node.aggregates, "pre_aggregated": pre_aggregated}
    if node.window is None:
        params |= {"emit": node.emit}
    else:
        params |= {"window": node.window, "lateness_us": node.lateness_us, "late_tag": node.late_tag}
    draft = _keyed_draft(lowering, node, "keyed_aggregate" if node.window is None else "window_aggregate", params, port, keys, parallelism)
    when = f"window {node.window.describe()}" if node.window is not None else f"emit={node.emit!r}"
    draft.notes.insert(0, f"{described_aggregates(node)}, {when}")
    if obstacle is not None:
        draft.notes.append(f"not aggregated before the shuffle: {obstacle}")
    return draft.output if node.keys else _without_all(lowering, node, draft)


def with_arguments(lowering: Lowering, node: AggregateNode | GeneralWindowNode, port: Port) -> Port:
    """Compute what aggregates were given as expressions (and the one key of an aggregate over everything)."""
    if not node.arguments and node.keys:
        return port
    assert port.rows.schema is not None
    computed: dict[str, Expression] = dict(node.arguments)
    if not node.keys:
        computed[ALL] = lit(0)
    plain = {name for a in node.aggregates for name in a.inputs()}.union(
        node.keys, node.others() if isinstance(node, GeneralWindowNode) else ()
    )
    everything = isinstance(node, GeneralWindowNode) and node.function is not None
    late = lowering.need(node, node.late_tag).columns if node.late_tag is not None else frozenset()
    through = [n for n in port.rows.schema.names if everything or n in plain or late is None or n in late]
    columns = (*((name, col(name)) for name in through), *computed.items())
    logical_schema = node.inputs[0].rows.schema
    assert logical_schema is not None
    fields = [(name, expression.result_type(logical_schema)) for name, expression in columns]
    return lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/arguments",
            name="arguments",
            kind="project",
            params={"columns": columns},
            parallelism=port.draft.parallelism,
            rows=RowType(pa.schema(fields), port.rows.event_time),
            links=(Link(port),),
        )
    ).output


def _obstacle(node: AggregateNode) -> str | None:
    """Why batches cannot be aggregated before the shuffle; None: they can."""
    if node.late_tag is not None:
        return "late rows are wanted one by one"
    if isinstance(node.window, SessionWindow):
        return "sessions are known only when all rows of a key are together"
    if node.emit == "row":
        return "every row gets an answer"
    alone = [a.describe() for a in node.aggregates if not mergeable(a)]
    return f"{', '.join(alone)} cannot be merged" if alone else None


def _pre_aggregate(lowering: Lowering, node: AggregateNode, port: Port, keys: tuple[str, ...]) -> Port:
    if port.rows.event_time and not lowering.asked(node).event_time:
        port = lowering.drafts.narrow(port, _arrives(lowering, node))
    draft = lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/local",
            name=f"{node.display_name} local",
            kind="pre_aggregate",
            params={"keys": keys, "aggregates": node.aggregates, "window": node.window},
            parallelism=port.draft.parallelism,
            rows=RowType(partial_schema(keys, node.aggregates, node.window, port.rows.physical())),
            links=(Link(port),),
            notes=["aggregates each batch before it is sent"],
        )
    )
    return draft.output


def _arrives(lowering: Lowering, node: KeyedNode) -> Need:
    """What must reach the operator itself, computed columns included."""
    need = lowering.asked(node)
    if isinstance(node, AggregateNode):
        used = {name for a in node.aggregates for name in a.inputs()}
        late = lowering.need(node, node.late_tag) if node.late_tag is not None else Need()
        need = Need(frozenset(used.union(node.keys or (ALL,))), need.event_time) | late
    return need


def lower_top_n(lowering: Lowering, node: TopNNode) -> Port:
    assert node.window is not None
    port = lowering.drafts.narrow(lowering.port(node), lowering.asked(node))
    params: dict[str, object] = {"keys": node.keys, "by": node.by, "n": node.n, "window": node.window}
    if node.late_tag is None:
        local = lowering.drafts.add(
            Draft(
                uid=f"{lowering.uids[node.serial]}/local",
                name=f"{node.display_name} local",
                kind="window_top_n",
                params={**params, "lateness_us": node.lateness_us, "late_tag": None, "final": False},
                parallelism=port.draft.parallelism,
                rows=port.rows,
                links=(Link(port),),
                notes=["sends only rows that can still be among the first"],
            )
        )
        port = local.output
    params |= {"lateness_us": node.lateness_us, "late_tag": node.late_tag, "final": True}
    draft = _keyed_draft(lowering, node, "window_top_n", params, port, node.keys, lowering.parallelism(node) if node.keys else 1)
    order = ", ".join(f"{name} {direction}" for name, direction in node.by)
    over = f"per {', '.join(node.keys)}" if node.keys else "over all rows"
    draft.notes.insert(0, f"first {node.n} by {order}, ties kept, {over}, window {node.window.describe()}")
    return draft.output


def _keyed_draft(
    lowering: Lowering,
    node: KeyedNode,
    kind: str,
    params: dict[str, object],
    port: Port,
    keys: tuple[str, ...],
    parallelism: int,
) -> Draft:
    """The operator behind its shuffle, with what a restore must fit."""
    rows = _output_rows(node, port)
    partitioning = Hash(keys) if keys else Rebalance()
    draft = lowering.drafts.add(
        Draft(
            uid=lowering.uids[node.serial],
            name=node.display_name,
            kind=kind,
            params=params,
            parallelism=parallelism,
            rows=rows,
            links=(Link(port, partitioning),),
        )
    )
    draft.state = _state(node, port, keys)
    if node.late_tag is not None:
        lowering.late[node.serial] = Port(draft, port.rows, node.late_tag)
        draft.notes.append(f"late rows go to {node.late_tag!r}")
    return draft


def _output_rows(node: KeyedNode, port: Port) -> RowType:
    assert node.rows.schema is not None
    if isinstance(node, AggregateNode):
        zero = [] if node.keys else [pa.field(ALL, pa.int64())]
        return RowType(pa.schema([*zero, *node.rows.schema]), node.rows.event_time, node.rows.change_key)
    arrived = set(port.rows.names())
    added = set(node.rows.names()) - set(node.inputs[0].rows.names())
    return RowType(pa.schema([f for f in node.rows.schema if f.name in arrived | added]), event_time=True)


def _without_all(lowering: Lowering, node: AggregateNode, draft: Draft) -> Port:
    names = kept(node.rows, lowering.need(node))
    return lowering.drafts.narrow(draft.output, Need(frozenset(names), event_time=True), node.rows)


def _state(node: KeyedNode, port: Port, keys: tuple[str, ...]) -> list[object]:
    """Types of keys and of what is kept per key, and the window: what another version of the program must agree with."""
    schema = node.inputs[0].rows.schema
    assert schema is not None
    window = "none" if node.window is None else node.window.describe()
    typed_keys = [f"{name} {schema.field(name).type}" for name in keys if name != ALL]
    if isinstance(node, AggregateNode):
        outputs = [f"{a.output} {a.function} {node.rows.schema.field(a.output).type}" for a in node.aggregates]  # type: ignore[union-attr]
        return [typed_keys, window, outputs]
    assert isinstance(node, TopNNode)
    assert port.rows.schema is not None
    return [typed_keys, window, [f"{f.name} {f.type}" for f in port.rows.schema], [list(by) for by in node.by], node.n]


def described_aggregates(node: AggregateNode | GeneralWindowNode) -> str:
    computed = {name: str(expression) for name, expression in node.arguments}
    parts = []
    for a in node.aggregates:
        arguments = ", ".join(computed.get(name, name) for name in a.inputs())
        parts.append(f"{a.output}={a.function}({arguments})")
    over = f"per {', '.join(node.keys)}" if node.keys else "over all rows"
    return f"{', '.join(parts)} {over}"
