"""How windows of the general kind are laid out: computed arguments, a local stage before the shuffle where rows are not needed one by one,
the shuffle, the operator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from flinkray.graph.general_windows import CountWindow
from flinkray.graph.job_graph import Hash, Rebalance
from flinkray.graph.logical import ALL, GeneralWindowNode, RowType
from flinkray.graph.planner_columns import Need, kept
from flinkray.graph.planner_drafts import Draft, Link, Port
from flinkray.graph.planner_keyed import described_aggregates, with_arguments

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering


def lower_windows(lowering: Lowering, node: GeneralWindowNode) -> Port:
    port, keys = with_arguments(lowering, node, lowering.port(node)), node.keys or (ALL,)
    asked = lowering.asked(node)
    if asked.columns is not None:
        asked = asked.with_columns(frozenset(name for a in node.aggregates for name in a.inputs()).union(keys))
    port = lowering.drafts.narrow(port, asked)
    assert port.rows.schema is not None
    params = {
        "keys": keys,
        "windows": node.windows,
        "aggregates": node.aggregates,
        "function": node.function,
        "function_schema": node.rows.schema if node.function is not None else None,
        "lateness_us": node.lateness_us,
        "late_tag": node.late_tag,
    }
    schema, obstacle = port.rows.schema, _obstacle(node)
    if obstacle is None:
        params["parts_of"] = port.rows.physical()
        port = _parts(lowering, node, port, keys)
    rows = node.rows
    if node.function is None and not node.keys:
        assert rows.schema is not None
        rows = replace(rows, schema=pa.schema([pa.field(ALL, pa.int64()), *rows.schema]))
    partitioning = Hash(keys) if node.keys else Rebalance()
    draft = lowering.draft(node, "general_window", params, rows, [Link(port, partitioning)])
    draft.parallelism = draft.parallelism if node.keys else 1
    typed_keys = [f"{name} {schema.field(name).type}" for name in keys]
    columns = [f"{field.name} {field.type}" for field in schema]
    keeps_rows = node.function is not None or node.windows.evictor is not None
    kept_parts = ["rows"] if keeps_rows else [aggregate.describe() for aggregate in node.aggregates]
    draft.state = [typed_keys, node.windows.window.describe(), kept_parts, columns]  # triggers may change
    what = described_aggregates(node) if node.function is None else f"calls {getattr(node.function, '__qualname__', node.function)!s}"
    draft.notes.insert(0, f"{what}, window {node.windows.describe()}")
    if obstacle is not None:
        draft.notes.append(f"not aggregated before the shuffle: {obstacle}")
    if node.late_tag is not None:
        lowering.late[node.serial] = Port(draft, port.rows, node.late_tag)
        draft.notes.append(f"late rows go to {node.late_tag!r}")
    if node.keys or node.function is not None:
        return draft.output
    return lowering.drafts.narrow(draft.output, Need(frozenset(kept(node.rows, lowering.need(node))), event_time=True), node.rows)


def _obstacle(node: GeneralWindowNode) -> str | None:
    """Why batches cannot be aggregated before the shuffle; None: they can."""
    windows = node.windows
    if node.function is not None or windows.evictor is not None:
        return "rows are kept"
    if node.late_tag is not None:
        return "late rows are wanted one by one"
    if windows.by_clock:
        return "the time of a row is that at which it comes to its window"
    if isinstance(windows.assigner, CountWindow) or (windows.trigger is not None and windows.trigger.rows is not None):
        return "rows are counted one by one"
    if all(aggregate.function == "collect_list" for aggregate in node.aggregates):
        return "lists of rows are no fewer than the rows"
    return None


def _parts(lowering: Lowering, node: GeneralWindowNode, port: Port, keys: tuple[str, ...]) -> Port:
    return lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/local",
            name=f"{node.display_name} local",
            kind="window_parts",
            params={"keys": keys, "windows": node.windows, "aggregates": node.aggregates},
            parallelism=port.draft.parallelism,
            rows=RowType(None),
            links=(Link(port),),
            notes=["aggregates each batch before it is sent"],
        )
    ).output
