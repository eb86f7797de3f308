"""Shells of the journal: write-once keys in memory (local runtime, simulator); the Ray shell's are in the GCS key-value store."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from flinkray.core.journal_calls import (
    Forget,
    GetSlot,
    GetSnapshot,
    JournalAnswer,
    JournalCall,
    JournalSilent,
    ListSnapshots,
    Operation,
    PutSlot,
    PutSnapshot,
)

RETRY_PAUSE_S = 0.2


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
