"""A process that reads and writes a journal, one call at a time, so that tests choose what happens between two calls."""

from __future__ import annotations

from collections import deque
from typing import Any

from flinkray.core.journal import JournalCore
from flinkray.core.journal_calls import JournalAnswer, JournalCall, JournalSilent
from flinkray.core.journal_records import Elected, JournalEntry
from flinkray.runtime.journal import MemorySlots, carry_out


class Writer:
    """`read` and `append` begin, `one` carries out one call, `all` all of them."""

    def __init__(self, slots: MemorySlots, token: str, interval: int = 4) -> None:
        self.slots = slots
        self.core = JournalCore(token, interval)
        self.calls: deque[JournalCall] = deque()
        self.results: list[Any] = []

    def take(self, commands: list[Any]) -> None:
        for command in commands:
            (self.calls if isinstance(command, JournalCall) else self.results).append(command)
        self.core.check_invariants()

    def one(self, silent: bool = False, happens: bool = True) -> JournalCall:
        """`silent`: the answer does not come; `happens`: the call takes effect all the same."""
        call = self.calls.popleft()
        result = carry_out(self.slots, call.operation) if happens else None
        self.take(self.core.step(JournalSilent(call.number) if silent else JournalAnswer(call.number, result)))
        return call

    def all(self) -> list[Any]:
        """The results since the last time."""
        while self.calls:
            self.one()
        results, self.results = self.results, []
        return results

    def until(self, operation: type) -> None:
        """Carry out calls up to the next one of this kind, which is left."""
        while not isinstance(self.calls[0].operation, operation):
            self.one()

    def read(self) -> list[Any]:
        self.take(self.core.read())
        return self.all()

    def append(self, entry: JournalEntry) -> list[Any]:
        self.take(self.core.append(entry))
        return self.all()

    def lead(self) -> None:
        self.read()
        self.append(Elected(self.core.view.election + 1, self.core.token))
        assert self.core.leads
