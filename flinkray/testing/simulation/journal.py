"""The journal's keys on virtual time: written once, answered late or not at all, and able to forget the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from flinkray.runtime.journal import MemorySlots, Slots
from flinkray.testing.simulation.faults import Injector
from flinkray.testing.simulation.network import Network
from flinkray.testing.simulation.world import Process

REQUEST_S = 0.001
TIMEOUT_S = 0.3

T = TypeVar("T")


class Ledger(MemorySlots):
    """What the keys of one run's journal hold, outside of all processes."""

    def forget_newest(self, count: int) -> list[int]:
        """Go back in time: a key-value store restarted from an older copy."""
        gone = sorted(self._slots)[-count:]
        self.delete(gone)
        first = min(gone, default=0)
        self.delete_snapshots([number for number in self.snapshots() if number > first])
        return gone


class SimulatedSlots(Slots):
    """One process's way to the journal; called in fibers."""

    def __init__(self, ledger: Ledger, place: Process, process: Process, network: Network, injector: Injector) -> None:
        self._ledger = ledger
        self._place = place
        self._process = process
        self._network = network
        self._injector = injector
        self._random = process.world.random("journal")

    def put_if_absent(self, slot: int, value: bytes) -> None:
        self._request(lambda: self._ledger.put_if_absent(slot, value), writes=True)

    def get(self, slot: int) -> bytes | None:
        return self._request(lambda: self._ledger.get(slot))

    def delete(self, slots: Iterable[int]) -> None:
        self._request(lambda: self._ledger.delete(slots))

    def put_snapshot_if_absent(self, slots: int, value: bytes) -> None:
        self._request(lambda: self._ledger.put_snapshot_if_absent(slots, value), writes=True)

    def get_snapshot(self, slots: int) -> bytes | None:
        return self._request(lambda: self._ledger.get_snapshot(slots))

    def snapshots(self) -> tuple[int, ...]:
        return self._request(self._ledger.snapshots)

    def delete_snapshots(self, snapshots: Iterable[int]) -> None:
        self._request(lambda: self._ledger.delete_snapshots(snapshots))

    def _request(self, act: Callable[[], T], writes: bool = False) -> T:
        fate = self._fate() if writes else ""
        reached = not self._network.blocked(self._process, self._place) and fate != "journal_lost"
        answer: list[T] = []
        delay_s = self._random.expovariate(1.0 / REQUEST_S)
        if reached:
            self._process.world.schedule(delay_s / 2, lambda: answer.append(act()))
        answered = reached and not fate
        self._process.sleep(delay_s if answered else TIMEOUT_S)
        if not answered or self._network.blocked(self._place, self._process):
            raise TimeoutError(f"the journal did not answer (simulated: {fate or 'out of reach'})")
        return answer[0]

    def _fate(self) -> str:
        for kind in ("journal_unanswered", "journal_lost"):
            if (fault := self._injector.strikes(kind)) is not None:
                self._injector.record(fault, f"a put of {self._process.name}")
                return kind
        return ""
