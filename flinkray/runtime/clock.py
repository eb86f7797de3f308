"""The time of day for those who measure durations with it."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 as of now, then going on with the monotonic clock: when the wall clock is set back by hours, no timer of a running
    task waits for hours."""
    offset_s = time.time() - time.monotonic()
    return lambda: offset_s + time.monotonic()
