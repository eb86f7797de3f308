"""How operators that keep rows by key are laid out: a shuffle by the key, with the columns that somebody needs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from flinkray.columns import EVENT_TIME
from flinkray.connectors.base import LookupTable
from flinkray.graph.job_graph import Hash
from flinkray.graph.logical import ChangesNode, FirstNode, LookupJoinNode, RankNode
from flinkray.graph.planner_columns import kept
from flinkray.graph.planner_drafts import Link, Port

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering


def lower_rank(lowering: Lowering, node: RankNode) -> Port:
    params = {
        "keys": node.keys,
        "by": node.by,
        "n": node.n,
        "ties": node.ties,
        "newest": node.newest,
        "upsert": not node.rows.retracts and node.rank is None,
        "rank": node.rank,
        "ttl_us": node.ttl_us,
    }
    order = ", ".join(f"{'event time' if name == EVENT_TIME else name} {direction}" for name, direction in node.by)
    ties = ", ties kept" if node.ties else ""
    return _keeping(lowering, node, params, f"first {node.n} by {order}{ties}, per {', '.join(node.keys)}")


def lower_first(lowering: Lowering, node: FirstNode) -> Port:
    params = {"keys": node.keys, "by_time": node.by_time, "ttl_us": node.ttl_us}
    return _keeping(lowering, node, params, f"first {'by event time' if node.by_time else 'to come'} per {', '.join(node.keys)}")


def _keeping(lowering: Lowering, node: RankNode | FirstNode, params: dict[str, object], note: str) -> Port:
    port = lowering.drafts.narrow(lowering.port(node), lowering.asked(node))
    assert port.rows.schema is not None
    schema = port.rows.schema
    if isinstance(node, RankNode) and node.rank is not None:
        schema = schema.append(pa.field(node.rank, pa.int64()))
    rows = replace(node.rows, schema=schema)
    draft = lowering.draft(node, node.kind, params, rows, [Link(port, Hash(node.keys))])
    draft.state = [list(node.keys), [f"{field.name} {field.type}" for field in port.rows.schema], note]
    draft.notes.insert(0, note if node.ttl_us is None else f"{note}, forgotten after {node.ttl_us} us")
    return draft.output


def lower_lookup(lowering: Lowering, node: LookupJoinNode) -> Port:
    """In the thread of what comes before: the table is in every subtask. Only columns that somebody needs are read of it."""
    link = lowering.drafts.feed(lowering.port(node), lowering.parallelism(node), lowering.asked(node))
    names = set(kept(node.rows, lowering.need(node)))
    columns = tuple(column for column in node.columns if column.name in names)
    wanted = {*node.table_keys, *(column.right for column in columns if column.right is not None)}
    read = tuple(name for name in node.table.schema().names if name in wanted)
    params = {
        "table": node.table.with_columns(read),
        "keys": node.keys,
        "table_keys": node.table_keys,
        "how": node.how,
        "columns": columns,
        "cache_us": node.cache_us,
    }
    assert node.rows.schema is not None
    schema = pa.schema([field for field in node.rows.schema if field.name in names])
    asked = isinstance(node.table, LookupTable)
    draft = lowering.draft(
        node,
        "asked_lookup_join" if asked else "lookup_join",
        params,
        replace(node.rows, schema=schema, event_time=link.port.rows.event_time),
        [link],
    )
    pairs = [mine if mine == its else f"{mine} = {its}" for mine, its in zip(node.keys, node.table_keys, strict=True)]
    if asked:
        how_read = "asked once a batch" + ("" if node.cache_us is None else f", answers remembered for {node.cache_us} us")
    else:
        how_read = "read whole into every subtask" + ("" if node.cache_us is None else f", read again after {node.cache_us} us")
    draft.notes.append(f"{node.how} join on {', '.join(pairs)} with {node.table.describe()}, {how_read}")
    return draft.output


def lower_changes(lowering: Lowering, node: ChangesNode) -> Port:
    """The change kind's name becomes a column."""
    port = lowering.port(node)
    link = lowering.drafts.feed(port, lowering.parallelism(node), lowering.asked(node))
    schema = link.port.rows.schema
    assert schema is not None
    rows = replace(node.rows, schema=schema.append(pa.field(node.column, pa.string(), False)), event_time=link.port.rows.event_time)
    return lowering.draft(node, "changes", {"column": node.column}, rows, [link]).output
