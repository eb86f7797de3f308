"""Byte credits of one channel, both ends. Pure: no socket, no clock.

The sender may have WINDOW_BYTES out that the consumer has not taken yet, and one batch more. The consumer gives credit back in
portions, so that not every batch costs a frame; a portion is small enough that a sender never waits for one that does not come.
"""

from __future__ import annotations

WINDOW_BYTES = 8 * 1024 * 1024
"""Credit of a channel at the start."""

GRANT_BYTES = WINDOW_BYTES // 4
"""The consumer returns credit when it owes this much."""


class SenderCredit:
    """What may still be sent."""

    __slots__ = ("available_bytes",)

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self.available_bytes = window_bytes

    @property
    def ready(self) -> bool:
        return self.available_bytes > 0

    def spend(self, size_bytes: int) -> None:
        """A batch was sent. Goes below zero by one batch at most when `ready` is asked before each."""
        self.available_bytes -= size_bytes

    def grant(self, size_bytes: int) -> None:
        self.available_bytes += size_bytes


class ConsumerCredit:
    """What was consumed and is owed to the sender."""

    __slots__ = ("_grant_bytes", "owed_bytes")

    def __init__(self, grant_bytes: int = GRANT_BYTES) -> None:
        self._grant_bytes = grant_bytes
        self.owed_bytes = 0

    def consumed(self, size_bytes: int) -> int:
        """A batch was taken. Returns the credit to send back now: 0, or all that is owed."""
        self.owed_bytes += size_bytes
        if self.owed_bytes < self._grant_bytes:
            return 0
        grant, self.owed_bytes = self.owed_bytes, 0
        return grant
