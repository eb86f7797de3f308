"""Commands that have been sent and not answered: each is sent again until it is (rule 12). Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flinkray.core.job_events import Send
from flinkray.core.messages import Abort, Command, CommandBody, Hello, Trigger

RESEND_S = 1.0
"""A command without an answer is sent again after this."""


@dataclass
class _Waiting:
    send: Send
    due: float


class Outstanding:
    """One entry for each TaskManager and kind of command; triggers and aborts one for each checkpoint."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, type, int], _Waiting] = {}
        self._due = math.inf
        """None is due before."""

    def send(self, instance: str, command: Command, now: float) -> Send:
        """To be sent now, and again until `answered`. Replaces an older one of its kind."""
        send = Send(instance, command)
        self._waiting[(instance, type(command.body), _number(command.body))] = _Waiting(send, now + RESEND_S)
        self._due = min(self._due, now + RESEND_S)
        return send

    def answered(self, instance: str, kind: type, number: int = 0) -> None:
        self._waiting.pop((instance, kind, number), None)

    def waiting(self, instance: str, kind: type) -> CommandBody | None:
        entry = self._waiting.get((instance, kind, 0))
        return entry.send.command.body if entry is not None else None

    def due(self, now: float) -> list[Send]:
        """What is to be sent again now."""
        if now < self._due:
            return []
        late = [entry for entry in self._waiting.values() if now >= entry.due]
        for entry in late:
            entry.due = now + RESEND_S
        self._due = min((entry.due for entry in self._waiting.values()), default=math.inf)
        return [entry.send for entry in late]

    def clear(self) -> None:
        """An attempt is over. Hello belongs to none."""
        self._waiting = {key: entry for key, entry in self._waiting.items() if key[1] is Hello}

    def forget(self, instance: str) -> None:
        """It is gone: nobody answers."""
        self._waiting = {key: entry for key, entry in self._waiting.items() if key[0] != instance}


def _number(body: CommandBody) -> int:
    return body.checkpoint if isinstance(body, Trigger | Abort) else 0
