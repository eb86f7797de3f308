"""What an executor with one thread is in the product: work done in order, each piece in a fiber."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

from flinkray.runtime.task_manager import Background
from flinkray.testing.simulation.world import Process

T = TypeVar("T")


class Lane(Background):
    """`run` and `call` keep their order. Lost with its process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Any], None], bool]] = deque()
        self._busy = False
        self._closed = False

    @property
    def idle(self) -> bool:
        return not self._busy and not self._waiting

    def run(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """`function` may wait; `done` gets its result or exception."""
        self._waiting.append((function, done, True))
        self._next()

    def call(self, function: Callable[[], Any]) -> None:
        """`function` does not wait, but has its turn."""
        self._waiting.append((function, lambda result: None, False))
        self._next()

    def start(self, function: Callable[[], T]) -> Callable[[], T]:
        """One after the other: what is read when depends on nothing but the seed."""
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            return partial(_raise, error)
        return lambda: result

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()

    def _next(self) -> None:
        while self._waiting and not self._busy and not self._closed:
            function, done, waits = self._waiting.popleft()
            if not waits:
                function()
                continue
            self._busy = True
            self._process.start_fiber(function, lambda result, done=done: self._finished(result, done))  # type: ignore[misc]

    def _finished(self, result: Any, done: Callable[[Any], None]) -> None:
        self._busy = False
        if not self._closed:
            done(result)
        self._next()


def _raise(error: Exception) -> NoReturn:
    raise error
