"""What a job tells people: lines with a number that grows, also from one leader to the next."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

LOG_LIMIT = 1000


@dataclass(frozen=True)
class LogLine:
    number: int
    at: str
    text: str


class JobLog:
    """The last lines. From any thread."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=LOG_LIMIT)
        self._last = 0
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            self._lines.append(LogLine(self._last, now_iso(), text))

    def after(self, number: int) -> list[LogLine]:
        return [line for line in list(self._lines) if line.number > number]


def now_iso() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
