"""Window assigners and watermark strategies as frozen values. Times are int64 microseconds, UTC; windows align to the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

from flinkray.config import Duration, duration_us
from flinkray.errors import PlanError


@dataclass(frozen=True)
class TumblingWindow:
    size_us: int
    offset_us: int = 0

    @property
    def pane_us(self) -> int:
        return self.size_us

    def describe(self) -> str:
        return f"tumbling {_text(self.size_us)}"


@dataclass(frozen=True)
class SlidingWindow:
    """Windows of `size_us` that start every `slide_us`; the first begins before the first row, as in Flink."""

    size_us: int
    slide_us: int
    offset_us: int = 0

    @property
    def pane_us(self) -> int:
        """Rows are kept in panes of this length, so that a row is stored once and not once per window."""
        return gcd(self.size_us, self.slide_us)

    def describe(self) -> str:
        return f"sliding {_text(self.size_us)} every {_text(self.slide_us)}"


@dataclass(frozen=True)
class SessionWindow:
    """Ends when no row came for `gap_us`; two sessions whose gap is exactly reached merge, as in Flink."""

    gap_us: int

    def describe(self) -> str:
        return f"session gap {_text(self.gap_us)}"


Window = TumblingWindow | SlidingWindow | SessionWindow


def tumbling(size: Duration, offset: Duration = 0) -> TumblingWindow:
    return TumblingWindow(_positive(size, "Tumbling size"), duration_us(offset, "Tumbling offset"))


def sliding(size: Duration, slide: Duration, offset: Duration = 0) -> SlidingWindow:
    size_us, slide_us = _positive(size, "Sliding size"), _positive(slide, "Sliding slide")
    if slide_us > size_us:
        raise PlanError(f"Sliding: slide {slide!r} is longer than size {size!r}; rows between windows would be lost")
    return SlidingWindow(size_us, slide_us, duration_us(offset, "Sliding offset"))


def session(gap: Duration) -> SessionWindow:
    return SessionWindow(_positive(gap, "Session gap"))


def _positive(value: Duration, what: str) -> int:
    micros = duration_us(value, what)
    if micros <= 0:
        raise PlanError(f"{what}: {value!r} is not above zero")
    return micros


def _text(micros: int) -> str:
    for unit, size in (("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000)):
        if micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros}us"


@dataclass(frozen=True)
class WatermarkStrategy:
    """`watermark = largest event time seen - delay - 1 us`, per split; the smallest over splits counts."""

    column: str
    delay_us: int = 0
    idle_us: int | None = None
    on_null: Literal["error", "drop"] = "error"

    def with_idleness(self, after: Duration) -> WatermarkStrategy:
        """Splits and channels without a row for `after` no longer hold the watermark."""
        return WatermarkStrategy(self.column, self.delay_us, duration_us(after, "with_idleness"), self.on_null)

    def describe(self) -> str:
        behind = f", {_text(self.delay_us)} behind" if self.delay_us else ""
        return f"{self.column}{behind}"
