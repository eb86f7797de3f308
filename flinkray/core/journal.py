"""The journal's logic, pure: write-once slots that hold this run's elections, attempts and actors (docs/protocol.md, rules 7 to 9).

A writer has one put outstanding, never two. In doubt the same slot is tried again until it is occupied, and what is in it is true: a
foreign record there means that this writer is deposed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

RecordKind = Literal["elected", "worker", "attempt", "checkpoint", "ended"]


@dataclass(frozen=True)
class JournalRecord:
    """One slot's content. `token` tells who wrote it."""

    kind: RecordKind
    token: str
    number: int = 0
    """Election number, attempt or checkpoint id."""
    names: tuple[str, ...] = ()
    """Instances of an attempt, name and instance of a worker, or the object that is a checkpoint's manifest."""


@dataclass(frozen=True)
class PutSlot:
    slot: int
    record: JournalRecord


@dataclass(frozen=True)
class Written:
    slot: int


@dataclass(frozen=True)
class LostSlot:
    """Another writer's record stands where this one's should: deposed."""

    slot: int
    record: JournalRecord


@dataclass
class JournalWriter:
    """`want` and `occupied`/`in_doubt` in, puts out."""

    token: str
    next_slot: int = 0
    outstanding: JournalRecord | None = None
    deposed: bool = False
    _waiting: list[JournalRecord] = field(default_factory=list)

    def want(self, record: JournalRecord) -> PutSlot | None:
        """Write `record` after those already wanted."""
        self._waiting.append(record)
        return self._next()

    def in_doubt(self) -> PutSlot | None:
        """The put's answer did not come: the same slot again."""
        return PutSlot(self.next_slot, self.outstanding) if self.outstanding is not None else None

    def occupied(self, slot: int, content: JournalRecord) -> tuple[Written | LostSlot | None, PutSlot | None]:
        """What stands in `slot` is known. Returns its meaning and the next put."""
        if self.outstanding is None or slot != self.next_slot:
            return None, None
        if content != self.outstanding:
            self.deposed = True
            self.outstanding = None
            self._waiting.clear()
            return LostSlot(slot, content), None
        self.outstanding = None
        self.next_slot += 1
        return Written(slot), self._next()

    def _next(self) -> PutSlot | None:
        if self.deposed or self.outstanding is not None or not self._waiting:
            return None
        self.outstanding = self._waiting.pop(0)
        return PutSlot(self.next_slot, self.outstanding)


@dataclass(frozen=True)
class JournalView:
    """What the records say, folded in order."""

    election: int = 0
    attempt: int = 0
    attempt_workers: tuple[str, ...] = ()
    workers: frozenset[str] = frozenset()
    checkpoint: int = 0
    ended: bool = False


def fold(records: Iterable[JournalRecord]) -> JournalView:
    """Read a journal from its beginning."""
    election = attempt = checkpoint = 0
    attempt_workers: tuple[str, ...] = ()
    workers: set[str] = set()
    ended = False
    for record in records:
        if record.kind == "elected":
            election = max(election, record.number)
        elif record.kind == "worker":
            workers.update(record.names)
        elif record.kind == "attempt":
            attempt, attempt_workers = record.number, record.names
        elif record.kind == "checkpoint":
            checkpoint = max(checkpoint, record.number)
        else:
            ended = True
    return JournalView(election, attempt, attempt_workers, frozenset(workers), checkpoint, ended)
