"""Messages of an attempt that this slot has not opened yet: a peer was faster. Kept in a bounded place until it is opened."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

_LIMIT_BYTES = 256 * 1024 * 1024
_LIMIT_MESSAGES = 100_000


class Message(NamedTuple):
    head: bytes
    body: pa.Buffer | None


class EarlyMessages:
    """Pure. What does not fit is refused, and shows as a gap once the attempt is opened: bounded memory before all."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES, limit_messages: int = _LIMIT_MESSAGES) -> None:
        self._limit_bytes = limit_bytes
        self._limit_messages = limit_messages
        self._kept: list[tuple[int, Message]] = []
        self._kept_bytes = 0

    def keep(self, attempt: int, message: Message) -> bool:
        """False when there is no room."""
        size_bytes = _size_bytes(message)
        if self._kept_bytes + size_bytes > self._limit_bytes or len(self._kept) >= self._limit_messages:
            return False
        self._kept.append((attempt, message))
        self._kept_bytes += size_bytes
        return True

    def take(self, attempt: int) -> list[Message]:
        """Those of `attempt`, in order of arrival. Those of attempts before it are dropped."""
        taken = [message for of, message in self._kept if of == attempt]
        self._kept = [(of, message) for of, message in self._kept if of > attempt]
        self._kept_bytes = sum(_size_bytes(message) for _, message in self._kept)
        return taken


def _size_bytes(message: Message) -> int:
    return len(message.head) + (message.body.size if message.body is not None else 0)
