"""Small frozen ids. Ids never repeat in an application (docs/protocol.md, "Ids")."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class TaskId:
    """One parallel part of a job vertex."""

    vertex: int
    subtask: int

    def __str__(self) -> str:
        return f"{self.vertex}.{self.subtask}"


@dataclass(frozen=True, order=True, slots=True)
class Epoch:
    """Who leads: compared by claim, then election number; two tokens at one number never both win."""

    claim: int
    election: int
    token: str

    @property
    def rank(self) -> tuple[int, int]:
        return (self.claim, self.election)


@dataclass(frozen=True, order=True, slots=True)
class KeyGroupRange:
    """Key groups `start <= group < stop` of one subtask."""

    start: int
    stop: int

    def __contains__(self, group: int) -> bool:
        return self.start <= group < self.stop

    def __len__(self) -> int:
        return self.stop - self.start

    def overlaps(self, other: KeyGroupRange) -> bool:
        return self.start < other.stop and other.start < self.stop
