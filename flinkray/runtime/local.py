"""The one-process runtime: the same cores and TaskManagers, a thread each, no Ray. For notebooks and tests."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from flinkray.api.job_handle import JobHandle, JobResult
from flinkray.checkpoint.store import open_store
from flinkray.core.job_events import WorkerLost, WorkersFound, WorkerStarted
from flinkray.core.messages import Command
from flinkray.errors import JobCancelledError, JobExistsError, JobFailedError, UsageError, WaitTimeoutError
from flinkray.exchange.in_process import InProcessExchange, InProcessNetwork
from flinkray.ids import Epoch
from flinkray.runtime.backend import Post, WorkerBackend, add_metrics
from flinkray.runtime.background import ThreadBackground
from flinkray.runtime.job_log import LogLine
from flinkray.runtime.job_manager import JobManager
from flinkray.runtime.job_manager_process import JobManagerProcess
from flinkray.runtime.journal import MemorySlots
from flinkray.runtime.record import JobRecord, new_record
from flinkray.runtime.savepoints import Outcome
from flinkray.runtime.task_manager import JobBundle, Secrets, TaskManager

_LAST_ANSWERS_S = 5.0
"""How long an ended job tells other processes what became of their requests."""
_CLOSING_S = 5.0
"""How long the end of a job waits for its TaskManagers, which close the user's functions."""

_running: dict[str, LocalJob] = {}
_running_lock = threading.Lock()


class _Worker:
    """A TaskManager and its mailbox thread."""

    def __init__(self, instance: str, name: str, bundle: JobBundle, network: InProcessNetwork, post: Post) -> None:
        checkpointing = bundle.config.checkpointing
        store = open_store(checkpointing.storage, bundle.application, checkpointing.storage_options) if checkpointing else None
        self._exchange = InProcessExchange(network, instance)
        self.task_manager = TaskManager(instance, self._exchange, ThreadBackground(name), bundle, store)
        self.endpoint = self._exchange.endpoint
        self._instance = instance
        self._post = post
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"flinkray-{name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._exchange.wake()

    def _run(self) -> None:
        heard = 0
        try:
            while not self._stop.is_set():
                self.task_manager.run_once()
                reports, stats = self.task_manager.poll(heard, 0.0)
                for number, report in reports:
                    heard = number
                    self._post(report)
                if stats is not None:
                    self._post(stats)
        except Exception as error:  # noqa: BLE001 - a defect in the TaskManager counts as its death
            if not self._stop.is_set():
                self._post(WorkerLost(self._instance, "process", f"{type(error).__name__}: {error}"))
        finally:
            self.task_manager.close()


class LocalBackend(WorkerBackend):
    def __init__(self, bundle: JobBundle) -> None:
        self._bundle = bundle
        self._network = InProcessNetwork()
        self._workers: dict[str, _Worker] = {}
        self._stopped: list[threading.Thread] = []
        """Threads only: they let go of what they had when they end."""
        self._post: Post = lambda event: None

    def start(self, post: Post, epoch: Callable[[], Epoch]) -> None:
        self._post = post

    def create(self, instance: str, name: str) -> None:
        worker = _Worker(instance, name, self._bundle, self._network, self._post)
        self._workers[instance] = worker
        worker.start()
        self._post(WorkerStarted(instance, worker.endpoint, os.getpid(), "local"))

    def attach(self, instance: str, name: str) -> None:
        self._post(WorkerLost(instance, "process", "it ended with its process"))

    def find(self) -> None:
        self._post(WorkersFound(tuple(self._workers)))

    def send(self, instance: str, command: Command, secrets: Secrets | None) -> None:
        worker = self._workers.get(instance)
        if worker is not None:
            worker.task_manager.submit(command, secrets)

    def kill(self, instance: str) -> None:
        worker = self._workers.pop(instance, None)
        if worker is not None:
            worker.stop()
            self._stopped = [*(other for other in self._stopped if other.is_alive()), worker.thread]

    def operator_metrics(self) -> dict[str, dict[str, int]]:
        return add_metrics([worker.task_manager.operator_metrics() for worker in list(self._workers.values())])

    def close(self) -> None:
        """Functions are closed when this returns, unless one takes too long."""
        for instance in list(self._workers):
            self.kill(instance)
        deadline = time.monotonic() + _CLOSING_S
        for thread in self._stopped:
            thread.join(max(0.0, deadline - time.monotonic()))

    def leave(self) -> None:
        self.close()


class LocalJob(JobHandle):
    def __init__(self, bundle: JobBundle) -> None:
        self._name = bundle.config.name
        identity = {"pid": os.getpid(), "node_id": "local", "zone": ""}
        self._process = JobManagerProcess(bundle, "127.0.0.1", MemorySlots(), lambda: LocalBackend(bundle), identity)
        self._record = JobRecord(self._name)
        self._asked: dict[str, dict[str, Any]] = {}
        self._process.on_status = self._on_status
        self._thread = threading.Thread(target=self._run, name=f"flinkray-{self._name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def name(self) -> str:
        return self._name

    @property
    def _manager(self) -> JobManager:
        """There is one as soon as the process has elected itself."""
        manager = self._process.wait_for_reign()
        if manager is None:
            raise JobFailedError(f"job {self._name}: its JobManager did not start")
        return manager

    def status(self) -> dict[str, Any]:
        return self._manager.status()

    def wait(self, timeout: float | None = None) -> JobResult:
        if not self._manager.wait(timeout):
            raise WaitTimeoutError(f"job {self._name} has not ended in {timeout} s; it goes on")
        self._thread.join(10)
        return result_or_raise(self._name, self.status(), self._manager.error())

    def metrics(self) -> dict[str, Any]:
        return self._manager.operator_metrics()

    def checkpoints(self) -> list[dict[str, Any]]:
        return self._manager.checkpoints()

    def cancel(self) -> None:
        self._manager.cancel("asked for")

    def _ask(self, request: str, what: str, arguments: dict[str, Any]) -> Outcome | None:
        return self._manager.ask(request, what, arguments)

    def results(self, uid: str) -> pa.Table:
        return read_results(self._manager.results(uid))

    def lines(self, after: int) -> list[LogLine]:
        return self._process.log.after(after)

    def _run(self) -> None:
        try:
            self._process.run()
            deadline = time.monotonic() + _LAST_ANSWERS_S
            while self._asked and time.monotonic() < deadline:
                self._answer_requests()
                time.sleep(0.02)
        finally:
            with _running_lock:
                if _running.get(self._name) is self:
                    del _running[self._name]

    def _on_status(self, status: dict[str, Any]) -> None:
        self._record.write(new_record(status))
        if self._record.take_cancel_request():
            self._manager.cancel("asked for from another process")
        self._answer_requests()

    def _answer_requests(self) -> None:
        """Of other processes; asked here again until there is an answer."""
        for request in self._record.take_requests():
            self._asked[request["request"]] = request
        for number, request in list(self._asked.items()):
            outcome = self._manager.ask(number, request["what"], request["arguments"])
            if outcome is not None:
                del self._asked[number]
                self._record.answer(number, outcome)


def submit(bundle: JobBundle) -> LocalJob:
    """Start a job in this process. UsageError for a detached one, which would end with it; JobExistsError when one of its name runs
    here, or in another live process of this user."""
    if bundle.config.detached:
        raise UsageError("--detach: runtime 'local' runs the job in this process, and ends with it; use --runtime ray with RAY_ADDRESS set")
    with _running_lock:
        record = JobRecord(bundle.config.name)
        if bundle.config.name in _running or record.is_running_elsewhere():
            raise job_exists(bundle.config.name)
        record.take_cancel_request()  # one that came too late for an earlier run
        job = LocalJob(bundle)
        _running[bundle.config.name] = job
    job.start()
    return job


def job_exists(name: str) -> JobExistsError:
    return JobExistsError(f"a job named {name!r} is running; give another --name, or end it with: flinkray cancel {name}")


def result_or_raise(name: str, status: dict[str, Any], error: Exception | None) -> JobResult:
    """The result of an ended job, or the error that ended it."""
    if status["status"] == "FAILED":
        failure = error or JobFailedError(f"job {name} failed: {status.get('error')}")
        raise failure.with_traceback(None) from None  # where flinkray raised it tells a user nothing; the user's own traceback is its text
    if status["status"] == "CANCELLED":
        raise JobCancelledError(f"job {name} was cancelled")
    return JobResult.from_status(status)


def read_results(parts: list[bytes]) -> pa.Table:
    """Arrow IPC streams, one after the other, as one table."""
    tables = [pa.ipc.open_stream(io.BytesIO(part)).read_all() for part in parts]
    return pa.concat_tables(tables) if tables else pa.table({})
