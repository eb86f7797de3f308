"""The driver's side of a job's life: a job that is not detached ends when the process that started it is gone."""

from __future__ import annotations

import atexit
import threading
from contextlib import suppress

import ray
from ray.exceptions import RayError

from flinkray.errors import FlinkrayError, JobFailedError, WaitTimeoutError
from flinkray.runtime.ray.leader import Leader
from flinkray.runtime.record import JobRecord

INTERVAL_S = 1.0
LEAVE_TIMEOUT_S = 2.0
LOOK_EVERY = 2
"""Turns from one look at who else may lead to the next."""


class Presence:
    """Tells the JobManager every second that the driver lives, and at the driver's exit that it leaves. An ended job's JobManager stays
    while somebody holds the handle, and may ask for results. Keeps the record in this user's home, which the JobManager may not share."""

    def __init__(self, name: str, leader: Leader) -> None:
        self._leader = leader
        self._record = JobRecord(name)
        self._watched = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"flinkray-presence-{name}", daemon=True)
        atexit.register(self._leave)  # runs before Ray's own, which is older
        self._thread.start()

    def unwatch(self) -> None:
        """Nobody holds the handle any more."""
        self._watched = False

    def _run(self) -> None:
        turns = 0
        while not self._over.wait(INTERVAL_S):
            if not ray.is_initialized():
                break  # the program has left the cluster; a call would join one again
            if turns % LOOK_EVERY == 0:
                self._leader.look_around()
            turns += 1
            try:
                self._record.write_newer(self._leader.call("keep_alive", self._watched))
            except WaitTimeoutError:
                continue  # frozen; it may come back
            except (RayError, JobFailedError):
                break
        atexit.unregister(self._leave)

    def _leave(self) -> None:
        self._over.set()
        if ray.is_initialized():
            with suppress(RayError, FlinkrayError):
                self._record.write_newer(self._leader.call("leave", timeout_s=LEAVE_TIMEOUT_S))
