"""The JobManager: a shell over the job core. One loop thread steps the core; storage and the journal have threads of their own."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flinkray.config import JobConfig, duration_s
from flinkray.core.checkpoints import CheckpointPolicy
from flinkray.core.job import JobCore, JobSettings
from flinkray.core.job_events import (
    CancelRequested,
    CreateWorker,
    Deliver,
    End,
    EndRecorded,
    JobCommand,
    JobEvent,
    JobStatus,
    KillWorker,
    ManifestFate,
    OpenFailed,
    RecordEnd,
    Say,
    Send,
    Superseded,
    Sweep,
    Tick,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.journal_records import JournalEntry
from flinkray.core.messages import Deploy
from flinkray.errors import DeposedError, FlinkrayError, StorageError
from flinkray.runtime.backend import WorkerBackend
from flinkray.runtime.job_storage import JobStorage, NoStorage, StorageOfJob
from flinkray.runtime.journal import Journal, Slots
from flinkray.runtime.sinks import finish_sinks, transactional_uids
from flinkray.runtime.status import status_document
from flinkray.runtime.task_manager import JobBundle, Secrets

TICK_S = 0.02
LOG_LIMIT = 1000


@dataclass(frozen=True)
class LogLine:
    number: int
    at: str
    text: str


class JobManager:
    """`run` blocks until the job has ended; everything else may be called from any thread."""

    def __init__(self, bundle: JobBundle, backend: WorkerBackend, slots: Slots, identity: dict[str, Any] | None = None) -> None:
        self.bundle = bundle
        self._backend = backend
        self._token = secrets.token_hex(16)
        self._deposed = False
        self._exchange_secret = secrets.token_bytes(32)
        self._journal = Journal(slots, self._token)
        self._storage: StorageOfJob = (
            JobStorage(bundle, self._token, announce=self._say) if bundle.config.checkpointing else NoStorage(bundle)
        )
        self.core = JobCore(bundle.graph, job_settings(bundle.config), self._token, transactional_uids(bundle.graph))
        self._events: queue.SimpleQueue[JobEvent] = queue.SimpleQueue()
        self._io = ThreadPoolExecutor(1, "flinkray-storage")
        self._sweeper = ThreadPoolExecutor(1, "flinkray-sweep")
        self._effects = ThreadPoolExecutor(1, "flinkray-journal")
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._log: deque[LogLine] = deque(maxlen=LOG_LIMIT)
        self._lines = 0
        self._results: dict[str, list[bytes]] = {}
        self._identity = identity or {}
        self._times: dict[str, str | None] = {"submitted_at": now_iso(), "running_at": None, "first_row_at": None, "finished_at": None}
        self._keep_alive_at: float | None = None
        self.on_status: Callable[[dict[str, Any]], None] | None = None
        """Called about twice a second and at the end, from the loop thread, with the status document."""

    # -- from any thread ------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        with self._lock:
            return status_document(self.core, self._times, self._identity, time.monotonic(), self._storage.about())

    def cancel(self, reason: str = "") -> None:
        self._events.put(CancelRequested(reason))

    def wait(self, timeout_s: float | None) -> bool:
        """True when the job has ended."""
        return self._ended.wait(timeout_s)

    def error(self) -> FlinkrayError | None:
        return self.core.error if self.core.status is JobStatus.FAILED else None

    def lines(self, after: int) -> list[LogLine]:
        return [line for line in list(self._log) if line.number > after]

    def results(self, uid: str) -> list[bytes]:
        return self._results.get(uid, [])

    def checkpoints(self) -> list[dict[str, Any]]:
        return self._storage.checkpoints()

    def operator_metrics(self) -> dict[str, dict[str, int]]:
        return self._backend.operator_metrics()

    def keep_alive(self) -> None:
        """The driver lives. Once called, a silence of `heartbeat_timeout` times four cancels a job that is not detached."""
        self._keep_alive_at = time.monotonic()

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._backend.start(self._events.put)
        self._effects.submit(self._journaled, self._lead, self._token)
        self._io.submit(self._open)
        next_status = 0.0
        try:
            while not self._ended.is_set():
                self._step(self._next_event())
                if self.on_status is not None and (time.monotonic() >= next_status or self._ended.is_set()):
                    next_status = time.monotonic() + 0.5
                    self.on_status(self.status())
        finally:
            self._backend.close()
            self._ended.set()
            for executor in (self._io, self._sweeper, self._effects):
                executor.shutdown(wait=False, cancel_futures=True)

    def _next_event(self) -> JobEvent:
        silent = self._keep_alive_at is not None and time.monotonic() - self._keep_alive_at > 4 * duration_s(
            self.bundle.config.heartbeat_timeout
        )
        if silent and not self.bundle.config.detached:
            self._keep_alive_at = None
            return CancelRequested("the driver that started the job is gone")
        try:
            return self._events.get(timeout=TICK_S)
        except queue.Empty:
            return Tick()

    def _step(self, event: JobEvent) -> None:
        with self._lock:
            commands = self.core.step(event, time.monotonic())
            self._note_times()
        for command in commands:
            self._carry_out(command)

    def _note_times(self) -> None:
        if self._times["running_at"] is None and self.core.running_at is not None:
            self._times["running_at"] = now_iso()
        if self.core.first_row_at_us is not None:
            self._times["first_row_at"] = iso(self.core.first_row_at_us)
        if self._times["finished_at"] is None and self.core.status.terminal:
            self._times["finished_at"] = now_iso()

    # -- commands of the core -------------------------------------------------------------------------------------

    def _carry_out(self, command: JobCommand) -> None:
        if isinstance(command, Send):
            secrets_ = self._secrets() if isinstance(command.command.body, Deploy) else None
            self._after_journal(self._backend.send, command.instance, command.command, secrets_)
        elif isinstance(command, WriteJournal):
            self._after_journal(self._append, command.entry)
        elif isinstance(command, CreateWorker):
            self._after_journal(self._backend.create, command.instance, command.name)
        elif isinstance(command, KillWorker):
            self._after_journal(self._backend.kill, command.instance)
        elif isinstance(command, WriteManifest):
            self._io.submit(self._write_manifest, command)
        elif isinstance(command, Sweep):
            self._sweeper.submit(self._sweep, command)
        elif isinstance(command, RecordEnd):
            if command.status is not JobStatus.FINISHED:
                self._storage.stop_waiting()
            self._io.submit(self._record_end, command)
        elif isinstance(command, Deliver):
            self._results.setdefault(command.uid, []).append(command.data)
        elif isinstance(command, Say):
            self._say(command.text)
        elif isinstance(command, End):
            self._finish(command)

    def _finish(self, command: End) -> None:
        if command.status is JobStatus.FAILED:
            self._say(f"FAILED: {str(command.error).splitlines()[0]}")
        else:
            self._say(command.status.value)
        self._storage.stop_waiting()
        with suppress(TimeoutError):  # the journal is away: what is left is ended by the backend's close
            self._effects.submit(lambda: None).result(timeout=10)  # the kills before it have been carried out
        self._ended.set()

    def _secrets(self) -> Secrets:
        data_key, data_keys = self._storage.data_keys()
        return Secrets(self._exchange_secret, data_key, data_keys)

    def _after_journal(self, effect: Callable[..., Any], *arguments: Any) -> None:
        """In order, in the effects thread: what follows a record waits for it, events do not. A deposed leader does nothing any more."""

        def run() -> None:
            if not self._deposed:
                effect(*arguments)

        self._effects.submit(run)

    def _lead(self, leader: str) -> None:
        if self._journal.lead(leader) > 1:
            raise DeposedError("this run has had a leader already")

    def _append(self, entry: JournalEntry) -> None:
        self._journaled(self._journal.append, entry)

    def _journaled(self, write: Callable[[Any], Any], what: Any) -> None:
        """In the effects thread. When the record does not stand, the job ends here."""
        try:
            write(what)
        except DeposedError as error:
            self._deposed = True
            self._events.put(Superseded(str(error)))
        except FlinkrayError as error:
            self._events.put(OpenFailed(str(error), error))

    # -- storage, on its own threads ------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            opened, chosen = self._storage.open()
        except FlinkrayError as error:
            self._events.put(OpenFailed(str(error), error))
        except Exception as error:  # noqa: BLE001 - a defect must end the job with its reason, not leave it waiting
            self._events.put(OpenFailed(f"{type(error).__name__}: {error}", StorageError(f"opening storage failed: {error!r}")))
        else:
            self._say(chosen)
            self._events.put(opened)

    def _write_manifest(self, command: WriteManifest) -> None:
        """Complete once storage has it; the core then writes it to the journal, before any Notify."""
        checkpoint = command.content.checkpoint
        try:
            name = self._storage.write_manifest(command, self._say)
            fate = ManifestFate(checkpoint, "complete", name=name)
        except DeposedError as error:
            fate = ManifestFate(checkpoint, "deposed", str(error))
        except Exception as error:  # noqa: BLE001 - the checkpoint fails, the job goes on
            fate = ManifestFate(checkpoint, "failed", str(error))
        self._events.put(fate)

    def _sweep(self, command: Sweep) -> None:
        try:
            self._storage.sweep(command)
        except Exception as error:  # noqa: BLE001 - what was not deleted now is deleted after a later checkpoint
            self._say(f"old checkpoint objects could not be deleted: {error}")

    def _record_end(self, command: RecordEnd) -> None:
        try:
            if command.status is JobStatus.FINISHED:
                finish_sinks(self.bundle.graph)
            self._storage.record_end(command.status)
        except FlinkrayError as error:
            if command.status is JobStatus.FINISHED:
                self._events.put(EndRecorded(str(error)))
                return
            self._say(f"the end could not be recorded in storage: {error}")
        except Exception as error:  # noqa: BLE001 - a defect must end the job with its reason
            self._events.put(EndRecorded(f"finishing the sinks failed: {type(error).__name__}: {error}"))
            return
        self._events.put(EndRecorded())

    def _say(self, text: str) -> None:
        self._lines += 1
        self._log.append(LogLine(self._lines, now_iso(), text))


def job_settings(config: JobConfig) -> JobSettings:
    """The core's view of the configuration."""
    checkpointing = config.checkpointing
    policy = CheckpointPolicy(
        interval_s=duration_s(checkpointing.interval) if checkpointing and checkpointing.interval is not None else None,
        min_pause_s=duration_s(checkpointing.min_pause) if checkpointing else 0.0,
        timeout_s=duration_s(checkpointing.timeout) if checkpointing else 600.0,
        store=checkpointing is not None,
    )
    return JobSettings(
        name=config.name,
        spares=config.resources.spare_task_managers if config.runtime == "ray" else 0,
        checkpoints=policy,
        restart_initial_s=duration_s(config.restart.initial),
        restart_maximum_s=duration_s(config.restart.maximum),
        restart_attempts=config.restart.attempts,
        allow_repeated_output=config.allow_repeated_output,
        retained=checkpointing.retained if checkpointing else 1,
    )


def now_iso() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
