"""A user's coroutine function as it runs in an event loop: tried again after errors and timeouts."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable
from typing import Any

from flinkray.operators.calls import Failure, UserFunction

LONGEST_PAUSE_S = 10.0


class AsyncFunction(UserFunction):
    """`function`: a coroutine function, or a class whose instances are called, with `async open()` and `async close()` if it has them."""

    def __init__(self, function: Callable[..., Any] | type, timeout_s: float | None, retries: int, pause_s: float) -> None:
        self._given = function
        self._timeout_s, self._retries, self._pause_s = timeout_s, retries, pause_s
        self._function: Any = None

    def for_worker(self) -> AsyncFunction:
        return copy.copy(self)

    async def open(self) -> None:
        self._function = self._given() if isinstance(self._given, type) else copy.deepcopy(self._given)
        await self._hook("open")

    async def close(self) -> None:
        if self._function is not None:
            await self._hook("close")

    async def __call__(self, payload: Any) -> Any:
        """A Failure after the last try."""
        for attempt in range(self._retries + 1):
            try:
                return await asyncio.wait_for(self._function(payload), self._timeout_s)
            except TimeoutError as error:
                failure = Failure.of(error)
                if not str(error):
                    failure = Failure(f"TimeoutError: no answer within {self._timeout_s} s, tried {attempt + 1} times", failure.trace)
            except Exception as error:  # noqa: BLE001 - whatever user code raises becomes an answer
                failure = Failure.of(error)
            if attempt < self._retries:
                await asyncio.sleep(min(self._pause_s * 2**attempt, LONGEST_PAUSE_S))
        return failure

    async def _hook(self, name: str) -> None:
        hook = getattr(self._function, name, None)
        if hook is not None and not inspect.isfunction(self._function):
            result = hook()
            if inspect.isawaitable(result):
                await result
