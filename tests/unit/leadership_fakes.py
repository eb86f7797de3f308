"""JobManager processes over one journal in memory; tests choose which call is carried out when, and what goes wrong with it."""

from __future__ import annotations

from collections import deque
from typing import Any

from flinkray.core.journal_calls import JournalAnswer, JournalCall, JournalSilent, PutSlot, PutSnapshot, Recorded
from flinkray.core.journal_records import JournalEntry, decode_record
from flinkray.core.leadership import Leadership, LeadershipState
from flinkray.core.leadership_events import Append, Begin, Lead, LeadershipEvent, StandDown, Waited, Watch
from flinkray.runtime.journal import MemorySlots, carry_out

LEASE_S = 2.0


class History(MemorySlots):
    """Remembers what stood first in every slot: the truth, also after compaction."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[int, bytes] = {}

    def put_if_absent(self, slot: int, value: bytes) -> None:
        super().put_if_absent(slot, value)
        self.first.setdefault(slot, self._slots[slot])


class Process:
    def __init__(self, name: str, slots: History, interval: int = 100) -> None:
        self.name = name
        self.slots = slots
        self.core = Leadership(name, f"seed of {name}", LEASE_S, interval)
        self.calls: deque[JournalCall] = deque()
        self.out: list[Any] = []
        self.watch: Watch | None = None
        self.lead: Lead | None = None
        self.dead_tokens: set[str] = set()
        self.recorded: list[Recorded] = []
        self.now = 100.0

    @property
    def state(self) -> LeadershipState:
        return self.core.state

    def give(self, event: LeadershipEvent, at: float | None = None) -> list[Any]:
        self.now = self.now if at is None else at
        token = self.core.journal.token
        commands = self.core.step(event, self.now)
        self.core.check_invariants()
        for command in commands:
            self._note(command, token)
        others = [command for command in commands if not isinstance(command, JournalCall)]
        self.out += others
        return others

    def _note(self, command: Any, token: str) -> None:
        if isinstance(command, JournalCall):
            if isinstance(command.operation, PutSlot):
                assert decode_record(command.operation.value).token not in self.dead_tokens, "a deposed leader writes"
            self.calls.append(command)
        elif isinstance(command, Watch):
            self.watch = command
        elif isinstance(command, Lead):
            self.lead = command
        elif isinstance(command, StandDown):
            self.dead_tokens.add(token)
            self.lead = None
        elif isinstance(command, Recorded):
            assert self.lead is not None
            assert token not in self.dead_tokens
            self.recorded.append(command)

    def one(self, silent: bool = False, happens: bool = True) -> JournalCall:
        call = self.calls.popleft()
        result = carry_out(self.slots, call.operation) if happens else None
        self.give(JournalSilent(call.number) if silent else JournalAnswer(call.number, result))
        return call

    def all(self) -> list[Any]:
        """Carry out every call; the commands since the last time."""
        while self.calls:
            self.one()
        out, self.out = self.out, []
        return out

    def until(self, operation: type) -> None:
        """Carry out calls up to the next one of this kind, which is left."""
        while not isinstance(self.calls[0].operation, operation):
            self.one()

    def begin(self) -> list[Any]:
        self.give(Begin())
        return self.all()

    def append(self, entry: JournalEntry) -> list[Any]:
        self.give(Append(entry))
        return self.all()

    def wait(self, seconds: float, pace_s: float = 0.1) -> list[Any]:
        """Time passes, and the journal answers."""
        out = []
        for _ in range(round(seconds / pace_s)):
            self.give(Waited(), self.now + pace_s)
            out += self.all()
        return out


def is_write(call: JournalCall) -> bool:
    return isinstance(call.operation, PutSlot | PutSnapshot)
