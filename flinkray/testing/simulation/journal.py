"""The journal's keys on virtual time: written once, answered late or not at all, and able to forget the newest."""

from __future__ import annotations

from collections.abc import Callable

from flinkray.core.journal_calls import JournalAnswer, JournalCall, JournalSilent, PutSlot, PutSnapshot
from flinkray.runtime.journal import RETRY_PAUSE_S, MemorySlots, carry_out
from flinkray.testing.simulation.faults import Injector
from flinkray.testing.simulation.network import Network
from flinkray.testing.simulation.world import Process

REQUEST_S = 0.001
TIMEOUT_S = 0.3


class Ledger(MemorySlots):
    """What the keys of one run's journal hold, outside of all processes."""

    def forget_newest(self, count: int) -> list[int]:
        """Go back in time: a key-value store restarted from an older copy."""
        gone = sorted(self._slots)[-count:]
        self.delete(gone)
        first = min(gone, default=0)
        self.delete_snapshots([number for number in self.snapshots() if number > first])
        return gone


class JournalClient:
    """One process's way to a journal."""

    def __init__(self, ledger: Ledger, place: Process, process: Process, network: Network, injector: Injector) -> None:
        self._ledger = ledger
        self._place = place
        self._process = process
        self._network = network
        self._injector = injector
        self._random = process.world.random("journal")

    def call(self, call: JournalCall, done: Callable[[JournalAnswer | JournalSilent], None]) -> None:
        """Carry `call` out, after a pause when it is tried again."""
        self._process.after(RETRY_PAUSE_S if call.again else 0.0, lambda: self._ask(call, done))

    def _ask(self, call: JournalCall, done: Callable[[JournalAnswer | JournalSilent], None]) -> None:
        fate = self._fate() if isinstance(call.operation, PutSlot | PutSnapshot) else ""
        world, delay_s = self._process.world, self._random.expovariate(2.0 / REQUEST_S)
        self._process.after(TIMEOUT_S, silence := _Once(lambda: done(JournalSilent(call.number))))
        if self._network.blocked(self._process, self._place) or fate == "journal_lost":
            return

        def arrive() -> None:
            result = carry_out(self._ledger, call.operation)
            if not fate and not self._network.blocked(self._place, self._process):
                back = _Once(lambda: done(JournalAnswer(call.number, result)), silence)
                world.schedule(self._random.expovariate(2.0 / REQUEST_S), back, self._process)

        world.schedule(delay_s, arrive)

    def _fate(self) -> str:
        for kind in ("journal_unanswered", "journal_lost"):
            if (fault := self._injector.strikes(kind)) is not None:
                self._injector.record(fault, f"a put of {self._process.name}")
                return kind
        return ""


class _Once:
    """Runs unless it was cancelled; cancels `other` when it does."""

    def __init__(self, action: Callable[[], None], other: _Once | None = None) -> None:
        self._action: Callable[[], None] | None = action
        self._other = other

    def __call__(self) -> None:
        action, self._action = self._action, None
        if action is None:
            return
        if self._other is not None:
            self._other._action = None
        action()
