"""The JobManager as a detached, named Ray actor: the driver may leave."""

from __future__ import annotations

import os
import pickle
import threading
import time
from typing import Any

import cloudpickle
import ray

from flinkray.runtime.job_manager import JobManager, LogLine
from flinkray.runtime.ray.backend import RayBackend
from flinkray.runtime.ray.gcs_slots import GcsSlots
from flinkray.runtime.ray.reservation import release
from flinkray.runtime.ray.status_copy import StatusCopy
from flinkray.runtime.record import JobRecord, Record, new_record
from flinkray.runtime.task_manager import JobBundle

LINGER_S = 600.0
"""How long the actor of an ended job stays for a driver that may still ask for results; one that leaves or falls silent ends it."""

SILENT_S = 12.0


class JobManagerActor:
    def __init__(self, bundle: bytes, run: str, reservation: Any, auth_mode: str) -> None:
        job: JobBundle = cloudpickle.loads(bundle)
        context = ray.get_runtime_context()
        self._address = context.gcs_address
        self._auth_mode = auth_mode
        identity = {"pid": os.getpid(), "node_id": context.get_node_id(), "zone": ""}
        self._manager = JobManager(job, RayBackend(job), GcsSlots(run), identity)
        self._record = JobRecord(job.config.name)
        self._copy = StatusCopy(job.config.name)
        self._reservation = reservation
        self._detached = job.config.detached
        self._watched = True
        self._driver_left = threading.Event()
        self._heard_at = time.monotonic()
        if not self._detached:
            self._manager.keep_alive()  # from now on: the driver may die before its first call
        self._manager.on_status = self._on_status
        threading.Thread(target=self._run, name="flinkray-job", daemon=True).start()

    def status(self) -> dict[str, Any]:
        return self._manager.status()

    def wait(self, timeout_s: float) -> bool:
        return self._manager.wait(timeout_s)

    def outcome(self) -> tuple[dict[str, Any], bytes | None]:
        """The last status and the pickled error of an ended job."""
        error = self._manager.error()
        return self._manager.status(), pickle.dumps(error) if error is not None else None

    def cancel(self, reason: str) -> None:
        self._manager.cancel(reason)

    def lines(self, after: int) -> list[LogLine]:
        return self._manager.lines(after)

    def record(self) -> Record:
        """For the driver's own home, which may be on another host."""
        return new_record(self._manager.status(), self._address, self._auth_mode)

    def keep_alive(self, watched: bool) -> Record:
        """The driver lives; `watched`: it may ask for results."""
        self._watched = watched
        self._heard_at = time.monotonic()
        self._manager.keep_alive()
        return self.record()

    def leave(self) -> Record:
        """The driver goes, and a job that has not ended goes with it."""
        self._manager.cancel("the driver that started the job has left")
        self._driver_left.set()
        return self.record()

    def results(self, uid: str) -> list[bytes]:
        return self._manager.results(uid)

    def checkpoints(self) -> list[dict[str, Any]]:
        return self._manager.checkpoints()

    def operator_metrics(self) -> dict[str, dict[str, int]]:
        return self._manager.operator_metrics()

    def _run(self) -> None:
        try:
            self._manager.run()
        finally:
            release(self._reservation)
            self._copy.close()
        self._linger()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _linger(self) -> None:
        ended_at = time.monotonic()
        while time.monotonic() - ended_at < LINGER_S and self._watched and not self._driver_left.wait(0.2):
            if not self._detached and time.monotonic() - self._heard_at > SILENT_S:
                return

    def _on_status(self, status: dict[str, Any]) -> None:
        record = self.record()
        self._record.write(record)
        self._copy.put(record)
