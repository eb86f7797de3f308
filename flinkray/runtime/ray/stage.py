"""A stage's workers as Ray actors, owned by the TaskManager that feeds them: they end with it, and outlive its attempts, since what they
have loaded may have taken minutes."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pyarrow as pa
import ray

from flinkray.config import HighAvailability
from flinkray.core.worker_pool import Command, EndWorker, GiveUp, Send, StartWorker, WorkerPool
from flinkray.errors import ResourceError
from flinkray.graph.job_graph import JobGraph
from flinkray.operators.calls import NO_UNIT, Answer, Calls, CallsFactory, CallSpec, Failure, timed
from flinkray.operators.stage import QUEUED
from flinkray.runtime.calls import InProcessCalls
from flinkray.runtime.ray.placement import for_stage_worker

TICK_S = 0.1


class StageActor:
    """One worker: opened once, then called with batches, in order."""

    def open(self, function: bytes) -> Failure | int:
        """The process id."""
        try:
            self._function = cloudpickle.loads(function).for_worker()
        except Exception as error:  # noqa: BLE001 - whatever user code raises becomes an answer
            return Failure.of(error)
        return os.getpid()

    def call(self, number: int, payload: pa.Buffer) -> tuple[Answer, pa.Buffer | None]:
        answer = timed(number, self._function, _unpacked(payload))
        if not isinstance(answer.result, pa.RecordBatch):
            return answer, None  # a failure, or parts, which are few rows
        return Answer(number, None, answer.took_s), _packed(answer.result)


def _packed(batch: pa.RecordBatch) -> pa.Buffer:
    """Only the rows of the batch, also where it is a slice."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _unpacked(data: pa.Buffer) -> pa.RecordBatch:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()


@dataclass(frozen=True)
class _News:
    """What became of one call to an actor: of `open` (number None) or of a batch."""

    actor: Any
    number: int | None
    value: Any
    error: BaseException | None


class ActorCalls(Calls):
    def __init__(self, spec: CallSpec, wake: Callable[[], None], high_availability: HighAvailability, kept: list[Any]) -> None:
        self._spec, self._zones = spec, high_availability
        self._wake = wake
        self._function = ray.put(cloudpickle.dumps(spec.function))
        self._pool = WorkerPool(*spec.workers, QUEUED, spec.timeout_s)
        self._actors: dict[int, Any] = {}
        self._payloads: dict[int, Any] = {}
        self._news: deque[_News] = deque()
        self._gave_up: list[Answer] = []
        self._next_tick_s = 0.0
        self._closed = threading.Event()
        now_s = time.monotonic()
        for actor in kept[: spec.workers[1]]:
            self._actors[self._pool.adopt(now_s)] = actor
        self._tick(now_s)

    @property
    def free(self) -> int:
        return self._pool.free

    def send(self, payloads: Sequence[tuple[int, Any]]) -> None:
        for number, batch in payloads:
            self._payloads[number] = _packed(batch)
        self._do(self._pool.send([number for number, _ in payloads], time.monotonic()))

    def take(self, now_s: float) -> list[Answer]:
        now_s, answers = time.monotonic(), []
        with suppress(IndexError):
            while True:
                answer = self._heard(self._news.popleft(), now_s)
                if answer is not None:
                    answers.append(answer)
        self._tick(now_s)
        answers += self._gave_up
        self._gave_up.clear()
        return answers

    def close(self) -> None:
        self._closed.set()

    def leave(self) -> list[Any]:
        """Workers that are up, for the next attempt."""
        self._closed.set()
        kept = [self._actors.pop(worker) for worker in self._pool.up]
        self.end()
        return kept

    def end(self) -> None:
        self._closed.set()
        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)
        self._actors.clear()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> None:
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + TICK_S
            self._do(self._pool.tick(now_s))

    def _heard(self, news: _News, now_s: float) -> Answer | None:
        worker = next((id for id, actor in self._actors.items() if actor is news.actor), None)
        if worker is None:
            return None  # one that was given up
        if news.error is not None:
            del self._actors[worker]
            reason = str(news.error).splitlines()[0] if str(news.error) else type(news.error).__name__
            self._do(self._pool.on_lost(worker, reason, now_s))
            return None
        if news.number is None:
            if isinstance(news.value, Failure):
                return Answer(NO_UNIT, news.value)
            self._do(self._pool.on_up(worker, now_s))
            return None
        counts, commands = self._pool.on_answer(worker, news.number, now_s)
        self._do(commands)
        if not counts:
            return None
        del self._payloads[news.number]
        answer, data = news.value
        return answer if data is None else Answer(answer.number, _unpacked(data), answer.took_s)

    def _do(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case StartWorker(worker):
                    self._start(worker)
                case Send(worker, number):
                    actor = self._actors[worker]
                    self._listen(actor, number, actor.call.remote(number, self._payloads[number]))
                case EndWorker(worker):
                    ray.kill(self._actors.pop(worker), no_restart=True)
                case GiveUp(number, reason):
                    failure = Failure(f"stage {self._spec.uid!r}: {reason}", "")
                    self._gave_up.append(Answer(NO_UNIT if number is None else number, failure))

    def _start(self, worker: int) -> None:
        spec = self._spec
        options = {
            "num_cpus": spec.cpus,
            "num_gpus": spec.gpus,
            "max_restarts": 0,
            **for_stage_worker(self._zones, ray.get_runtime_context().get_node_id(), spec.cpus, spec.gpus),
        }
        actor = ray.remote(StageActor).options(**options).remote()
        self._actors[worker] = actor
        self._listen(actor, None, actor.open.remote(self._function))

    def _listen(self, actor: Any, number: int | None, call: Any) -> None:
        def done(future: Any) -> None:
            if self._closed.is_set():
                return
            error = future.exception()
            self._news.append(_News(actor, number, None if error is not None else future.result(), error))
            self._wake()

        call.future().add_done_callback(done)


class RayCalls(CallsFactory):
    """Stages on actors, coroutines in this process."""

    def __init__(self, high_availability: HighAvailability) -> None:
        self._zones = high_availability
        self._here = InProcessCalls()
        self._open: dict[str, ActorCalls] = {}
        """By operator: a TaskManager runs one subtask of each."""

    def open(self, spec: CallSpec, wake: Callable[[], None]) -> Calls:
        if spec.kind == "async":
            return self._here.open(spec, wake)
        before = self._open.pop(spec.uid, None)
        self._open[spec.uid] = ActorCalls(spec, wake, self._zones, before.leave() if before is not None else [])
        return self._open[spec.uid]

    def settle(self, uids: frozenset[str]) -> None:
        """Actors of the last attempt that this one has no use for are ended."""
        for uid in self._open.keys() - uids:
            self._open.pop(uid).end()

    def close(self) -> None:
        self.settle(frozenset())


def check_stages(name: str, graph: JobGraph) -> None:
    """ResourceError when the cluster is too small for the workers that stages have at least: they would be waited for in vain."""
    stages = [spec for vertex in graph.vertices for spec in vertex.operators if spec.kind == "stage"]
    total = ray.cluster_resources()
    for kind, parameter in (("CPU", "cpus"), ("GPU", "gpus")):
        wanted = sum(spec.params["workers"][0] * spec.params[parameter] for spec in stages)
        if wanted > total.get(kind, 0.0):
            uids = ", ".join(repr(spec.uid) for spec in stages if spec.params[parameter])
            raise ResourceError(
                f"job {name!r}: the workers of {uids} ask for {wanted:g} {kind}s; the cluster has {total.get(kind, 0.0):g}: "
                f"give map_batches a lower concurrency= or num_{parameter}=, or add nodes"
            )
