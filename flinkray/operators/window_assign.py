"""To which windows rows belong, and which intervals of time are one session. Pure functions over arrays; times in microseconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError
from flinkray.graph.general_windows import CountWindow, CumulativeWindow, DynamicSessionWindow
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow
from flinkray.state.arrow_buffers import words_of

Int64Array = npt.NDArray[np.int64]
Aligned = TumblingWindow | SlidingWindow | CumulativeWindow | CountWindow


def window_ends(window: Aligned, moments: Int64Array) -> tuple[Int64Array, Int64Array]:
    """(row, end of a window that holds it), rows in order. Of a count window moments are numbers of rows, from 0."""
    size, step, offset = _shape(window)
    if isinstance(window, CumulativeWindow):
        first = (moments - offset) // step * step + step + offset
        times = (window_starts(window, first) + size - first) // step + 1
    elif isinstance(window, CountWindow):  # aligned by their ends
        first = moments // step * step + step
        times = (moments + size - first) // step + 1
    else:
        newest = (moments - offset) // step * step + offset
        times = (newest - moments + size - 1) // step + 1
        first = newest - (times - 1) * step + size
    row = np.repeat(np.arange(len(moments)), times)
    number = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
    return row, first[row] + number * step


def window_starts(window: Aligned, ends: Int64Array) -> Int64Array:
    """When windows begin that end then."""
    size, _, offset = _shape(window)
    if isinstance(window, CumulativeWindow):
        return (ends - 1 - offset) // size * size + offset
    return ends - size


def _shape(window: Aligned) -> tuple[int, int, int]:
    """(Size, how far apart windows are, offset)."""
    if isinstance(window, CountWindow):
        return window.size, window.slide, 0
    if isinstance(window, CumulativeWindow):
        return window.size_us, window.step_us, window.offset_us
    slide = window.slide_us if isinstance(window, SlidingWindow) else window.size_us
    return window.size_us, slide, window.offset_us


def session_gaps(window: object, rows: pa.RecordBatch, who: str) -> Int64Array | int:
    """How long after each row its session goes on. PlanError where a row says null, zero or less."""
    if isinstance(window, SessionWindow):
        return window.gap_us
    assert isinstance(window, DynamicSessionWindow)
    column = rows.column(window.gap_column)
    column = column.cast(pa.duration("us")) if pa.types.is_duration(column.type) else column.cast(pa.int64())
    gaps = words_of(pc.fill_null(column.cast(pa.int64()), 0))
    if np.any(gaps <= 0):
        raise PlanError(f"{who}: a session's gap in column {window.gap_column!r} is null, zero or less; give microseconds above zero")
    return gaps


def sessions(keys: npt.NDArray[np.integer], begin: Int64Array, end: Int64Array) -> Int64Array:
    """The number of the session of each interval: of one key those that touch are one. Numbers grow by key, then time."""
    if not len(keys):
        return np.empty(0, np.int64)
    order = np.lexsort((end, begin, keys))
    mine = keys[order]
    new_key = np.ones(len(order), np.bool_)
    new_key[1:] = mine[1:] != mine[:-1]
    ends, rank = np.unique(end[order], return_inverse=True)
    reach = np.maximum.accumulate((np.cumsum(new_key) - 1) * len(ends) + rank) % len(ends)  # the latest end so far, per key
    starts_one = new_key.copy()
    starts_one[1:] |= begin[order[1:]] > ends[reach[:-1]]
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(starts_one) - 1
    return number
