"""The network between simulated processes: delays with heavy tails, losses, repeats, partitions, resets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flinkray.testing.simulation.faults import Injector
from flinkray.testing.simulation.world import Process, World

TYPICAL_DELAY_S = 0.001
LONGEST_DELAY_S = 6.0


@dataclass(frozen=True)
class Partition:
    """Messages for which `blocks(sender, receiver)` do not arrive."""

    what: str
    blocks: Callable[[Process, Process], bool]


class Network:
    def __init__(self, world: World, injector: Injector) -> None:
        self._world = world
        self._injector = injector
        self._random = world.random("network")
        self._partitions: list[Partition] = []
        self._latest: dict[tuple[str, str, str], float] = {}
        self._resets: dict[tuple[str, str], int] = {}

    # -- sending --------------------------------------------------------------------------------------------------

    def message(self, sender: Process, receiver: Process, deliver: Callable[[], None], stream: str = "call") -> None:
        """A command, a call or an answer: arrives once, and in order within its stream, unless a fault says otherwise."""
        if self.blocked(sender, receiver):
            return
        strikes = self._injector.strikes
        if (fault := strikes("drop")) is not None:
            self._injector.record(fault, f"{sender.name} to {receiver.name}")
            return
        delay_s = self._delay_s("delay", sender, receiver)
        if (fault := strikes("duplicate")) is not None:
            self._injector.record(fault, f"{sender.name} to {receiver.name}")
            again_s = delay_s + self._injector.choices(fault).expovariate(5.0)
            self._world.schedule(again_s, deliver, receiver)
        if (fault := strikes("reorder")) is not None:
            self._injector.record(fault, f"{sender.name} to {receiver.name}")
            self._world.schedule(delay_s + self._injector.choices(fault).expovariate(20.0), deliver, receiver)
            return
        self._in_order(stream, sender, receiver, delay_s, deliver)

    def frames(self, sender: Process, receiver: Process, deliver: Callable[[], None]) -> None:
        """Frames from slot to slot: a stream. What a reset or a partition takes from it shows as a gap."""
        if self.blocked(sender, receiver):
            return
        strikes = self._injector.strikes
        if (fault := strikes("frame_drop")) is not None:
            self._injector.record(fault, f"{sender.name} to {receiver.name}")
            return
        if (fault := strikes("frame_duplicate")) is not None:
            self._injector.record(fault, f"{sender.name} to {receiver.name}")
            self._in_order("frames", sender, receiver, TYPICAL_DELAY_S, deliver)
        delay_s = self._delay_s("frame_delay", sender, receiver)
        if (fault := strikes("frame_reorder")) is not None:
            self._injector.record(fault, f"{sender.name} to {receiver.name}")
            self._world.schedule(delay_s + self._injector.choices(fault).expovariate(20.0), deliver, receiver)
            return
        connection = (sender.name, receiver.name)
        resets = self._resets.get(connection, 0)

        def arrive() -> None:
            if self._resets.get(connection, 0) == resets:
                deliver()

        self._in_order("frames", sender, receiver, delay_s, arrive)

    def _delay_s(self, kind: str, sender: Process, receiver: Process) -> float:
        delay_s = self._random.expovariate(1.0 / TYPICAL_DELAY_S)
        if (fault := self._injector.strikes(kind)) is not None:
            delay_s += min(LONGEST_DELAY_S, 0.05 * self._injector.choices(fault).paretovariate(0.7))
            self._injector.record(fault, f"{sender.name} to {receiver.name}: {delay_s:.3f} s")
        return delay_s

    def _in_order(self, stream: str, sender: Process, receiver: Process, delay_s: float, deliver: Callable[[], None]) -> None:
        key = (stream, sender.name, receiver.name)
        now = self._world.now
        arrival = max(self._latest.get(key, 0.0), now + delay_s)
        self._latest[key] = arrival
        self._world.schedule(arrival - now, deliver, receiver)

    # -- faults ---------------------------------------------------------------------------------------------------

    def blocked(self, sender: Process, receiver: Process) -> bool:
        return any(partition.blocks(sender, receiver) for partition in self._partitions)

    def partition(self, what: str, blocks: Callable[[Process, Process], bool], for_s: float) -> None:
        partition = Partition(what, blocks)
        self._partitions.append(partition)
        self._world.schedule(for_s, lambda: self._heal(partition))

    def reset(self, one: Process, other: Process) -> None:
        """What is on its way between the two, in both directions, is lost."""
        for pair in ((one.name, other.name), (other.name, one.name)):
            self._resets[pair] = self._resets.get(pair, 0) + 1

    def heal(self) -> None:
        for partition in list(self._partitions):
            self._heal(partition)

    def _heal(self, partition: Partition) -> None:
        if partition in self._partitions:
            self._partitions.remove(partition)
            self._world.note("network", f"healed: {partition.what}")


def isolation(process: Process, direction: str, reaches_storage: bool) -> Callable[[Process, Process], bool]:
    """Blocks what `process` sends ("out"), gets ("in"), or "both"; storage and journal stay in reach where `reaches_storage`."""

    def blocks(sender: Process, receiver: Process) -> bool:
        if reaches_storage and (sender.zone == SERVICES or receiver.zone == SERVICES):
            return False
        outward = sender is process and direction in ("out", "both")
        inward = receiver is process and direction in ("in", "both")
        return outward or inward

    return blocks


def between(one: Process, other: Process) -> Callable[[Process, Process], bool]:
    return lambda sender, receiver: {sender, receiver} == {one, other}


def zone_border(zone: str, reaches_storage: bool) -> Callable[[Process, Process], bool]:
    def blocks(sender: Process, receiver: Process) -> bool:
        if reaches_storage and SERVICES in (sender.zone, receiver.zone):
            return False
        return (sender.zone == zone) != (receiver.zone == zone)

    return blocks


SERVICES = "services"
"""The zone of object storage and the journal."""
