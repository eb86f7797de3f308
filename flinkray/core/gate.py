"""Commands in the order in which they may take effect: what follows a journal record waits until it stands. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flinkray.core.job_events import Deliver, JobCommand, Say, Send, StandDown, WriteJournal

_AT_ONCE = (Say, Deliver, StandDown)
"""Change nothing outside of this process."""


class JournalGate:
    """`admit` what a job core commands, `recorded` when the journal has taken the record that was let through. One is out at most.

    When the record's slot is lost, `clear`: a deposed leader carries out nothing that depends on it.
    """

    def __init__(self) -> None:
        self._waiting: deque[JobCommand] = deque()
        self._sends: set[int] = set()
        """`id` of each Send that waits: one that is sent again is the same object (`outstanding`)."""
        self._journaling = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def admit(self, commands: Iterable[JobCommand]) -> list[JobCommand]:
        """What may be carried out now, in order; a WriteJournal is always the last of them that is not said or delivered only."""
        at_once: list[JobCommand] = []
        for command in commands:
            if isinstance(command, _AT_ONCE):
                at_once.append(command)
            elif not isinstance(command, Send):
                self._waiting.append(command)
            elif id(command) not in self._sends:  # else it is sent again while it waits
                self._sends.add(id(command))
                self._waiting.append(command)
        return [*at_once, *self._release()]

    def recorded(self) -> list[JobCommand]:
        """The record stands: what may be carried out next."""
        self._journaling = False
        return self._release()

    def clear(self) -> None:
        self._waiting.clear()
        self._sends.clear()
        self._journaling = False

    def _release(self) -> list[JobCommand]:
        out: list[JobCommand] = []
        while self._waiting and not self._journaling:
            out.append(self._waiting.popleft())
            self._sends.discard(id(out[-1]))
            self._journaling = isinstance(out[-1], WriteJournal)
        return out
