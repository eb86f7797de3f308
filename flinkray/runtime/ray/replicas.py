"""Standby JobManagers, kept by the leader: as many as configured, apart from it. Ray restarts a process that is lost; what is gone for good, or
came back beside the leader while there is a better place, is made anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from flinkray.config import HighAvailability
from flinkray.runtime.ray.names import NAMESPACE, job_manager_name
from flinkray.runtime.ray.placement import answering, apart_from, is_stranded, living_nodes

LOOK_S = 1.0
ANSWER_S = 2.0

Make = Callable[[int, str | None], Any]
"""(number, node id or anywhere): the new actor. ValueError when its name is taken."""


class Replicas:
    """`start` when this process leads, `stop` when it does not any more."""

    def __init__(self, job: str, number: int, node_id: str, config: HighAvailability, make: Make, say: Callable[[str], None]) -> None:
        """`number`, `node_id`: of this process. `say` tells people."""
        self._job = job
        self._node_id = node_id
        self._config = config
        self._others = [other for other in range(config.standbys + 1) if other != number]
        self._make = make
        self._say = say
        self._over = threading.Event()
        self._known: dict[int, dict[str, Any]] = {}
        """Pid, node_id and zone of those that answer."""

    def start(self) -> None:
        threading.Thread(target=self._run, name="flinkray-replicas", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def standbys(self) -> list[dict[str, Any]]:
        return list(self._known.values())

    def _run(self) -> None:
        said = ""
        while not self._over.wait(LOOK_S):
            for number in self._others:
                try:
                    self._tend(number)
                except Exception as error:  # noqa: BLE001 - without this thread a job would never have a standby again
                    found = f"no standby JobManager for now: {type(error).__name__}: {error}"
                    if found != said:
                        self._say(found)
                    said = found

    def _tend(self, number: int) -> None:
        try:
            actor = ray.get_actor(job_manager_name(self._job, number), namespace=NAMESPACE)
        except ValueError:
            self._known.pop(number, None)
            self._create(number)
            return
        except RayError:
            return  # the GCS is away
        try:
            place = ray.get(actor.identity.options(concurrency_group="watch").remote(), timeout=ANSWER_S)
        except (GetTimeoutError, RayError):
            self._known.pop(number, None)  # restarting, or frozen; the next look tells
            if is_stranded(actor, self._config.zone_label) and not self._over.is_set():
                ray.kill(actor, no_restart=True)  # Ray would restart it only when it has noticed that its node is gone
            return
        if self._misplaced(place["node_id"]) and not self._over.is_set():
            ray.kill(actor, no_restart=True)
            self._known.pop(number, None)
        else:
            self._known[number] = place

    def _create(self, number: int) -> None:
        if self._over.is_set():
            return
        try:
            nodes = answering(living_nodes(self._config.zone_label))
            self._make(number, apart_from(self._config, self._node_id, [place["node_id"] for place in self._known.values()], nodes))
        except (RayError, ValueError):
            return  # another leader has just made it, or the GCS is away

    def _misplaced(self, node_id: str) -> bool:
        """Beside the leader, or where no work belongs (Ray restarts a process on any node), while there is a better place: in another zone, or
        at least on another node."""
        try:
            nodes = {node.node_id: node.zone for node in living_nodes(self._config.zone_label)}
            better = apart_from(self._config, self._node_id, ())
        except RayError:
            return False
        if better is None or self._node_id not in nodes:
            return False
        if node_id not in nodes:
            return better != self._node_id
        own, place, best = nodes[self._node_id], nodes[node_id], nodes[better]
        if self._config.zones != "ignore" and own != best:
            return place == own
        return node_id == self._node_id and better != self._node_id
