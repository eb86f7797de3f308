"""Timers of a process function in one time domain: deduplicated per key and time, deletable, popped in slices in order of time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flinkray.errors import UsageError
from flinkray.state.timers import TimerQueue

Int64Array = npt.NDArray[np.int64]

CHUNK = 1 << 12
"""Timers that are popped at once: their keys' state is gathered together."""


class Timers:
    """Timers by (time in microseconds, slot). What `register` and `delete` are told takes effect at `settle`."""

    def __init__(self) -> None:
        self._queue = TimerQueue(deduplicate=True)
        self._times: list[int] = []
        self._slots: list[int] = []
        self._deleted: set[tuple[int, int]] = set()
        """Pairs that may be in the queue, and must not fire."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def memory_bytes(self) -> int:
        return self._queue.memory_bytes

    def peek_us(self) -> int | None:
        return self._queue.peek_us()

    def register(self, time: int, slot: int) -> None:
        if self._deleted:
            self._deleted.discard((time, slot))
        self._times.append(time)
        self._slots.append(slot)

    def register_many(self, times: Int64Array, slots: Int64Array) -> None:
        if self._deleted:
            self._deleted.difference_update(zip(times.tolist(), slots.tolist(), strict=True))
        self._queue.register(times, slots)

    def delete(self, time: int, slot: int) -> None:
        """One that is not there is no error."""
        self._deleted.add((time, slot))

    @property
    def fresh(self) -> int:
        """How many were registered since the last `settle`."""
        return len(self._times)

    def take_fresh(self, since: int, until_us: int) -> list[int]:
        """Takes out those that were registered after the first `since`, all of one slot, up to a time."""
        times, slots = self._times[since:], self._slots[since:]
        soon = [time for time in times if time <= until_us]
        if soon:
            later = [time for time in times if time > until_us]
            del self._times[since:], self._slots[since:]
            self._times += later
            self._slots += slots[: len(later)]
        return soon

    def is_deleted(self, time: int, slot: int) -> bool:
        """Whether a timer that was popped has been deleted since; that is forgotten then."""
        if (time, slot) not in self._deleted:
            return False
        self._deleted.discard((time, slot))
        return True

    def settle(self, at_most: int | None = None) -> None:
        """Timers registered since the last call go into the queue; with `at_most` later ones are dropped. Raises TypeError."""
        if not self._times:
            return
        times, slots = np.array(self._times), np.array(self._slots, np.int64)
        self._times, self._slots = [], []
        if times.dtype.kind != "i":
            raise TypeError(f"timers are registered for int microseconds, not {times.dtype} (times in rows are int microseconds)")
        if at_most is not None:
            chosen = times <= at_most
            times, slots = times[chosen], slots[chosen]
        self._queue.register(times, slots)

    def pop(self, until_us: int) -> tuple[Int64Array, Int64Array]:
        """Up to `CHUNK` timers that are due; none: there is none any more."""
        while True:
            times, slots = self._queue.pop_due(until_us, CHUNK)
            if not self._deleted or not len(times):
                return times, slots
            alive = self._alive(times, slots)
            self._deleted.difference_update(zip(times[~alive].tolist(), slots[~alive].tolist(), strict=True))
            if alive.any():
                return times[alive], slots[alive]

    def forget_deleted(self, until_us: int) -> None:
        """Deletions of timers that were never there are forgotten when their time has come."""
        if self._deleted:
            self._deleted = {pair for pair in self._deleted if pair[0] > until_us}

    def snapshot(self) -> tuple[Int64Array, Int64Array]:
        """All timers, in order."""
        times, slots = self._queue.snapshot()
        if self._deleted:
            alive = self._alive(times, slots)
            times, slots = times[alive], slots[alive]
        return times, slots

    def clear(self) -> None:
        self._queue.clear()
        self._deleted.clear()

    def _alive(self, times: Int64Array, slots: Int64Array) -> npt.NDArray[np.bool_]:
        deleted = self._deleted
        return np.array([pair not in deleted for pair in zip(times.tolist(), slots.tolist(), strict=True)], np.bool_)


def checked_times(times: np.ndarray, keys: int) -> Int64Array:
    """What a user gives to register many timers. Raises UsageError, TypeError."""
    given = np.asarray(times)
    if len(given) != keys:
        raise UsageError(f"register timers: {len(given)} times for {keys} keys")
    if given.dtype.kind not in "iu":
        raise TypeError(f"timers are registered for int microseconds, not {given.dtype}")
    return given.astype(np.int64)
