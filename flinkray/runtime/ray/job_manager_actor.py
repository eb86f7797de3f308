"""A JobManager process as a detached, named Ray actor: the driver may leave. One leads, the others stand by.

Ray restarts a process that is lost; it is a candidate then as any other, and must win an election (docs/protocol.md, rule 9).
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from contextlib import suppress
from typing import Any

import cloudpickle
import ray

from flinkray.exchange import socket_folders
from flinkray.runtime.job_log import LogLine
from flinkray.runtime.job_manager import JobManager, driver_silence_s
from flinkray.runtime.job_manager_process import JobManagerProcess
from flinkray.runtime.ray.backend import RayBackend
from flinkray.runtime.ray.gcs_slots import GcsSlots
from flinkray.runtime.ray.leader import NotLeadingError, answered_by_the_leader, job_managers
from flinkray.runtime.ray.names import NAMESPACE, job_manager_name
from flinkray.runtime.ray.placement import begun_on_node
from flinkray.runtime.ray.replicas import Replicas
from flinkray.runtime.ray.reservation import release
from flinkray.runtime.ray.status_copy import StatusCopy
from flinkray.runtime.ray.task_managers import GRACE_S, Handles, end_all
from flinkray.runtime.record import JobRecord, Record, new_record
from flinkray.runtime.savepoints import Outcome
from flinkray.runtime.task_manager import JobBundle

LINGER_S = 600.0
"""How long the actor of an ended job stays for a driver that may still ask for results; one that leaves or falls silent ends it."""

SWEEPS, SWEEP_PAUSE_S = 4, 0.25
GROUPS = {"wait": 8, "look": 8, "watch": 2}


class JobManagerActor:
    def __init__(self, bundle: bytes, run: str, number: int, reservation: Any, auth_mode: str, first: bool) -> None:
        job: JobBundle = cloudpickle.loads(bundle)
        self.run = run
        context = ray.get_runtime_context()
        self._address = context.gcs_address
        self._auth_mode = auth_mode
        self._identity = _identity(job.config.high_availability.zone_label)
        ha = job.config.high_availability
        self._slots = GcsSlots(run)
        may_begin = first and not context.was_current_actor_reconstructed
        handles = Handles(job.config.name, run)
        self._process = JobManagerProcess(
            job, ray.util.get_node_ip_address(), self._slots, lambda: RayBackend(job, run, handles), self._identity, may_begin
        )
        self._process.on_workers = handles.learn
        self._process.on_status = self._on_status
        self._process.on_reign = self._on_reign

        def make(other: int, node_id: str | None) -> Any:
            return create_job_manager(bundle, job, run, other, reservation, auth_mode, node_id, first=False)

        self._make, self._number, self._ha = make, number, ha
        self._replicas: Replicas | None = None
        self._available = is_available(job)
        self._record = JobRecord(job.config.name)
        self._job = job.config.name
        self._copy: StatusCopy | None = None
        self._reservation = reservation
        self._detached = job.config.detached
        self._silent_s = driver_silence_s(job.config)
        self._watched = True
        self._driver_left = threading.Event()
        self._heard_at = time.monotonic()
        threading.Thread(target=self._run, name="flinkray-job-manager", daemon=True).start()

    # -- for everybody --------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        return self._identity

    def run_id(self) -> str:
        return self.run

    # -- for whom the leader is to answer -------------------------------------------------------------------------

    @answered_by_the_leader
    def status(self) -> dict[str, Any]:
        return self._document()

    @answered_by_the_leader
    def wait(self, timeout_s: float) -> bool:
        manager = self._leader()
        ended = manager.wait(timeout_s)
        if manager.deposed:
            raise NotLeadingError("deposed")
        return ended

    @answered_by_the_leader
    def outcome(self) -> tuple[dict[str, Any], bytes | None]:
        """The last status and the pickled error of an ended job."""
        manager = self._leader()
        error = manager.error()
        return self._with_standbys(manager.status()), pickle.dumps(error) if error is not None else None

    @answered_by_the_leader
    def ask(self, request: str, what: str, arguments: dict[str, Any]) -> Outcome | None:
        manager = self._leader()
        outcome = manager.ask(request, what, arguments)
        if manager.deposed:
            raise NotLeadingError("deposed")
        return outcome

    @answered_by_the_leader
    def cancel(self, reason: str, request: str = "") -> None:
        self._leader().cancel(reason, request)

    @answered_by_the_leader
    def lines(self, after: int) -> list[LogLine]:
        self._leader()
        return self._process.log.after(after)

    @answered_by_the_leader
    def record(self) -> Record:
        """For the driver's own home, which may be on another host."""
        return new_record(self._document(), self._address, self._auth_mode)

    @answered_by_the_leader
    def keep_alive(self, watched: bool) -> Record:
        """The driver lives; `watched`: it may ask for results."""
        manager = self._leader()
        self._watched = watched
        self._heard_at = time.monotonic()
        manager.keep_alive()
        return new_record(self._document(), self._address, self._auth_mode)

    @answered_by_the_leader
    def leave(self) -> Record:
        """The driver goes, and a job that has not ended goes with it."""
        self._leader().cancel("the driver that started the job has left")
        self._driver_left.set()
        return new_record(self._document(), self._address, self._auth_mode)

    @answered_by_the_leader
    def results(self, uid: str) -> list[bytes]:
        return self._leader().results(uid)

    @answered_by_the_leader
    def checkpoints(self) -> list[dict[str, Any]]:
        return self._leader().checkpoints()

    @answered_by_the_leader
    def operator_metrics(self) -> dict[str, dict[str, int]]:
        return self._leader().operator_metrics()

    def _leader(self) -> JobManager:
        manager = self._process.reign
        if manager is None and self._process.undecided:
            manager = self._process.wait_for_reign(2.0)
        if manager is None:
            raise NotLeadingError("this JobManager stands by")
        return manager

    def _document(self) -> dict[str, Any]:
        return self._with_standbys(self._leader().status())

    def _with_standbys(self, status: dict[str, Any]) -> dict[str, Any]:
        return status | {"standbys": self._replicas.standbys() if self._replicas is not None else []}

    # -- the process ----------------------------------------------------------------------------------------------

    def _on_reign(self, manager: JobManager) -> None:
        if not self._detached:
            manager.keep_alive()  # from now on: the driver may die before its first call
        self._heard_at = time.monotonic()
        if self._replicas is not None:
            self._replicas.stop()
            self._replicas = None

    def _on_status(self, status: dict[str, Any]) -> None:
        if self._replicas is None and self._available and status["status"] == "RUNNING":
            self._replicas = Replicas(self._job, self._number, self._identity["node_id"], self._ha, self._make, self._process.log.say)
            self._replicas.start()
        if self._copy is None:
            self._copy = StatusCopy(self._job)
        record = new_record(self._with_standbys(status), self._address, self._auth_mode)
        self._record.write(record)
        self._copy.put(record)

    def _run(self) -> None:
        try:
            self._process.run()
        finally:
            if self._replicas is not None:
                self._replicas.stop()
            if self._process.reign is not None:
                release(self._reservation)
            if self._copy is not None:
                self._copy.close()
        if self._process.reign is not None:
            end_all(self._job, self.run)
            self._linger()
            self._leave_nothing()
        else:  # found in the journal that the run is over: whoever has ended it may have died since
            end_all(self._job, self.run, GRACE_S)
            release(self._reservation)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _linger(self) -> None:
        ended_at = time.monotonic()
        while time.monotonic() - ended_at < LINGER_S and self._watched and not self._driver_left.wait(0.2):
            if not self._detached and time.monotonic() - self._heard_at > self._silent_s:
                return

    def _leave_nothing(self) -> None:
        """The other JobManagers first: none may find the journal gone and go on."""
        for actor in job_managers(self._job):
            if actor._actor_id != ray.get_runtime_context().current_actor._actor_id:
                ray.kill(actor, no_restart=True)
        with suppress(TimeoutError):  # the GCS is away: the next run of this name deletes it
            self._slots.erase()
        for _ in range(SWEEPS):  # what was killed just now may need a moment to end
            time.sleep(SWEEP_PAUSE_S)
            socket_folders.sweep()


def create_job_manager(
    pickled: bytes, bundle: JobBundle, run: str, number: int, reservation: Any, auth_mode: str, node_id: str | None, first: bool
) -> Any:
    """`first`: it begins the run. Raises ValueError when its name is taken."""
    options = {
        "name": job_manager_name(bundle.config.name, number),
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": -1 if is_available(bundle) else 0,
        **begun_on_node(node_id),
    }
    return (
        ray.remote(concurrency_groups=GROUPS)(JobManagerActor)
        .options(**options)
        .remote(pickled, run, number, reservation, auth_mode, first)
    )


def is_available(bundle: JobBundle) -> bool:
    """Another JobManager can take the job over: not where committed rows are kept by the leader for `collect`."""
    from flinkray.connectors.memory import CollectSink

    values = [value for vertex in bundle.graph.vertices for operator in vertex.operators for value in operator.params.values()]
    return not any(isinstance(value, CollectSink) for value in values)


def _identity(zone_label: str) -> dict[str, Any]:
    context = ray.get_runtime_context()
    labels = context.get_node_labels() if hasattr(context, "get_node_labels") else {}
    return {"pid": os.getpid(), "node_id": context.get_node_id(), "zone": labels.get(zone_label, "")}
