"""What a running job was asked for, and how it went; savepoints' work in storage is done on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from flinkray.checkpoint.savepoint_retention import AUTO_REQUEST
from flinkray.core.job_events import (
    FailSavepoint,
    JobEvent,
    NameSavepoint,
    SavepointNamed,
    SavepointWritten,
    Settle,
    WriteSavepoint,
)
from flinkray.errors import FlinkrayError, JobFailedError, StorageError, UsageError
from flinkray.runtime.auto_savepoints import AutoSavepoints
from flinkray.runtime.job_storage import StorageOfJob

Outcome = tuple[dict[str, Any] | None, FlinkrayError | None]
"""The savepoint's document where there is one, or why what was asked for was not done."""


class RequestBook:
    """`ask` from any thread; the rest from the loop."""

    def __init__(
        self,
        storage: StorageOfJob,
        post: Callable[[JobEvent], None],
        auto: AutoSavepoints | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """`auto`: makes savepoints by itself, and `say` is told of their troubles."""
        self._storage = storage
        self._auto = auto
        self._say = say
        self._auto_begun = False
        self._post = post
        self._io = ThreadPoolExecutor(1, "flinkray-savepoint")
        self._lock = threading.Lock()
        self._outcomes: dict[str, Outcome] = {}
        self._asked: set[str] = set()
        self._naming: set[str] = set()
        """Requests with a savepoint that is not settled."""
        self._waiting: list[Settle] = []
        """Savepoints that an earlier leader has made, to be described when storage is open."""
        self._closed = ""

    def ask(self, request: str, event: JobEvent | None) -> Outcome | None:
        """How it went; None: not known yet, ask again. The first time it is given to the core, which knows what an earlier leader was asked; with None it is only looked up."""
        with self._lock:
            if request in self._outcomes:
                return self._outcomes[request]
            if self._closed:
                return None, JobFailedError(self._closed)
            if event is not None and request not in self._asked:
                self._asked.add(request)
                self._post(event)
            return None

    def look_after(self) -> None:
        """Now and then, while the job runs: answers that waited for storage, and automatic savepoints."""
        if self._waiting and self._storage.is_open:
            waiting, self._waiting = self._waiting, []
            for command in waiting:
                self._io.submit(self._settle, command)
        if self._auto is None:
            return
        if not self._auto_begun:
            self._auto_begun = True
            self._io.submit(self._begin_auto)
        event = self._auto.due()
        if event is not None:
            self.ask(event.request, event)

    def obey(self, command: NameSavepoint | WriteSavepoint | FailSavepoint | Settle) -> None:
        if isinstance(command, WriteSavepoint):
            self._storage.pin(command.checkpoint)
            self._io.submit(self._write, command)
        elif isinstance(command, NameSavepoint):
            self._naming.add(command.request)
            self._io.submit(self._name, command)
        elif isinstance(command, FailSavepoint):
            self._io.submit(self._fail, command.request, command.reason)
        elif command.savepoint and not self._storage.is_open:
            self._waiting.append(command)  # a new leader learns from the journal that it is READY before it has opened storage
        else:
            self._io.submit(self._settle, command)

    def close(self, reason: str, ours: bool) -> None:
        """The job has ended, or another process leads it (not `ours`: its savepoints are gone on with there)."""
        with self._lock:
            for request in sorted(self._naming) if ours else ():
                self._io.submit(self._fail, request, reason)
            self._io.submit(self._close, reason)
        self._io.shutdown(wait=False)

    # -- on the thread --------------------------------------------------------------------------------------------

    def _begin_auto(self) -> None:
        assert self._auto is not None
        try:
            self._auto.begin(self._storage.savepoints())
        except FlinkrayError as error:
            self._say(f"no automatic savepoints for now: {error}")
            self._auto_begun = False

    def _settle_auto(self, command: Settle) -> None:
        assert self._auto is not None
        if command.error:
            self._say(f"an automatic savepoint failed: {command.error}")
            return
        try:
            deleted = self._auto.settled(self._storage.savepoints())
        except FlinkrayError as error:
            self._say(f"old automatic savepoints could not be looked at: {error}")
        else:
            self._say(f"savepoint {command.savepoint} is made" + (f", {', '.join(deleted)} deleted" if deleted else ""))

    def _name(self, command: NameSavepoint) -> None:
        try:
            ready = self._storage.name_savepoint(command.request, command.name)
        except FlinkrayError as error:
            self._post(SavepointNamed(command.request, str(error), isinstance(error, UsageError)))
        except Exception as error:  # noqa: BLE001 - a defect fails the savepoint, not the job
            self._post(SavepointNamed(command.request, _defect(error)))
        else:
            self._post(SavepointNamed(command.request, ready=ready))

    def _write(self, command: WriteSavepoint) -> None:
        error = ""
        try:
            self._storage.write_savepoint(command.request, command.checkpoint)
        except FlinkrayError as failure:
            error = str(failure)
        except Exception as failure:  # noqa: BLE001 - a defect fails the savepoint, not the job
            error = _defect(failure)
        finally:
            self._storage.unpin(command.checkpoint)
        self._post(SavepointWritten(command.request, error))

    def _fail(self, request: str, reason: str) -> None:
        self._naming.discard(request)
        with suppress(FlinkrayError):  # it stays CREATING until the next run begins
            self._storage.fail_savepoint(request, reason)

    def _settle(self, command: Settle) -> None:
        self._naming.discard(command.request)
        if self._auto is not None and command.request.startswith(AUTO_REQUEST):
            self._settle_auto(command)
        error: FlinkrayError | None = None
        document: dict[str, Any] | None = None
        if command.error:
            error = (UsageError if command.usage else JobFailedError)(command.error)
        elif command.savepoint:
            try:
                document = self._storage.savepoint_document(command.savepoint)
            except FlinkrayError as failure:
                error = failure
        with self._lock:
            self._outcomes[command.request] = (document, error)

    def _close(self, reason: str) -> None:
        with self._lock:
            self._closed = reason


def _defect(error: Exception) -> str:
    return str(StorageError(f"making the savepoint failed: {type(error).__name__}: {error}"))
