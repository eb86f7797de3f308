"""Which TaskManagers there are, what each is for, and who is missing. Pure.

A worker is REQUESTED (its name and instance are journaled, the actor is being made), IDLE (a warm spare), ASSIGNED to a slot, or gone. One of
an earlier leader is ATTACHING until it is reached, then GREETING until it has answered Hello. An instance that is gone never comes back
(`max_restarts=0`): a new actor is a new instance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile
from typing import Any


class WorkerState(Enum):
    REQUESTED = "requested"
    ATTACHING = "attaching"
    GREETING = "greeting"
    IDLE = "idle"
    ASSIGNED = "assigned"


def worker_name(number: int) -> str:
    """For people, and part of the process's name."""
    return f"tm-{number}"


@dataclass
class Worker:
    instance: str
    number: int
    requested_at: float
    state: WorkerState = WorkerState.REQUESTED
    slot: int | None = None
    """Of one that is ASSIGNED; of one that an earlier leader had assigned, before it has answered."""
    endpoint: Any = None
    pid: int = 0
    node_id: str = ""
    zone: str = ""

    @property
    def name(self) -> str:
        return worker_name(self.number)


_STARTING = (WorkerState.REQUESTED, WorkerState.ATTACHING)
_USABLE = (WorkerState.IDLE, WorkerState.ASSIGNED)


@dataclass
class Workers:
    """The pool. `slots` active ones and `spares` idle ones are wanted."""

    slots: int
    spares: int
    _by_instance: dict[str, Worker] = field(default_factory=dict)
    _next_number: int = 0
    _wanted: deque[Worker] = field(default_factory=deque)
    """In the order in which they were asked for, from the first that is not usable yet (`unready`)."""

    def __contains__(self, instance: str) -> bool:
        return instance in self._by_instance

    def __iter__(self) -> Any:
        return iter(sorted(self._by_instance.values(), key=lambda worker: worker.number))

    def get(self, instance: str) -> Worker | None:
        return self._by_instance.get(instance)

    def missing(self, spares: bool) -> int:
        """How many to request now, `spares` or only those without which there is no attempt."""
        wanted = self.slots + (self.spares if spares else 0)
        return max(0, wanted - len(self._by_instance))

    def request(self, instance: str, now: float) -> Worker:
        worker = Worker(instance, self._next_number, now)
        self._next_number += 1
        self._by_instance[instance] = worker
        self._wanted.append(worker)
        return worker

    def inherit(self, instance: str, number: int, slot: int | None, now: float) -> Worker:
        """One that an earlier leader made."""
        worker = Worker(instance, number, now, WorkerState.ATTACHING, slot)
        self._next_number = max(self._next_number, number + 1)
        self._by_instance[instance] = worker
        self._wanted.append(worker)
        return worker

    def number_from(self, number: int) -> None:
        """Numbers below were given already."""
        self._next_number = max(self._next_number, number)

    def started(self, instance: str, endpoint: Any, pid: int, node_id: str, zone: str) -> bool:
        """The actor is up and warm. False when this instance is not known (any more)."""
        worker = self._by_instance.get(instance)
        if worker is None or worker.state not in _STARTING:
            return False
        worker.state = WorkerState.IDLE if worker.state is WorkerState.REQUESTED else WorkerState.GREETING
        worker.endpoint, worker.pid, worker.node_id, worker.zone = endpoint, pid, node_id, zone
        return True

    def remove(self, instance: str) -> Worker | None:
        return self._by_instance.pop(instance, None)

    def usable(self) -> int:
        return len(self._by_instance) - sum(1 for _ in self.unready())

    def unready(self) -> Iterator[Worker]:
        """Who was asked for and is not usable yet, the longest first. The first one is found at once, however many there are: who is usable stays so
        until it is removed."""
        while self._wanted and not self._is_unready(self._wanted[0]):
            self._wanted.popleft()
        return filter(self._is_unready, self._wanted)

    def _is_unready(self, worker: Worker) -> bool:
        return worker.state not in _USABLE and self._by_instance.get(worker.instance) is worker

    def late(self, now: float, timeout_s: float) -> list[Worker]:
        """Wanted too long ago, and still not usable."""
        return list(takewhile(lambda worker: now - worker.requested_at > timeout_s, self.unready()))

    def greeting(self) -> list[Worker]:
        return [w for w in self if w.state is WorkerState.GREETING]

    def assign(self, avoided: frozenset[str] = frozenset()) -> list[Worker] | None:
        """One worker for each slot: survivors keep theirs, idle ones take what is free, those on `avoided` nodes last. None when there are too
        few."""
        if self.usable() < self.slots:
            return None
        by_slot = {w.slot: w for w in self if w.state is WorkerState.ASSIGNED}
        idle = sorted((w for w in self if w.state is WorkerState.IDLE), key=lambda w: w.node_id in avoided)
        for slot in range(self.slots):
            if slot not in by_slot:
                worker = idle.pop(0)
                worker.state, worker.slot = WorkerState.ASSIGNED, slot
                by_slot[slot] = worker
        return [by_slot[slot] for slot in range(self.slots)]

    def resize(self, slots: int) -> list[str]:
        """Another number of slots: who had one that is gone becomes a spare. Returns the instances of those who are too many, spares first."""
        self.slots = slots
        for worker in self:
            if worker.slot is not None and worker.slot >= slots:
                worker.slot = None
                if worker.state is WorkerState.ASSIGNED:
                    worker.state = WorkerState.IDLE
        surplus = len(self._by_instance) - slots - self.spares
        free = sorted((worker for worker in self if worker.slot is None), key=lambda worker: -worker.number)
        return [worker.instance for worker in free[: max(surplus, 0)]]

    def assigned(self) -> list[Worker]:
        return sorted((w for w in self if w.state is WorkerState.ASSIGNED), key=lambda w: w.slot or 0)
