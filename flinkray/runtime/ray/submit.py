"""The driver's side on Ray: join or start a cluster, reserve, make the JobManager, and a handle that talks to it."""

from __future__ import annotations

import os
import pickle
import secrets
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import cloudpickle
import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, RayError

from flinkray.api.job_handle import JobHandle, JobResult
from flinkray.errors import JobFailedError, PlanError, ResourceError, UsageError, WaitTimeoutError
from flinkray.runtime.job_log import LogLine
from flinkray.runtime.local import job_exists, read_results, result_or_raise
from flinkray.runtime.ray.gcs_slots import GcsSlots
from flinkray.runtime.ray.job_manager_actor import create_job_manager
from flinkray.runtime.ray.leader import CALL_TIMEOUT_S, Leader, job_managers
from flinkray.runtime.ray.names import NAMESPACE
from flinkray.runtime.ray.placement import check_zones, for_first_job_manager
from flinkray.runtime.ray.presence import Presence
from flinkray.runtime.ray.reservation import release, reserve
from flinkray.runtime.ray.stage import check_stages
from flinkray.runtime.ray.status_copy import answers
from flinkray.runtime.record import ENDED, JobRecord, Record, new_record
from flinkray.runtime.savepoints import Outcome
from flinkray.runtime.task_manager import JobBundle


class RayJob(JobHandle):
    """Keeps the job alive by calling now and then, unless it is detached; a job whose driver is gone cancels itself, and an ended one's
    JobManager stays for questions until then. Finds a new leader by itself."""

    def __init__(self, name: str, leader: Leader, keep_alive: bool) -> None:
        self._name = name
        self._leader = leader
        if keep_alive:
            weakref.finalize(self, Presence(name, leader).unwatch)

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> dict[str, Any]:
        return self._leader.call("status")

    def wait(self, timeout: float | None = None) -> JobResult:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if left < 0:
                raise WaitTimeoutError(f"job {self._name} has not ended in {timeout} s; it goes on")
            if self._leader.call("wait", left, group="wait", takes_s=left):
                break
        status, error = self._leader.call("outcome")
        JobRecord(self._name).write_newer(new_record(status, ray.get_runtime_context().gcs_address))
        return result_or_raise(self._name, status, pickle.loads(error) if error else None)

    def metrics(self) -> dict[str, Any]:
        return self._leader.call("operator_metrics")

    def checkpoints(self) -> list[dict[str, Any]]:
        return self._leader.call("checkpoints")

    def _ask(self, request: str, what: str, arguments: dict[str, Any]) -> Outcome | None:
        return self._leader.call("ask", request, what, arguments)

    def cancel(self) -> None:
        self._leader.call("cancel", "asked for", secrets.token_hex(8))

    def results(self, uid: str) -> pa.Table:
        return read_results(self._leader.call("results", uid))

    def lines(self, after: int) -> list[LogLine]:
        return self._leader.call("lines", after)

    def record(self) -> Record:
        return self._leader.call("record")


def submit(bundle: JobBundle) -> RayJob:
    name, config = bundle.config.name, bundle.config
    pickled = _pickled(bundle)
    if JobRecord(name).is_running_elsewhere():
        raise job_exists(name)
    if config.detached and not _has_cluster():
        raise UsageError(
            "--detach: there is no Ray cluster that would outlive this process; start one (ray start --head) and set RAY_ADDRESS, or leave out --detach"
        )
    connect()
    check_zones(name, config.high_availability)
    check_stages(name, bundle.graph)
    _clear_name(name)
    reservation = None if _is_own() else reserve(name, bundle.graph.slots(), config.resources.cpus_per_slot)
    run = secrets.token_hex(8)
    try:
        place = for_first_job_manager(name, config.high_availability)
        actor = create_job_manager(pickled, bundle, run, 0, reservation, os.environ.get("RAY_AUTH_MODE", ""), place, first=True)
    except ValueError as error:
        release(reservation)
        if "already taken" in str(error) or "already exists" in str(error):
            raise job_exists(name) from error
        raise
    job = RayJob(name, Leader(name, actor, run), keep_alive=not config.detached)
    if config.detached:
        JobRecord(name).write_newer(job.record())
    return job


def _pickled(bundle: JobBundle) -> bytes:
    """The job as it goes to other processes. PlanError naming the operator whose function cannot go."""
    try:
        return cloudpickle.dumps(bundle)
    except Exception as error:  # whatever a user's object raises when it is pickled
        for vertex in bundle.graph.vertices:
            for spec in vertex.operators:
                _check_pickles(spec.uid, spec.params, error)
        raise


def _check_pickles(uid: str, params: Mapping[str, Any], error: Exception) -> None:
    try:
        cloudpickle.dumps(params)
    except Exception:  # noqa: BLE001 - whatever a user's object raises when it is pickled
        raise PlanError(
            f"operator {uid!r} cannot be sent to other processes: {type(error).__name__}: {error}. Locks, connections and open files do not travel: "
            "make them inside the function, or in the __init__ of a class given instead of the function"
        ) from error


_own_address = ""
"""Of the Ray that this process has started for itself."""


def _is_own() -> bool:
    """The cluster is there for this process's jobs alone: its logical CPUs are no limit, and it ends with the process."""
    return bool(_own_address) and ray.is_initialized() and ray.get_runtime_context().gcs_address == _own_address


def _has_cluster() -> bool:
    """One to join, or joined, which outlives this process."""
    return os.environ.get("RAY_ADDRESS", "local") != "local" if not ray.is_initialized() else not _is_own()


def connect() -> None:
    """Join the cluster that this process belongs to, or RAY_ADDRESS; else start one here. ResourceError when it does not answer."""
    global _own_address
    if ray.is_initialized():
        return
    if _has_cluster():
        address = os.environ["RAY_ADDRESS"]
        if address.startswith("ray://"):
            raise UsageError(f"RAY_ADDRESS={address}: a Ray client is no part of the cluster; use: ray job submit -- python JOB.py")
        _join(address, "WARNING")
        return
    ray.init(address="local", namespace=NAMESPACE, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    _own_address = ray.get_runtime_context().gcs_address


def find(name: str) -> RayJob | None:
    """The running (or just ended) job of this name in the connected cluster."""
    leader = Leader(name)
    return RayJob(name, leader, keep_alive=False) if leader.exists() else None


def find_at(name: str, address: str) -> RayJob | None:
    """Like `find`, in the cluster at `address`."""
    if not ray.is_initialized():
        _join(address, "ERROR")
    return find(name)


def _join(address: str, logging_level: str) -> None:
    """The port is probed first: connecting to a dead cluster can hang for minutes."""
    if not answers(address):
        raise ResourceError(f"the Ray cluster at {address} does not answer; is it still up? (RAY_ADDRESS says where to look)")
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging_level)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"cannot join the Ray cluster at {address}: {error}") from error


def _clear_name(name: str) -> None:
    """An ended job's JobManager makes room; a running one is an error."""
    job = find(name)
    if job is None:
        return
    try:
        if job.status()["status"] not in ENDED:
            raise job_exists(name)
    except JobFailedError:
        return
    runs = set()
    for actor in job_managers(name):
        with suppress(RayError, GetTimeoutError):
            runs.add(ray.get(actor.run_id.options(concurrency_group="watch").remote(), timeout=CALL_TIMEOUT_S))
        ray.kill(actor, no_restart=True)
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while job_managers(name):
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"job {name}: the ended JobManager's name was not free after {CALL_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
    for run in runs:
        GcsSlots(run).erase()
