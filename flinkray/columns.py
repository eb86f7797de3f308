"""Names of the hidden columns that travel with a batch, and helpers that tell them from the user's."""

from __future__ import annotations

import pyarrow as pa

EVENT_TIME = "_event_time"
"""int64, microseconds UTC, never null. Present in every batch downstream of a watermark."""

CHANGE = "_change"
"""int8, a change kind; above zero the row is there now, below it is not any more. Present where results are refined."""

INSERT, DELETE, UPDATE_AFTER, UPDATE_BEFORE = 1, -1, 2, -2
"""Change kinds: +I, -D, +U and -U. An upsert stream has +I, +U and -D, each for the row of its key; a retract stream takes rows back as a
whole, by -D or -U of all their columns."""

CHANGE_NAMES = {INSERT: "+I", DELETE: "-D", UPDATE_AFTER: "+U", UPDATE_BEFORE: "-U"}

HIDDEN = frozenset({EVENT_TIME, CHANGE})

TIMESTAMP = pa.timestamp("us", tz="UTC")
"""The one timestamp type inside the engine."""

MIN_WATERMARK = -(2**63)
"""Before any watermark."""

MAX_WATERMARK = 2**63 - 1
"""After the last row: everything fires."""


def visible(schema: pa.Schema) -> pa.Schema:
    """The schema without hidden columns: what the user sees."""
    return pa.schema([field for field in schema if field.name not in HIDDEN])
