"""flinkray's own expression tree: exact, typed at plan time, evaluated on Arrow. Types by name live here as well."""

from __future__ import annotations

from flinkray.expressions import arithmetic, comparison, conditional, numeric, strings, structs, times
from flinkray.expressions.binding import Counters
from flinkray.expressions.conditional import When, when
from flinkray.expressions.times import to_datetime
from flinkray.expressions.tree import Expression, as_expression, coalesce, col, lit
from flinkray.expressions.types import engine_type, parse_type, schema_from, type_name

_BINDERS = (arithmetic, comparison, conditional, numeric, strings, structs, times)  # importing them registers what they bind

__all__ = [
    "Counters",
    "Expression",
    "When",
    "as_expression",
    "coalesce",
    "col",
    "engine_type",
    "lit",
    "parse_type",
    "schema_from",
    "to_datetime",
    "type_name",
    "when",
]
