"""Blocking code of the product as coroutines: each piece on a stack of its own (a greenlet), all in one thread.

The storage log, the journal and uploads wait for answers in the middle of a function. Here such a function runs in a fiber: `park`
gives control back to the world until `resume`, so that other processes run, crash and write in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet


class ProcessEnded(BaseException):
    """Unwinds a fiber whose process is gone. No Exception: nothing may catch it."""


class Fiber:
    """`done` is called with the result, or the Exception, of `function`; never after `abandon`."""

    _running: list[Fiber] = []

    def __init__(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._function = function
        self._done = done
        self._stack: greenlet | None = None
        self._abandoned = False
        self._over = False

    @staticmethod
    def current() -> Fiber | None:
        return Fiber._running[-1] if Fiber._running else None

    def resume(self) -> None:
        """Run on until the next `park` or the end."""
        if self._over:
            return
        if self._stack is None:
            self._stack = greenlet(self._run)
        self._stack.parent = getcurrent()
        Fiber._running.append(self)
        self._stack.switch()
        Fiber._running.pop()

    def park(self) -> None:
        """From inside: wait until somebody resumes."""
        assert self._stack is not None
        if self._abandoned:
            raise ProcessEnded
        self._stack.parent.switch()
        if self._abandoned:
            raise ProcessEnded

    def abandon(self) -> None:
        """Unwind; `done` is not called."""
        if self._over or self._abandoned:
            return
        self._abandoned = True
        if self._stack is not None:
            self.resume()

    def _run(self) -> None:
        result: Any
        try:
            result = self._function()
        except ProcessEnded:
            self._over = True
            return
        except Exception as error:  # noqa: BLE001 - handed to whoever started the fiber
            result = error
        self._over = True
        if not self._abandoned:
            self._done(result)
