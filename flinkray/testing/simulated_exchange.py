"""Channels of simulated processes: in order per channel, delayed by the world, lost with the process that they lead to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flinkray.exchange.base import (
    Batch,
    ChannelFailed,
    ChannelId,
    ChannelSpec,
    Element,
    Endpoint,
    Exchange,
    InputChannel,
    OutputChannel,
)
from flinkray.testing.world import World

TYPICAL_DELAY_S = 0.001
WINDOW = 16
"""Batches on the way or queued in one channel before its sender has to stop."""


@dataclass
class _Wire:
    """One channel of one attempt."""

    queue: deque[Element] = field(default_factory=deque)
    flying: int = 0
    last_arrival: float = 0.0
    closed: bool = False


class SimulatedNetwork:
    def __init__(self, world: World) -> None:
        self.world = world
        self._wires: dict[tuple[int, ChannelId], _Wire] = {}
        self._wake: dict[str, Callable[[], None]] = {}

    def attach(self, instance: str, wake: Callable[[], None]) -> None:
        self._wake[instance] = wake

    def detach(self, instance: str) -> None:
        self._wake.pop(instance, None)

    def wire(self, attempt: int, channel: ChannelId) -> _Wire:
        return self._wires.setdefault((attempt, channel), _Wire())

    def send(self, wire: _Wire, target: str, element: Element) -> None:
        arrival = max(wire.last_arrival, self.world.now + self.world.delay_s(TYPICAL_DELAY_S))
        wire.last_arrival = arrival
        wire.flying += isinstance(element, Batch)

        def arrive() -> None:
            wire.flying -= isinstance(element, Batch)
            if not wire.closed:
                wire.queue.append(element)
                self.wake(target)

        self.world.after(arrival - self.world.now, arrive)

    def wake(self, instance: str) -> None:
        if instance in self._wake:
            self._wake[instance]()


class _Output(OutputChannel):
    def __init__(self, network: SimulatedNetwork, spec: ChannelSpec, wire: _Wire) -> None:
        self.id = spec.id
        self._network = network
        self._target = spec.peer.instance
        self._wire = wire

    @property
    def ready(self) -> bool:
        return self._wire.flying + len(self._wire.queue) < WINDOW

    def send(self, element: Element) -> None:
        self._network.send(self._wire, self._target, element)


class _Input(InputChannel):
    def __init__(self, network: SimulatedNetwork, spec: ChannelSpec, wire: _Wire) -> None:
        self.id = spec.id
        self._network = network
        self._source = spec.peer.instance
        self._wire = wire

    @property
    def queued_bytes(self) -> int:
        return sum(element.data.nbytes for element in self._wire.queue if isinstance(element, Batch))

    def peek(self) -> Element | None:
        return self._wire.queue[0] if self._wire.queue else None

    def pop(self) -> Element:
        element = self._wire.queue.popleft()
        self._network.wake(self._source)
        return element


class SimulatedExchange(Exchange):
    def __init__(self, network: SimulatedNetwork, instance: str, wake: Callable[[], None]) -> None:
        self._network = network
        self._endpoint = Endpoint(instance, "simulated")
        self._open: list[_Wire] = []
        network.attach(instance, wake)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def open(
        self, attempt: int, secret: bytes, outputs: Sequence[ChannelSpec], inputs: Sequence[ChannelSpec]
    ) -> tuple[dict[ChannelId, OutputChannel], dict[ChannelId, InputChannel]]:
        self._close_wires()
        sending = {spec.id: (spec, self._network.wire(attempt, spec.id)) for spec in outputs}
        receiving = {spec.id: (spec, self._network.wire(attempt, spec.id)) for spec in inputs}
        self._open = [wire for _, wire in receiving.values()]
        return (
            {id: _Output(self._network, spec, wire) for id, (spec, wire) in sending.items()},
            {id: _Input(self._network, spec, wire) for id, (spec, wire) in receiving.items()},
        )

    def poll(self, timeout_s: float) -> list[ChannelFailed]:
        return []

    def wake(self) -> None:
        self._network.wake(self._endpoint.instance)

    def close(self) -> None:
        self._close_wires()
        self._network.detach(self._endpoint.instance)

    def _close_wires(self) -> None:
        for wire in self._open:
            wire.closed = True
            wire.queue.clear()
        self._open = []
