"""The driver's side on Ray: join or start a cluster, reserve, make the JobManager, and a handle that talks to it."""

from __future__ import annotations

import os
import pickle
import secrets
import threading
import time
from typing import Any

import cloudpickle
import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayError

from flinkray.api.job_handle import JobHandle, JobResult
from flinkray.errors import FlinkrayError, JobExistsError, JobFailedError, WaitTimeoutError
from flinkray.runtime.job_manager import LogLine
from flinkray.runtime.local import read_results, result_or_raise
from flinkray.runtime.ray.job_manager_actor import JobManagerActor
from flinkray.runtime.ray.names import NAMESPACE, job_manager_name
from flinkray.runtime.ray.reservation import release, reserve
from flinkray.runtime.record import ENDED
from flinkray.runtime.task_manager import JobBundle

CALL_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 1.0
GROUPS = {"wait": 8, "look": 8}


class RayJob(JobHandle):
    """Keeps the job alive by calling now and then, unless it is detached; a job whose driver is gone cancels itself."""

    def __init__(self, name: str, actor: Any, keep_alive: bool) -> None:
        self._name = name
        self._actor = actor
        self._over = threading.Event()
        if keep_alive:
            threading.Thread(target=self._keep_alive, name=f"flinkray-keep-alive-{name}", daemon=True).start()

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> dict[str, Any]:
        return self._ask("status")

    def wait(self, timeout: float | None = None) -> JobResult:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if left < 0:
                raise WaitTimeoutError(f"job {self._name} has not ended in {timeout} s; it goes on")
            if self._ask("wait", left, group="wait"):
                break
        self._over.set()
        status, error = self._ask("outcome")
        return result_or_raise(self._name, status, pickle.loads(error) if error else None)

    def metrics(self) -> dict[str, Any]:
        return self._ask("operator_metrics")

    def checkpoints(self) -> list[dict[str, Any]]:
        return self._ask("checkpoints")

    def cancel(self) -> None:
        self._ask("cancel", "asked for")

    def results(self, uid: str) -> pa.Table:
        return read_results(self._ask("results", uid))

    def lines(self, after: int) -> list[LogLine]:
        return self._ask("lines", after)

    def _ask(self, method: str, *arguments: Any, group: str = "look") -> Any:
        call = getattr(self._actor, method).options(concurrency_group=group).remote(*arguments)
        try:
            return ray.get(call, timeout=CALL_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError as error:
            raise WaitTimeoutError(f"job {self._name}: the JobManager did not answer {method} in {CALL_TIMEOUT_S:.0f} s") from error
        except RayActorError as error:
            raise JobFailedError(
                f"job {self._name}: its JobManager is gone ({type(error).__name__}); start the job again to go on from the latest checkpoint"
            ) from error

    def _keep_alive(self) -> None:
        while not self._over.wait(KEEP_ALIVE_S):
            try:
                self._ask("keep_alive")
            except (FlinkrayError, RayError):
                return


def submit(bundle: JobBundle) -> RayJob:
    connect(bundle)
    name, config = bundle.config.name, bundle.config
    _clear_name(name)
    reservation = None if _own_cluster else reserve(name, bundle.graph.slots(), config.resources.cpus_per_slot)
    try:
        actor = (
            ray.remote(concurrency_groups=GROUPS)(JobManagerActor)
            .options(
                name=job_manager_name(name),
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=0,
            )
            .remote(cloudpickle.dumps(bundle), secrets.token_hex(8), reservation, os.environ.get("RAY_AUTH_MODE", ""))
        )
    except ValueError as error:
        release(reservation)
        if "already taken" in str(error) or "already exists" in str(error):
            raise _exists(name) from error
        raise
    return RayJob(name, actor, keep_alive=not config.detached)


_own_cluster = False
"""This process started the Ray it uses, for flinkray alone: its logical CPUs are no limit."""


def connect(bundle: JobBundle) -> None:
    """Join the cluster that this process belongs to, or RAY_ADDRESS; else start one here."""
    global _own_cluster
    if ray.is_initialized():
        return
    _own_cluster = False
    if os.environ.get("RAY_ADDRESS"):
        ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level="WARNING")
        return
    _own_cluster = True
    ray.init(
        address="local",
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="WARNING",
    )


def find(name: str) -> RayJob | None:
    """The running (or just ended) job of this name in the connected cluster."""
    try:
        actor = ray.get_actor(job_manager_name(name), namespace=NAMESPACE)
    except ValueError:
        return None
    return RayJob(name, actor, keep_alive=False)


def find_at(name: str, address: str) -> RayJob | None:
    """Like `find`, in the cluster at `address`."""
    if not ray.is_initialized():
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    return find(name)


def _clear_name(name: str) -> None:
    """An ended job's JobManager makes room; a running one is an error."""
    job = find(name)
    if job is None:
        return
    try:
        if job.status()["status"] not in ENDED:
            raise _exists(name)
    except JobFailedError:
        return
    ray.kill(job._actor, no_restart=True)
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while find(name) is not None:
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"job {name}: the ended JobManager's name was not free after {CALL_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _exists(name: str) -> JobExistsError:
    return JobExistsError(f"a job named {name!r} is running; give another --name, or end it with: flinkray cancel {name}")
