"""Savepoints that a job makes by itself now and then (`Checkpointing(auto_savepoint="1h")`), and those that it deletes again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from flinkray.checkpoint.savepoint_retention import AUTO_REQUEST, Retention
from flinkray.checkpoint.savepoints import Savepoints, SavepointState
from flinkray.core.job_events import SavepointRequested
from flinkray.errors import FlinkrayError


class AutoSavepoints:
    """`due` from the loop; `begin` and `settled` on the thread of savepoints. The wall clock says when: the next leader goes on where this one was."""

    def __init__(self, interval_s: float, retention: Retention, clock: Callable[[], float] = time.time) -> None:
        self._interval_s = interval_s
        self._retention = retention
        self._clock = clock
        self._next_s: float | None = None
        """None: it is not known yet when the last one was made."""

    def begin(self, savepoints: Savepoints) -> None:
        """Find out when the last one was made. Raises StorageError."""
        last_us = max((info.begun_at_us for info in savepoints.list() if info.request.startswith(AUTO_REQUEST)), default=None)
        now = self._clock()
        self._next_s = now + self._interval_s if last_us is None else max(now, last_us / 1e6 + self._interval_s)

    def due(self) -> SavepointRequested | None:
        now = self._clock()
        if self._next_s is None or now < self._next_s:
            return None
        self._next_s = now + self._interval_s
        name = f"auto-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S%f}Z"
        return SavepointRequested(f"{AUTO_REQUEST}{secrets.token_hex(8)}", name)

    def settled(self, savepoints: Savepoints) -> list[str]:
        """Delete what is kept no longer; returns the names. Raises StorageError."""
        own = [info for info in savepoints.list() if info.request.startswith(AUTO_REQUEST)]
        ready = [(info.name, info.begun_at_us) for info in own if info.state is SavepointState.READY]
        newest_us = max((at_us for _, at_us in ready), default=0)
        kept = self._retention.kept(ready)
        gone = [info for info in own if (info.state is SavepointState.READY and info.name not in kept)]
        gone += [info for info in own if info.state in (SavepointState.FAILED, SavepointState.DELETING) and info.begun_at_us < newest_us]
        deleted = []
        for info in gone:
            try:
                savepoints.delete(info.name)
            except FlinkrayError:
                continue  # the next time
            deleted.append(info.name)
        return deleted
