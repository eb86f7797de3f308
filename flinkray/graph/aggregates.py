"""Aggregate functions as frozen values: what they are called, what types they take and give, and what they keep.

An aggregate's accumulator is a fixed number of 64-bit words per key, named columns `_a<i>_<word>` wherever they are shipped or stored.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Aggregate:
    """`function` over `column` (None: count of rows), ordered or chosen by `by` (min_by, max_by), under the name `output`."""

    output: str
    function: str
    column: str | None = None
    by: str | None = None

    def describe(self) -> str:
        arguments = ", ".join(x for x in (self.column, self.by) if x is not None)
        return f"{self.output}={self.function}({arguments})"


PANE = "_pane"
"""int64 column of pre-aggregated rows: start of the pane (tumbling, sliding) or of the session, in microseconds."""

PANE_END = "_pane_end"
"""int64 column of pre-aggregated session rows: event time of the session's last row."""
