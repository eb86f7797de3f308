"""Which worker of a stage gets which batch, how many workers there are, and what becomes of a lost one's batches. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

SCALE_UP_AFTER_S = 0.5
"""All workers were full for so long: one more."""

SCALE_DOWN_AFTER_S = 60.0
"""A worker had nothing to do for so long: one fewer."""

MOST_LOSSES = 3
"""A batch that was with so many workers when they were lost is what kills them."""

MOST_FAILED_STARTS = 5
"""In a row."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
"""Between a loss and the next start, twice as long each time."""


@dataclass(frozen=True)
class StartWorker:
    worker: int


@dataclass(frozen=True)
class EndWorker:
    """`kill`: it does not answer."""

    worker: int
    kill: bool = False


@dataclass(frozen=True)
class Send:
    worker: int
    number: int


@dataclass(frozen=True)
class GiveUp:
    """`number` None: no worker can be had at all."""

    number: int | None
    reason: str


Command = StartWorker | EndWorker | Send | GiveUp


@dataclass
class _Worker:
    up: bool = False
    batches: OrderedDict[int, float] = field(default_factory=OrderedDict)
    """Number, and when it was sent, oldest first."""
    idle_since_s: float = 0.0


class WorkerPool:
    """`least` to `most` workers, each with at most `queued` batches; `timeout_s`: a worker that needs longer for one is replaced.

    Every method takes the time and returns what is to be done, in order.
    """

    def __init__(self, least: int, most: int, queued: int, timeout_s: float | None = None) -> None:
        self._least, self._most, self._queued, self._timeout_s = least, most, queued, timeout_s
        self._workers: dict[int, _Worker] = {}
        self._again: deque[int] = deque()
        """Batches of lost workers, in order."""
        self._losses: dict[int, int] = {}
        self._next = 0
        self._failed_starts = 0
        self._start_at_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._full_since_s: float | None = None

    @property
    def free(self) -> int:
        """How many more batches may be sent."""
        room = sum(self._queued - len(worker.batches) for worker in self._workers.values() if worker.up)
        return max(room - len(self._again), 0)

    @property
    def up(self) -> list[int]:
        return [id for id, worker in self._workers.items() if worker.up]

    def adopt(self, now_s: float) -> int:
        """The id of a worker that is up already, kept from before."""
        self._workers[self._next] = _Worker(up=True, idle_since_s=now_s)
        self._next += 1
        return self._next - 1

    def send(self, numbers: Iterable[int], now_s: float) -> list[Command]:
        self._again.extend(numbers)
        return self._assign(now_s)

    def on_up(self, worker: int, now_s: float) -> list[Command]:
        if worker not in self._workers:
            return []
        self._workers[worker].up = True
        self._workers[worker].idle_since_s = now_s
        self._failed_starts, self._pause_s = 0, FIRST_PAUSE_S
        return self._assign(now_s)

    def on_answer(self, worker: int, number: int, now_s: float) -> tuple[bool, list[Command]]:
        """(Whether it counts, what is to be done.) A batch that was sent again may be answered by a worker given up before."""
        known = self._workers.get(worker)
        if known is None or number not in known.batches:
            return False, []
        del known.batches[number]
        self._losses.pop(number, None)
        if known.batches:
            first = next(iter(known.batches))
            known.batches[first] = now_s  # it is this one's turn from now on
        else:
            known.idle_since_s = now_s
        return True, self._assign(now_s)

    def on_lost(self, worker: int, reason: str, now_s: float) -> list[Command]:
        lost = self._workers.pop(worker, None)
        if lost is None:
            return []
        self._start_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if not lost.up:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                return [GiveUp(None, f"{self._failed_starts} workers in a row ended before they were up: {reason}")]
        for number in reversed(lost.batches):
            self._again.appendleft(number)
        if lost.batches:  # only the one at work can have done it
            guilty = next(iter(lost.batches))
            self._losses[guilty] = self._losses.get(guilty, 0) + 1
            if self._losses[guilty] >= MOST_LOSSES:
                return [GiveUp(guilty, f"{MOST_LOSSES} workers were lost over this batch, the last one: {reason}")]
        return self._assign(now_s)

    def tick(self, now_s: float) -> list[Command]:
        """Now and then: replaces the lost, looks for the hung, grows and shrinks."""
        commands: list[Command] = []
        for worker in self._hung(now_s):
            commands += [EndWorker(worker, kill=True), *self.on_lost(worker, f"no answer for {self._timeout_s} s", now_s)]
        if now_s >= self._start_at_s:
            while len(self._workers) < self._least:
                commands.append(self._start())
            commands += self._grow(now_s)
        return commands + self._shrink(now_s)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _assign(self, now_s: float) -> list[Command]:
        commands: list[Command] = []
        while self._again:
            ready = [(len(w.batches), id) for id, w in self._workers.items() if w.up and len(w.batches) < self._queued]
            if not ready:
                break
            _, worker = min(ready)
            number = self._again.popleft()
            self._workers[worker].batches[number] = now_s
            commands.append(Send(worker, number))
        return commands

    def _hung(self, now_s: float) -> list[int]:
        if self._timeout_s is None:
            return []
        return [id for id, w in self._workers.items() if w.batches and now_s - next(iter(w.batches.values())) > self._timeout_s]

    def _start(self) -> StartWorker:
        self._workers[self._next] = _Worker()
        self._next += 1
        return StartWorker(self._next - 1)

    def _grow(self, now_s: float) -> list[Command]:
        full = bool(self._workers) and all(w.up and len(w.batches) >= self._queued for w in self._workers.values())
        if not full:
            self._full_since_s = None
        elif self._full_since_s is None:
            self._full_since_s = now_s
        elif now_s - self._full_since_s >= SCALE_UP_AFTER_S and len(self._workers) < self._most:
            self._full_since_s = None
            return [self._start()]
        return []

    def _shrink(self, now_s: float) -> list[Command]:
        idle = [id for id, w in self._workers.items() if w.up and not w.batches and now_s - w.idle_since_s > SCALE_DOWN_AFTER_S]
        if not idle or len(self._workers) <= self._least:
            return []
        del self._workers[idle[-1]]
        return [EndWorker(idle[-1])]
