"""Names of the hidden columns that travel with a batch, and helpers that tell them from the user's."""

from __future__ import annotations

import pyarrow as pa

EVENT_TIME = "_event_time"
"""int64, microseconds UTC, never null. Present in every batch downstream of a watermark."""

CHANGE = "_change"
"""int8: +1 upsert (the newest row of its key), -1 delete. Present where results are refined."""

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
