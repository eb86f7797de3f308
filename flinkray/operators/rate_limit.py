"""Rows per second, as a bucket of tokens. Pure: the caller gives the time, in seconds."""

from __future__ import annotations

_BURST_S = 0.25
"""Time that a stalled reader may make good: a checkpoint or a slow batch does not lower the rate."""

_FLUSH_S = 0.005
"""Rows are let through in portions of this much time, not one by one."""


class RateLimit:
    """At most `rate` rows/s since the start. A `stalled` reader (restored after a failure) begins with what any stall may make good."""

    def __init__(self, rate: float, now_s: float, stalled: bool = False) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate * _BURST_S)
        self._tokens = self._capacity if stalled else 0.0
        self._portion = min(max(1.0, float(int(rate * _FLUSH_S))), self._capacity)
        self._filled_s = now_s

    def allowance(self, now_s: float) -> int:
        """Rows that may be read now; 0: wait for `wait_s`."""
        self._tokens = min(self._tokens + (now_s - self._filled_s) * self._rate, self._capacity)
        self._filled_s = now_s
        return int(self._tokens + 1e-9) if self._tokens + 1e-9 >= self._portion else 0

    def wait_s(self) -> float:
        """Until the next portion."""
        return max(self._portion - self._tokens, 0.0) / self._rate

    def take(self, rows: int) -> None:
        self._tokens -= rows
