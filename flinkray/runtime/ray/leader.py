"""The JobManager that leads a job, found again wherever it is: a leader may be lost at any time, and a standby or a restarted one follows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from flinkray.errors import FlinkrayError, JobFailedError, WaitTimeoutError
from flinkray.runtime.ray.names import MAX_JOB_MANAGERS, NAMESPACE, job_manager_name

CALL_TIMEOUT_S = 30.0
HEDGE_S = 0.3
"""The last leader has not answered by then: it may be lost or frozen (Ray holds back a call to an actor that is restarting), so the others are
asked, too."""
_PAUSE_S = 0.05


class NotLeadingError(FlinkrayError):
    """This process stands by."""


@dataclass(frozen=True)
class NotLeading:
    """What a standby answers: a value, since Ray prints errors that nobody has waited for."""


@dataclass(frozen=True)
class OtherRun:
    """What the JobManager of a later run of the same name answers."""


def answered_by_the_leader(method: Callable[..., Any]) -> Callable[..., Any]:
    """For methods of the actor, whose first argument then is the run that is meant, empty for any."""

    def call(self: Any, run: str, *arguments: Any) -> Any:
        if run not in ("", self.run):
            return OtherRun()
        try:
            return method(self, *arguments)
        except NotLeadingError:
            return NotLeading()

    call.__name__, call.__doc__ = method.__name__, method.__doc__  # not functools.wraps: Ray would take the signature of what is wrapped
    return call


def job_managers(name: str) -> list[Any]:
    """The actors that are there, by number; restarting ones too."""
    found = []
    for number in range(MAX_JOB_MANAGERS):
        try:
            found.append(ray.get_actor(job_manager_name(name, number), namespace=NAMESPACE))
        except ValueError:
            continue
    return found


def abandon(calls: Iterable[Any]) -> None:
    """Ray prints the errors of calls that nobody takes: they are taken when they come. (Asking with `ray.wait` when they might have come failed
    within Ray now and then, by an assertion.)"""
    for call in calls:
        call.future().add_done_callback(_taken)


def _taken(call: Future[Any]) -> None:
    if not call.cancelled():
        call.exception()


class Leader:
    """Calls methods of whichever actor leads. A call that was lost with a leader is made again: it must be one that may be repeated."""

    def __init__(self, name: str, actor: Any = None, run: str = "") -> None:
        """`run`: the one that is meant; empty for whichever has the name."""
        self._name = name
        self._run = run
        self._others: set[Any] = set()
        """Ids of actors of other runs."""
        self._actor = actor
        """Led when it was last asked."""
        self._loss = ""
        """What Ray said of the last actor that was lost."""
        self._known: list[Any] | None = None
        """Those that there were when the GCS was last asked; None: it was not yet."""
        self._look: Thread | None = None
        self._look_lock = Lock()

    def look_around(self) -> Thread:
        """Learn who there is, without waiting: the GCS may be away just when the leader is lost, and those that are known can be asked without.
        Several threads may call at a time: they share one look, which ends when the thread that is returned does."""
        with self._look_lock:
            if self._look is None or not self._look.is_alive():
                self._look = Thread(target=self._learn, name=f"flinkray-look-{self._name}", daemon=True)
                self._look.start()
            return self._look

    def _learn(self) -> None:
        with suppress(RayError):
            self._known = job_managers(self._name)

    def exists(self) -> bool:
        return bool(job_managers(self._name))

    def call(self, method: str, *arguments: Any, group: str = "look", timeout_s: float = CALL_TIMEOUT_S, takes_s: float = 0.0) -> Any:
        """`takes_s`: how long the call may take by its nature. WaitTimeoutError when nobody who leads has answered in time, JobFailedError when
        no JobManager is left."""
        deadline = time.monotonic() + timeout_s
        open_calls: dict[Any, Any] = {}
        while True:
            last = self._actor
            for actor in [last] if last is not None and not open_calls else self._candidates():
                if actor not in open_calls.values():
                    open_calls[getattr(actor, method).options(concurrency_group=group).remote(self._run, *arguments)] = actor
            if not open_calls:
                time.sleep(_PAUSE_S)  # nobody is known, and the GCS does not answer
            done, _ = ray.wait(list(open_calls), timeout=HEDGE_S + takes_s) if open_calls else ([], [])
            for call in done:
                actor = open_calls.pop(call)
                answer = self._take(call)
                if isinstance(answer, OtherRun):
                    self._others.add(actor._actor_id)
                    self._actor = None
                    continue
                if isinstance(answer, NotLeading):
                    self._actor = None  # also one that led: it was deposed without dying
                    time.sleep(_PAUSE_S)
                    continue
                self._actor = actor
                abandon(open_calls)
                return answer
            if time.monotonic() > deadline:
                abandon(open_calls)
                raise WaitTimeoutError(
                    f"job {self._name}: no JobManager that leads answered {method} in {timeout_s:.0f} s; what was asked for may have happened"
                )

    def _take(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except RayActorError as error:
            self._loss = str(error)
            return NotLeading()

    def _candidates(self) -> list[Any]:
        """Whoever may lead, by the GCS; those that were known where it does not answer soon."""
        look = self.look_around()
        look.join(HEDGE_S)
        if self._known is None:
            return []
        actors = [actor for actor in self._known if actor._actor_id not in self._others]
        if look.is_alive():
            return actors
        if not actors and "creation task" in self._loss:
            raise JobFailedError(
                f"job {self._name}: its JobManager could not start: {self._loss.strip().splitlines()[-1]}. What a job uses must be there on every "
                "node: `ray job submit --working-dir` takes a folder along, or install it"
            )
        if not actors:
            raise JobFailedError(f"job {self._name}: its JobManagers are gone; start the job again to go on from the latest checkpoint")
        return actors
