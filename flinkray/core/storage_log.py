"""What the records of the storage log mean, pure (docs/protocol.md, rules 1, 3 and 5): `fold` starts at the highest number and follows
the links to the parents.

Numbers that nothing leads to were freed by retention and won by a deposed writer: they count for nothing. A record that is not what its
successor links to is damaged, and kept as such, so that a restore can tell that it skips one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile

from flinkray.core.log_records import Link, RecordHeader, RecordKind


@dataclass(frozen=True)
class LogEntry:
    """A record as it stands in storage. `damage` says why it cannot be believed, and is empty when it can."""

    number: int
    digest: str
    header: RecordHeader | None
    """None when not even the header can be read."""
    damage: str = ""
    deposed: bool = False
    """Written by an owner that a Claim below had deposed already: damaged by rule, and nothing to miss."""

    @property
    def link(self) -> Link:
        return Link(self.number, self.digest)

    def is_good(self, kind: RecordKind) -> bool:
        return not self.damage and self.header is not None and self.header.kind is kind


@dataclass(frozen=True)
class LogView:
    """The log as `fold` understands it: newest record first."""

    entries: tuple[LogEntry, ...] = ()

    @property
    def empty(self) -> bool:
        """Nothing was ever written (rule 5)."""
        return not self.entries

    @property
    def newest(self) -> Link | None:
        return self.entries[0].link if self.entries else None

    @property
    def manifests(self) -> tuple[LogEntry, ...]:
        """The complete checkpoints, newest first."""
        return tuple(entry for entry in self.entries if entry.is_good(RecordKind.MANIFEST))

    @property
    def since_finished(self) -> tuple[LogEntry, ...]:
        """Entries of the runs since the last that FINISHED, newest first: what is over is never gone on with."""
        return tuple(takewhile(lambda entry: not _tells_finished(entry), self.entries))

    @property
    def damaged(self) -> tuple[LogEntry, ...]:
        return tuple(entry for entry in self.entries if entry.damage)

    @property
    def claim(self) -> int | None:
        """Who owns the application now: the number of the newest Claim, also where retention has deleted the Claim itself."""
        return max((entry.header.claim for entry in self.entries if entry.header is not None and not entry.damage), default=None)

    @property
    def ended(self) -> str | None:
        """How the last run ended (FINISHED, CANCELLED, STOPPED), or None when it did not, or not cleanly."""
        newest = self.entries[0] if self.entries else None
        return newest.header.ended if newest and newest.header and newest.is_good(RecordKind.ENDED) else None

    @property
    def next_checkpoint(self) -> int:
        return 1 + max((entry.header.checkpoint for entry in self.entries if entry.header), default=0)

    @property
    def next_attempt(self) -> int:
        return 1 + max((entry.header.attempt for entry in self.entries if entry.header), default=0)


def _tells_finished(entry: LogEntry) -> bool:
    return entry.is_good(RecordKind.ENDED) and entry.header is not None and entry.header.ended == "FINISHED"


def fold(records: Iterable[LogEntry]) -> LogView:
    """What these records mean, in whatever order they come."""
    by_number = {entry.number: entry for entry in records}
    chain: list[LogEntry] = []
    entry = by_number.get(max(by_number, default=0))
    while entry is not None:
        chain.append(entry)
        entry = _before(by_number[entry.number], by_number)
    return LogView(tuple(_without_deposed(chain)))


def _before(entry: LogEntry, by_number: dict[int, LogEntry]) -> LogEntry | None:
    below = by_number.get(entry.number - 1)
    if below is None:
        return None
    if entry.header is None or entry.damage:
        return below  # no link that could be believed; the seal of the record below must speak for it
    parent = entry.header.parent
    if parent is None:
        return None
    if parent != below.link and not below.damage:
        return replace(below, damage="it is not the record that the next one was written after")
    return below


def _without_deposed(chain: list[LogEntry]) -> list[LogEntry]:
    """Records of an owner that a Claim below them had already deposed are marked as damaged."""
    judged: list[LogEntry] = []
    claim = 0
    for entry in reversed(chain):
        header = entry.header
        if header is not None and not entry.damage:
            if header.claim < claim:
                entry = replace(entry, damage=f"its writer (claim {header.claim}) had been deposed by claim {claim}", deposed=True)
            claim = max(claim, header.claim)
        judged.append(entry)
    return judged[::-1]
