"""Calls of user code beside the mailbox, in this process: threads for stages, an event loop for coroutines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from flinkray.operators.async_function import AsyncFunction
from flinkray.operators.calls import NO_UNIT, Answer, Calls, CallsFactory, CallSpec, Failure, timed

CLOSE_S = 5.0
"""How long an async function has for closing what it has opened."""


class _Answers:
    """Filled by any thread, emptied by the mailbox."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._answers: deque[Answer] = deque()
        self._wake = wake

    def put(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._wake()

    def take(self) -> list[Answer]:
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._answers.popleft())
        return taken


class ThreadCalls(Calls):
    """A stage's workers as threads: as many as are needed, each with a function of its own."""

    def __init__(self, spec: CallSpec, wake: Callable[[], None]) -> None:
        self._spec = spec
        self._answers = _Answers(wake)
        self._mine = threading.local()
        self._busy = 0
        self._closed = False
        self._threads = ThreadPoolExecutor(spec.workers[1], f"flinkray-stage-{spec.uid}")

    @property
    def free(self) -> int:
        return 2 * self._spec.workers[1] - self._busy

    def send(self, payloads: Sequence[tuple[int, Any]]) -> None:
        self._busy += len(payloads)
        for number, payload in payloads:
            self._threads.submit(self._run, number, payload)

    def take(self, now_s: float) -> list[Answer]:
        answers = self._answers.take()
        self._busy -= len(answers)
        return answers

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, number: int, payload: Any) -> None:
        if self._closed:
            return
        function = getattr(self._mine, "function", None)
        if function is None:
            try:
                function = self._mine.function = self._spec.function.for_worker()
            except Exception as error:  # noqa: BLE001 - whatever user code raises becomes an answer
                self._answers.put(Answer(NO_UNIT, Failure.of(error)))
                return
        self._answers.put(timed(number, function, payload))


class LoopCalls(Calls):
    """Coroutines in an event loop that runs in a thread of its own."""

    def __init__(self, spec: CallSpec, wake: Callable[[], None]) -> None:
        assert isinstance(spec.function, AsyncFunction)
        self._spec = spec
        self._answers = _Answers(wake)
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._function = spec.function.for_worker()
        self._opened = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"flinkray-async-{spec.uid}", daemon=True)
        self._thread.start()

    @property
    def free(self) -> int:
        return self._spec.capacity - self._under_way

    def send(self, payloads: Sequence[tuple[int, Any]]) -> None:
        self._under_way += len(payloads)
        self._loop.call_soon_threadsafe(self._begin, list(payloads))

    def take(self, now_s: float) -> list[Answer]:
        answers = self._answers.take()
        self._under_way -= len(answers)
        return answers

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)

    # -- in the loop's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        opening = loop.create_task(self._open())
        loop.run_forever()
        for task in {opening, *self._tasks}:
            task.cancel()
        loop.run_until_complete(asyncio.gather(opening, *self._tasks, return_exceptions=True))
        with suppress(Exception):  # the results do not depend on it
            loop.run_until_complete(asyncio.wait_for(self._function.close(), CLOSE_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    async def _open(self) -> None:
        try:
            await self._function.open()
        except Exception as error:  # noqa: BLE001 - whatever user code raises becomes an answer
            self._answers.put(Answer(NO_UNIT, Failure.of(error)))
        else:
            self._opened.set()

    def _begin(self, payloads: list[tuple[int, Any]]) -> None:
        for number, payload in payloads:
            task = self._loop.create_task(self._call(number, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, number: int, payload: Any) -> None:
        await self._opened.wait()
        started = time.perf_counter()
        try:
            result: Any = await self._function(payload)
        except Exception as error:  # noqa: BLE001 - whatever user code raises becomes an answer
            result = Failure.of(error)
        self._answers.put(Answer(number, result, time.perf_counter() - started))


class InProcessCalls(CallsFactory):
    """Nothing is kept between attempts."""

    def open(self, spec: CallSpec, wake: Callable[[], None]) -> Calls:
        return LoopCalls(spec, wake) if spec.kind == "async" else ThreadCalls(spec, wake)

    def settle(self, uids: frozenset[str]) -> None:
        pass

    def close(self) -> None:
        pass
