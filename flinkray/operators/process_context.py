"""What a process function sees of the engine (`graph.process.ProcessContext`), and the keys of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.columns import MIN_WATERMARK
from flinkray.errors import UsageError
from flinkray.graph.process import Keys
from flinkray.operators.process_state import Cursor
from flinkray.operators.process_timers import Int64Array, Timers, checked_times

EVENT, PROCESSING = "event", "processing"


class BatchKeys:
    """See `graph.process.Keys`."""

    def __init__(self, index: np.ndarray, unique: pa.Array) -> None:
        self.index, self.unique = index, unique

    def __len__(self) -> int:
        return len(self.unique)


class Context:
    """One for an operator; the operator sets its fields before each call."""

    def __init__(self, cursor: Cursor, clock: Callable[[], float], tags: Mapping[str, Any], who: str) -> None:
        self.key: Any = None
        self.timestamp: int | None = None
        self.timestamps: Int64Array | None = None
        self.watermark = MIN_WATERMARK
        self.time_domain = EVENT
        self.slot_list: list[int] = []
        self.event_timers, self.processing_timers = Timers(), Timers()
        self.has_event_time = True
        self.side: dict[str, tuple[list[Mapping[str, Any]], list[int]]] = {tag: ([], []) for tag in tags}
        self._cursor, self._clock, self._who = cursor, clock, who

    def register_event_timer(self, time: int) -> None:
        """Calls `on_timer` when the watermark reaches `time`; once, however often it is registered."""
        if not self.has_event_time:
            raise self._no_event_time()
        self.event_timers.register(time, self.slot_list[self._cursor.at])

    def delete_event_timer(self, time: int) -> None:
        self.event_timers.delete(time, self.slot_list[self._cursor.at])

    def register_processing_timer(self, time: int) -> None:
        """Calls `on_timer` when the clock reaches `time`, after a restore also when that is past."""
        self.processing_timers.register(time, self.slot_list[self._cursor.at])

    def delete_processing_timer(self, time: int) -> None:
        self.processing_timers.delete(time, self.slot_list[self._cursor.at])

    def register_event_timers(self, keys: Keys, times: np.ndarray, valid: np.ndarray | None = None) -> None:
        """One timer for each key, or for those where `valid` is true."""
        if not self.has_event_time:
            raise self._no_event_time()
        self._register_many(self.event_timers, keys, times, valid)

    def register_processing_timers(self, keys: Keys, times: np.ndarray, valid: np.ndarray | None = None) -> None:
        self._register_many(self.processing_timers, keys, times, valid)

    def processing_time(self) -> int:
        """The clock, in microseconds."""
        return int(self._clock() * 1e6)

    def output(self, tag: str, row: Mapping[str, Any]) -> None:
        """A row for a side output, with the event time of the row or timer at work."""
        if tag not in self.side:
            there = ", ".join(map(repr, self.side)) or "none"
            raise UsageError(f"{self._who}: output({tag!r}): the function declares the side outputs {there}; add it to side_outputs")
        rows, times = self.side[tag]
        rows.append(row)
        times.append(self.timestamp if self.timestamp is not None else 0)

    def _register_many(self, timers: Timers, keys: Keys, times: np.ndarray, valid: np.ndarray | None) -> None:
        slots = self._cursor.slots
        if slots is None or len(keys) != len(slots):
            raise UsageError(f"{self._who}: timers of many keys are registered with the keys that the function was given")
        at = checked_times(times, len(slots))
        chosen = slice(None) if valid is None else np.asarray(valid, np.bool_)
        timers.register_many(np.ascontiguousarray(at[chosen]), np.ascontiguousarray(slots[chosen]))

    def _no_event_time(self) -> UsageError:
        return UsageError(f"{self._who}: the rows have no event time; give the source a watermark, or use register_processing_timer")
