"""What the JobManager does in checkpoint storage: choose what to restore, claim the application, write manifests, sweep, record the end."""

from __future__ import annotations

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.key_providers import resolve_provider
from flinkray.checkpoint.keys import DataKey, KeyProvider
from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.log_store import open_log
from flinkray.checkpoint.manifest import CheckpointStats, Manifest, RunFacts
from flinkray.checkpoint.store import check_reachable, open_store, write_probe
from flinkray.checkpoint.sweep import sweep
from flinkray.checkpoint.unfenced_log import UnfencedLog
from flinkray.core.job_events import CheckpointContent, JobStatus, Opened, Sweep, WriteManifest
from flinkray.core.log_records import RecordKind
from flinkray.core.state_plan import check_fit
from flinkray.core.storage_log import LogEntry, LogView
from flinkray.errors import DamagedObjectError, RestoreError, StorageError
from flinkray.graph.key_groups import HASH_VERSION
from flinkray.runtime.sinks import check_fresh_start, transactional_uids
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
    def write_manifest(self, command: WriteManifest, say: Callable[[str], None]) -> str:
        """Returns the manifest's name, for the journal, when it stands. DeposedError, or any other error when it never will count."""

    @abstractmethod
    def sweep(self, command: Sweep) -> None: ...

    @abstractmethod
    def record_end(self, status: JobStatus) -> None: ...

    @abstractmethod
    def stop_waiting(self) -> None:
        """The job ends: a manifest whose fate is open is waited for no more. From any thread; returns at once."""

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

    def open(self) -> tuple[Opened, str]:
        provider, self._opened_store = self._provider(), self._open_store()
        check_reachable(self._store)
        log = self._log = self._open_log(provider)
        afresh = self._bundle.config.restore == "none"
        view = log.read(authenticate=not afresh)
        manifests, chosen = self._choose(log, view)
        graph = self._bundle.graph
        for manifest in manifests[:1]:
            check_fit(graph, manifest.max_parallelism, manifest.content().states, self._bundle.config.allow_non_restored_state)
            self._check_fingerprint(manifest)
        if not manifests:
            check_fresh_start(graph)
        claimed = log.claim(self._token, fresh=afresh)
        if not log.fenced:
            log.forget(log.numbers())  # they were for the choice: what other claims wrote is never swept here
            chosen += f"; {self._store.uri} {UNFENCED}"
        self._data_key = claimed.data_key
        for manifest in manifests:
            self._known.update(log.ring.get_all(manifest.data_keys))
        self._known[claimed.data_key.key_id] = claimed.data_key
        write_probe(self._store, _probe_token(claimed.claim))
        hash_seed = manifests[0].hash_seed if manifests else self._new_hash_seed()
        self._facts = RunFacts(self._bundle.application, claimed.claim, graph, hash_seed, HASH_VERSION)
        self._listed = [_listed(manifest) for manifest in reversed(manifests)]
        contents = [manifest.content() for manifest in manifests]
        opened = Opened(
            claimed.claim, contents[0] if contents else None, tuple(contents[1:]), claimed.next_checkpoint, claimed.next_attempt, hash_seed
        )
        return opened, chosen

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

    def _choose(self, log: CheckpointLog, view: LogView) -> tuple[list[Manifest], str]:
        """Manifests newest first, beginning with the one to restore, and a line about the choice."""
        wanted = self._bundle.config.restore
        if wanted == "none":
            return [], "starting afresh (--restore none)"
        if wanted.startswith("checkpoint:"):
            return self._choose_id(log, view, wanted.removeprefix("checkpoint:"))
        if wanted != "latest":
            raise RestoreError(f"--restore {wanted!r}: use latest, none or checkpoint:ID (savepoints are not there yet)")
        if view.ended == JobStatus.FINISHED.value:
            return [], "the run before has FINISHED: starting afresh"
        manifests = self._read(log, list(view.since_finished))
        if not manifests:
            return [], "nothing to restore: starting afresh"
        return manifests, f"restoring checkpoint {manifests[0].checkpoint} of {self._store.uri}"

    def _choose_id(self, log: CheckpointLog, view: LogView, text: str) -> tuple[list[Manifest], str]:
        names = {entry.number: log.name_of(entry.number) for entry in view.manifests}
        found = [entry for entry in view.manifests if text in (str(_checkpoint(entry)), names[entry.number])]
        if not found:
            known = sorted(_checkpoint(entry) for entry in view.manifests)
            raise RestoreError(
                f"there is no checkpoint {text} of {self._bundle.application} in {self._store.uri}; there are: {known or 'none'}"
            )
        if len(found) > 1:
            several = ", ".join(names[entry.number] for entry in found)
            raise RestoreError(
                f"checkpoint {text} of {self._bundle.application} was written {len(found)} times; give one as checkpoint:NAME: {several}"
            )
        chosen = found[0]
        at = _checkpoint(chosen)
        others = [entry for entry in view.manifests if entry is not chosen]
        self._refuse_repeated_output([log.manifest(entry) for entry in others if _checkpoint(entry) >= at], at)
        manifests = self._read(log, [chosen, *(entry for entry in others if _checkpoint(entry) < at)])
        return manifests, f"restoring checkpoint {manifests[0].checkpoint} (asked for) of {self._store.uri}"

    def _refuse_repeated_output(self, newer: list[Manifest], chosen: int) -> None:
        """An older point into an output that has later rows repeats them (rule 20)."""
        visible = sorted({uid for manifest in newer for uid, prepared in manifest.transactions.items() if prepared})
        if visible and not self._bundle.config.allow_repeated_output:
            raise RestoreError(
                f"sinks {', '.join(visible)} have committed rows after checkpoint {chosen}; restoring it would write them again: "
                "give --allow-repeated-output to accept that"
            )

    def _read(self, log: CheckpointLog, entries: list[LogEntry]) -> list[Manifest]:
        """Manifests among `entries`, newest first. A damaged newest one is passed over only where nothing after the one before can have been
        committed, or where repeated output is accepted (rule 20)."""
        manifests: list[Manifest] = []
        damaged: DamagedObjectError | None = None
        for entry in entries:
            if len(manifests) == self._config.retained:
                break
            try:
                if entry.is_good(RecordKind.MANIFEST):
                    manifests.append(log.manifest(entry))
                elif _may_have_been_a_manifest(entry):
                    raise DamagedObjectError(log.name_of(entry.number), entry.damage)
            except DamagedObjectError as error:
                damaged = damaged if damaged or manifests else error
        if damaged is None:
            return manifests
        if not manifests:
            raise DamagedObjectError(
                damaged.object_name, f"{damaged.reason}; no older checkpoint is left: start afresh with --restore none"
            )
        if transactional_uids(self._bundle.graph) and not self._bundle.config.allow_repeated_output:
            raise DamagedObjectError(
                damaged.object_name,
                f"{damaged.reason}; restoring checkpoint {manifests[0].checkpoint} would write again what the sinks may have committed since: "
                "give --allow-repeated-output to accept repeated rows, or start afresh with --restore none",
            )
        return manifests

    def _check_fingerprint(self, manifest: Manifest) -> None:
        if manifest.fingerprint != self._bundle.graph.fingerprint and not self._bundle.config.allow_non_restored_state:
            raise RestoreError(
                f"checkpoint {manifest.checkpoint} belongs to another graph (operators' uids, kinds or state have changed); give --restore none to start afresh, "
                "or --allow-non-restored-state to restore what still fits"
            )

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
            sweep(self._log, self._config.retained, command.complete, in_flight)

    def record_end(self, status: JobStatus) -> None:
        if self._log is None or self._facts is None:
            return  # nothing was claimed
        if status is not JobStatus.FINISHED:
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

    def data_keys(self) -> tuple[DataKey | None, dict[str, DataKey]]:
        return self._data_key, dict(self._known)

    def checkpoints(self) -> list[dict[str, Any]]:
        return list(self._listed)

    def about(self) -> dict[str, Any]:
        about: dict[str, Any] = {"uri": self._opened_store.uri if self._opened_store else self._config.storage}
        if self._log is not None:
            about["fenced"] = self._log.fenced
        if self._trouble:
            about["trouble"] = self._trouble
        return about


def _may_have_been_a_manifest(entry: LogEntry) -> bool:
    return bool(entry.damage) and not entry.deposed and (entry.header is None or entry.header.kind is RecordKind.MANIFEST)


def _checkpoint(entry: LogEntry) -> int:
    assert entry.header is not None
    return entry.header.checkpoint


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
