"""What the JobManager does in checkpoint storage: choose what to restore, claim the application, write manifests, sweep, record the end."""

from __future__ import annotations

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.key_providers import resolve_provider
from flinkray.checkpoint.keys import DataKey, KeyProvider
from flinkray.checkpoint.log_base import CheckpointLog, Claimed
from flinkray.checkpoint.log_store import open_log
from flinkray.checkpoint.manifest import CheckpointStats, Manifest, RunFacts
from flinkray.checkpoint.patience import Patience
from flinkray.checkpoint.savepoints import Creation, Savepoints
from flinkray.checkpoint.state_source import StateSource
from flinkray.checkpoint.store import check_reachable, open_store, write_probe
from flinkray.checkpoint.sweep import sweep
from flinkray.checkpoint.unfenced_log import UnfencedLog
from flinkray.core.job_events import Adopted, CheckpointContent, JobStatus, Opened, Sweep, WriteManifest
from flinkray.core.journal_view import JournalView
from flinkray.core.restore_plan import check_restore
from flinkray.core.storage_log import LogView
from flinkray.errors import DamagedObjectError, KeyUnavailableError, StorageError, UsageError
from flinkray.graph.key_groups import HASH_VERSION
from flinkray.runtime.restore_choice import Readable, RestoreChoice, own_entries
from flinkray.runtime.savepoint_storage import SAVEPOINT, restore_savepoint, savepoints_of, write_savepoint
from flinkray.runtime.sinks import check_fresh_start
from flinkray.runtime.task_manager import JobBundle

FINISHED_TIMEOUT_S = 30.0
CANCELLED_TIMEOUT_S = 8.0
"""How long the record of the end is tried while storage is away. Of a cancelled run it is a courtesy: the next one restores the same."""

UNFENCED = (
    "cannot create if absent (it ignores If-None-Match), so another cluster that runs this application cannot be kept out: never run it twice; "
    "checkpoints are ordered by this run's journal alone, and a later run must be told which to restore"
)


class StorageOfJob(ABC):
    """Blocking; called on the storage thread, except `about`, `checkpoints`, `data_keys` and `stop_waiting`."""

    @abstractmethod
    def open(self) -> tuple[Opened, str]:
        """Check everything, then claim. Returns what the core must know, and a line that says what was chosen."""

    @abstractmethod
    def adopt(self, view: JournalView) -> Adopted:
        """For a leader after the first: go on with the claim that the journal knows, and shut every earlier leader out of the log. Waits
        while storage is away. DeposedError when another run has claimed the application; any other error ends the job."""

    @abstractmethod
    def write_manifest(self, command: WriteManifest, say: Callable[[str], None]) -> str:
        """Returns the manifest's name, for the journal, when it stands. DeposedError, or any other error when it never will count."""

    @abstractmethod
    def sweep(self, command: Sweep) -> None: ...

    @abstractmethod
    def record_end(self, status: JobStatus) -> None: ...

    @abstractmethod
    def stop_waiting(self) -> None:
        """The job ends: a manifest whose fate is open is waited for no more. From any thread; returns at once."""

    @property
    def is_open(self) -> bool:
        """Savepoints and checkpoints can be looked at. From any thread."""
        return True

    def name_savepoint(self, request: str, name: str) -> bool:
        """Take the name for this request; True when the savepoint was made for it already. This and what follows is called on a thread of its own.
        Raises UsageError, RestoreError, StorageError."""
        raise UsageError("this job has no checkpoint storage, and so no savepoints")

    def write_savepoint(self, request: str, checkpoint: int) -> None:
        """Copy a complete checkpoint into it. It is FAILED when that raises."""
        raise NotImplementedError

    def fail_savepoint(self, request: str, reason: str) -> None:
        """What was begun for the request never will be READY."""

    def savepoint_document(self, name: str) -> dict[str, Any]:
        """What `flinkray savepoint describe --json` prints."""
        raise NotImplementedError

    def savepoints(self) -> Savepoints:
        raise NotImplementedError

    def pin(self, checkpoint: int) -> None:
        """From the loop: no sweep that begins after this takes the checkpoint's objects, until `unpin`."""

    def unpin(self, checkpoint: int) -> None: ...

    @abstractmethod
    def data_keys(self) -> tuple[DataKey | None, dict[str, DataKey]]:
        """The key to write with, and those to read what may be restored."""

    @abstractmethod
    def checkpoints(self) -> list[dict[str, Any]]:
        """Checkpoints that can be restored, oldest first."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """The `storage` part of the status."""


class NoStorage(StorageOfJob):
    """A job without checkpointing: a failure starts it from the beginning."""

    def __init__(self, bundle: JobBundle) -> None:
        self._bundle = bundle

    def open(self) -> tuple[Opened, str]:
        check_fresh_start(self._bundle.graph)
        return Opened(0, None, (), 1, 1, secrets.randbits(62)), "no checkpoint storage: a failure starts the job from the beginning"

    def adopt(self, view: JournalView) -> Adopted:
        return Adopted((), 1, 1)

    def write_manifest(self, command: WriteManifest, say: Callable[[str], None]) -> str:
        raise StorageError("this job has no checkpoint storage")

    def sweep(self, command: Sweep) -> None: ...

    def record_end(self, status: JobStatus) -> None: ...

    def stop_waiting(self) -> None: ...

    def data_keys(self) -> tuple[DataKey | None, dict[str, DataKey]]:
        return None, {}

    def checkpoints(self) -> list[dict[str, Any]]:
        return []

    def about(self) -> dict[str, Any]:
        return {}


class JobStorage(StorageOfJob):
    def __init__(
        self,
        bundle: JobBundle,
        token: str,
        new_hash_seed: Callable[[], int] = lambda: secrets.randbits(62),
        announce: Callable[[str], None] | None = None,
    ) -> None:
        """`new_hash_seed`: for a fresh start; random, so that nobody can craft keys that collide; kept in every manifest. `announce` is
        told of a key that had to be made."""
        assert bundle.config.checkpointing is not None
        self._bundle = bundle
        self._config = bundle.config.checkpointing
        self._token = token
        self._new_hash_seed = new_hash_seed
        self._announce = announce
        self._opened_store: ObjectStore | None = None
        self._stop = threading.Event()
        self._log: CheckpointLog | None = None
        self._facts: RunFacts | None = None
        self._data_key: DataKey | None = None
        self._known: dict[str, DataKey] = {}
        self._trouble = ""
        self._listed: list[dict[str, Any]] = []
        self._pinned: list[int] = []
        self._creations: dict[str, Creation] = {}
        """By request: savepoints whose name this process has taken."""

    def open(self) -> tuple[Opened, str]:
        provider, self._opened_store = self._provider(), self._open_store()
        check_reachable(self._store)
        log = self._log = self._open_log(provider)
        found, claimed, chosen = self._choose_and_claim(log)
        self._fail_abandoned(log)
        manifests = [readable.manifest for readable in found]
        if not log.fenced:
            log.forget(log.numbers())  # they were for the choice: what other claims wrote is never swept here
            chosen += f"; {self._store.uri} {UNFENCED}"
        self._data_key = claimed.data_key
        for manifest in manifests:
            self._known.update(log.ring.get_all(manifest.data_keys))
        self._known[claimed.data_key.key_id] = claimed.data_key
        write_probe(self._store, _probe_token(claimed.claim))
        hash_seed = manifests[0].hash_seed if manifests else self._new_hash_seed()
        self._facts = RunFacts(self._bundle.application, claimed.claim, self._bundle.graph, hash_seed, HASH_VERSION)
        self._listed = [_listed(manifest) for manifest in reversed(manifests)]
        contents = [manifest.content() for manifest in manifests]
        opened = Opened(
            claimed.claim,
            contents[0] if contents else None,
            tuple(contents[1:]),
            claimed.next_checkpoint,
            claimed.next_attempt,
            hash_seed,
            claimed.data_key.key_id,
            tuple(readable.name for readable in found),
        )
        return opened, chosen

    def _choose_and_claim(self, log: CheckpointLog) -> tuple[list[Readable], Claimed, str]:
        wanted = self._bundle.config.restore
        if wanted.startswith(SAVEPOINT):
            restored, claimed, chosen = restore_savepoint(self._bundle, log, self._token)
            return [restored], claimed, chosen
        afresh = wanted == "none"
        view = log.read(authenticate=not afresh)
        try:
            found, chosen = self._choose(log, view)
        except UsageError:
            read_again = log.read(authenticate=not afresh)
            if read_again.newest == view.newest:
                raise
            view = read_again  # the output has rows whose checkpoint came after the first look: the run before has not ended
            found, chosen = self._choose(log, view)
        claimed = log.claim(self._token, fresh=afresh)
        if not afresh and claimed.view.newest != view.newest:  # the run before had not ended: it has written since
            found, chosen = self._choose(log, claimed.view)
        return found, claimed, chosen

    def _choose(self, log: CheckpointLog, view: LogView) -> tuple[list[Readable], str]:
        """What to restore, checked."""
        found, chosen = self._choice(log).choose(view)
        graph = self._bundle.graph
        for readable in found[:1]:
            manifest = readable.manifest
            what = f"checkpoint {manifest.checkpoint}"
            check_restore(graph, manifest, what, self._bundle.config.allow_non_restored_state)
        if not found:
            check_fresh_start(graph)
        return found, chosen

    def adopt(self, view: JournalView) -> Adopted:
        assert view.claim is not None
        patience = Patience(None, self._stop, self._announce)
        while True:
            try:
                return self._adopt(view, view.claim)
            except (KeyUnavailableError, DamagedObjectError):
                raise  # waiting mends neither
            except StorageError as error:
                self._trouble = str(error)
                patience.trouble(self._trouble)
                patience.wait(f"{self._config.storage} does not answer the new leader")

    def _adopt(self, view: JournalView, claim: int) -> Adopted:
        provider, self._opened_store = self._provider(), self._open_store()
        journaled = (*reversed(view.chosen_names), *(name for _, name in view.manifests))
        log = open_log(self._store, self._bundle.application, provider, journaled)
        claimed = log.adopt(claim, view.data_key, self._token)
        self._trouble = ""
        self._fail_abandoned(log, view)
        manifests = [readable.manifest for readable in self._choice(log).read(own_entries(claimed.view, view, log.fenced))]
        if not log.fenced:  # what another claim wrote is never swept here
            log.forget([number for number in log.numbers() if log.name_of(number) in view.chosen_names])
        self._log, self._data_key = log, claimed.data_key
        for manifest in manifests:
            self._known.update(log.ring.get_all(manifest.data_keys))
        self._known[claimed.data_key.key_id] = claimed.data_key
        self._facts = RunFacts(self._bundle.application, claim, self._bundle.graph, view.hash_seed, HASH_VERSION)
        self._listed = [_listed(manifest) for manifest in reversed(manifests)]
        contents = tuple(manifest.content() for manifest in manifests)
        return Adopted(contents, claimed.next_checkpoint, claimed.next_attempt, claimed.view.ended or "")

    def _choice(self, log: CheckpointLog) -> RestoreChoice:
        return RestoreChoice(self._bundle, log, self._config.retained)

    def _provider(self) -> KeyProvider:
        return resolve_provider(self._config.key, self._config.storage, self._announce)

    def _open_store(self) -> ObjectStore:
        return open_store(self._config.storage, self._bundle.application, self._config.storage_options)

    def _open_log(self, provider: KeyProvider) -> CheckpointLog:
        """Where only the journal orders manifests, an earlier run's is not at hand: one that is asked for is looked up among all there are."""
        log = open_log(self._store, self._bundle.application, provider)
        if isinstance(log, UnfencedLog) and self._bundle.config.restore.startswith("checkpoint:"):
            return open_log(self._store, self._bundle.application, provider, log.candidates())
        return log

    @property
    def _store(self) -> ObjectStore:
        assert self._opened_store is not None, "open() comes first"
        return self._opened_store

    def write_manifest(self, command: WriteManifest, say: Callable[[str], None]) -> str:
        assert self._log is not None
        assert self._facts is not None
        content: CheckpointContent = command.content
        duration_ms = (time.monotonic() - command.started_at) * 1e3
        stats = CheckpointStats.of(content, duration_ms=duration_ms, sync_ms=command.sync_ms)
        manifest = Manifest.of(content, self._facts, round(time.time() * 1e6), stats)

        def trouble(text: str) -> None:
            if text != self._trouble:
                say(text)
            self._trouble = text

        appended = self._log.append_manifest(manifest, self._stop, trouble)
        self._trouble = ""
        if not appended.complete:
            raise StorageError(appended.reason or "the manifest could not be written")
        self._listed = [*self._listed, _listed(manifest)][-self._config.retained :]
        return appended.name

    def sweep(self, command: Sweep) -> None:
        if self._log is not None:
            in_flight = {command.in_flight: command.in_flight_base} if command.in_flight is not None else {}
            sweep(self._log, self._config.retained, command.complete, in_flight, (*command.restorable, *self._pinned))

    def record_end(self, status: JobStatus) -> None:
        if self._log is None or self._facts is None:
            return  # nothing was claimed
        if status is JobStatus.CANCELLED:
            self._log.append_ended(status.value, CANCELLED_TIMEOUT_S)
            return
        try:
            self._log.append_ended(status.value, FINISHED_TIMEOUT_S)
        except StorageError as error:
            raise StorageError(
                f"every row is committed, but that could not be recorded ({error}); start the job again: it goes on from its last checkpoint, "
                "repeats nothing, and ends"
            ) from error

    def stop_waiting(self) -> None:
        self._stop.set()

    def name_savepoint(self, request: str, name: str) -> bool:
        creation = self._creations[request] = savepoints_of(self._opened_log()).begin(name, request=request)
        return creation.ready

    def write_savepoint(self, request: str, checkpoint: int) -> None:
        log, creation = self._opened_log(), self._creations.pop(request)
        write_savepoint(savepoints_of(log), creation, self._own_checkpoint(log, checkpoint), self._bundle.code_digest)

    def fail_savepoint(self, request: str, reason: str) -> None:
        creation = self._creations.pop(request, None)
        if creation is not None:
            savepoints_of(self._opened_log()).fail(creation, reason)

    def savepoint_document(self, name: str) -> dict[str, Any]:
        return self.savepoints().describe(name).document()

    def savepoints(self) -> Savepoints:
        return savepoints_of(self._opened_log())

    def pin(self, checkpoint: int) -> None:
        self._pinned.append(checkpoint)

    def unpin(self, checkpoint: int) -> None:
        self._pinned.remove(checkpoint)

    def _fail_abandoned(self, log: CheckpointLog, view: JournalView | None = None) -> None:
        keep = [request.request for request in view.open_requests] if view is not None else []
        with suppress(StorageError):  # they stay CREATING, which says no worse
            savepoints_of(log).fail_abandoned(keep)

    @property
    def is_open(self) -> bool:
        return self._log is not None and self._facts is not None

    def _opened_log(self) -> CheckpointLog:
        if self._log is None or self._facts is None:
            raise StorageError(f"{self._config.storage} is not open yet; ask again when the job runs")
        return self._log

    def _own_checkpoint(self, log: CheckpointLog, checkpoint: int) -> StateSource:
        for entry in log.read().manifests:
            if entry.header is not None and entry.header.checkpoint == checkpoint and entry.header.claim == log.claim_number:
                return StateSource(log.manifest(entry), log.store, log.ring)
        raise StorageError(f"checkpoint {checkpoint} is gone from {log.store.uri}")

    def data_keys(self) -> tuple[DataKey | None, dict[str, DataKey]]:
        return self._data_key, dict(self._known)

    def checkpoints(self) -> list[dict[str, Any]]:
        return list(self._listed)

    def about(self) -> dict[str, Any]:
        """The place is told before it is opened: commands in other processes look it up here."""
        about: dict[str, Any] = {"uri": f"{self._config.storage.rstrip('/')}/{self._bundle.application}"}
        if self._log is not None:
            about["fenced"] = self._log.fenced
        if self._trouble:
            about["trouble"] = self._trouble
        return about


def _listed(manifest: Manifest) -> dict[str, Any]:
    stats = manifest.stats
    return {
        "id": manifest.checkpoint,
        "created_at_us": manifest.created_at_us,
        "kind": "full" if stats.full else "incremental",
        "bytes_written": stats.written_bytes,
        "bytes_referenced": stats.referenced_bytes,
        "duration_ms": stats.duration_ms,
        "sync_ms": stats.sync_ms,
    }


def _probe_token(claim: int) -> str:
    return f"claim-{claim}"
