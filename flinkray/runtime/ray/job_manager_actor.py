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
from flinkray.runtime.record import JobRecord
from flinkray.runtime.task_manager import JobBundle

LINGER_S = 600.0
"""How long the actor of an ended job stays for clients that ask for the result."""


class JobManagerActor:
    def __init__(self, bundle: bytes, run: str, reservation: Any, auth_mode: str) -> None:
        job: JobBundle = cloudpickle.loads(bundle)
        context = ray.get_runtime_context()
        self._address = context.gcs_address
        self._auth_mode = auth_mode
        identity = {"pid": os.getpid(), "node_id": context.get_node_id(), "zone": ""}
        self._manager = JobManager(job, RayBackend(job), GcsSlots(run), identity)
        self._record = JobRecord(job.config.name)
        self._reservation = reservation
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

    def keep_alive(self) -> None:
        self._manager.keep_alive()

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
        time.sleep(LINGER_S)
        ray.actor.exit_actor()

    def _on_status(self, status: dict[str, Any]) -> None:
        self._record.write(
            {"runtime": "ray", "address": self._address, "auth_mode": self._auth_mode, "pid": os.getpid(), "status": status}
        )
