"""Shells of the journal: write-once slots in memory (local runtime, simulator); the Ray shell's are in the GCS key-value store."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from dataclasses import asdict

from flinkray.core.journal import JournalRecord, JournalWriter, LostSlot, PutSlot
from flinkray.errors import DeposedError, StorageError

RETRY_PAUSE_S = 0.2
GIVE_UP_S = 600.0


class Slots(ABC):
    """Write-once slots. Each call takes bounded time."""

    @abstractmethod
    def put_if_absent(self, slot: int, value: bytes) -> None:
        """Raises OSError or TimeoutError when it is not known whether it was written."""

    @abstractmethod
    def get(self, slot: int) -> bytes | None: ...


class MemorySlots(Slots):
    def __init__(self) -> None:
        self._slots: dict[int, bytes] = {}

    def put_if_absent(self, slot: int, value: bytes) -> None:
        self._slots.setdefault(slot, value)

    def get(self, slot: int) -> bytes | None:
        return self._slots.get(slot)


class Journal:
    """Appends records in order; each call returns when the record stands. Used by one thread."""

    def __init__(self, slots: Slots, token: str) -> None:
        self._slots = slots
        self._writer = JournalWriter(token)

    def append(self, record: JournalRecord) -> None:
        """Raises DeposedError when another writer's record stands in the slot, StorageError when the slots are away for too long."""
        put = self._writer.want(record)
        deadline = time.monotonic() + GIVE_UP_S
        while put is not None:
            content = self._try(put)
            if content is None:
                if time.monotonic() > deadline:
                    raise StorageError(f"the journal did not answer for {GIVE_UP_S:.0f} s; record {record.kind} may have been written")
                time.sleep(RETRY_PAUSE_S)
                put = self._writer.in_doubt()
                continue
            meaning, put = self._writer.occupied(put.slot, content)
            if isinstance(meaning, LostSlot):
                raise DeposedError(f"journal slot {meaning.slot} was written by another leader")

    def _try(self, put: PutSlot) -> JournalRecord | None:
        """What stands in the slot after trying to write it; None in doubt."""
        try:
            self._slots.put_if_absent(put.slot, encode(put.record))
            value = self._slots.get(put.slot)
        except (OSError, TimeoutError):
            return None
        return decode(value) if value is not None else None


def encode(record: JournalRecord) -> bytes:
    return json.dumps(asdict(record)).encode()


def decode(value: bytes) -> JournalRecord:
    fields = json.loads(value)
    return JournalRecord(**{**fields, "names": tuple(fields["names"])})
