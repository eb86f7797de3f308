"""Event-time timers as columns: pairs of int64 (time, payload), registered in bulk and popped in order of time.

The newest timers lie in an unsorted tail. When it is long, or something in it is due, it is sorted into a run; runs of
similar size are merged, up to a length at which a merge still takes no more than some milliseconds. A pop takes the due
front of every run, so that each timer is moved a few times in its life, whatever the number of timers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flinkray.columns import MAX_WATERMARK
from flinkray.state.timer_kernels import drop_repetitions, merge_pairs, sort_pairs

Int64Array = npt.NDArray[np.int64]

_TAIL = 65_536
_LONGEST_MERGED = 1 << 17
_EMPTY: Int64Array = np.empty(0, np.int64)


class _Run:
    """Sorted timers, of which those before `start` have been popped."""

    __slots__ = ("payloads", "start", "times")

    def __init__(self, times: Int64Array, payloads: Int64Array) -> None:
        self.times, self.payloads, self.start = times, payloads, 0

    def __len__(self) -> int:
        return len(self.times) - self.start

    def count_until(self, us: int) -> int:
        """How many timers have a time <= `us`."""
        if us >= self.times[-1]:
            return len(self)
        return int(np.searchsorted(self.times[self.start :], us, side="right"))

    def live(self) -> tuple[Int64Array, Int64Array]:
        return self.times[self.start :], self.payloads[self.start :]

    def take(self, count: int) -> tuple[Int64Array, Int64Array]:
        begin, self.start = self.start, self.start + count
        return self.times[begin : self.start], self.payloads[begin : self.start]


class TimerQueue:
    """Timers of one subtask. `payload` says whose timer it is, e.g. the slot of a key or the id of a session.

    With `deduplicate` equal (time, payload) pairs fire once; `len` counts them until they have met.
    """

    def __init__(self, deduplicate: bool = False) -> None:
        self._deduplicate = deduplicate
        self._runs: list[_Run] = []
        self._next_us: int | None = None
        self._tail_times = np.empty(1024, np.int64)
        self._tail_payloads = np.empty(1024, np.int64)
        self._tail_count = 0

    def __len__(self) -> int:
        return self._tail_count + sum(len(run) for run in self._runs)

    @property
    def memory_bytes(self) -> int:
        return 2 * (self._tail_times.nbytes + sum(run.times.nbytes for run in self._runs))

    def peek_us(self) -> int | None:
        """Time of the next timer; None when there is none."""
        return self._next_us

    def register(self, times: Int64Array, payloads: Int64Array) -> None:
        """Add timers, in any order; the arrays are copied. Equal lengths."""
        if len(times) != len(payloads):
            raise ValueError(f"{len(times)} times and {len(payloads)} payloads")
        if not len(times):
            return
        smallest = int(np.min(times))
        self._next_us = smallest if self._next_us is None else min(self._next_us, smallest)
        if self._tail_count + len(times) > _TAIL:
            self._settle_tail()
        if len(times) >= _TAIL:
            self._add_run(np.array(times, np.int64), np.array(payloads, np.int64))
            return
        self._make_room(len(times))
        end = self._tail_count + len(times)
        self._tail_times[self._tail_count : end] = times
        self._tail_payloads[self._tail_count : end] = payloads
        self._tail_count = end

    def pop_due(self, watermark_us: int, limit: int | None = None) -> tuple[Int64Array, Int64Array]:
        """Remove and return the timers with time <= `watermark_us`, by time, then payload; at most `limit` of them."""
        if self._next_us is None or self._next_us > watermark_us or limit == 0:
            return _EMPTY, _EMPTY
        self._settle_tail()
        until = watermark_us if limit is None else self._time_of_rank(limit, watermark_us)
        fronts = [run.take(count) for run in self._runs if (count := run.count_until(until))]
        times, payloads = self._in_order(fronts)
        self._runs = [run for run in self._runs if len(run)]
        if limit is not None and len(times) > limit:
            self._runs.append(_Run(times[limit:], payloads[limit:]))
            times, payloads = times[:limit], payloads[:limit]
        self._next_us = min((int(run.times[run.start]) for run in self._runs), default=None)
        return times, payloads

    def snapshot(self) -> tuple[Int64Array, Int64Array]:
        """All timers in order, as copies; `register` on an empty queue restores them."""
        self._settle_tail()
        times, payloads = self._in_order([run.live() for run in self._runs])
        return times.copy(), payloads.copy()

    def clear(self) -> None:
        self._runs, self._tail_count, self._next_us = [], 0, None

    def _in_order(self, parts: list[tuple[Int64Array, Int64Array]]) -> tuple[Int64Array, Int64Array]:
        """One run of several; may be views of the one that there is."""
        if not parts:
            return _EMPTY, _EMPTY
        if len(parts) == 1:
            return parts[0]
        times = np.concatenate([part[0] for part in parts])
        payloads = np.concatenate([part[1] for part in parts])
        return self._sorted(times, payloads)

    def _sorted(self, times: Int64Array, payloads: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Sorts in place what it may keep."""
        sort_pairs(times, payloads)
        if self._deduplicate:
            distinct = drop_repetitions(times, payloads)
            return times[:distinct], payloads[:distinct]
        return times, payloads

    def _make_room(self, more: int) -> None:
        needed = self._tail_count + more
        if needed > len(self._tail_times):
            size = max(needed, 2 * len(self._tail_times))
            self._tail_times = np.resize(self._tail_times, size)
            self._tail_payloads = np.resize(self._tail_payloads, size)

    def _settle_tail(self) -> None:
        if self._tail_count:
            count, self._tail_count = self._tail_count, 0
            self._add_run(self._tail_times[:count].copy(), self._tail_payloads[:count].copy())

    def _add_run(self, times: Int64Array, payloads: Int64Array) -> None:
        """Sorts the arrays, which it owns, and merges them with the last runs while those are of their size."""
        times, payloads = self._sorted(times, payloads)
        while self._runs and len(self._runs[-1]) <= 2 * len(times) and len(times) <= _LONGEST_MERGED:
            last = self._runs.pop()
            times, payloads = merge_pairs(times, payloads, *last.live())
            if self._deduplicate:
                distinct = drop_repetitions(times, payloads)
                times, payloads = times[:distinct], payloads[:distinct]
        self._runs.append(_Run(times, payloads))

    def _time_of_rank(self, rank: int, ceiling_us: int) -> int:
        """The smallest time until which `rank` timers are due, `ceiling_us` when there are fewer."""
        low, high = self._next_us if self._next_us is not None else ceiling_us, min(ceiling_us, MAX_WATERMARK)
        while low < high:
            middle = (low + high) // 2
            if sum(run.count_until(middle) for run in self._runs) >= rank:
                high = middle
            else:
                low = middle + 1
        return high
