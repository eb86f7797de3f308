"""Exchanges of several slots in one process, for the local runtime: each slot has its thread, channels are queues between them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from flinkray.errors import ProtocolError
from flinkray.exchange.base import (
    ChannelFailed,
    ChannelId,
    ChannelSpec,
    Endpoint,
    Exchange,
    InputChannel,
    OutputChannel,
)
from flinkray.exchange.queues import ElementQueue, QueueInput, QueueOutput


class InProcessNetwork:
    """Where the two ends of a channel find each other. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[tuple[int, ChannelId], ElementQueue] = {}
        self._ends: dict[tuple[int, ChannelId], int] = {}

    def attach(self, attempt: int, channel: ChannelId) -> ElementQueue:
        """The queue of a channel in an attempt; the first end to come makes it."""
        with self._lock:
            key = (attempt, channel)
            self._ends[key] = self._ends.get(key, 0) + 1
            return self._queues.setdefault(key, ElementQueue())

    def detach(self, attempt: int, channel: ChannelId) -> None:
        """One end is gone: what is sent from now on is dropped."""
        with self._lock:
            key = (attempt, channel)
            queue = self._queues[key]
            queue.closed = True
            self._ends[key] -= 1
            if not self._ends[key]:
                del self._queues[key], self._ends[key]


class InProcessExchange(Exchange):
    """The exchange of one slot. `open`, `poll` and the channels belong to the slot's thread."""

    def __init__(self, network: InProcessNetwork, instance: str) -> None:
        self._network = network
        self._endpoint = Endpoint(instance=instance, host="in-process")
        self._news = threading.Event()
        self._attempt = -1
        self._attached: list[ChannelId] = []

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def open(
        self, attempt: int, secret: bytes, outputs: Sequence[ChannelSpec], inputs: Sequence[ChannelSpec]
    ) -> tuple[dict[ChannelId, OutputChannel], dict[ChannelId, InputChannel]]:
        if attempt <= self._attempt:
            raise ProtocolError(f"exchange of {self._endpoint.instance}: attempt {attempt} after attempt {self._attempt}")
        self._detach()
        self._attempt = attempt
        opened_outputs: dict[ChannelId, OutputChannel] = {}
        opened_inputs: dict[ChannelId, InputChannel] = {}
        for spec in outputs:
            queue = self._attach(spec.id)
            queue.sender_news = self.wake
            opened_outputs[spec.id] = QueueOutput(spec, queue)
        for spec in inputs:
            queue = self._attach(spec.id)
            queue.consumer_news = self.wake
            opened_inputs[spec.id] = QueueInput(spec, queue)
        return opened_outputs, opened_inputs

    def poll(self, timeout_s: float) -> list[ChannelFailed]:
        """Never reports a failure: who shares a process fails with it, or says so itself."""
        if timeout_s > 0:
            self._news.wait(timeout_s)
        if self._news.is_set():
            self._news.clear()
        return []

    def wake(self) -> None:
        if not self._news.is_set():
            self._news.set()

    def close(self) -> None:
        self._detach()

    def _attach(self, channel: ChannelId) -> ElementQueue:
        self._attached.append(channel)
        return self._network.attach(self._attempt, channel)

    def _detach(self) -> None:
        for channel in self._attached:
            self._network.detach(self._attempt, channel)
        self._attached.clear()
