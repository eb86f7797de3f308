"""A process that may lead a run: a shell over the leadership core. While it leads, it has a JobManager; else it stands by and watches the leader.

One thread steps the core, one makes the journal's calls (one at a time, rule 7), one runs the JobManager of the present reign.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flinkray.config import duration_s
from flinkray.core.journal_calls import JournalCall, Recorded
from flinkray.core.leadership import CHECKS_PER_LEASE, Leadership, LeadershipState
from flinkray.core.leadership_events import Begin, Lead, LeadershipCommand, LeadershipEvent, LeaseChanged, Leave, StandDown, Waited, Watch
from flinkray.runtime.backend import WorkerBackend
from flinkray.runtime.beacon import Beacon, LeaderWatch
from flinkray.runtime.job_log import JobLog
from flinkray.runtime.job_manager import JobManager
from flinkray.runtime.journal import Slots, answer
from flinkray.runtime.task_manager import JobBundle

FIRST_REIGN_S = 30.0


class JobManagerProcess:
    """`run` blocks until the run has ended; everything else may be called from any thread."""

    def __init__(
        self,
        bundle: JobBundle,
        host: str,
        slots: Slots,
        make_backend: Callable[[], WorkerBackend],
        identity: dict[str, Any],
        may_begin: bool = True,
    ) -> None:
        """`may_begin`: this process may be the first of the run. `host`: where the others reach this process. `identity`: its pid, node_id and zone, for the status."""
        self._bundle = bundle
        self._slots = slots
        self._make_backend = make_backend
        self._identity = identity
        self._lease_s = duration_s(bundle.config.high_availability.lease)
        self._beacon = Beacon(host, self.leads, self._lease_s)
        self._watch = LeaderWatch(self._lease_s)
        self._core = Leadership(self._beacon.endpoint, secrets.token_hex(16), self._lease_s, may_begin=may_begin)
        self._events: queue.SimpleQueue[LeadershipEvent] = queue.SimpleQueue()
        self._journal = ThreadPoolExecutor(1, "flinkray-journal")
        self._log = JobLog()
        self._reign: JobManager | None = None
        self._reign_thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._left = False
        self.on_status: Callable[[dict[str, Any]], None] | None = None
        """Called by the leader about twice a second and at the end of the job, with the status document."""
        self.on_workers: Callable[[tuple[tuple[str, int], ...]], None] | None = None
        """Called while this process stands by, with instances and numbers of the TaskManagers that the journal has, when they have changed."""
        self._workers: tuple[tuple[str, int], ...] = ()
        self.on_reign: Callable[[JobManager], None] | None = None
        """Called before a JobManager begins to lead."""

    # -- from any thread ------------------------------------------------------------------------------------------

    @property
    def log(self) -> JobLog:
        return self._log

    @property
    def reign(self) -> JobManager | None:
        """The JobManager, while this process leads or has led the job to its end."""
        return self._reign

    @property
    def undecided(self) -> bool:
        """It is not known here yet who leads."""
        return self._core.state in (LeadershipState.READING, LeadershipState.ELECTING) and not self._left

    def wait_for_reign(self, timeout_s: float = FIRST_REIGN_S) -> JobManager | None:
        with self._changed:
            self._changed.wait_for(lambda: self._reign is not None or self._left, timeout_s)
            return self._reign

    def leads(self, election: int, wait_s: float) -> bool:
        """The open call of a standby: returns after `wait_s`, or as soon as this process does not lead that election."""

        def deposed() -> bool:
            return self._core.state is not LeadershipState.LEADING or self._core.view.election != election

        with self._changed:
            return not self._changed.wait_for(deposed, wait_s)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._events.put(Begin())
        try:
            while not self._over():
                self._step(self._next())
        finally:
            self._watch(None, self._events.put)
            self._beacon.close()
            if self._reign_thread is not None:
                self._reign_thread.join()
            self._journal.shutdown(wait=False, cancel_futures=True)
            with self._changed:
                self._left = True
                self._changed.notify_all()

    def _over(self) -> bool:
        """The journal says that the run has ended, or its JobManager here has ended it (the journal may be away then)."""
        ended = self._reign is not None and not self._reign.deposed and self._reign.wait(0)
        return ended or self._core.state is LeadershipState.LEFT

    def _next(self) -> LeadershipEvent:
        try:
            return self._events.get(timeout=min(0.1, self._lease_s / (2 * CHECKS_PER_LEASE)))
        except queue.Empty:
            return Waited()

    def _step(self, event: LeadershipEvent) -> None:
        before = self._core.state
        for command in self._core.step(event, time.monotonic()):
            self._carry_out(command)
        if self._core.state is not before:
            with self._changed:
                self._changed.notify_all()
        self._tell_workers()

    def _tell_workers(self) -> None:
        workers = self._core.view.workers
        if self.on_workers is not None and self._core.state is LeadershipState.STANDBY and workers != self._workers:
            self._workers = workers
            self.on_workers(workers)

    def _carry_out(self, command: LeadershipCommand) -> None:
        if isinstance(command, JournalCall):
            self._journal.submit(self._ask_journal, command)
        elif isinstance(command, Recorded):
            if self._reign is not None:
                self._reign.recorded()
        elif isinstance(command, Watch):
            self._watch(command, self._events.put)
        elif isinstance(command, Lead):
            self._watch(None, self._events.put)
            self._begin_reign(command)
        elif isinstance(command, StandDown):
            self._log.say(f"stands down: {command.reason}")
            self._end_reign()
        elif isinstance(command, LeaseChanged):
            if self._reign is not None:
                self._reign.doubt(not command.held)
        elif isinstance(command, Leave) and self._reign is None:
            self._log.say(f"the run has ended{': ' if command.status else ''}{command.status}")

    def _ask_journal(self, call: JournalCall) -> None:
        self._events.put(answer(self._slots, call))

    def _begin_reign(self, lead: Lead) -> None:
        if lead.election > 1:
            self._log.say(f"leads, election {lead.election}")
        reign = JobManager(self._bundle, self._make_backend(), lead, self._events.put, self._log, self._identity)
        reign.on_status = self.on_status
        if self.on_reign is not None:
            self.on_reign(reign)
        self._reign_thread = threading.Thread(target=reign.run, name="flinkray-job", daemon=True)
        with self._changed:
            self._reign = reign
            self._changed.notify_all()
        self._reign_thread.start()

    def _end_reign(self) -> None:
        if self._reign is not None:
            self._reign.abdicate()
        with self._changed:
            self._reign = None
            self._changed.notify_all()
