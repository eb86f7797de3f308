"""TaskManagers as detached, named Ray actors. One thread keeps a `poll` call open on each of them."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cloudpickle
import ray
from ray.exceptions import ActorDiedError, RayError

from flinkray.config import duration_s
from flinkray.core.job_events import NoRoom, WorkerLost, WorkersFound, WorkerStarted
from flinkray.core.messages import Command
from flinkray.errors import DeposedError
from flinkray.ids import Epoch
from flinkray.runtime.backend import Post, WorkerBackend, add_metrics
from flinkray.runtime.ray.names import NAMESPACE, task_manager_name
from flinkray.runtime.ray.placement import for_task_manager, on_node
from flinkray.runtime.ray.sealed_box import seal_for
from flinkray.runtime.ray.task_manager_actor import TaskManagerActor
from flinkray.runtime.ray.task_managers import GRACE_S, Handles, end, end_named, in_background, running
from flinkray.runtime.task_manager import JobBundle, Secrets

POLL_S = 0.5
LONG_TURN_S = 0.5
"""One turn of listening takes a tenth of that."""
GROUPS = {"control": 1, "poll": 4, "look": 2}
"""A poll that a lost leader has left open must not hold up its successor's."""


@dataclass
class _Worker:
    instance: str
    actor: Any
    call: Any
    asked_at: float
    runs: bool = False
    """It was up before it was greeted."""
    started: bool = False
    lost: bool = False
    """Not asked any more; killed when the core has put that into the journal."""
    heard: int = 0
    node_id: str = ""
    """Where it runs, or was wanted."""
    public_key: bytes = field(default=b"", repr=False)


class RayBackend(WorkerBackend):
    def __init__(self, bundle: JobBundle, run: str, handles: Handles) -> None:
        self._bundle = bundle
        self._run, self._handles = run, handles
        self._found: dict[str, str] = {}
        """Actor names of all TaskManagers of the run, as of the last look."""
        self._finding = threading.Lock()
        self._pickled = ray.put(cloudpickle.dumps(bundle))
        self._heartbeat_timeout_s = duration_s(bundle.config.heartbeat_timeout)
        self._workers: dict[str, _Worker] = {}
        self._endings: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._post: Post = lambda event: None
        self._epoch: Callable[[], Epoch] = lambda: Epoch(0, 0, "")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="flinkray-poll", daemon=True)

    def start(self, post: Post, epoch: Callable[[], Epoch]) -> None:
        self._post, self._epoch = post, epoch
        self._thread.start()

    def create(self, instance: str, name: str) -> None:
        with self._lock:
            taken = [worker.node_id for worker in self._workers.values() if not worker.lost]
        config, own_node_id = self._bundle.config, ray.get_runtime_context().get_node_id()
        node_id = for_task_manager(config.name, config.high_availability, taken, own_node_id)
        options = {
            "name": task_manager_name(config.name, self._run, name, instance),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "num_cpus": 0,  # the slots' CPUs are reserved by the job as a whole (reservation.py)
            "max_restarts": 0,
            **on_node(node_id),
        }
        try:
            actor = ray.remote(concurrency_groups=GROUPS)(TaskManagerActor).options(**options).remote(instance, self._pickled)
            self._greet(instance, actor, node_id or "")
        except (RayError, ValueError) as error:
            self._post(NoRoom(instance, str(error)))

    def attach(self, instance: str, name: str) -> None:
        try:
            self._greet(instance, self._handles.get(instance, name), runs=True)
        except ValueError:
            self._post(WorkerLost(instance, "process", "its process is gone"))

    def find(self) -> None:
        threading.Thread(target=self._find, name="flinkray-find", daemon=True).start()  # it waits for the GCS while that is away

    def _find(self) -> None:
        if not self._finding.acquire(blocking=False):
            return
        try:
            self._found = running(self._bundle.config.name, self._run)
            self._post(WorkersFound(tuple(self._found)))
        except RayError:
            pass  # the next look comes
        finally:
            self._finding.release()

    def _greet(self, instance: str, actor: Any, node_id: str = "", runs: bool = False) -> None:
        """`runs`: it is up already, and has to answer as soon as to any call."""
        call = actor.hello.options(concurrency_group="look").remote()
        with self._lock:
            self._workers[instance] = _Worker(instance, actor, call, time.monotonic(), runs=runs, node_id=node_id)

    def send(self, instance: str, command: Command, secrets: Secrets | None) -> None:
        with self._lock:
            worker = self._workers.get(instance)
        if worker is None or not worker.started or worker.lost:
            return
        sealed = seal_for(worker.public_key, pickle.dumps(secrets)) if secrets is not None else None
        worker.actor.command.options(concurrency_group="control").remote(command, sealed)

    def kill(self, instance: str) -> None:
        with self._lock:
            worker = self._workers.pop(instance, None)
        if worker is not None:
            ending = partial(end, worker.actor, worker.started and not worker.lost)
        elif instance in self._found:
            ending = partial(end_named, self._found[instance])
        else:
            return
        self._endings = [*(other for other in self._endings if other.is_alive()), in_background(ending)]

    def operator_metrics(self) -> dict[str, dict[str, int]]:
        with self._lock:
            calls = [
                w.actor.operator_metrics.options(concurrency_group="look").remote()
                for w in self._workers.values()
                if w.started and not w.lost
            ]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=2.0) if calls else ([], [])
        return add_metrics([ray.get(call) for call in done])

    def close(self) -> None:
        self._closed.set()
        for instance in list(self._workers):
            self.kill(instance)
        deadline = time.monotonic() + GRACE_S
        for ending in self._endings:
            ending.join(max(0.0, deadline - time.monotonic()))

    def leave(self) -> None:
        self._closed.set()

    # -- listening ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            with self._lock:
                calls = {worker.call: worker for worker in self._workers.values() if not worker.lost}
            if not calls:
                time.sleep(0.005)
                continue
            done, _ = ray.wait(list(calls), num_returns=1, timeout=0.05)
            for call in done:
                self._take(calls[call])
            now = time.monotonic()
            self._look_for_silence(now, now - began)

    def _take(self, worker: _Worker) -> None:
        try:
            answer = ray.get(worker.call)
        except DeposedError:
            worker.lost = True  # it obeys another leader; the journal tells the rest
            return
        except Exception as error:  # noqa: BLE001 - whatever ends the call ends this instance
            self._lost(worker, "process", _reason(error))
            return
        if not worker.started:
            worker.started = True
            worker.public_key, worker.node_id = answer["public_key"], answer["node_id"]
            zone = answer["labels"].get(self._bundle.config.high_availability.zone_label, "")
            self._post(WorkerStarted(worker.instance, answer["endpoint"], answer["pid"], answer["node_id"], zone))
        else:
            reports, stats = answer
            for number, report in reports:
                worker.heard = number
                self._post(report)
            if stats is not None:
                self._post(stats)
        worker.asked_at = time.monotonic()
        worker.call = worker.actor.poll.options(concurrency_group="poll").remote(worker.heard, POLL_S, self._epoch())

    def _look_for_silence(self, now: float, turn_s: float) -> None:
        """A hung process is never reported by Ray; the call that should come back every half second tells. Time in which this process did not listen (it was
        stopped, or Ray waited for the GCS) is nobody's silence: all would seem lost at once, with their answers waiting to be heard."""
        for worker in list(self._workers.values()):
            if turn_s > LONG_TURN_S:
                worker.asked_at = min(worker.asked_at + turn_s, now)
            if (worker.started or worker.runs) and not worker.lost and now - worker.asked_at > self._heartbeat_timeout_s + POLL_S:
                self._lost(worker, "process", f"no answer for {self._heartbeat_timeout_s:.1f} s")

    def _lost(self, worker: _Worker, cause: Any, reason: str) -> None:
        """A leader that was frozen sees silence, too: it is deposed by the journal before it kills what its successor leads."""
        with self._lock:
            news = worker.instance in self._workers and not worker.lost
            worker.lost = True
        if news:
            self._post(WorkerLost(worker.instance, cause, reason))


def _reason(error: Exception) -> str:
    if isinstance(error, ActorDiedError):
        return "its process ended"
    return f"{type(error).__name__}: {str(error).splitlines()[-1] if str(error) else ''}"
