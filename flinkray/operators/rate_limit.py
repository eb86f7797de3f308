"""Rows per second, as a bucket of tokens. Pure: the caller gives the time, in seconds."""

from __future__ import annotations

_BURST_S = 0.25
"""Time that a stalled reader may make good: a checkpoint or a slow batch does not lower the rate."""

_OWED_S = 10.0
"""Of a checkpoint of yesterday not a day's rows are owed."""

_FLUSH_S = 0.005
"""Rows are let through in portions of this much time, not one by one."""


class RateLimit:
    """At most `rate` rows/s since the start. A reader that was restored is owed the rows since its checkpoint: those were let through once
    already, or would have come while it was down. It reads them again as fast as it can, as it would from a log."""

    def __init__(self, rate: float, now_s: float, owed_s: float = 0.0) -> None:
        """`owed_s`: time since the checkpoint that was restored; ten seconds of it are made good at most."""
        self._rate = rate
        self._capacity = max(1.0, rate * _BURST_S)
        self._tokens = rate * min(max(owed_s, 0.0), _OWED_S)
        self._portion = min(max(1.0, float(int(rate * _FLUSH_S))), self._capacity)
        self._filled_s = now_s

    def allowance(self, now_s: float) -> int:
        """Rows that may be read now; 0: wait for `wait_s`."""
        self._tokens = max(self._tokens, min(self._tokens + (now_s - self._filled_s) * self._rate, self._capacity))
        self._filled_s = now_s
        return int(self._tokens + 1e-9) if self._tokens + 1e-9 >= self._portion else 0

    def wait_s(self) -> float:
        """Until the next portion."""
        return max(self._portion - self._tokens, 0.0) / self._rate

    def take(self, rows: int) -> None:
        self._tokens -= rows
