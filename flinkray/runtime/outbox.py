"""Where a TaskManager's reports wait until its JobManager has heard them."""

from __future__ import annotations

import threading
from collections import deque

from flinkray.core.messages import Report, Stats


class Outbox:
    """Reports in order with numbers, kept until heard, and the newest Stats. Bounded by what the core can say before it is heard."""

    def __init__(self) -> None:
        self._reports: deque[tuple[int, Report]] = deque()
        self._stats: Report | None = None
        self._number = 0
        self._news = threading.Condition()

    def put(self, report: Report) -> None:
        with self._news:
            self._number += 1
            self._reports.append((self._number, report))
            self._news.notify_all()

    def put_stats(self, stats: Report) -> None:
        assert isinstance(stats.body, Stats)
        with self._news:
            self._stats = stats

    def read(self, after: int, timeout_s: float) -> tuple[list[tuple[int, Report]], Report | None]:
        with self._news:
            while self._reports and self._reports[0][0] <= after:
                self._reports.popleft()
            if not self._reports and timeout_s > 0:
                self._news.wait(timeout_s)
            stats, self._stats = self._stats, None
            return list(self._reports), stats
