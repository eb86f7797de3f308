"""A store that misbehaves on command: lost requests, lost answers, puts that happen late, damaged objects, or no answer at all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Literal

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.errors import StorageError

Fate = Literal["pass", "lost", "unanswered", "late"]
"""Of a create: it works; it never happens; it happens and nobody hears so; it happens at `deliver`. The last three raise StorageError."""


class FaultyStore(ObjectStore):
    """Passes everything on to `inner`, except what was ordered. Thread-safe."""

    def __init__(self, inner: ObjectStore, conditional_create: bool = True) -> None:
        self._inner = inner
        self._conditional = conditional_create
        self._fates: deque[Fate] = deque()
        self._late: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()
        self.away = False
        """While True every call raises StorageError."""
        self.failing_lists = 0
        """So many listings raise StorageError."""

    def next_creates(self, *fates: Fate) -> None:
        """The fates of the next creates, in order; then all pass again."""
        self._fates.extend(fates)

    def deliver(self) -> None:
        """Let the late creates happen now, each if absent."""
        with self._lock:
            late, self._late = self._late, []
        for name, data in late:
            self._inner.create(name, data)

    def flip_byte(self, name: str, position: int = -1) -> None:
        """Damage an object."""
        data = bytearray(self._inner.get(name))
        data[position] ^= 1
        self._inner.put(name, bytes(data))

    def truncate(self, name: str, size_bytes: int) -> None:
        """Damage an object."""
        self._inner.put(name, self._inner.get(name)[:size_bytes])

    def swap(self, one: str, other: str) -> None:
        """Exchange the contents of two objects."""
        contents = self._inner.get(one), self._inner.get(other)
        self._inner.put(other, contents[0])
        self._inner.put(one, contents[1])

    @property
    def uri(self) -> str:
        return self._inner.uri

    @property
    def shared(self) -> bool:
        return self._inner.shared

    @property
    def conditional_create(self) -> bool:
        return self._conditional

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._check(name)
        self._inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._check(name)
        return self._inner.get(name, offset, length)

    def create(self, name: str, data: bytes) -> CreateOutcome:
        self._check(name)
        with self._lock:
            fate = self._fates.popleft() if self._fates else "pass"
            if fate == "late":
                self._late.append((name, data))
        if fate == "unanswered":
            self._inner.create(name, data)
        if fate != "pass":
            raise StorageError(f"no answer about {name} (ordered by a test)")
        return self._inner.create(name, data)

    def exists(self, name: str) -> bool:
        self._check(name)
        return self._inner.exists(name)

    def list(self, prefix: str) -> list[str]:
        self._check(prefix)
        if self.failing_lists:
            self.failing_lists -= 1
            raise StorageError(f"no answer about {prefix} (ordered by a test)")
        return self._inner.list(prefix)

    def delete(self, names: Sequence[str]) -> None:
        self._check(names[0] if names else "")
        self._inner.delete(names)

    def _check(self, name: str) -> None:
        if self.away:
            raise StorageError(f"no answer about {name}: the store is away (ordered by a test)")
