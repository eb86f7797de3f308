"""Manifests on a store that cannot create if absent (rule 6, last sentence): each under a name of its own, ordered by the journal alone.

Another cluster cannot be kept out here. So nothing is ever taken as the newest without the journal, and nothing of another claim is swept.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.keys import KeyProvider
from flinkray.checkpoint.log_base import Appended, CheckpointLog, Claimed
from flinkray.checkpoint.manifest import Manifest, decode_manifest, encode_manifest
from flinkray.checkpoint.names import (
    CANDIDATES_FOLDER,
    DATA_FOLDER,
    KEYS_FOLDER,
    candidate_name,
    parse_candidate,
    parse_data_object,
    parse_wrapped_key,
)
from flinkray.checkpoint.sealing import seal, unseal
from flinkray.core.log_records import Draft, RecordFormatError, RecordKind, decode, digest, encode, encode_header, place
from flinkray.core.storage_log import LogEntry, LogView
from flinkray.errors import DamagedObjectError, ProtocolError, StorageError


class UnfencedLog(CheckpointLog):
    """`journaled`: names of complete manifests, oldest first, as the journal has them; to restore one of `candidates()`, give its name."""

    def __init__(self, store: ObjectStore, application: str, provider: KeyProvider, journaled: Sequence[str] = ()) -> None:
        super().__init__(store, application, provider)
        self._journaled = dict(enumerate(journaled, 1))
        self._next = len(journaled) + 1
        self._lock = threading.Lock()

    @property
    def fenced(self) -> bool:
        return False

    def candidates(self) -> list[str]:
        """Names of all manifests that were ever put and not deleted, by claim and checkpoint; which of them counts, the journal knows."""
        parsed = [(parse_candidate(name), name) for name in self.store.list(CANDIDATES_FOLDER)]
        return [name for candidate, name in sorted((c, n) for c, n in parsed if c is not None)]

    def read(self, authenticate: bool = True) -> LogView:
        with self._lock:
            journaled = dict(self._journaled)
        if not journaled and authenticate:
            candidates = self.candidates()
            if candidates:
                raise StorageError(
                    f"{self.store.uri} cannot create if absent, so only the journal of the cluster that wrote it knows which checkpoint is "
                    "the latest, and that is not there. Choose one with --restore checkpoint:ID, or --restore none. "
                    f"Candidates: {', '.join(candidates)}"
                )
        entries = [self._entry(number, name) for number, name in sorted(journaled.items())]
        return LogView(tuple(reversed(entries)))

    def manifest(self, entry: LogEntry) -> Manifest:
        name = self.name_of(entry.number)
        try:
            data = self.store.get(name)
            header, header_bytes, body = decode(data)
        except FileNotFoundError:
            raise DamagedObjectError(name, f"it is missing in {self.store.uri}") from None
        except RecordFormatError as error:
            raise DamagedObjectError(name, str(error)) from error
        return decode_manifest(unseal(self.ring.get(header.data_key).secret, _bound(name, header_bytes), body, name), name)

    def claim(self, token: str, fresh: bool = False) -> Claimed:
        view = self.read(authenticate=not fresh)
        claims = [candidate.claim for name in self.store.list(CANDIDATES_FOLDER) if (candidate := parse_candidate(name)) is not None]
        claims += [data.claim for name in self.store.list(DATA_FOLDER) if (data := parse_data_object(name)) is not None]
        claims += [key.claim for name in self.store.list(KEYS_FOLDER) if (key := parse_wrapped_key(name)) is not None]
        claim = 1 + max(claims, default=0)
        checkpoint, attempt = self._ids_in_names()
        ids = max(view.next_checkpoint, checkpoint + 1), max(view.next_attempt, attempt + 1)
        self._claimed = Claimed(claim, self.ring.create(claim), view, *ids)
        return self._claimed

    def adopt(self, claim: int, data_key_id: str, token: str) -> Claimed:
        """An earlier leader cannot be kept from writing manifests, but from having them journaled: none counts that the journal lacks."""
        view = self.read() if self._journaled else LogView()
        checkpoint, attempt = self._ids_in_names()
        candidates = [candidate for name in self.candidates() if (candidate := parse_candidate(name)) is not None]
        checkpoint = max((checkpoint, *(candidate.checkpoint for candidate in candidates)))
        ids = max(view.next_checkpoint, checkpoint + 1), max(view.next_attempt, attempt + 1)
        self._claimed = Claimed(claim, self.ring.get(data_key_id), view, *ids)
        return self._claimed

    def append_manifest(
        self,
        manifest: Manifest,
        stop: threading.Event | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> Appended:
        owned = self._owned()
        if manifest.claim != owned.claim:
            raise ProtocolError(f"a manifest of claim {manifest.claim} is not for the log of claim {owned.claim}")
        token = os.urandom(8).hex()
        name = candidate_name(owned.claim, manifest.checkpoint, manifest.attempt, token)
        with self._lock:
            number, self._next = self._next, self._next + 1
        draft = Draft(RecordKind.MANIFEST, token, owned.claim, manifest.checkpoint, manifest.attempt)
        header_bytes = encode_header(place(draft, number, None, self.application, owned.data_key.key_id, manifest.created_at_us))
        data = encode(header_bytes, seal(owned.data_key.secret, _bound(name, header_bytes), encode_manifest(manifest)))
        try:
            self.store.put(name, data)
        except StorageError as error:
            if on_trouble is not None:
                on_trouble(str(error))
            return Appended(False, number, name, str(error))  # should it land late, no journal names it
        with self._lock:
            self._journaled[number] = name
        return Appended(True, number, name)

    def append_ended(self, kind: str, timeout_s: float = 30.0) -> None:
        """Nothing: how the run ended is the journal's to know."""

    def numbers(self) -> list[int]:
        with self._lock:
            return sorted(self._journaled)

    def name_of(self, number: int) -> str:
        with self._lock:
            return self._journaled[number]

    def forget(self, numbers: Iterable[int]) -> None:
        with self._lock:
            for number in numbers:
                self._journaled.pop(number, None)

    def _entry(self, number: int, name: str) -> LogEntry:
        try:
            data = self.store.get(name)
        except FileNotFoundError:
            return LogEntry(number, "", None, f"{name} is missing")
        try:
            header, _, _ = decode(data)
        except RecordFormatError as error:
            return LogEntry(number, digest(data), None, str(error))
        return LogEntry(number, digest(data), header)


def _bound(name: str, header_bytes: bytes) -> bytes:
    return name.encode() + b"\n" + header_bytes
