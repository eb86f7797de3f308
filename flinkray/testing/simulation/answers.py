"""What a run's committed rows must be: those of the run without failures, or what the caller's judge says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pyarrow as pa

from flinkray.testing.simulation.output import Output, Rows

Judge = Callable[[Mapping[str, pa.Table]], str]
"""Gets what was committed, by the sink's uid; returns what is wrong with it, or nothing."""


def what_is_wrong(output: Output, expected: Rows | None, judge: Judge | None) -> str:
    """Empty when nothing is, or when it is not known yet what is right."""
    if judge is not None:
        return judge(output.tables())
    rows = output.rows()
    if expected is None or rows == expected:
        return ""
    got = Counter((uid, row) for uid, some in rows.items() for row in some)
    due = Counter((uid, row) for uid, some in expected.items() for row in some)
    lost, more = due - got, got - due
    return f"{lost.total()} rows are lost ({_first(lost)}), {more.total()} are too many ({_first(more)})"


def _first(rows: Counter[tuple[str, str]]) -> str:
    return next((f"{uid}: {row}" for uid, row in sorted(rows)), "none")
