"""Calls beside the mailbox on virtual time: the function runs at once, its answer comes when the seed says, in any order; workers get lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flinkray.operators.calls import Answer, Calls, CallsFactory, CallSpec
from flinkray.testing.manual_calls import run
from flinkray.testing.simulation.world import Process

ANSWER_S = 0.06
"""The longest that an answer takes when nothing goes wrong."""

LOST = 0.05
"""How often a call is lost with its worker and made again."""


class SimulatedCalls(CallsFactory):
    def __init__(self, process: Process) -> None:
        self._process = process

    def open(self, spec: CallSpec, wake: Callable[[], None]) -> Calls:
        return _Calls(self._process, spec, wake)

    def settle(self, uids: frozenset[str]) -> None:
        pass

    def close(self) -> None:
        pass


class _Calls(Calls):
    def __init__(self, process: Process, spec: CallSpec, wake: Callable[[], None]) -> None:
        self._process, self._wake = process, wake
        self._function = spec.function.for_worker()
        self._room = spec.capacity if spec.kind == "async" else 2 * spec.workers[1]
        self._under_way = 0
        self._answers: list[Answer] = []
        self._closed = False
        self._random = process.world.random("calls")

    @property
    def free(self) -> int:
        return self._room - self._under_way

    def send(self, payloads: Sequence[tuple[int, Any]]) -> None:
        self._under_way += len(payloads)
        for number, payload in payloads:
            self._call(number, payload)

    def take(self, now_s: float) -> list[Answer]:
        answers, self._answers = self._answers, []
        self._under_way -= len(answers)
        return answers

    def close(self) -> None:
        self._closed = True

    def _call(self, number: int, payload: Any) -> None:
        lost = self._random.random() < LOST
        self._process.after(self._random.uniform(0.0, ANSWER_S), lambda: self._ended(number, payload, lost))

    def _ended(self, number: int, payload: Any, lost: bool) -> None:
        if self._closed:
            return
        if lost:
            self._call(number, payload)
            return
        self._answers.append(Answer(number, run(self._function, number, payload).result))
        self._wake()
