"""Drives a journal's core over slots, one call after the other."""

from __future__ import annotations

import time

from flinkray.core.journal import SNAPSHOT_INTERVAL, JournalCore
from flinkray.core.journal_calls import CaughtUp, JournalCommand, Lost, Recorded
from flinkray.core.journal_records import Elected, JournalEntry
from flinkray.core.journal_view import JournalView
from flinkray.errors import DeposedError, StorageError
from flinkray.runtime.journal import Slots, answer

GIVE_UP_S = 60.0


class Journal:
    """Each call returns when it is done."""

    def __init__(self, slots: Slots, token: str, interval: int = SNAPSHOT_INTERVAL) -> None:
        self._slots = slots
        self._core = JournalCore(token, interval)

    @property
    def view(self) -> JournalView:
        """As last read or written."""
        return self._core.view

    def lead(self, leader: str) -> int:
        """Read the journal and win the next election. Returns its number. Raises like `append`."""
        self._run(self._core.read(), "the elections so far")
        election = self._core.view.election + 1
        self.append(Elected(election, leader))
        return election

    def append(self, entry: JournalEntry) -> None:
        """Raises DeposedError when another leader writes this journal, StorageError when it is away for too long."""
        self._run(self._core.append(entry), f"the record {type(entry).__name__}")

    def _run(self, commands: list[JournalCommand], what: str) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while commands:
            command = commands.pop(0)
            if isinstance(command, Lost):
                raise DeposedError(f"{command.reason}: another leader has taken over")
            if isinstance(command, CaughtUp | Recorded):
                continue
            if time.monotonic() > deadline:
                raise StorageError(f"the journal did not answer for {GIVE_UP_S:.0f} s; {what} may have been written")
            commands += self._core.step(answer(self._slots, command))
