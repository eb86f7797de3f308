"""The shell of the storage log: carries out what `core.log_writer` commands, seals and opens records, and waits where storage is away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.keys import DataKey, DataKeyLostError, KeyProvider
from flinkray.checkpoint.log_base import Appended, CheckpointLog, Claimed
from flinkray.checkpoint.manifest import Manifest, decode_manifest, encode_manifest
from flinkray.checkpoint.names import LOG_FOLDER, log_name, parse_log, wrapped_key_name
from flinkray.checkpoint.patience import Patience
from flinkray.checkpoint.rereads import settled, sound
from flinkray.checkpoint.sealing import seal, unseal
from flinkray.checkpoint.unfenced_log import UnfencedLog
from flinkray.core.log_records import Draft, RecordFormatError, RecordHeader, RecordKind, decode, digest, encode, encode_header, place
from flinkray.core.log_writer import (
    Confirmed,
    CreateAt,
    Created,
    Deposed,
    Doubtful,
    ListAbove,
    Listed,
    ListFailed,
    LogCommand,
    LogEvent,
    LogWriter,
    Taken,
    Voided,
    Want,
)
from flinkray.core.storage_log import LogEntry, LogView, fold
from flinkray.errors import DamagedObjectError, DeposedError, ProtocolError, StorageError

CLAIM_TRIES = 20
CLAIM_TIMEOUT_S = 15.0


def open_log(store: ObjectStore, application: str, provider: KeyProvider, journaled: Sequence[str] = ()) -> CheckpointLog:
    """The log that `store` can hold. Raises StorageError.

    `journaled`: names of complete manifests as the journal knows them, oldest first; used only where the store cannot create if absent
    (see `CheckpointLog.fenced`).
    """
    if store.conditional_create:
        return StorageLog(store, application, provider)
    return UnfencedLog(store, application, provider, journaled)


class StorageLog(CheckpointLog):
    """The log on a store that creates if absent: the truth about what is complete and who owns the application."""

    def __init__(self, store: ObjectStore, application: str, provider: KeyProvider) -> None:
        super().__init__(store, application, provider)
        self._writer: LogWriter | None = None
        self._lock = threading.Lock()
        self._payload = b""
        self._encoded: dict[str, bytes] = {}
        self._unresolved: list[LogCommand] = []
        self._manifests: dict[str, Manifest] = {}
        """Those that were read before, by the digest of their record."""

    @property
    def fenced(self) -> bool:
        return True

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, authenticate: bool = True) -> LogView:
        entries = []
        lost: DataKeyLostError | None = None
        for number in self.numbers():
            try:
                entry, problem = settled(lambda: self._entry(number, authenticate), lambda judged: bool(judged[0].damage))  # noqa: B023
            except FileNotFoundError:
                continue  # retention was faster
            entries.append(entry)
            lost = lost or problem
        if lost is not None and all(entry.damage for entry in entries):
            raise lost
        standing = {entry.digest for entry in entries}
        self._manifests = {known: manifest for known, manifest in list(self._manifests.items()) if known in standing}
        return fold(entries)

    def manifest(self, entry: LogEntry) -> Manifest:
        known = self._manifests.get(entry.digest)
        if known is None:
            known = self._manifests[entry.digest] = sound(lambda: self._manifest(entry))
        return known

    def _manifest(self, entry: LogEntry) -> Manifest:
        name = log_name(entry.number)
        try:
            data = self.store.get(name)
        except FileNotFoundError:
            raise DamagedObjectError(name, f"it is missing in {self.store.uri}") from None
        if digest(data) != entry.digest:
            raise DamagedObjectError(name, "it has changed since the log was read")
        try:
            return decode_manifest(self._unseal(*decode(data)), name)
        except RecordFormatError as error:
            raise DamagedObjectError(name, str(error)) from error

    def numbers(self) -> list[int]:
        return sorted(number for name in self.store.list(LOG_FOLDER) if (number := parse_log(name)) is not None)

    def name_of(self, number: int) -> str:
        return log_name(number)

    def _entry(self, number: int, authenticate: bool) -> tuple[LogEntry, DataKeyLostError | None]:
        data = self.store.get(log_name(number))
        found = digest(data)
        try:
            header, header_bytes, body = decode(data)
        except RecordFormatError as error:
            return LogEntry(number, found, None, str(error)), None
        if header.number != number:
            return LogEntry(number, found, None, f"it is record {header.number}, moved"), None
        if not authenticate:
            return LogEntry(number, found, header), None
        try:
            self._unseal(header, header_bytes, body)
        except DamagedObjectError as error:
            return LogEntry(number, found, header, error.reason), None
        except DataKeyLostError as error:
            return LogEntry(number, found, header, str(error)), error
        self._check_application(header)
        return LogEntry(number, found, header), None

    def _unseal(self, header: RecordHeader, header_bytes: bytes, body: bytes) -> bytes:
        return unseal(self.ring.get(header.data_key).secret, header_bytes, body, log_name(header.number))

    def _check_application(self, header: RecordHeader) -> None:
        if header.application != self.application:
            raise StorageError(
                f"{self.store.uri} holds the log of application {header.application!r}, not of {self.application!r}: "
                "run under its own name, or use another --storage"
            )

    # -- writing --------------------------------------------------------------------------------------------------

    def claim(self, token: str, fresh: bool = False) -> Claimed:
        with self._lock:
            for _ in range(CLAIM_TRIES):
                view = self.read(authenticate=not fresh)
                checkpoint, attempt = self._ids_in_names()
                self._writer = LogWriter(view.newest)
                number = self._writer.number
                data_key = self.ring.create(number)
                draft = Draft(RecordKind.CLAIM, f"{token}-{os.urandom(8).hex()}")  # unlike any other claim, whatever the caller's token
                outcome = self._append(draft, b"", data_key, Patience(CLAIM_TIMEOUT_S))
                if isinstance(outcome, Confirmed):
                    ids = max(view.next_checkpoint, checkpoint + 1), max(view.next_attempt, attempt + 1)
                    self._claimed = Claimed(number, data_key, view, *ids)
                    return self._claimed
                self.store.delete([wrapped_key_name(data_key.key_id, self.ring.provider.key_id)])
            raise StorageError(
                f"other runs of {self.application} in {self.store.uri} were faster {CLAIM_TRIES} times; is one restarting without end?"
            )

    def adopt(self, claim: int, data_key_id: str, token: str) -> Claimed:
        """A Void at the next number shuts out whoever wanted it: an earlier leader's manifest either stands below, and is complete, or never
        will (rule 2)."""
        with self._lock:
            for _ in range(CLAIM_TRIES):
                view = self.read()
                if view.claim != claim:
                    raise DeposedError(
                        f"claim {view.claim} has taken over {self.application} in {self.store.uri}; this run owned it as {claim}"
                    )
                checkpoint, attempt = self._ids_in_names()
                ids = max(view.next_checkpoint, checkpoint + 1), max(view.next_attempt, attempt + 1)
                claimed = Claimed(claim, self.ring.get(data_key_id), view, *ids)
                self._writer = LogWriter(view.newest)
                draft = Draft(RecordKind.VOID, f"{token}-{os.urandom(8).hex()}", claim)
                ended = view.ended is not None
                if ended or isinstance(self._append(draft, b"", claimed.data_key, Patience(CLAIM_TIMEOUT_S)), Confirmed):
                    self._claimed = claimed
                    return claimed
            raise StorageError(f"another JobManager of {self.application} writes to {self.store.uri} without end")

    def append_manifest(
        self,
        manifest: Manifest,
        stop: threading.Event | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> Appended:
        owned = self._owned()
        if manifest.claim != owned.claim:
            raise ProtocolError(f"a manifest of claim {manifest.claim} is not for the log of claim {owned.claim}")
        token = f"k{manifest.checkpoint}-a{manifest.attempt}-{os.urandom(8).hex()}"
        draft = Draft(RecordKind.MANIFEST, token, owned.claim, manifest.checkpoint, manifest.attempt)
        patience = Patience(None, stop, on_trouble)
        with self._lock:
            outcome = self._append(draft, encode_manifest(manifest), owned.data_key, patience)
        if isinstance(outcome, Deposed):
            raise self._deposed(outcome)
        name = log_name(outcome.number)
        if isinstance(outcome, Voided):
            return Appended(False, outcome.number, name, f"its manifest's PUT had no answer, and it was not there: {patience.last_trouble}")
        return Appended(True, outcome.number, name)

    def append_ended(self, kind: str, timeout_s: float = 30.0) -> None:
        owned = self._owned()
        if not self._lock.acquire(timeout=timeout_s):
            raise StorageError(
                f"cannot record that {self.application} is {kind}: a manifest's fate is still open, {self.store.uri} does not answer"
            )
        try:
            draft = Draft(RecordKind.ENDED, f"ended-{os.urandom(8).hex()}", owned.claim, ended=kind)
            outcome = self._append(draft, b"", owned.data_key, Patience(timeout_s))
        finally:
            self._lock.release()
        if isinstance(outcome, Deposed):
            raise self._deposed(outcome)

    def _deposed(self, outcome: Deposed) -> DeposedError:
        return DeposedError(
            f"another run has claimed {self.application} in {self.store.uri} (at record {outcome.number} or above); "
            "this one may write nothing more"
        )

    # -- carrying out ---------------------------------------------------------------------------------------------

    def _append(self, draft: Draft, payload: bytes, data_key: DataKey, patience: Patience) -> Confirmed | Voided | Deposed:
        """What an earlier call left in doubt is resolved first: one put is outstanding at most."""
        assert self._writer is not None
        if self._unresolved and self._writer.in_doubt:
            self._run(self._unresolved, data_key, patience)
        self._payload = payload
        self._encoded.clear()
        return self._run(self._writer.step(Want(draft)), data_key, patience)

    def _run(self, commands: list[LogCommand], data_key: DataKey, patience: Patience) -> Confirmed | Voided | Deposed:
        assert self._writer is not None
        while True:
            self._unresolved = commands
            (command,) = commands
            if isinstance(command, CreateAt):
                if command.again:
                    patience.wait(f"record {command.number} of {self.store.uri} is in doubt")
                event = self._create(command, data_key, patience)
            elif isinstance(command, ListAbove):
                if command.again:
                    patience.wait(f"what is above record {command.number} of {self.store.uri} is not known")
                event = self._list_above(command, patience)
            else:
                self._unresolved = []
                return command
            commands = self._writer.step(event)

    def _create(self, command: CreateAt, data_key: DataKey, patience: Patience) -> LogEvent:
        data = self._bytes(command, data_key)
        try:
            if self.store.create(log_name(command.number), data) is CreateOutcome.CREATED:
                return Created(command.number, digest(data))
            standing = settled(lambda: self.store.get(log_name(command.number)), _is_no_record)
        except FileNotFoundError:
            return Taken(command.number, "", "")  # taken a moment ago and freed since: retention of a newer owner
        except StorageError as error:
            patience.trouble(str(error))
            return Doubtful(command.number)
        try:
            header, _, _ = decode(standing)
        except RecordFormatError:
            return Taken(command.number, "", digest(standing))
        return Taken(command.number, header.token, digest(standing))

    def _list_above(self, command: ListAbove, patience: Patience) -> LogEvent:
        try:
            return Listed(command.number, tuple(number for number in self.numbers() if number > command.number))
        except StorageError as error:
            patience.trouble(str(error))
            return ListFailed(command.number)

    def _bytes(self, command: CreateAt, data_key: DataKey) -> bytes:
        """The same for every try of one record, so that a read-back knows its own."""
        draft = command.draft
        if draft.token not in self._encoded:
            header = place(draft, command.number, command.parent, self.application, data_key.key_id, time.time_ns() // 1000)
            header_bytes = encode_header(header)
            payload = self._payload if draft.kind is RecordKind.MANIFEST else b""
            self._encoded[draft.token] = encode(header_bytes, seal(data_key.secret, header_bytes, payload))
        return self._encoded[draft.token]


def _is_no_record(data: bytes) -> bool:
    try:
        decode(data)
    except RecordFormatError:
        return True
    return False
