"""Sealed chunks that a TaskManager keeps in memory, so that a restart of it or of its peers need not read them from storage.

A copy is the very bytes that the manifest refers to, found by the whole reference and proved by its digest when it is used: a cache, and never a
truth of its own. Kept is what this process wrote or restored; given up is what no checkpoint from the last settled one on refers to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from flinkray.checkpoint.base import ChunkRef


class LocalCopies:
    """Thread-safe: an upload thread keeps, the mailbox thread settles and reads."""

    def __init__(self, budget_bytes: int) -> None:
        """What does not fit into the budget is not kept; 0 keeps nothing."""
        self._budget_bytes = budget_bytes
        self._copies: dict[ChunkRef, bytes | memoryview] = {}
        self._size_bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def keep(self, chunks: Iterable[tuple[ChunkRef, bytes | memoryview]]) -> None:
        with self._lock:
            for ref, sealed in chunks:
                if ref not in self._copies and self._size_bytes + len(sealed) <= self._budget_bytes:
                    self._copies[ref] = sealed
                    self._size_bytes += len(sealed)

    def get(self, ref: ChunkRef) -> bytes | memoryview | None:
        with self._lock:
            return self._copies.get(ref)

    def clear(self) -> None:
        """None is kept any longer."""
        with self._lock:
            self._copies.clear()
            self._size_bytes = 0

    def settle(self, checkpoint: int, needed: Iterable[ChunkRef]) -> None:
        """Nobody goes back to before `checkpoint`: of the chunks up to it only the `needed` ones stay."""
        with self._lock:
            wanted = set(needed)
            for ref in [ref for ref in self._copies if ref.checkpoint <= checkpoint and ref not in wanted]:
                self._size_bytes -= len(self._copies.pop(ref))
