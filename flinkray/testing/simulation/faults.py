"""What can go wrong, each under a name with a strength; and the injector that says when, from the seed, and keeps the list.

A fault is known by its kind and its number among the chances that its kind had. So a run can be repeated with some of its faults only,
which is how a failing seed is shrunk.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from flinkray.errors import UsageError
from flinkray.testing.simulation.world import World

Unit = Literal["message", "frame", "put", "read", "request", "record", "batch", "time", "trigger", "deploy", "process", "second"]


def _fault(unit: Unit, typical: float, doc: str, restarts: bool = False, mixed: bool = True) -> float:
    return field(default=0.0, metadata={"unit": unit, "typical": typical, "doc": doc, "restarts": restarts, "mixed": mixed})


@dataclass(frozen=True)
class Faults:
    """How often each fault happens: a probability for each chance (message, put, ...), or times in a virtual second.

    `none()`, `swarm()` (the seed chooses which, and how strong), `only("drop", ...)` (these, with their typical strength).
    """

    # -- commands, polls and answers between JobManager and TaskManager --
    drop: float = _fault("message", 0.02, "a command, poll or answer is lost")
    delay: float = _fault("message", 0.03, "a message takes up to some seconds")
    duplicate: float = _fault("message", 0.03, "a message arrives twice")
    reorder: float = _fault("message", 0.05, "a message is overtaken by later ones")
    half_trigger: float = _fault("trigger", 0.15, "only some of the sources get the Trigger")
    repeat_deploy: float = _fault("deploy", 0.2, "a Deploy arrives again later in its attempt")
    # -- frames between TaskManagers --
    frame_drop: float = _fault("frame", 0.004, "frames to a peer are lost", restarts=True)
    frame_duplicate: float = _fault("frame", 0.004, "frames to a peer arrive twice", restarts=True)
    frame_reorder: float = _fault("frame", 0.004, "frames to a peer are overtaken by later ones", restarts=True)
    frame_delay: float = _fault("frame", 0.02, "frames to a peer take long, and those behind them")
    reset: float = _fault("second", 0.4, "a connection between two TaskManagers is reset: what is on its way is lost")
    cut: float = _fault("second", 0.4, "two TaskManagers are cut from each other only", restarts=True)
    # -- the network as a whole --
    partition: float = _fault("second", 0.3, "a process is cut off, in both directions")
    partition_one_way: float = _fault("second", 0.3, "a process is cut off in one direction")
    partition_zone: float = _fault("second", 0.2, "a zone is cut off from the other")
    # -- processes --
    crash: float = _fault("second", 0.6, "a TaskManager dies", restarts=True)
    crash_leader: float = _fault("second", 0.3, "the leading JobManager dies")
    crash_standby: float = _fault("second", 0.2, "the standby JobManager dies")
    pause: float = _fault("second", 0.4, "a TaskManager stops for a while, and goes on as if nothing had been")
    pause_leader: float = _fault("second", 0.3, "the leading JobManager stops for a while, and goes on as if it still led")
    degrade: float = _fault("second", 0.3, "a TaskManager is slow again and again until it is replaced, and heard late")
    slow: float = _fault("second", 0.4, "a process is slow for a while")
    clock_jump: float = _fault("second", 0.5, "a process's wall clock jumps")
    clock_skew: float = _fault("process", 0.3, "a process's clocks run apart")
    user_error: float = _fault("batch", 0.004, "user code raises", restarts=True)
    # -- object storage --
    store_fail: float = _fault("request", 0.01, "a request fails")
    store_hang: float = _fault("request", 0.004, "a request has no answer for long, then fails")
    store_tear: float = _fault("put", 0.01, "a put leaves a part of the object, and fails")
    store_late: float = _fault("put", 0.01, "a put fails, and happens later")
    store_unanswered: float = _fault("put", 0.02, "a put happens, and fails")
    store_retried: float = _fault("put", 0.05, "the client's own retry of a create is answered 412")
    read_damage: float = _fault("read", 0.002, "a read returns damaged bytes")
    freeze_owner: float = _fault("record", 0.03, "the leader freezes while its record is on its way, and another run takes over")
    # -- the journal --
    journal_unanswered: float = _fault("put", 0.05, "a slot is written, and the answer lost")
    journal_lost: float = _fault("put", 0.05, "a slot is not written, and no answer comes")
    journal_back: float = _fault("second", 0.15, "the journal forgets its newest slots")
    # -- people --
    resubmit: float = _fault("second", 0.15, "the job is started again elsewhere while it runs")
    rescale: float = _fault("second", 0.15, "the job is started again at another parallelism")
    restore_older: float = _fault("second", 0.1, "the job is stopped, its output taken back to an older checkpoint, and started from there")
    cancel: float = _fault("second", 0.1, "the job is cancelled, in doubt twice, and started again")
    save: float = _fault("second", 0.2, "a savepoint of the running job is asked for")
    stop: float = _fault("second", 0.15, "the job is asked to stop, with a savepoint or without, and is started again")
    rescale_live: float = _fault("second", 0.2, "the running job is asked to go on at another parallelism")

    drain: float = _fault(
        "second", 0.6, "the job is drained, stopped, and started again; for jobs whose rows do not depend on it", mixed=False
    )

    timer_error: float = _fault("time", 0.004, "user code raises when time goes on: in a timer, at a window's end", restarts=True)

    _swarm: bool = field(default=False, metadata={"unit": None})

    @classmethod
    def none(cls) -> Faults:
        return cls()

    @classmethod
    def swarm(cls) -> Faults:
        """The seed chooses which faults there are and how strong."""
        return cls(_swarm=True)

    @classmethod
    def only(cls, *names: str) -> Faults:
        """These, with their typical strength. Raises UsageError for a name that is none."""
        for name in names:
            if name not in KINDS:
                raise UsageError(f"{name!r} is no fault; there are: {', '.join(KINDS)}")
        return replace(cls(), **_given({name: KINDS[name].typical for name in names}))

    @property
    def any(self) -> bool:
        return self._swarm or any(self.rates().values())

    def rates(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in KINDS}

    def chosen(self, seed: int) -> Faults:
        """The faults of this seed: for a swarm a mixture, in which something always makes the job recover."""
        if not self._swarm:
            return self
        rng = random.Random(f"{seed}/swarm")
        rates = {}
        for kind in (kind for kind in KINDS.values() if kind.mixed):
            take, strength = rng.random() < 0.3, kind.typical * 10 ** rng.uniform(-0.6, 0.4)
            rates[kind.name] = strength if take else 0.0
        always = random.Random(f"{seed}/always")
        certain = always.choice([kind for kind in KINDS.values() if kind.restarts and kind.unit == "second"])
        rates[certain.name] = max(rates[certain.name], 3.0)
        return replace(Faults.none(), **_given(rates))


def _given(rates: dict[str, float]) -> dict[str, Any]:
    return {name: round(rate, 6) for name, rate in rates.items()}


@dataclass(frozen=True)
class Kind:
    """A fault of the list above."""

    name: str
    unit: Unit
    typical: float
    doc: str
    restarts: bool
    mixed: bool
    """A seed of the swarm may choose it."""


KINDS: dict[str, Kind] = {
    entry.name: Kind(entry.name, **entry.metadata) for entry in fields(Faults) if entry.metadata["unit"] in get_args(Unit)
}


@dataclass(frozen=True, order=True)
class Injected:
    """One fault that happened."""

    at: float
    kind: str
    number: int
    detail: str = ""

    @property
    def id(self) -> tuple[str, int]:
        return (self.kind, self.number)

    def __str__(self) -> str:
        return f"{self.at:10.4f}  {self.kind}:{self.number}  {self.detail}"


class Injector:
    """Says when faults happen, while the storm lasts. `only`: nothing but these ids, of what the seed would have."""

    def __init__(self, faults: Faults, world: World, only: frozenset[tuple[str, int]] | None = None) -> None:
        self.faults = faults.chosen(world.seed)
        self.storm = False
        self.happened: list[Injected] = []
        self.counts: Counter[str] = Counter()
        self._rates = self.faults.rates()
        self._only = only
        self._world = world
        self._chances: Counter[str] = Counter()

    def strikes(self, kind: str) -> Injected | None:
        """One chance of `kind`: the fault to be done now, and `record`ed by who does it, or None."""
        rate = self._rates[kind]
        if not rate or not self.storm:
            return None
        number = self._chances[kind]
        self._chances[kind] = number + 1
        if self._world.random(f"fault {kind}").random() >= rate:
            return None
        return self._wanted(kind, number)

    def schedule(self, kind: str, storm_s: float, action: Callable[[Injected, random.Random], str]) -> None:
        """Faults that come by themselves: `action` does one and says what it did, or "" when there was nothing to do it to."""
        rate = self._rates[kind]
        rng = self._world.random(f"times {kind}")
        at, number = 0.0, 0
        while rate:
            at += rng.expovariate(rate)
            if at > storm_s:
                return
            fault = self._wanted(kind, number)
            if fault is not None:
                self._world.schedule(at, lambda fault=fault: self._act(fault, action))  # type: ignore[misc]
            number += 1

    def choices(self, fault: Injected) -> random.Random:
        """Draws of one fault's own: the same whatever else happens."""
        return random.Random(f"{self._world.seed}/{fault.kind}/{fault.number}")

    def record(self, fault: Injected, detail: str) -> None:
        done = replace(fault, at=self._world.now, detail=detail)
        self.happened.append(done)
        self.counts[fault.kind] += 1
        self._world.note("FAULT", f"{fault.kind}:{fault.number} {detail}")

    def _act(self, fault: Injected, action: Callable[[Injected, random.Random], str]) -> None:
        if self.storm and (detail := action(fault, self.choices(fault))):
            self.record(fault, detail)

    def _wanted(self, kind: str, number: int) -> Injected | None:
        if self._only is not None and (kind, number) not in self._only:
            return None
        return Injected(self._world.now, kind, number)


def parse_faults(text: str) -> Faults:
    """`swarm`, `none`, or names with commas; `name=strength` for another than the typical one. Raises UsageError."""
    if text == "swarm":
        return Faults.swarm()
    if text == "none":
        return Faults.none()
    rates: dict[str, float] = {}
    for part in text.split(","):
        name, _, strength = part.strip().partition("=")
        if name not in KINDS:
            raise UsageError(f"{name!r} is no fault; there are: {', '.join(KINDS)}")
        rates[name] = float(strength) if strength else KINDS[name].typical
    return replace(Faults.none(), **_given(rates))


def ids(faults: Iterable[Injected]) -> frozenset[tuple[str, int]]:
    return frozenset(fault.id for fault in faults)
