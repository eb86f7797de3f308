"""Savepoints as objects (rule 21): each a self-contained copy of a complete checkpoint's state, under a name that is taken once.

    savepoints/<name>/intent            who makes it, created if-absent: from here on the name is taken
    savepoints/<name>/<token>/data/..   its state, sealed with a data key of its own
    savepoints/<name>/<token>/keys/..   that key, wrapped
    savepoints/<name>/<token>/manifest  created if-absent, last: READY; or, created in its place, why it never will be: FAILED
    savepoints/<name>/<token>/deleting  it is going

The intent names the token that counts. A writer that was frozen while its savepoint was deleted writes under a token that nothing names:
that is never READY, and goes with the next creation or deletion of the name. An intent also names the request that it is for: a new leader goes
on with it under the same token, and whoever creates the manifest first, with whatever in it, has decided.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.chunk_writer import PIECE_BYTES
from flinkray.checkpoint.folder_store import FolderStore
from flinkray.checkpoint.keys import DataKey, KeyProvider, KeyRing
from flinkray.checkpoint.manifest import Manifest, decode_manifest, encode_manifest
from flinkray.checkpoint.names import KEYS_FOLDER, data_object_name
from flinkray.checkpoint.rereads import sound
from flinkray.checkpoint.savepoint_format import (
    SAVEPOINTS_FOLDER,
    SavepointFacts,
    SavepointFormatError,
    SavepointHeader,
    check_savepoint_name,
    decode_failure,
    decode_savepoint,
    encode_failure,
    encode_header,
    encode_savepoint,
    savepoint_folder,
)
from flinkray.checkpoint.sealing import seal, unseal
from flinkray.checkpoint.state_source import StateSource
from flinkray.errors import DamagedObjectError, FlinkrayError, RestoreError, StorageError, UsageError

LIMIT = 1_000
"""Savepoints of one application."""

_INTENT, _MANIFEST, _DELETING = "intent", "manifest", "deleting"


class SavepointState(Enum):
    CREATING = "CREATING"
    READY = "READY"
    FAILED = "FAILED"
    DELETING = "DELETING"


@dataclass(frozen=True)
class SavepointInfo:
    """What storage says of a savepoint, without a key."""

    name: str
    token: str
    state: SavepointState
    begun_at_us: int
    reason: str = ""
    """Why it FAILED."""
    header: SavepointHeader | None = None
    """Of a READY one."""
    by_run: bool = True
    """A running job makes it, not a copy."""
    request: str = ""
    """What a running job makes it for."""

    def document(self) -> dict[str, Any]:
        """JSON-able: what `flinkray savepoint describe --json` prints."""
        document: dict[str, Any] = {"name": self.name, "state": self.state.value, "begun_at": _iso(self.begun_at_us)}
        if self.reason:
            document["reason"] = self.reason
        header = self.header
        if header is not None:
            document |= {
                "created_at": _iso(header.created_at_us),
                "checkpoint": header.facts.checkpoint,
                "claim": header.facts.claim,
                "bytes": header.bytes,
                "rows": header.rows,
                "fingerprint": header.facts.fingerprint,
                "code_digest": header.facts.code_digest,
                "package_version": header.facts.package_version,
                "key_id": header.key_id,
            }
        return document


@dataclass(frozen=True)
class Creation:
    """A name that is taken, and where its state goes."""

    name: str
    token: str
    store: ObjectStore
    ready: bool = False
    """An earlier leader has made it, for the same request."""

    def object_namer(self, claim: int, checkpoint: int, attempt: int) -> Callable[[int], str]:
        """Names for what one writer puts; two who go on with one creation never write the same object."""
        writer = f"{self.token}{os.urandom(4).hex()}"
        return lambda number: data_object_name(claim, checkpoint, attempt, writer, f"savepoint-{number}")


class Savepoints:
    """Of one application. Calls block on storage. `provider` is asked for when state or keys are needed, not for looking."""

    def __init__(self, store: ObjectStore, application: str, provider: Callable[[], KeyProvider]) -> None:
        self._store = store
        self._application = application
        self._provider = provider

    # -- looking --------------------------------------------------------------------------------------------------

    def list(self) -> list[SavepointInfo]:
        """By name."""
        intents = [name for name in self._store.list(SAVEPOINTS_FOLDER) if name.count("/") == 2 and name.endswith(f"/{_INTENT}")]
        found = [self._look(intent.removesuffix(_INTENT)) for intent in intents]
        return sorted((info for info in found if info is not None), key=lambda info: info.name)

    def describe(self, name: str) -> SavepointInfo:
        """Raises UsageError for what is no name, RestoreError naming those there are."""
        info = self._look(savepoint_folder(check_savepoint_name(name)))
        if info is None:
            known = ", ".join(other.name for other in self.list()) or "none"
            raise RestoreError(f"there is no savepoint {name!r} of {self._application} in {self._store.uri}; there are: {known}")
        return info

    def read(self, name: str) -> tuple[SavepointHeader, StateSource]:
        """A READY one's header, authentic, and its state. Raises RestoreError, DamagedObjectError, KeyUnavailableError, StorageError."""
        info = self.describe(name)
        if info.state is not SavepointState.READY:
            raise RestoreError(
                f"savepoint {name!r} of {self._application} is {info.state.value}{': ' + info.reason if info.reason else ''}"
            )
        store = self._folder(name, info.token)
        ring = KeyRing(store, self._provider())
        header, manifest = sound(lambda: self._open(name, info.token, store, ring))
        return header, StateSource(manifest, store, ring)

    # -- creation -------------------------------------------------------------------------------------------------

    def begin(self, name: str, by_run: bool = True, request: str = "") -> Creation:
        """Take the name; `by_run`: for a running job, see `fail_abandoned`. Taken for the same `request` it is gone on with. Raises UsageError when it
        is another's, or when there are too many, RestoreError when it FAILED already, StorageError."""
        folder = savepoint_folder(check_savepoint_name(name))
        if not self._store.conditional_create:
            raise StorageError(
                f"{self._store.uri} cannot create if absent: two savepoints of one name could not be kept apart; use another storage"
            )
        there = self._look(folder) if request else None
        if there is not None and there.request == request:
            return self._go_on(there)
        if len(self.list()) >= LIMIT:
            raise UsageError(f"{self._application} has {LIMIT} savepoints in {self._store.uri}; delete some: flinkray savepoint delete")
        token = os.urandom(8).hex()
        facts = {"name": name, "token": token, "begun_at_us": time.time_ns() // 1000, "by_run": by_run, "request": request}
        intent = json.dumps(facts).encode()
        if self._store.create(f"{folder}{_INTENT}", intent) is CreateOutcome.TAKEN:
            there = self.describe(name)
            hint = (
                f"; delete it first: flinkray savepoint delete {self._application} {name}" if there.state is SavepointState.FAILED else ""
            )
            raise UsageError(f"savepoint {name!r} of {self._application} exists already ({there.state.value}); names are taken once{hint}")
        self._store.delete(
            [other for other in self._store.list(folder) if not other.startswith((f"{folder}{_INTENT}", f"{folder}{token}/"))]
        )
        return Creation(name, token, self._folder(name, token))

    def _go_on(self, info: SavepointInfo) -> Creation:
        if info.state in (SavepointState.FAILED, SavepointState.DELETING):
            raise RestoreError(
                f"savepoint {info.name!r} of {self._application} is {info.state.value}: {info.reason or 'somebody deletes it'}"
            )
        return Creation(info.name, info.token, self._folder(info.name, info.token), info.state is SavepointState.READY)

    def new_key(self, creation: Creation) -> DataKey:
        """What seals its state, wrapped beside it."""
        return KeyRing(creation.store, self._provider()).create(0)

    def complete(self, creation: Creation, manifest: Manifest, data_key: DataKey, facts: SavepointFacts) -> SavepointHeader:
        """Everything it refers to is there: READY. Raises RestoreError when it was deleted meanwhile, StorageError."""
        header = SavepointHeader(
            creation.name,
            self._application,
            creation.token,
            time.time_ns() // 1000,
            data_key.key_id,
            self._provider().key_id,
            sum(chunk.sealed_bytes for chunk in manifest.chunks),
            sum(chunk.rows for chunk in manifest.chunks),
            facts,
        )
        header_bytes = encode_header(header)
        sealed = seal(data_key.secret, header_bytes, encode_manifest(manifest))
        outcome = creation.store.create(_MANIFEST, encode_savepoint(header_bytes, sealed))
        info = self._look(savepoint_folder(creation.name))
        if info is None or info.token != creation.token or info.state is SavepointState.DELETING:
            creation.store.delete(creation.store.list(""))
            raise RestoreError(f"savepoint {creation.name!r} of {self._application} was deleted while it was being made")
        if outcome is CreateOutcome.TAKEN:  # by another leader, or by one who gave it up: only what this writer has put goes
            creation.store.delete([*manifest.object_names, *creation.store.list(f"{KEYS_FOLDER}{data_key.key_id}/")])
        if info.header is None:
            raise RestoreError(f"savepoint {creation.name!r} of {self._application} is {info.state.value}: {info.reason}")
        return info.header

    def fail(self, creation: Creation, reason: str) -> None:
        """It never will be READY, unless it is already: what was written of it goes, the name stays taken until it is deleted. Raises StorageError."""
        if creation.store.create(_MANIFEST, encode_failure(reason)) is CreateOutcome.CREATED:
            creation.store.delete([name for name in creation.store.list("") if name not in (_MANIFEST, _DELETING)])

    def fail_abandoned(self, keep: Collection[str] = ()) -> None:
        """For whoever has just taken the application over: what earlier leaders were making never will be READY, but for the requests in `keep`, which
        are gone on with. Raises StorageError."""
        for info in self.list():
            if info.state is SavepointState.CREATING and info.by_run and info.request not in keep:
                creation = Creation(info.name, info.token, self._folder(info.name, info.token))
                self.fail(creation, "the JobManager that was making it was lost")

    # -- deletion -------------------------------------------------------------------------------------------------

    def delete(self, name: str) -> None:
        """In whatever state it is; a deletion that was cut off is finished by another one. Raises RestoreError when there is none."""
        folder = savepoint_folder(check_savepoint_name(name))
        info = self._look(folder)
        leftovers = self._store.list(folder)
        if info is None:
            if not leftovers:
                self.describe(name)  # says that there is none, and which there are
            self._store.delete(leftovers)
            return
        marker = f"{folder}{info.token}/{_DELETING}"
        self._store.put(marker, b"")
        self._store.delete([f"{folder}{info.token}/{_MANIFEST}"])  # first: nothing is READY whose objects are going
        intent = f"{folder}{_INTENT}"
        self._store.delete([other for other in self._store.list(folder) if other not in (marker, intent)])
        self._store.delete([intent])
        self._store.delete([marker])

    # -- copies ---------------------------------------------------------------------------------------------------

    def copy(self, name: str, target: Savepoints, new_name: str) -> SavepointHeader:
        """The same state under `new_name` in `target`, another application's or storage's, its key wrapped by the target's. Every byte is
        checked before the copy is READY. Raises what `read` and `begin` raise, DamagedObjectError."""
        header, source = self.read(name)
        creation = target.begin(new_name, by_run=False)
        try:
            data_key = source.ring.get(header.data_key)
            KeyRing(creation.store, target._provider()).add(data_key)
            for object_name in sorted(source.manifest.object_names):
                creation.store.put_parts(object_name, _pieces(source.store, object_name))
            copied = StateSource(source.manifest, creation.store, KeyRing(creation.store, target._provider()))
            for problem in copied.problems():
                raise DamagedObjectError(problem.object_name, problem.reason)
            return target.complete(creation, source.manifest, data_key, header.facts)
        except FlinkrayError as error:
            with suppress(StorageError):
                target.fail(creation, f"copying it failed: {error}")
            raise

    # -- within ---------------------------------------------------------------------------------------------------

    def _folder(self, name: str, token: str) -> ObjectStore:
        return FolderStore(self._store, f"{savepoint_folder(name)}{token}/")

    def _look(self, folder: str) -> SavepointInfo | None:
        """What stands in a savepoint's folder; None when its name is free."""
        try:
            intent = json.loads(self._store.get(f"{folder}{_INTENT}"))
            name, token, begun_at_us = str(intent["name"]), str(intent["token"]), int(intent["begun_at_us"])
            by_run, request = bool(intent["by_run"]), str(intent.get("request", ""))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedObjectError(f"{folder}{_INTENT}", f"it does not say whose savepoint it is: {error}") from error
        there = {other.removeprefix(f"{folder}{token}/") for other in self._store.list(f"{folder}{token}/")}
        info = SavepointInfo(name, token, SavepointState.CREATING, begun_at_us, by_run=by_run, request=request)
        if _DELETING in there:
            return replace(info, state=SavepointState.DELETING)
        return self._decided(info) if _MANIFEST in there else info

    def _decided(self, info: SavepointInfo) -> SavepointInfo:
        try:
            data = self._folder(info.name, info.token).get(_MANIFEST)
            failure = decode_failure(data)
            if failure is not None:
                return replace(info, state=SavepointState.FAILED, reason=failure)
            return replace(info, state=SavepointState.READY, header=decode_savepoint(data)[0])
        except FileNotFoundError:
            return replace(info, state=SavepointState.DELETING)
        except (SavepointFormatError, RestoreError) as error:
            return replace(info, state=SavepointState.READY, reason=f"its manifest is damaged: {error}")

    def _open(self, name: str, token: str, store: ObjectStore, ring: KeyRing) -> tuple[SavepointHeader, Manifest]:
        place = f"{savepoint_folder(name)}{token}/{_MANIFEST}"
        try:
            header, header_bytes, body = decode_savepoint(store.get(_MANIFEST))
        except FileNotFoundError:
            raise DamagedObjectError(place, f"it is missing in {self._store.uri}") from None
        except SavepointFormatError as error:
            raise DamagedObjectError(place, str(error)) from error
        if (header.name, header.token) != (name, token):
            raise DamagedObjectError(place, f"it is savepoint {header.name!r}, moved; copy it with: flinkray savepoint copy")
        if header.application != self._application:
            raise RestoreError(
                f"savepoint {name!r} in {self._store.uri} belongs to application {header.application!r}, not to {self._application!r}: "
                f"copy it with: flinkray savepoint copy {header.application} {name} --to-app {self._application}"
            )
        manifest = decode_manifest(unseal(ring.get(header.data_key).secret, header_bytes, body, place), place)
        return header, manifest


def _pieces(store: ObjectStore, name: str) -> Iterator[bytes]:
    offset, piece = 0, b""
    while not offset or len(piece) == PIECE_BYTES:
        try:
            piece = store.get(name, offset, PIECE_BYTES)
        except FileNotFoundError:
            raise DamagedObjectError(name, f"it is missing in {store.uri}") from None
        if not piece:
            return
        offset += len(piece)
        yield piece


def _iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
