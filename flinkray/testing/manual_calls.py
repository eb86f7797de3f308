"""Calls that a test answers by hand, in the order it likes: what the harness gives to operators that make them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from flinkray.errors import UsageError
from flinkray.operators.async_function import AsyncFunction
from flinkray.operators.calls import Answer, Calls, CallSpec, timed


class ManualCalls(Calls):
    """`asked`: payloads by number, in the order in which they came. They are run when they are answered."""

    def __init__(self, spec: CallSpec) -> None:
        self.spec = spec
        self.asked: dict[int, Any] = {}
        self.room = spec.capacity if spec.kind == "async" else 2 * spec.workers[1]
        self._answers: list[Answer] = []
        self._function = spec.function.for_worker()

    @property
    def free(self) -> int:
        return self.room - len(self.asked) - len(self._answers)

    def send(self, payloads: Sequence[tuple[int, Any]]) -> None:
        if len(payloads) > self.free:
            raise UsageError(f"{len(payloads)} payloads were sent where {self.free} may be")
        self.asked.update(payloads)

    def take(self, now_s: float) -> list[Answer]:
        answers, self._answers = self._answers, []
        return answers

    def answer(self, *numbers: int, took_s: float = 0.0) -> None:
        """Answer these, in this order; without any: all, in order."""
        for number in numbers or tuple(self.asked):
            result = run(self._function, number, self.asked.pop(number)).result
            self._answers.append(Answer(number, result, took_s))

    def close(self) -> None:
        self.asked.clear()


def run(function: Any, number: int, payload: Any) -> Answer:
    """The call, here and now; coroutines in an event loop of their own."""
    if not isinstance(function, AsyncFunction):
        return timed(number, function, payload)

    async def whole() -> Any:
        await function.open()
        try:
            return await function(payload)
        finally:
            await function.close()

    return timed(number, lambda _: asyncio.run(whole()), None)
