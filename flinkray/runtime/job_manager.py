"""The JobManager while it leads: a shell over the job core. One loop thread steps the core; storage and calls to TaskManagers have threads of
their own. What makes a process a leader, and writes the journal for it, is `job_manager_process`."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from flinkray.checkpoint.savepoint_format import check_savepoint_name
from flinkray.checkpoint.savepoint_retention import Retention
from flinkray.config import JobConfig, duration_s
from flinkray.core.checkpoints import CheckpointPolicy
from flinkray.core.degraded import DegradedPolicy
from flinkray.core.gate import JournalGate
from flinkray.core.job import JobCore, JobSettings
from flinkray.core.job_events import (
    AttachWorker,
    CancelRequested,
    CreateWorker,
    Deliver,
    End,
    EndRecorded,
    FailSavepoint,
    FindWorkers,
    JobCommand,
    JobEvent,
    JobStatus,
    KillWorker,
    LeadershipInDoubt,
    ManifestFate,
    NameSavepoint,
    OpenFailed,
    RecordEnd,
    RescaleRequested,
    SavepointRequested,
    Say,
    Send,
    Settle,
    StandDown,
    StopRequested,
    Sweep,
    TakeOver,
    Tick,
    WriteJournal,
    WriteManifest,
    WriteSavepoint,
)
from flinkray.core.leadership_events import Append, Lead, LeadershipEvent
from flinkray.core.leadership_events import Superseded as LeadershipSuperseded
from flinkray.core.messages import Deploy
from flinkray.errors import DeposedError, FlinkrayError, StorageError, UsageError
from flinkray.runtime.auto_savepoints import AutoSavepoints
from flinkray.runtime.backend import WorkerBackend
from flinkray.runtime.job_log import JobLog, iso, now_iso
from flinkray.runtime.job_storage import JobStorage, NoStorage, StorageOfJob
from flinkray.runtime.savepoints import Outcome, RequestBook
from flinkray.runtime.sinks import finish_sinks, transactional_uids
from flinkray.runtime.status import status_document
from flinkray.runtime.task_manager import JobBundle, Secrets

TICK_S = 0.02

POLL_S = 0.5
"""A TaskManager that is well is heard that often at least."""
FROZEN_S = 2.0
"""A loop that has not turned for so long says nothing about the silence of others."""

_EVENTS: dict[str, Callable[..., JobEvent]] = {"savepoint": SavepointRequested, "stop": StopRequested, "rescale": RescaleRequested}
"""What may be asked of a running job, besides `cancel`."""


class _Recorded:
    """The journal has taken the record that was out."""


class JobManager:
    """`run` blocks until the job has ended or this process leads no more; everything else may be called from any thread."""

    def __init__(
        self,
        bundle: JobBundle,
        backend: WorkerBackend,
        lead: Lead,
        tell: Callable[[LeadershipEvent], None],
        log: JobLog,
        identity: dict[str, Any],
    ) -> None:
        """`tell`: gives the leadership core an event."""
        self.bundle = bundle
        self._backend = backend
        self._lead = lead
        self._tell = tell
        self._log = log
        self._exchange_secret = secrets.token_bytes(32)
        self._storage: StorageOfJob = JobStorage(bundle, lead.token, announce=log.say) if bundle.config.checkpointing else NoStorage(bundle)
        self.core = JobCore(
            bundle.graph,
            job_settings(bundle.config),
            lead.token,
            transactional_uids(bundle.graph),
            bundle.graph_at if bundle.sinks else None,
        )
        self._gate = JournalGate()
        self._events: queue.SimpleQueue[JobEvent | _Recorded] = queue.SimpleQueue()
        self._requests = RequestBook(self._storage, self._events.put, auto_savepoints(bundle.config), log.say)
        self._io = ThreadPoolExecutor(1, "flinkray-storage")
        self._sweeper = ThreadPoolExecutor(1, "flinkray-sweep")
        self._effects = ThreadPoolExecutor(1, "flinkray-effects")
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._deposed = False
        self._results: dict[str, list[bytes]] = {}
        self._identity = identity
        self._times: dict[str, str | None] = {"submitted_at": now_iso(), "running_at": None, "first_row_at": None, "finished_at": None}
        self._keep_alive_at: float | None = None
        self._looked_at = time.monotonic()
        self.on_status: Callable[[dict[str, Any]], None] | None = None
        """Called about twice a second and at the end, from the loop thread, with the status document."""

    # -- what the leadership core says ----------------------------------------------------------------------------

    def recorded(self) -> None:
        self._events.put(_Recorded())

    def doubt(self, doubt: bool) -> None:
        self._events.put(LeadershipInDoubt(doubt))

    def abdicate(self) -> None:
        """Another process leads: stop at once, and touch nothing."""
        self._deposed = True
        self._storage.stop_waiting()
        self._ended.set()

    # -- from any thread ------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        with self._lock:
            return status_document(self.core, self._times, self._identity, time.monotonic(), self._storage.about())

    def cancel(self, reason: str = "", request: str = "") -> None:
        """`request`: its id; one that is known already changes nothing (rule 24)."""
        self._events.put(CancelRequested(reason, request))

    def ask(self, request: str, what: str, arguments: dict[str, Any]) -> Outcome | None:
        """`what`: savepoint (`name`), stop (`savepoint`, `drain`) or rescale (`parallelism`). None: it is not done yet, ask again; asked again
        it is the same request (rule 24)."""
        try:
            for name in filter(None, (arguments.get("name"), arguments.get("savepoint"))):
                check_savepoint_name(name)
        except UsageError as error:
            return None, error
        ready = self.core.storage_open or self.core.status.terminal  # before, the core would refuse: whoever asks, asks again
        return self._requests.ask(request, _EVENTS[what](request, **arguments) if ready else None)

    def wait(self, timeout_s: float | None) -> bool:
        """True when the job has ended, or is led by another process."""
        return self._ended.wait(timeout_s)

    @property
    def deposed(self) -> bool:
        return self._deposed

    def error(self) -> FlinkrayError | None:
        return self.core.error if self.core.status is JobStatus.FAILED else None

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
        self._backend.start(self._events.put, lambda: self.core.epoch)
        self._step(TakeOver(self._lead.view))
        self._io.submit(self._open)
        next_status = 0.0
        try:
            while not self._ended.is_set():
                self._step(self._next_event())
                if self.core.status is JobStatus.RUNNING:
                    self._requests.look_after()
                if self.on_status is not None and not self._deposed and (time.monotonic() >= next_status or self._ended.is_set()):
                    next_status = time.monotonic() + 0.5
                    self.on_status(self.status())
        finally:
            if self._deposed:
                self._backend.leave()
            else:
                self._backend.close()
            ended = f"the job has ended ({self.core.status.value})"
            self._requests.close("another JobManager leads the job" if self._deposed else ended, ours=not self._deposed)
            self._ended.set()
            for executor in (self._io, self._sweeper, self._effects):
                executor.shutdown(wait=False, cancel_futures=True)

    def _next_event(self) -> JobEvent | _Recorded:
        now = time.monotonic()
        if self._keep_alive_at is not None and now - self._looked_at > FROZEN_S:
            self._keep_alive_at = now  # this process was frozen; the driver may have called in vain
        self._looked_at = now
        silent = self._keep_alive_at is not None and now - self._keep_alive_at > driver_silence_s(self.bundle.config)
        if silent and not self.bundle.config.detached:
            self._keep_alive_at = None
            return CancelRequested("the driver that started the job is gone")
        try:
            return self._events.get(timeout=TICK_S)
        except queue.Empty:
            return Tick()

    def _step(self, event: JobEvent | _Recorded) -> None:
        if isinstance(event, _Recorded):
            commands = self._gate.recorded()
        else:
            with self._lock:
                commands = self._gate.admit(self.core.step(event, time.monotonic()))
                self._note_times()
        for command in commands:
            if self._deposed:
                return
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
            self._effect(self._backend.send, command.instance, command.command, secrets_)
        elif isinstance(command, WriteJournal):
            self._tell(Append(command.entry))
        elif isinstance(command, CreateWorker):
            self._effect(self._backend.create, command.instance, command.name)
        elif isinstance(command, AttachWorker):
            self._effect(self._backend.attach, command.instance, command.name)
        elif isinstance(command, FindWorkers):
            self._effect(self._backend.find)
        elif isinstance(command, KillWorker):
            self._effect(self._backend.kill, command.instance)
        elif isinstance(command, WriteManifest):
            self._io.submit(self._write_manifest, command)
        elif isinstance(command, NameSavepoint | WriteSavepoint | FailSavepoint | Settle):
            self._requests.obey(command)
        elif isinstance(command, Sweep):
            self._sweeper.submit(self._sweep, command)
        elif isinstance(command, RecordEnd):
            if command.status is JobStatus.CANCELLED:
                self._storage.stop_waiting()
            self._io.submit(self._record_end, command)
        elif isinstance(command, Deliver):
            self._results.setdefault(command.uid, []).append(command.data)
        elif isinstance(command, Say):
            self._log.say(command.text)
        elif isinstance(command, StandDown):
            self._tell(LeadershipSuperseded(command.election, command.reason))
        elif isinstance(command, End):
            self._finish(command)

    def _finish(self, command: End) -> None:
        if command.status is JobStatus.FAILED:
            self._log.say(f"FAILED: {str(command.error).splitlines()[0]}")
        else:
            self._log.say(command.status.value)
        self._storage.stop_waiting()
        with suppress(TimeoutError):  # a call hangs: what is left is ended by the backend's close
            self._effects.submit(lambda: None).result(timeout=10)  # the kills before it have been carried out
        self._ended.set()

    def _secrets(self) -> Secrets:
        data_key, data_keys = self._storage.data_keys()
        return Secrets(self._exchange_secret, data_key, data_keys)

    def _effect(self, call: Callable[..., Any], *arguments: Any) -> None:
        """In order, on a thread of its own. A deposed leader does nothing any more."""

        def run() -> None:
            if not self._deposed:
                call(*arguments)

        self._effects.submit(run)

    # -- storage, on its own threads ------------------------------------------------------------------------------

    def _open(self) -> None:
        """A first leader claims the application; a later one goes on with the claim that the journal knows."""
        view = self._lead.view
        try:
            if view.claim is None:
                event, chosen = self._storage.open()
                self._log.say(chosen)
                self._events.put(event)
            else:
                self._events.put(self._storage.adopt(view))
        except FlinkrayError as error:
            self._events.put(OpenFailed(str(error), error))
        except Exception as error:  # noqa: BLE001 - a defect must end the job with its reason, not leave it waiting
            self._events.put(OpenFailed(f"{type(error).__name__}: {error}", StorageError(f"opening storage failed: {error!r}")))

    def _write_manifest(self, command: WriteManifest) -> None:
        """Complete once storage has it; the core then writes it to the journal, before any Notify."""
        checkpoint = command.content.checkpoint
        try:
            name = self._storage.write_manifest(command, self._log.say)
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
            self._log.say(f"old checkpoint objects could not be deleted: {error}")

    def _record_end(self, command: RecordEnd) -> None:
        try:
            if command.status is JobStatus.FINISHED:
                finish_sinks(self.bundle.graph)
            self._storage.record_end(command.status)
        except FlinkrayError as error:
            if command.status is not JobStatus.CANCELLED:
                self._events.put(EndRecorded(str(error)))
                return
            self._log.say(f"the end could not be recorded in storage: {error}")
        except Exception as error:  # noqa: BLE001 - a defect must end the job with its reason
            self._events.put(EndRecorded(f"finishing the sinks failed: {type(error).__name__}: {error}"))
            return
        self._events.put(EndRecorded())


def auto_savepoints(config: JobConfig) -> AutoSavepoints | None:
    """None: nobody wants any."""
    checkpointing = config.checkpointing
    if checkpointing is None or checkpointing.auto_savepoint is None:
        return None
    return AutoSavepoints(duration_s(checkpointing.auto_savepoint), Retention.parse(checkpointing.savepoint_retention))


def driver_silence_s(config: JobConfig) -> float:
    """A driver that has said nothing for so long is gone."""
    return 4 * duration_s(config.heartbeat_timeout)


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
        restart_budgets=config.restart.budgets,
        degraded=DegradedPolicy(
            migrates=config.high_availability.degraded == "migrate", late_s=(duration_s(config.heartbeat_timeout) + POLL_S) / 2
        ),
        allow_repeated_output=config.allow_repeated_output,
        retained=checkpointing.retained if checkpointing else 1,
    )
