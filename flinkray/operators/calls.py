"""Calls of user code that run beside the mailbox: what an operator asks for, and what each runtime provides.

A call has no effects that count: it may be made again, after a failure of its worker or of the job.
"""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flinkray.errors import ProtocolError

NO_UNIT = -1
"""Number of an answer to no payload: a worker could not be opened."""


class UserFunction(ABC):
    """What is called, as it travels: `for_worker` makes the copy that one worker calls (with its model, its client)."""

    @abstractmethod
    def for_worker(self) -> Any:
        """May take long, and raise whatever user code raises."""


@dataclass(frozen=True)
class CallSpec:
    """What is called, and where."""

    uid: str
    subtask: int
    function: UserFunction
    """Runs one payload; an AsyncFunction for `kind="async"`."""
    kind: str
    """"async" (an event loop of this process) or "stage" (workers of their own)."""
    workers: tuple[int, int] = (1, 1)
    """Of a stage in this subtask: at least, at most."""
    cpus: float = 0.0
    gpus: float = 0.0
    capacity: int = 1
    """Of async calls: how many at once."""
    timeout_s: float | None = None
    """After so long an async call is tried again, and the worker of a stage is replaced."""


@dataclass(frozen=True)
class Failure:
    """User code raised; as text, since not every exception travels."""

    message: str
    trace: str
    """From the user's first frame on."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("flinkray."):
            frames = frames.tb_next
        return cls(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(type(error), error, frames)))


@dataclass(frozen=True)
class Answer:
    number: int
    result: Any
    """What the function returned, or a Failure."""
    took_s: float = 0.0


class Calls(Protocol):
    """The calls of one operator in one subtask. All methods are called from the mailbox thread."""

    @property
    def free(self) -> int:
        """How many more payloads may be sent now."""
        ...

    def send(self, payloads: Sequence[tuple[int, Any]]) -> None:
        """Numbers are unlike each other."""
        ...

    def take(self, now_s: float) -> list[Answer]:
        """What was answered since; each number once."""
        ...

    def close(self) -> None:
        """Answers to what is under way are not wanted."""
        ...


class CallsFactory(Protocol):
    """What a TaskManager's process offers."""

    def open(self, spec: CallSpec, wake: Callable[[], None]) -> Calls:
        """`wake` is called, from any thread, when there is something to take."""
        ...

    def settle(self, uids: frozenset[str]) -> None:
        """Only these operators are open from now on: workers that are kept for others are ended."""
        ...

    def close(self) -> None: ...


def no_calls(spec: CallSpec) -> Calls:
    """Where nothing provides them."""
    raise ProtocolError(f"operator {spec.uid!r} makes calls, and nothing here runs them")


def timed(number: int, function: Callable[[Any], Any], payload: Any) -> Answer:
    """The call itself, on a worker."""
    started = time.perf_counter()
    try:
        result = function(payload)
    except Exception as error:  # noqa: BLE001 - whatever user code raises becomes an answer
        result = Failure.of(error)
    return Answer(number, result, time.perf_counter() - started)
