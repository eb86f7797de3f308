"""Shells of the journal: write-once keys in memory (local runtime, simulator); the Ray shell's are in the GCS key-value store."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from flinkray.core.journal import SNAPSHOT_INTERVAL, JournalCore
from flinkray.core.journal_calls import (
    CaughtUp,
    Forget,
    GetSlot,
    GetSnapshot,
    JournalAnswer,
    JournalCall,
    JournalCommand,
    JournalSilent,
    ListSnapshots,
    Lost,
    Operation,
    PutSlot,
    PutSnapshot,
    Recorded,
)
from flinkray.core.journal_records import Elected, JournalEntry
from flinkray.core.journal_view import JournalView
from flinkray.errors import DeposedError, StorageError

RETRY_PAUSE_S = 0.2
GIVE_UP_S = 600.0


class Slots(ABC):
    """Write-once keys of one run: slots, and snapshots of all slots below a number. Each call takes bounded time, and raises OSError or
    TimeoutError when it is not known whether it happened."""

    @abstractmethod
    def put_if_absent(self, slot: int, value: bytes) -> None: ...

    @abstractmethod
    def get(self, slot: int) -> bytes | None: ...

    @abstractmethod
    def delete(self, slots: Iterable[int]) -> None:
        """Those that are not there are passed over."""

    @abstractmethod
    def put_snapshot_if_absent(self, slots: int, value: bytes) -> None: ...

    @abstractmethod
    def get_snapshot(self, slots: int) -> bytes | None: ...

    @abstractmethod
    def snapshots(self) -> tuple[int, ...]:
        """Numbers of all there are, ascending."""

    @abstractmethod
    def delete_snapshots(self, snapshots: Iterable[int]) -> None: ...


class MemorySlots(Slots):
    def __init__(self) -> None:
        self._slots: dict[int, bytes] = {}
        self._snapshots: dict[int, bytes] = {}

    def put_if_absent(self, slot: int, value: bytes) -> None:
        self._slots.setdefault(slot, value)

    def get(self, slot: int) -> bytes | None:
        return self._slots.get(slot)

    def delete(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._slots.pop(slot, None)

    def put_snapshot_if_absent(self, slots: int, value: bytes) -> None:
        self._snapshots.setdefault(slots, value)

    def get_snapshot(self, slots: int) -> bytes | None:
        return self._snapshots.get(slots)

    def snapshots(self) -> tuple[int, ...]:
        return tuple(sorted(self._snapshots))

    def delete_snapshots(self, snapshots: Iterable[int]) -> None:
        for number in snapshots:
            self._snapshots.pop(number, None)


def carry_out(slots: Slots, operation: Operation) -> Any:
    """What the core asked for. Raises OSError or TimeoutError when there is no answer."""
    if isinstance(operation, ListSnapshots):
        return slots.snapshots()
    if isinstance(operation, GetSnapshot):
        return slots.get_snapshot(operation.slots)
    if isinstance(operation, GetSlot):
        return slots.get(operation.slot)
    if isinstance(operation, PutSlot):
        slots.put_if_absent(operation.slot, operation.value)
        return slots.get(operation.slot)
    if isinstance(operation, PutSnapshot):
        slots.put_snapshot_if_absent(operation.slots, operation.value)
    elif isinstance(operation, Forget):
        slots.delete(range(operation.first, operation.stop))
        slots.delete_snapshots(operation.snapshots)
    return None


def answer(slots: Slots, call: JournalCall) -> JournalAnswer | JournalSilent:
    """Carry `call` out, after a pause when it is tried again."""
    if call.again:
        time.sleep(RETRY_PAUSE_S)
    try:
        return JournalAnswer(call.number, carry_out(slots, call.operation))
    except (OSError, TimeoutError):
        return JournalSilent(call.number)


class Journal:
    """The journal of a run with one JobManager: each call returns when it is done. Used by one thread."""

    def __init__(self, slots: Slots, token: str, interval: int = SNAPSHOT_INTERVAL) -> None:
        self._slots = slots
        self._core = JournalCore(token, interval)

    @property
    def view(self) -> JournalView:
        """As last read or written."""
        return self._core.view

    def lead(self, leader: str) -> int:
        """Read the journal and win the next election. Returns its number. Raises like `append`."""
        self._run(self._core.read(), "the elections so far")
        election = self._core.view.election + 1
        self.append(Elected(election, leader))
        return election

    def append(self, entry: JournalEntry) -> None:
        """Raises DeposedError when another leader writes this journal, StorageError when it is away for too long."""
        self._run(self._core.append(entry), f"the record {type(entry).__name__}")

    def _run(self, commands: list[JournalCommand], what: str) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while commands:
            command = commands.pop(0)
            if isinstance(command, Lost):
                raise DeposedError(f"{command.reason}: another leader has taken over")
            if isinstance(command, CaughtUp | Recorded):
                continue
            if time.monotonic() > deadline:
                raise StorageError(f"the journal did not answer for {GIVE_UP_S:.0f} s; {what} may have been written")
            commands += self._core.step(answer(self._slots, command))
