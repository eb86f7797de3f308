"""An application's checkpoints for whoever only looks: nothing is written, claimed or made, and no running job is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flinkray.checkpoint.key_providers import resolve_provider
from flinkray.checkpoint.keys import KeyRing
from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.log_store import StorageLog
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.names import CANDIDATES_FOLDER, LOG_FOLDER
from flinkray.checkpoint.savepoints import Savepoints
from flinkray.checkpoint.state_source import StateSource
from flinkray.checkpoint.store import open_store
from flinkray.checkpoint.unfenced_log import UnfencedLog
from flinkray.config import KeyConfig
from flinkray.core.log_records import RecordKind
from flinkray.core.storage_log import LogEntry
from flinkray.errors import DamagedObjectError, RestoreError


@dataclass(frozen=True)
class Listed:
    """A checkpoint of the log. `manifest` is None where its record is damaged, and `damage` says how."""

    entry: LogEntry
    checkpoint: int | None
    manifest: Manifest | None
    damage: str = ""


class StateReader:
    """Raises RestoreError when storage answers that there is no such application, StorageError when it does not answer."""

    def __init__(
        self, storage: str, application: str, key: KeyConfig | None = None, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        self.application = application
        self.store = open_store(storage, application, storage_options)
        self.storage = storage
        self._key = key
        self._ring: KeyRing | None = None

    @property
    def ring(self) -> KeyRing:
        """Resolved when first needed: an unknown application is told before a missing key."""
        if self._ring is None:
            self._ring = KeyRing(self.store, resolve_provider(self._key, self.storage, make=False))
        return self._ring

    @property
    def savepoints(self) -> Savepoints:
        return Savepoints(self.store, self.application, lambda: self.ring.provider)

    def checkpoints(self) -> list[Listed]:
        """Newest first, also those of finished runs, and damaged ones."""
        log = self._log()
        return [listed for entry in log.read().entries if (listed := self._listed(log, entry)) is not None]

    def checkpoint(self, at: str | int) -> StateSource:
        """`at`: "latest" or an id. Raises RestoreError naming those there are, DamagedObjectError when it stands and cannot be believed."""
        found = self.checkpoints()
        if at == "latest":
            chosen = next(iter(found), None)
        else:
            chosen = next((listed for listed in found if listed.checkpoint == at), None)
        if chosen is None:
            known = sorted(listed.checkpoint for listed in found if listed.checkpoint is not None)
            raise RestoreError(
                f"there is no checkpoint {at} of {self.application} in {self.store.uri}; there are: {', '.join(map(str, known)) or 'none'}"
            )
        if chosen.manifest is None:
            raise DamagedObjectError(f"log record {chosen.entry.number}", f"{chosen.damage}; give an older checkpoint's id")
        return StateSource(chosen.manifest, self.store, self.ring)

    def _log(self) -> CheckpointLog:
        """Told apart by what lies there: asking a store whether it creates if absent would write to it."""
        if self.store.list(LOG_FOLDER):
            return StorageLog(self.store, self.application, self.ring.provider)
        candidates = self.store.list(CANDIDATES_FOLDER)
        if not candidates:
            raise RestoreError(f"there is no application {self.application!r} in {self.storage}: nothing was ever written there")
        log = UnfencedLog(self.store, self.application, self.ring.provider)
        return UnfencedLog(self.store, self.application, self.ring.provider, log.candidates())

    def _listed(self, log: CheckpointLog, entry: LogEntry) -> Listed | None:
        header = entry.header
        if entry.deposed or (header is not None and header.kind is not RecordKind.MANIFEST):
            return None
        checkpoint = header.checkpoint if header is not None else None
        if entry.damage:
            return Listed(entry, checkpoint, None, entry.damage)
        try:
            return Listed(entry, checkpoint, log.manifest(entry))
        except DamagedObjectError as error:
            return Listed(entry, checkpoint, None, error.reason)
