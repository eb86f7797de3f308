"""Windows beyond the tumbling, sliding and session windows of event time, and when they answer: frozen values for the general window
operator."""

from __future__ import annotations

from dataclasses import dataclass

from flinkray.config import Duration, duration_us
from flinkray.errors import ConfigError, PlanError
from flinkray.graph.windows import SessionWindow, SlidingWindow, TumblingWindow


@dataclass(frozen=True)
class CumulativeWindow:
    """Windows that begin together every `size_us`, and end one `step_us` after the other."""

    step_us: int
    size_us: int
    offset_us: int = 0

    def describe(self) -> str:
        return f"cumulative by {self.step_us} us up to {self.size_us} us"


@dataclass(frozen=True)
class GlobalWindow:
    """One window for all rows of a key; it ends with the input."""

    def describe(self) -> str:
        return "global"


@dataclass(frozen=True)
class CountWindow:
    """Of each key the last `size` rows, every `slide` rows; with equal numbers no row is in two windows."""

    size: int
    slide: int

    def describe(self) -> str:
        return f"count {self.size}" if self.size == self.slide else f"count {self.size} every {self.slide}"


@dataclass(frozen=True)
class DynamicSessionWindow:
    """Sessions where each row says in a column (integer microseconds, or a duration) how long after it the session goes on."""

    gap_column: str

    def describe(self) -> str:
        return f"session gap by {self.gap_column}"


@dataclass(frozen=True)
class ByClock:
    """Windows of processing time: a row belongs to the time at which it comes."""

    window: TumblingWindow | SlidingWindow | SessionWindow | CumulativeWindow

    def describe(self) -> str:
        return f"{self.window.describe()} of processing time"


Assigner = TumblingWindow | SlidingWindow | SessionWindow | CumulativeWindow | GlobalWindow | CountWindow | DynamicSessionWindow
AnyWindow = Assigner | ByClock


@dataclass(frozen=True)
class Trigger:
    """When a window answers before its end: after every `rows` rows, or `every` so long (by the clock) while rows come. `purge`: a row is
    in one answer only; else each answer replaces the one before."""

    rows: int | None = None
    every: Duration | None = None
    purge: bool = False

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.every is None):
            raise PlanError("Trigger: give rows= or every=, one of them")
        if self.rows is not None and (isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1):
            raise PlanError(f"Trigger: rows={self.rows!r}: a whole number, 1 or more")
        if self.every is not None and self.every_us <= 0:
            raise PlanError(f"Trigger: every={self.every!r} is not above zero")

    @property
    def every_us(self) -> int:
        try:
            return duration_us(self.every or 0, "Trigger every")
        except ConfigError as error:
            raise PlanError(str(error)) from None

    def describe(self) -> str:
        when = f"every {self.rows} rows" if self.rows is not None else f"every {self.every_us} us"
        return f"answers {when}{', rows in one answer only' if self.purge else ''}"


@dataclass(frozen=True)
class Evictor:
    """Rows that a window forgets before it answers: all but the last `rows` to come, or those more than `within_us` before the newest."""

    rows: int | None = None
    within_us: int | None = None

    def describe(self) -> str:
        return f"of the last {self.rows} rows" if self.rows is not None else f"of the {self.within_us} us before the newest"


@dataclass(frozen=True)
class Windows:
    """All that the operator must know. `per_batch`: answers after every batch, for running aggregates."""

    window: AnyWindow
    trigger: Trigger | None = None
    evictor: Evictor | None = None
    per_batch: bool = False

    @property
    def by_clock(self) -> bool:
        return isinstance(self.window, ByClock)

    @property
    def assigner(self) -> Assigner:
        return self.window.window if isinstance(self.window, ByClock) else self.window

    @property
    def sessions(self) -> bool:
        return isinstance(self.assigner, SessionWindow | DynamicSessionWindow)

    @property
    def bounded(self) -> bool:
        """Its windows have a start and an end in time."""
        return not isinstance(self.assigner, GlobalWindow | CountWindow)

    @property
    def refines(self) -> bool:
        """Answers replace the ones before."""
        return self.per_batch or (self.trigger is not None and not self.trigger.purge)

    @property
    def takes_back(self) -> bool:
        """Answers are taken back as a whole, since their windows have changed: early ones of sessions, which grow and become one."""
        return self.refines and self.sessions

    def describe(self) -> str:
        parts = [self.window.describe(), *(part.describe() for part in (self.trigger, self.evictor) if part is not None)]
        return ", ".join([*parts, *(["answers every batch"] if self.per_batch else [])])


def cumulative(step: Duration, size: Duration, offset: Duration = 0) -> CumulativeWindow:
    """Raises PlanError."""
    step_us, size_us = duration_us(step, "Cumulative step"), duration_us(size, "Cumulative size")
    if step_us <= 0 or size_us % step_us:
        raise PlanError(f"Cumulative: size {size!r} is no multiple of step {step!r}")
    return CumulativeWindow(step_us, size_us, duration_us(offset, "Cumulative offset"))


def count(size: int, slide: int | None = None) -> CountWindow:
    """Raises PlanError."""
    slide = size if slide is None else slide
    for name, value in (("size", size), ("slide", slide)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PlanError(f"Count: {name} is {value!r}; a whole number, 1 or more")
    if slide > size:
        raise PlanError(f"Count: slide {slide} is more than size {size}; rows between windows would be lost")
    return CountWindow(size, slide)
