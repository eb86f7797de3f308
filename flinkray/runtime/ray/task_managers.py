"""The TaskManagers of a run in a Ray cluster, found by their names: handles for a leader that takes over, and an end to those that nobody leads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from flinkray.core.workers import worker_name
from flinkray.runtime.ray.leader import abandon
from flinkray.runtime.ray.names import NAMESPACE, instance_of, task_manager_name

GRACE_S = 5.0
"""A leader that has ended its run has so long to end the TaskManagers itself: in order, each deleting its files."""
LOOK_S = 0.25
CLOSING_S = 2.0
"""Functions have so long to close."""
LEAVE_S = 0.5
"""A TaskManager that is to be killed has so long to delete its files."""


class Handles:
    """A standby learns them while all is well: Ray's own connection to a GCS that was away takes up to three seconds to come back, and a call over a
    handle needs none."""

    def __init__(self, job: str, run: str) -> None:
        self._job, self._run = job, run
        self._known: dict[str, Any] = {}
        self._wanted: dict[str, str] = {}
        self._news = threading.Event()
        threading.Thread(target=self._learn, name="flinkray-handles", daemon=True).start()

    def learn(self, workers: Iterable[tuple[str, int]]) -> None:
        """Instances and numbers, as the journal has them. Does not block."""
        self._wanted = {instance: worker_name(number) for instance, number in workers}
        self._news.set()

    def get(self, instance: str, name: str) -> Any:
        """Raises ValueError when there is no such process. May wait for the GCS where it was not learned before."""
        return self._known.get(instance) or self._look_up(instance, name)

    def _look_up(self, instance: str, name: str) -> Any:
        return ray.get_actor(task_manager_name(self._job, self._run, name, instance), namespace=NAMESPACE)

    def _learn(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            wanted = self._wanted
            known = {instance: handle for instance, handle in self._known.items() if instance in wanted}
            for instance, name in wanted.items():
                if instance not in known:
                    with suppress(ValueError, RayError):  # it is not there yet, or not any more: whoever leads looks again
                        known[instance] = self._look_up(instance, name)
                        abandon([known[instance].hello.options(concurrency_group="look").remote()])  # so that it is connected
            self._known = known


def running(job: str, run: str) -> dict[str, str]:
    """Actor names of all there are by instance, those that are being made, too. Raises RayError while the GCS is away."""
    names = (entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE)
    return {instance: name for name in names if (instance := instance_of(job, run, name))}


def end(actor: Any, farewell: bool = True) -> None:
    """`farewell`: it is up, closes the user's functions and deletes its files first."""
    if farewell:
        leaves = actor.leave.options(concurrency_group="look").remote(CLOSING_S)
        if ray.wait([leaves], timeout=CLOSING_S + LEAVE_S)[0]:
            with suppress(RayError):
                ray.get(leaves)
    ray.kill(actor, no_restart=True)


def in_background(ending: Callable[[], None]) -> threading.Thread:
    """Functions may take their time to close. While the GCS is away the process stays as it is, and ends by its orphan timeout."""

    def run() -> None:
        with suppress(RayError):
            ending()

    thread = threading.Thread(target=run, name="flinkray-end", daemon=True)
    thread.start()
    return thread


def end_named(name: str) -> None:
    """The process of this name, if there is one."""
    with suppress(ValueError, RayError):
        end(ray.get_actor(name, namespace=NAMESPACE))


def end_all(job: str, run: str, grace_s: float = 0.0) -> None:
    """Of a run that is over: those that are still there after `grace_s`. While the GCS is away they end by their orphan timeout."""
    deadline = time.monotonic() + grace_s
    with suppress(RayError):
        while (left := running(job, run)) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        with ThreadPoolExecutor(max(1, len(left))) as pool:  # functions may take their time to close
            list(pool.map(end_named, left.values()))
