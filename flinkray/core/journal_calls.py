"""What the journal's core asks of the key-value store, what comes back, and what it makes of it. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flinkray.core.journal_records import JournalEntry

# -- calls to the key-value store, and what comes back ----------------------------------------------------------------


@dataclass(frozen=True)
class ListSnapshots:
    """Answer: the numbers of all snapshots there are, as a tuple."""


@dataclass(frozen=True)
class GetSnapshot:
    """Answer: its bytes, or None."""

    slots: int


@dataclass(frozen=True)
class GetSlot:
    """Answer: its bytes, or None."""

    slot: int


@dataclass(frozen=True)
class PutSlot:
    """Write if absent, then read. Answer: the bytes that stand there."""

    slot: int
    value: bytes


@dataclass(frozen=True)
class PutSnapshot:
    """Write if absent. Answer: None."""

    slots: int
    value: bytes


@dataclass(frozen=True)
class Forget:
    """Delete slots `first <= slot < stop`, then these snapshots. Answer: None."""

    first: int
    stop: int
    snapshots: tuple[int, ...]


Operation = ListSnapshots | GetSnapshot | GetSlot | PutSlot | PutSnapshot | Forget


@dataclass(frozen=True)
class JournalCall:
    """To be carried out by the shell; `again`: an earlier try had no answer, wait a little first."""

    number: int
    operation: Operation
    again: bool = False


@dataclass(frozen=True)
class JournalAnswer:
    number: int
    result: Any = None


@dataclass(frozen=True)
class JournalSilent:
    """No answer: it may have happened, or may still."""

    number: int


# -- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CaughtUp:
    """`JournalCore.view` is the journal as it stood after the read began. For a writer: nobody else has written."""


@dataclass(frozen=True)
class Recorded:
    """The entry stands at `slot` and counts."""

    entry: JournalEntry
    slot: int


@dataclass(frozen=True)
class Lost:
    """Somebody else writes this journal: deposed, or the election is lost. What was wanted is dropped."""

    slot: int
    reason: str


JournalCommand = JournalCall | CaughtUp | Recorded | Lost
