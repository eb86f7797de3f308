"""Virtual time: one thread, one heap of events, one seeded generator. Nothing in it waits."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(order=True)
class _Event:
    at: float
    number: int
    action: Callable[[], None] = field(compare=False)
    label: str = field(compare=False, default="")


class World:
    """`after(delay_s, action)` schedules; `run` carries events out in order of time, then of scheduling."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1_000.0
        self.events = 0
        self._heap: list[_Event] = []
        self._number = 0
        self._digest = hashlib.sha256()
        self.timeline: list[str] = []

    def clock(self) -> float:
        return self.now

    def after(self, delay_s: float, action: Callable[[], None], label: str = "") -> None:
        self._number += 1
        heapq.heappush(self._heap, _Event(self.now + max(0.0, delay_s), self._number, action, label))

    def note(self, text: str) -> None:
        """A line of the timeline; part of the hash by which two runs are told equal."""
        line = f"{self.now - 1_000.0:10.4f} {text}"
        self._digest.update(line.encode())
        self.timeline.append(line)

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """True when `until` came true; False when virtual time ran out or nothing was left to happen."""
        deadline = self.now + limit_s
        while not until():
            if not self._heap or self._heap[0].at > deadline:
                return False
            event = heapq.heappop(self._heap)
            self.now = event.at
            self.events += 1
            event.action()
        return True

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()[:16]

    def delay_s(self, typical_s: float) -> float:
        """A message's delay: exponential around `typical_s`, now and then much longer."""
        tail = 20.0 if self.random.random() < 0.01 else 1.0
        return tail * self.random.expovariate(1.0 / typical_s)
