"""Virtual time: one heap of events, one thread at a time, every choice from one seed. Nothing in it waits.

Processes of the simulated cluster own their events: what belongs to a process that is dead never happens, what belongs to one that is
paused or busy happens when it goes on.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from flinkray.testing.simulation.fibers import Fiber

Action = Callable[[], None]

EPOCH_S = 1_700_000_000.0
"""The wall clock when virtual time is 0."""

_TIME = struct.Struct("<d")


@dataclass(frozen=True)
class Line:
    """One line of the timeline: virtual seconds, who, what."""

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:10.4f}  {self.who:<12} {self.what}"


class Process:
    """Something that can die, stop and be slow. `clock` is its own idea of the time of day."""

    def __init__(self, world: World, name: str, zone: str) -> None:
        self.world = world
        self.name = name
        self.zone = zone
        self.alive = True
        self.paused = False
        self.busy_until = 0.0
        self.slowness = 1.0
        """Its steps take so many times longer."""
        self.clock_offset_s = 0.0
        self.clock_rate = 1.0
        self._born = world.now
        self._deferred: list[Action] = []
        self._fibers: set[Fiber] = set()

    def clock(self) -> float:
        """Wall clock, seconds: skewed, and it may jump."""
        return EPOCH_S + self.clock_offset_s + self._elapsed()

    def monotonic(self) -> float:
        """Never jumps, but may run faster or slower."""
        return 1_000.0 + self._elapsed()

    def _elapsed(self) -> float:
        return self._born + (self.world.now - self._born) * self.clock_rate

    def after(self, delay_s: float, action: Action) -> None:
        self.world.schedule(delay_s * self.slowness, action, self)

    def note(self, what: str) -> None:
        self.world.note(self.name, what)

    def sleep(self, seconds: float) -> None:
        """Code of this process waits: a fiber parks, a step makes the process busy."""
        fiber = Fiber.current()
        if fiber is None:
            self.busy_until = max(self.world.now, self.busy_until) + max(0.0, seconds)
            return
        self.after(max(0.0, seconds), fiber.resume)
        fiber.park()

    def start_fiber(self, function: Callable[[], object], done: Callable[[object], None]) -> None:
        """Run `function`, which may wait; `done` gets its result or exception as an event of this process."""
        fiber: Fiber

        def finished(result: object) -> None:
            self._fibers.discard(fiber)
            self.world.schedule(0.0, lambda: done(result), self)

        fiber = Fiber(function, finished)
        self._fibers.add(fiber)
        fiber.resume()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        deferred, self._deferred = self._deferred, []
        for action in deferred:
            self.world.schedule(0.0, action, self)

    def defer(self, action: Action) -> None:
        self._deferred.append(action)

    def end(self) -> None:
        """The process is gone at once; what it waits for never comes."""
        if not self.alive:
            return
        self.alive = False
        self._deferred.clear()
        for fiber in list(self._fibers):
            fiber.abandon()
        self._fibers.clear()


class World:
    """`schedule` puts an event on the heap; `run` carries events out in order of time, then of scheduling."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self.current: Process | None = None
        """Whose event is being carried out."""
        self.timeline: list[Line] = []
        self._heap: list[tuple[float, int, Action, Process | None]] = []
        self._number = 0
        self._digest = hashlib.sha256()
        self._randoms: dict[str, random.Random] = {}

    def random(self, stream: str) -> random.Random:
        """The generator of one kind of choices: what one kind draws does not move the others."""
        known = self._randoms.get(stream)
        if known is None:
            known = self._randoms[stream] = random.Random(f"{self.seed}/{stream}")
        return known

    def schedule(self, delay_s: float, action: Action, owner: Process | None = None) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay_s if delay_s > 0.0 else self.now, self._number, action, owner))

    def note(self, who: str, what: str) -> None:
        """A line of the timeline; part of the hash by which two runs are told equal."""
        line = Line(self.now, who, what)
        self._digest.update(f"{line.at!r} {who} {what}\n".encode())
        self.timeline.append(line)

    def run(self, until: Callable[[], bool], deadline: float) -> bool:
        """True when `until` came true; False when virtual time reached `deadline`, or nothing was left to happen."""
        heap, digest = self._heap, self._digest
        while not until():
            if not heap or heap[0][0] > deadline:
                return False
            at, _, action, owner = heapq.heappop(heap)
            self.now = at
            if owner is not None:
                if not owner.alive:
                    continue
                if owner.paused:
                    owner.defer(action)
                    continue
                if owner.busy_until > at:
                    self.schedule(owner.busy_until - at, action, owner)
                    continue
            self.events += 1
            digest.update(_TIME.pack(at))
            self.current = owner
            action()
            self.current = None
        return True

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()[:16]
