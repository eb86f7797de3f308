"""Blocking code of the product as coroutines: a thread of its own, of which exactly one runs at any time.

The storage log, the journal and uploads wait for answers in the middle of a function. Here such a function runs in a fiber: `park`
gives control back to the world until `resume`, so that other processes run, crash and write in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class ProcessEnded(BaseException):
    """Unwinds a fiber whose process is gone. No Exception: nothing may catch it."""


class _Carrier:
    """A thread that runs one fiber after the other."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.back = threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.work: Callable[[], None] | None = None
        self.thread = threading.Thread(target=self._run, name="flinkray-fiber", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        _carriers.add(threading.get_ident())
        while True:
            self.go.acquire()
            assert self.work is not None
            self.work()
            self.work = None
            self.back.release()


_idle: list[_Carrier] = []
_carriers: set[int] = set()


class Fiber:
    """`done` is called with the result, or the Exception, of `function`; never after `abandon`."""

    _running: list[Fiber] = []

    def __init__(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._function = function
        self._done = done
        self._carrier: _Carrier | None = None
        self._abandoned = False
        self._over = False

    @staticmethod
    def current() -> Fiber | None:
        return Fiber._running[-1] if Fiber._running else None

    @staticmethod
    def is_carrier(thread: int) -> bool:
        return thread in _carriers

    def resume(self) -> None:
        """Run on until the next `park` or the end."""
        if self._over:
            return
        carrier = self._carrier
        if carrier is None:
            carrier = self._carrier = _idle.pop() if _idle else _Carrier()
            carrier.work = self._run
        Fiber._running.append(self)
        carrier.go.release()
        carrier.back.acquire()
        Fiber._running.pop()
        if self._over:
            self._carrier = None
            _idle.append(carrier)

    def park(self) -> None:
        """From inside: wait until somebody resumes."""
        carrier = self._carrier
        assert carrier is not None
        if self._abandoned:
            raise ProcessEnded
        carrier.back.release()
        carrier.go.acquire()
        if self._abandoned:
            raise ProcessEnded

    def abandon(self) -> None:
        """Unwind; `done` is not called."""
        if self._over or self._abandoned:
            return
        self._abandoned = True
        if self._carrier is not None:
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
