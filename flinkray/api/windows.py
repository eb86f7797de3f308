"""`fr.windows`: which windows a row belongs to, when they answer before their end (`Trigger`)."""

from __future__ import annotations

from typing import Literal, overload

from flinkray.config import Duration
from flinkray.errors import PlanError
from flinkray.graph import windows as aligned
from flinkray.graph.general_windows import (
    ByClock,
    CountWindow,
    CumulativeWindow,
    DynamicSessionWindow,
    GlobalWindow,
    Trigger,
    count,
    cumulative,
)
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow

Time = Literal["event", "processing"]
_Bounded = TumblingWindow | SlidingWindow | SessionWindow | CumulativeWindow

__all__ = ["Count", "Cumulative", "Global", "Session", "Sliding", "Trigger", "Tumbling"]


@overload
def Tumbling(size: Duration, offset: Duration = 0) -> TumblingWindow: ...
@overload
def Tumbling(size: Duration, offset: Duration = 0, *, time: Time) -> TumblingWindow | ByClock: ...
def Tumbling(size: Duration, offset: Duration = 0, *, time: Time = "event") -> TumblingWindow | ByClock:
    """One window after the other, aligned to the epoch plus `offset`."""
    return _timed(aligned.tumbling(size, offset), time)  # type: ignore[return-value]


@overload
def Sliding(size: Duration, slide: Duration, offset: Duration = 0) -> SlidingWindow: ...
@overload
def Sliding(size: Duration, slide: Duration, offset: Duration = 0, *, time: Time) -> SlidingWindow | ByClock: ...
def Sliding(size: Duration, slide: Duration, offset: Duration = 0, *, time: Time = "event") -> SlidingWindow | ByClock:
    """Windows of `size` that begin every `slide`, aligned to the epoch plus `offset`; the first begins before the first row."""
    return _timed(aligned.sliding(size, slide, offset), time)  # type: ignore[return-value]


def Session(
    gap: Duration | None = None, *, gap_column: str | None = None, time: Time = "event"
) -> SessionWindow | DynamicSessionWindow | ByClock:
    """A window ends when no row came for `gap`; or for as long as each row says in `gap_column` (integer microseconds, or a duration)."""
    if (gap is None) == (gap_column is None):
        raise PlanError("Session: give gap, or gap_column=, one of them")
    if gap_column is not None:
        if time != "event":
            raise PlanError("Session: gaps by a column are of event time")
        return DynamicSessionWindow(gap_column)
    assert gap is not None
    return _timed(aligned.session(gap), time)  # type: ignore[return-value]


def Cumulative(step: Duration, size: Duration, offset: Duration = 0, *, time: Time = "event") -> CumulativeWindow | ByClock:
    """Windows that begin together every `size`, and end one `step` after the other: the day so far, every hour."""
    return _timed(cumulative(step, size, offset), time)  # type: ignore[return-value]


def Global() -> GlobalWindow:
    """One window for all rows of a key. It answers by a `Trigger`, and at the end of the input."""
    return GlobalWindow()


def Count(size: int, slide: int | None = None) -> CountWindow:
    """Of each key every `size` rows; with `slide` the last `size` rows, every `slide` rows. What is incomplete at the end gives nothing."""
    return count(size, slide)


def _timed(window: _Bounded, time: str) -> _Bounded | ByClock:
    if time not in ("event", "processing"):
        raise PlanError(f"window: time={time!r}; 'event' or 'processing'")
    return ByClock(window) if time == "processing" else window


def __dir__() -> list[str]:
    return __all__
