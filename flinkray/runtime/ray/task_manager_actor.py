"""The TaskManager as a Ray actor: one mailbox thread that does the work, and calls that only pass things on."""

from __future__ import annotations

import os
import pickle
import threading
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from flinkray.core.messages import Command, Report
from flinkray.exchange.base import Endpoint
from flinkray.ids import Epoch
from flinkray.runtime.ray.names import MAX_JOB_MANAGERS, NAMESPACE, job_manager_name
from flinkray.runtime.ray.sealed_box import BoxKeys

ORPHAN_CHECK_S = 5.0
ABANDONED_S = 10.0
"""Silence after which a TaskManager asks whether there is any JobManager left: one that is restarted, cut off or frozen still has its name."""


class TaskManagerActor:
    """`max_restarts=0`: a new actor is a new instance. Concurrency groups keep commands in order and apart from the open `poll` call."""

    def __init__(self, instance: str, bundle: bytes) -> None:
        import cloudpickle

        from flinkray.checkpoint.store import open_store
        from flinkray.config import duration_s
        from flinkray.exchange import socket_folders
        from flinkray.exchange.zmq_exchange import ZmqExchange
        from flinkray.runtime.background import ThreadBackground
        from flinkray.runtime.kernels import kernel_groups
        from flinkray.runtime.ray.stage import RayCalls
        from flinkray.runtime.rehearsal import rehearse
        from flinkray.runtime.task_manager import JobBundle, TaskManager
        from flinkray.state.warm import PARQUET, SESSIONS, warm_kernels

        job: JobBundle = cloudpickle.loads(bundle)
        context = ray.get_runtime_context()
        self._node_id = context.get_node_id()
        self._box = BoxKeys()
        socket_folders.sweep()
        self._folder = socket_folders.SocketFolder(instance)
        checkpointing = job.config.checkpointing
        store = open_store(checkpointing.storage, job.application, checkpointing.storage_options) if checkpointing else None
        exchange = ZmqExchange(
            instance, self._node_id, ray.util.get_node_ip_address(), self._folder.path, duration_s(job.config.heartbeat_timeout)
        )
        self._endpoint: Endpoint = exchange.endpoint
        self._task_manager = TaskManager(
            instance, exchange, ThreadBackground("tm"), job, store, calls=RayCalls(job.config.high_availability)
        )
        self._orphan_timeout_s = duration_s(job.config.orphan_timeout)
        self._heard_at = time.monotonic()
        self._job = job.config.name
        self._failure = ""
        groups = kernel_groups(job.graph)
        warm_kernels(groups)
        rehearse(SESSIONS in groups, PARQUET in groups)
        threading.Thread(target=self._run, name="flinkray-mailbox", daemon=True).start()
        threading.Thread(target=self._watch_for_orphanage, name="flinkray-orphan", daemon=True).start()

    def hello(self) -> dict[str, Any]:
        """Up and warm: where the exchange listens, and the key to seal secrets with."""
        labels = ray.get_runtime_context().get_node_labels() if hasattr(ray.get_runtime_context(), "get_node_labels") else {}
        return {"endpoint": self._endpoint, "pid": os.getpid(), "node_id": self._node_id, "labels": labels, "public_key": self._box.public}

    def command(self, command: Command, sealed_secrets: bytes | None) -> None:
        self._heard_at = time.monotonic()
        secrets = pickle.loads(self._box.open(sealed_secrets)) if sealed_secrets is not None else None
        self._task_manager.submit(command, secrets)

    def poll(self, after: int, timeout_s: float, epoch: Epoch) -> tuple[list[tuple[int, Report]], Report | None]:
        """The call that the JobManager keeps open: reports come back at once, and its failure tells of this process's end."""
        self._heard_at = time.monotonic()
        if self._failure:
            raise RuntimeError(self._failure)
        return self._task_manager.poll(after, timeout_s, epoch)

    def leave(self, within_s: float) -> None:
        """It is about to be killed: functions are closed, if that takes no longer, and no file is left behind."""
        try:
            self._task_manager.leave(within_s)
        finally:
            self._folder.remove()

    def operator_metrics(self) -> dict[str, dict[str, int]]:
        return self._task_manager.operator_metrics()

    def _run(self) -> None:
        try:
            while True:
                self._task_manager.run_once()
        except BaseException as error:  # a defect: the process must not look alive
            self._failure = f"the mailbox thread died: {type(error).__name__}: {error}"
            raise

    def _watch_for_orphanage(self) -> None:
        """Rule 22: nobody has asked for anything for `orphan_timeout`, or every JobManager is gone for good: the job is gone."""
        while True:
            time.sleep(ORPHAN_CHECK_S)
            silent_s = time.monotonic() - self._heard_at
            if silent_s > self._orphan_timeout_s or (silent_s > ABANDONED_S and self._is_abandoned()):
                self._folder.remove()
                os._exit(3)

    def _is_abandoned(self) -> bool:
        """The GCS is asked in a thread of its own: while it is away the answer may not come at all."""
        answers: list[bool] = []

        def ask() -> None:
            with suppress(RayError):
                answers.append(has_job_manager(self._job))

        asking = threading.Thread(target=ask, name="flinkray-orphan-look", daemon=True)
        asking.start()
        asking.join(ORPHAN_CHECK_S)
        return answers == [False]


def has_job_manager(job: str) -> bool:
    """There is one, or Ray is to restart it. Raises RayError while the GCS is away."""
    names = {entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE}
    return any(job_manager_name(job, number) in names for number in range(MAX_JOB_MANAGERS))
