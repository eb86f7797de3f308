"""How running aggregates of several operators are laid out.

Over a changelog: rows that replace others are told apart from those (`retract`), each row becomes numbers with its sign, and the sums of
these give counts, sums and means. With distinct counts: each column that is counted goes a way of its own, by the hash of key and value,
to an operator that knows which values it has seen; what is new there is summed up beside the other aggregates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from flinkray.columns import CHANGE
from flinkray.expressions import Expression, col, lit, when
from flinkray.graph.aggregates import Aggregate, partial_schema, result_type
from flinkray.graph.job_graph import Forward, Hash, Rebalance
from flinkray.graph.logical import AggregateNode, RowType
from flinkray.graph.logical_aggregates import ChangelogAggregateNode, DistinctAggregateNode
from flinkray.graph.planner_columns import Need
from flinkray.graph.planner_drafts import Draft, Link, Port
from flinkray.graph.planner_keyed import lower_aggregate, with_arguments

if TYPE_CHECKING:
    from flinkray.graph.planner_lowering import Lowering

ROWS, SIGN, VALUE, ROW = "_rows", "_sign", "_value", "_row"

Columns = Mapping[str, Expression]


# --- changelogs


def lower_changelog(lowering: Lowering, node: ChangelogAggregateNode) -> Port:
    port = lowering.drafts.narrow(lowering.port(node), Need(node.columns_used()))
    if port.rows.change_key is not None:
        port = _retracted(lowering, node, port)
    signed, aggregates, results = _signed(node, port)
    port = _project(lowering, node, port, "arguments", signed)
    port = _summed(lowering, node, port, aggregates)
    if node.emit == "final":
        port = _filtered(lowering, node, port, col(ROWS) > 0)
    else:
        results[CHANGE] = when(col(ROWS) > 0).then(1).otherwise(-1).cast("int8")
    return _results(lowering, node, port, results)


def _retracted(lowering: Lowering, node: ChangelogAggregateNode, port: Port) -> Port:
    """Behind the operator that has the rows by key already there is no shuffle."""
    key, parallelism = port.rows.change_key, lowering.parallelism(node)
    assert key is not None
    assert port.rows.schema is not None
    together = port.draft.kind == "keyed_aggregate" and port.draft.params["keys"] == key and port.draft.parallelism == parallelism
    return lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/retract",
            name=f"{node.display_name} retract",
            kind="retract",
            params={"keys": key},
            parallelism=parallelism,
            rows=RowType(port.rows.schema, retracts=True),
            links=(Link(port) if together and not port.rebalanced else Link(port, Hash(key)),),
            notes=[f"takes back what a row replaces, per {', '.join(key)}"],
            state=[list(key), [f"{field.name} {field.type}" for field in port.rows.schema]],
        )
    ).output


def _signed(node: ChangelogAggregateNode, port: Port) -> tuple[Columns, list[Aggregate], dict[str, Expression]]:
    """(Columns to be summed, their sums, the answers made of these)."""
    computed, physical = dict(node.arguments), port.rows.physical()
    assert physical is not None
    sign = when(col(CHANGE) > 0).then(1).otherwise(-1)
    columns: dict[str, Expression] = {**{key: col(key) for key in node.keys}, SIGN: sign}
    sums = {ROWS: Aggregate(ROWS, "sum", SIGN)}
    results: dict[str, Expression] = {}
    for aggregate in node.aggregates:
        if aggregate.column is None:
            results[aggregate.output] = col(ROWS)
            continue
        value = computed.get(aggregate.column, col(aggregate.column))
        count, total = f"_count_{aggregate.column}", f"_sum_{aggregate.column}"
        columns[count] = when(value.is_not_null()).then(sign)
        sums[count] = Aggregate(count, "sum", count)
        if aggregate.function == "count":
            results[aggregate.output] = col(count).fill_null(0)
            continue
        number = _number(value, physical)
        columns[total] = when(col(CHANGE) > 0).then(number).otherwise(-number)
        sums[total] = Aggregate(total, "sum", total)
        answer = col(total) if aggregate.function == "sum" else col(total).cast("float64") / col(count)
        results[aggregate.output] = when(col(count) > 0).then(answer)
    return columns, list(sums.values()), results


def _number(value: Expression, schema: pa.Schema) -> Expression:
    """The value as it is summed: with a sign, and wide."""
    kind = value.result_type(schema)
    if pa.types.is_decimal(kind):
        return value
    return value.cast("float64" if pa.types.is_floating(kind) else "int64")


def _filtered(lowering: Lowering, node: AggregateNode, port: Port, predicate: Expression) -> Port:
    return lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/there",
            name="there",
            kind="filter",
            params={"predicate": predicate},
            parallelism=port.draft.parallelism,
            rows=port.rows,
            links=(Link(port),),
        )
    ).output


# --- distinct counts


def lower_distinct(lowering: Lowering, node: DistinctAggregateNode) -> Port:
    port = with_arguments(lowering, node, lowering.drafts.narrow(lowering.port(node), lowering.asked(node)))
    assert port.rows.schema is not None
    counted: dict[str, list[str | None]] = {}  # by column: the conditions under which its values count
    sums: dict[str, Aggregate] = {}
    for aggregate in node.aggregates:
        if aggregate.function == "count_distinct":
            assert aggregate.column is not None
            conditions = counted.setdefault(aggregate.column, [])
            if aggregate.by not in conditions:
                conditions.append(aggregate.by)
            name = f"_new_{list(counted).index(aggregate.column)}_{conditions.index(aggregate.by)}"
            sums[aggregate.output] = Aggregate(aggregate.output, "sum", name)
        elif aggregate.column is None:
            sums[aggregate.output] = replace(aggregate, column=ROW)
        else:
            sums[aggregate.output] = aggregate
    keys: dict[str, Expression] = {key: col(key) for key in node.keys}
    plain: dict[str, Expression] = {name: col(name) for a in node.aggregates if a.function != "count_distinct" for name in a.inputs()}
    if any(aggregate.column == ROW for aggregate in sums.values()):
        plain[ROW] = lit(True)
    kinds = {name: expression.result_type(port.rows.schema) for name, expression in (keys | plain).items()}
    ways = [_new_values(lowering, node, port, number, column, counted[column]) for number, column in enumerate(counted)]
    for way in ways:
        assert way.rows.schema is not None
        kinds |= {field.name: field.type for field in way.rows.schema if field.name not in kinds}
    ways = [_widened(lowering, node, way, f"new{number}", kinds) for number, way in enumerate(ways)]
    if plain:
        ways.append(_widened(lowering, node, port, "rows", kinds, plain))
    port = _summed(lowering, node, _together(lowering, node, ways), list(sums.values()))
    distinct = {a.output for a in node.aggregates if a.function == "count_distinct"}
    return _results(lowering, node, port, {name: col(name).fill_null(0) if name in distinct else col(name) for name in sums})


def _new_values(
    lowering: Lowering, node: DistinctAggregateNode, port: Port, number: int, column: str, conditions: Sequence[str | None]
) -> Port:
    """Rows of the keys and `_new_<number>_<condition>`: 1 where a value was seen for the first time under that condition."""
    tests = {f"_if{place}": when(col(name)).then(True) for place, name in enumerate(conditions) if name is not None}
    uid, by = f"{lowering.uids[node.serial]}/distinct{number}", (*node.keys, VALUE)
    values = {**{key: col(key) for key in node.keys}, VALUE: col(column), **tests}
    port = _project(lowering, node, port, f"distinct{number}/values", values)
    counts = tuple(Aggregate(f"_n{place}", "count", None if name is None else f"_if{place}") for place, name in enumerate(conditions))
    local = lowering.drafts.add(
        Draft(
            uid=f"{uid}/local",
            name=f"{node.display_name} local",
            kind="pre_aggregate",
            params={"keys": by, "aggregates": counts, "window": None},
            parallelism=port.draft.parallelism,
            rows=RowType(partial_schema(by, counts, None, port.rows.physical())),
            links=(Link(port),),
            notes=["the distinct values of each batch"],
        )
    )
    assert port.rows.schema is not None
    names = tuple(f"_new_{number}_{place}" for place in range(len(conditions)))
    keys = [port.rows.schema.field(key) for key in node.keys]
    words = tuple(f"_a{place}_0" for place in range(len(conditions)))
    return lowering.drafts.add(
        Draft(
            uid=uid,
            name=f"{node.display_name} {column}",
            kind="count_new",
            params={"keys": node.keys, "value": VALUE, "counts": words, "outputs": names},
            parallelism=lowering.parallelism(node),
            rows=RowType(pa.schema([*keys, *(pa.field(name, pa.int64()) for name in names)]), port.rows.event_time),
            links=(Link(local.output, Hash(by)),),
            notes=[f"keeps the distinct values of {column}, per {', '.join(node.keys)}"],
            state=[[f"{name} {port.rows.schema.field(name).type}" for name in by], [name or "" for name in conditions]],
        )
    ).output


def _widened(
    lowering: Lowering, node: DistinctAggregateNode, port: Port, name: str, kinds: Mapping[str, pa.DataType], more: Columns | None = None
) -> Port:
    """All columns of `kinds`: null where this way has none."""
    assert port.rows.schema is not None
    there = more if more is not None else {column: col(column) for column in port.rows.schema.names}
    keys = {key: col(key) for key in node.keys}
    columns = {column: (keys | dict(there)).get(column, lit(None).cast(kind)) for column, kind in kinds.items()}
    return _project(lowering, node, port, name, columns)


def _together(lowering: Lowering, node: AggregateNode, ways: Sequence[Port]) -> Port:
    if len(ways) == 1:
        return ways[0]
    parallelism = lowering.parallelism(node)
    links = [Link(way, Forward() if way.draft.parallelism == parallelism and not way.rebalanced else Rebalance()) for way in ways]
    return lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/together",
            name="together",
            kind="passthrough",
            params={},
            parallelism=parallelism,
            rows=ways[0].rows,
            links=tuple(links),
        )
    ).output


# --- both


def _summed(lowering: Lowering, node: AggregateNode, port: Port, aggregates: Sequence[Aggregate]) -> Port:
    """The aggregating operator itself, under the node's uid."""
    schema = port.rows.schema
    assert schema is not None
    assert node.rows.schema is not None
    fields = [node.rows.schema.field(key) for key in node.keys]
    fields += [pa.field(aggregate.output, result_type(aggregate, schema)) for aggregate in aggregates]
    rows = RowType(pa.schema(fields), change_key=node.rows.change_key)
    inner = AggregateNode(
        inputs=node.inputs,
        rows=rows,
        label=node.label,
        serial=node.serial,
        keys=node.keys,
        aggregates=tuple(aggregates),
        emit=node.emit,
    )
    return lower_aggregate(lowering, inner, port)


def _results(lowering: Lowering, node: AggregateNode, port: Port, results: Columns) -> Port:
    columns = {**{key: col(key) for key in node.keys}, **results}
    return lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/results",
            name="results",
            kind="project",
            params={"columns": tuple(columns.items())},
            parallelism=port.draft.parallelism,
            rows=node.rows,
            links=(Link(port),),
        )
    ).output


def _project(lowering: Lowering, node: AggregateNode, port: Port, name: str, columns: Columns) -> Port:
    physical = port.rows.physical()
    assert physical is not None
    schema = pa.schema([pa.field(column, expression.result_type(physical)) for column, expression in columns.items()])
    return lowering.drafts.add(
        Draft(
            uid=f"{lowering.uids[node.serial]}/{name}",
            name=name,
            kind="project",
            params={"columns": tuple(columns.items())},
            parallelism=port.draft.parallelism,
            rows=RowType(schema, port.rows.event_time),
            links=(Link(replace(port, rebalanced=False)),),
        )
    ).output
