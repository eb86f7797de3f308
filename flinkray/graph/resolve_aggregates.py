"""Makes the logical nodes of running aggregates over changelogs, and of those that count distinct values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from flinkray.config import Duration
from flinkray.errors import PlanError
from flinkray.graph.aggregates import check, result_type
from flinkray.graph.logical import Emit, LogicalNode, RowType
from flinkray.graph.logical_aggregates import ChangelogAggregateNode, DistinctAggregateNode
from flinkray.graph.resolve_keyed import AggregateCall, check_emit, check_outputs, named_aggregates, require_schema

SUBTRACTABLE = ("count", "sum", "mean")
"""Aggregates from which a row can be taken back without knowing the others."""


def changelog_aggregates(
    stream: LogicalNode, keys: tuple[str, ...], calls: Mapping[str, AggregateCall], emit: str | Duration
) -> ChangelogAggregateNode:
    """Counts, sums and means of the rows that are there now."""
    for output, call in calls.items():
        if isinstance(call, AggregateCall) and call.function not in SUBTRACTABLE:
            raise PlanError(
                f"aggregate: {output}={call.function}(...) over {stream.display_name!r}, whose rows may be taken back: what it would be without "
                f"them is not known. There are {', '.join(SUBTRACTABLE)}; or aggregate before with emit='final'"
            )
    when = check_emit(emit)
    if when == "row":
        raise PlanError("aggregate: emit='row' answers each row, but rows of a changelog replace each other; use emit='batch'")
    return ChangelogAggregateNode(**_checked(stream, keys, calls, when))


def distinct_aggregates(
    stream: LogicalNode, keys: tuple[str, ...], calls: Mapping[str, AggregateCall], emit: Emit
) -> DistinctAggregateNode:
    """Aggregates that are numbers, and counts of distinct values."""
    return DistinctAggregateNode(**_checked(stream, keys, calls, emit))


def _checked(stream: LogicalNode, keys: tuple[str, ...], calls: Mapping[str, AggregateCall], emit: Emit) -> dict[str, Any]:
    """The node's fields."""
    schema = require_schema(stream, "aggregate")
    aggregates, arguments = named_aggregates(schema, calls)
    check_outputs(calls, keys, [])
    typed = pa.schema([*schema, *(pa.field(name, expression.result_type(schema)) for name, expression in arguments)])
    check(keys, aggregates, None, typed)
    fields = [schema.field(key) for key in keys]
    fields = [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in fields]
    results = [pa.field(aggregate.output, result_type(aggregate, typed)) for aggregate in aggregates]
    rows = RowType(pa.schema([*fields, *results]), change_key=keys if emit != "final" else None)
    return {"inputs": (stream,), "rows": rows, "keys": keys, "aggregates": aggregates, "arguments": arguments, "emit": emit}
