"""Time to live of a process function's state: when each slot was last used, and which are over.

What is over is not seen by the next batch (`begin`), whether or not it has been cleaned up; cleaning up (`over`) gives the memory back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.state.growth import grown
from flinkray.state.memory import touch

Int64Array = npt.NDArray[np.int64]

_STEP = 1 << 14
_CLEANED_PER_LIFE = 4
"""Expired values are kept for at most this share of their life more."""


class Expiry:
    """`now_us` tells the time that values are measured by: a watermark, or a clock. `used_us` tells when something that happens now
    happens: the event time of the row at work; None: by the clock."""

    def __init__(self, after_us: int, refreshed_by_reads: bool, now_us: Callable[[], int], used_us: Callable[[], int] | None) -> None:
        self.after_us, self.refreshed_by_reads = after_us, refreshed_by_reads
        self._by_rows = used_us is not None
        self.used = np.zeros(_STEP, np.int64)
        self._now_us, self._used_us = now_us, used_us if used_us is not None else now_us
        self._last: dict[int, int] = {}
        self._cleaned_us = MIN_WATERMARK

    def make_room(self, high: int) -> None:
        self.used = grown(self.used, high, _STEP)

    def touch(self, place: int) -> None:
        """The value of the key at this place of the batch is used. A late row makes no value older."""
        now = self._used_us()
        if now > self._last.get(place, MIN_WATERMARK):
            self._last[place] = now

    def touch_many(self, slots: Int64Array, times: Int64Array | None) -> None:
        """The values of these slots are used; `times`: of rows, where these count."""
        self._use(slots, self._used_us() if times is None or not self._by_rows else times)

    def renew(self, slots: Int64Array) -> None:
        """What is read back from before there was a time to live begins its life now."""
        self.used[slots] = max(self._now_us(), 0)

    def begin(self, slots: Int64Array, valid: npt.NDArray[np.bool_]) -> Int64Array:
        """The slots whose value is over; they are as if they had never been used."""
        touch(self.used, slots)
        gone = slots[valid & self._is_over(self.used[slots])]
        self.used[gone] = MIN_WATERMARK
        self.used[slots[~valid]] = MIN_WATERMARK
        return gone

    def end(self, slots: Int64Array) -> None:
        """What was touched in the batch."""
        if self._last:
            touched = slots[np.fromiter(self._last, np.int64, len(self._last))]
            self._use(touched, np.fromiter(self._last.values(), np.int64, len(self._last)))
            self._last = {}

    def _use(self, slots: Int64Array, times: Int64Array | int) -> None:
        touch(self.used, slots)
        self.used[slots] = np.maximum(self.used[slots], times)

    def over(self, live: npt.NDArray[np.bool_]) -> Int64Array:
        """Slots to clean up: those that are live and over; none where that was asked a short while ago."""
        now = self._now_us()
        if now < self._cleaned_us + self.after_us // _CLEANED_PER_LIFE:
            return np.empty(0, np.int64)
        self._cleaned_us = now
        return np.flatnonzero(live & self._is_over(self.used[: len(live)]))

    def due(self) -> bool:
        return self._now_us() >= self._cleaned_us + self.after_us // _CLEANED_PER_LIFE

    def _is_over(self, used: Int64Array) -> npt.NDArray[np.bool_]:
        now = self._now_us()
        if now <= MIN_WATERMARK + self.after_us or now == MAX_WATERMARK:  # the end of input is not the end of all lives
            return np.zeros(len(used), np.bool_)
        return used <= now - self.after_us
