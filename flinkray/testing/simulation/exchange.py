"""The exchange of a simulated slot: numbered frames to each peer, as over ZeroMQ, and queues to itself. A gap, a repeat or silence is a
failed channel (rule 23); frames of an older attempt are dropped, those of a newer one kept until it is opened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flinkray.errors import ProtocolError
from flinkray.exchange.base import Batch, ChannelFailed, ChannelId, ChannelSpec, Element, Endpoint, Exchange, InputChannel, OutputChannel
from flinkray.exchange.liveness import PeerLiveness, SequenceCheck
from flinkray.testing.simulation.network import Network
from flinkray.testing.simulation.world import Process

WINDOW = 12
"""Batches of one channel that the consumer has not taken yet, at most (and one more)."""

GRANT = 4
"""Credit goes back in portions of so many batches."""


@dataclass(frozen=True)
class Frame:
    sequence: int
    kind: Literal["element", "credit", "ping"]
    channel: ChannelId | None
    payload: Element | int | None = None


@dataclass(frozen=True)
class Message:
    """Frames from one slot to another."""

    sender: str
    attempt: int
    frames: tuple[Frame, ...]


class _Peer:
    def __init__(self, instance: str, liveness: PeerLiveness) -> None:
        self.instance = instance
        self.liveness = liveness
        self.arrivals = SequenceCheck()
        self.failed = False
        self._sequence = 0
        self._waiting: list[Frame] = []

    def put(self, kind: Literal["element", "credit", "ping"], channel: ChannelId | None, payload: Element | int | None = None) -> None:
        self._waiting.append(Frame(self._sequence, kind, channel, payload))
        self._sequence += 1

    def take(self) -> tuple[Frame, ...]:
        waiting, self._waiting = self._waiting, []
        return tuple(waiting) if not self.failed else ()


class _Output(OutputChannel):
    def __init__(self, id: ChannelId, peer: _Peer) -> None:
        self.id = id
        self.credit = WINDOW
        self._peer = peer

    @property
    def ready(self) -> bool:
        return self.credit > 0

    def send(self, element: Element) -> None:
        if isinstance(element, Batch):
            self.credit -= 1
        self._peer.put("element", self.id, element)


class _Input(InputChannel):
    def __init__(self, id: ChannelId, peer: _Peer) -> None:
        self.id = id
        self.elements: deque[Element] = deque()
        self._peer = peer
        self._owed = 0

    @property
    def queued_bytes(self) -> int:
        return sum(element.data.nbytes for element in self.elements if isinstance(element, Batch))

    def peek(self) -> Element | None:
        return self.elements[0] if self.elements else None

    def pop(self) -> Element:
        element = self.elements.popleft()
        if isinstance(element, Batch):
            self._owed += 1
            if self._owed == GRANT:
                self._peer.put("credit", self.id, self._owed)
                self._owed = 0
        return element


class _LocalChannel(OutputChannel, InputChannel):
    """Both ends of a channel of a slot to itself."""

    def __init__(self, id: ChannelId, news: Callable[[], None]) -> None:
        self.id = id
        self._elements: deque[Element] = deque()
        self._news = news

    @property
    def ready(self) -> bool:
        return len(self._elements) < WINDOW

    @property
    def queued_bytes(self) -> int:
        return sum(element.data.nbytes for element in self._elements if isinstance(element, Batch))

    def send(self, element: Element) -> None:
        self._elements.append(element)
        self._news()

    def peek(self) -> Element | None:
        return self._elements[0] if self._elements else None

    def pop(self) -> Element:
        return self._elements.popleft()


class SimulatedExchange(Exchange):
    """`directory`: the process of an instance, for as long as it has an address. `wake` has the slot take a step soon."""

    def __init__(
        self,
        instance: str,
        process: Process,
        network: Network,
        directory: dict[str, tuple[Process, SimulatedExchange]],
        timeout_s: float,
        wake: Callable[[], None],
    ) -> None:
        self.wait_s = 0.0
        """How long the last `poll` would have waited."""
        self.dropped = 0
        self._instance = instance
        self._endpoint = Endpoint(instance, process.name)
        self._process = process
        self._network = network
        self._directory = directory
        self._timeout_s = timeout_s
        self._wake = wake
        self._attempt = -1
        self._peers: dict[str, _Peer] = {}
        self._outputs: dict[ChannelId, _Output] = {}
        self._inputs: dict[ChannelId, _Input] = {}
        self._early: list[Message] = []
        self._failures: list[ChannelFailed] = []
        self._arrived: list[Message] = []
        self._local_news = False
        self._listened_s = process.monotonic()
        directory[instance] = (process, self)

    @property
    def peers(self) -> Sequence[str]:
        """Instances of the slots that this one has channels with."""
        return list(self._peers)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def open(
        self, attempt: int, secret: bytes, outputs: Sequence[ChannelSpec], inputs: Sequence[ChannelSpec]
    ) -> tuple[dict[ChannelId, OutputChannel], dict[ChannelId, InputChannel]]:
        if attempt <= self._attempt:
            raise ProtocolError(f"exchange of {self._instance}: attempt {attempt} after attempt {self._attempt}")
        self._close_attempt()
        self._attempt = attempt
        now = self._process.monotonic()
        peers = sorted({spec.peer.instance for spec in (*outputs, *inputs)} - {self._instance})
        self._peers = {instance: _Peer(instance, PeerLiveness(self._timeout_s, now)) for instance in peers}
        local = {spec.id: _LocalChannel(spec.id, self._note_local) for spec in outputs if spec.peer.instance == self._instance}
        self._outputs = {s.id: _Output(s.id, self._peers[s.peer.instance]) for s in outputs if s.id not in local}
        self._inputs = {s.id: _Input(s.id, self._peers[s.peer.instance]) for s in inputs if s.id not in local}
        early, self._early = self._early, []
        for message in early:
            self._take_in(message, now)
        return {**local, **self._outputs}, {**local, **self._inputs}

    def poll(self, timeout_s: float) -> list[ChannelFailed]:
        """Takes in what has arrived and sends what waits. Returns at once; the process sleeps for `wait_s` instead."""
        now = self._process.monotonic()
        arrived, self._arrived = self._arrived, []
        for message in arrived:
            self._take_in(message, now)
        self._keep_alive(now)
        for peer in self._peers.values():
            self._flush(peer)
        failures, self._failures = self._failures, []
        news = arrived or self._local_news or failures
        self._local_news = False
        self.wait_s = 0.0 if news else min(timeout_s, self._timeout_s / 4) if self._peers else timeout_s
        return failures

    def wake(self) -> None:
        self._wake()

    def close(self) -> None:
        self._close_attempt()
        self._directory.pop(self._instance, None)

    def deliver(self, message: Message) -> None:
        """The network brings frames."""
        self._arrived.append(message)
        self._wake()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _note_local(self) -> None:
        self._local_news = True

    def _close_attempt(self) -> None:
        for peer in self._peers.values():
            peer.failed = True
        self._peers, self._outputs, self._inputs = {}, {}, {}
        self._failures.clear()

    def _flush(self, peer: _Peer) -> None:
        frames = peer.take()
        if not frames or peer.instance not in self._directory:
            return
        target, exchange = self._directory[peer.instance]
        message = Message(self._instance, self._attempt, frames)
        self._network.frames(self._process, target, lambda: exchange.deliver(message))
        now = self._process.monotonic()
        peer.liveness.sent(now)
        peer.liveness.expect(now)

    def _keep_alive(self, now: float) -> None:
        since, self._listened_s = self._listened_s, now
        for peer in self._peers.values():
            if peer.liveness.ping_due(now):
                peer.put("ping", None)
            peer.liveness.absent(since, now)
            silence = peer.liveness.silence(now)
            if silence is not None:
                self._fail(peer, silence)

    def _take_in(self, message: Message, now: float) -> None:
        if message.attempt > self._attempt:
            self._early.append(message)
            return
        peer = self._peers.get(message.sender)
        if not self._is_current(message) or peer is None:
            self.dropped += 1
            return
        if peer.failed:
            return
        peer.liveness.heard(now)
        for frame in message.frames:
            wrong = peer.arrivals.accept(frame.sequence)
            if wrong is not None:
                self._fail(peer, wrong)
                return
            self._take_frame(frame)

    def _is_current(self, message: Message) -> bool:
        return message.attempt == self._attempt

    def _take_frame(self, frame: Frame) -> None:
        if frame.channel is None:
            return
        if frame.kind == "credit":
            assert isinstance(frame.payload, int)
            self._outputs[frame.channel].credit += frame.payload
        else:
            assert frame.payload is not None
            assert not isinstance(frame.payload, int)
            self._inputs[frame.channel].elements.append(frame.payload)

    def _fail(self, peer: _Peer, reason: str) -> None:
        if not peer.failed:
            peer.failed = True
            self._failures.append(ChannelFailed(peer.instance, reason))
