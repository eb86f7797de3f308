"""`fr.Watermarks`: how far event time has come, seen from the rows."""

from __future__ import annotations

from typing import Literal

from flinkray.config import Duration, duration_us
from flinkray.graph.windows import WatermarkStrategy

OnNull = Literal["error", "drop"]


class Watermarks:
    """`column` is a timestamp of any unit (floored to microseconds, naive means UTC) or int64 microseconds.

    `.with_idleness(duration)` on what these give lets splits without rows no longer hold the others back.
    """

    @staticmethod
    def bounded(column: str, delay: Duration, *, on_null: OnNull = "error") -> WatermarkStrategy:
        """Rows come at most `delay` of event time later than a row with a larger time."""
        return WatermarkStrategy(column, duration_us(delay, "Watermarks.bounded delay"), on_null=on_null)

    @staticmethod
    def monotonous(column: str, *, on_null: OnNull = "error") -> WatermarkStrategy:
        """Times never go back within a split."""
        return WatermarkStrategy(column, on_null=on_null)
