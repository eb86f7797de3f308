"""Savepoints of a running job, away from the loop: names are taken and state is copied on a thread of its own."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from flinkray.checkpoint.savepoints import Creation
from flinkray.core.job_events import JobEvent, SavepointRequested, SavepointWritten, WriteSavepoint
from flinkray.errors import FlinkrayError, JobFailedError, StorageError
from flinkray.runtime.job_storage import StorageOfJob

Outcome = tuple[dict[str, Any] | None, FlinkrayError | None]
"""The savepoint's document, or why there is none."""


class SavepointRunner:
    """`begin` and `outcome` from any thread; `write`, `refuse` and `close` from the loop."""

    def __init__(self, storage: StorageOfJob, post: Callable[[JobEvent], None]) -> None:
        self._storage = storage
        self._post = post
        self._io = ThreadPoolExecutor(1, "flinkray-savepoint")
        self._lock = threading.Lock()
        self._creations: dict[str, Creation] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._open: set[str] = set()
        self._closed = ""

    def begin(self, name: str) -> str:
        """Returns a request id at once; `outcome` tells how it went. StorageError when the job has ended."""
        request = secrets.token_hex(8)
        with self._lock:
            if self._closed:
                raise JobFailedError(f"savepoint {name!r} was not made: {self._closed}")
            self._open.add(request)
            self._io.submit(self._begin, request, name)
        return request

    def outcome(self, request: str) -> Outcome | None:
        """None: not known yet. A request that this process was never given was an earlier leader's."""
        with self._lock:
            if request not in self._outcomes and request not in self._open:
                lost = "the JobManager that was making the savepoint is gone; see how it stands with: flinkray savepoint list, and make another"
                return None, StorageError(lost)
            return self._outcomes.get(request)

    def write(self, command: WriteSavepoint) -> None:
        self._storage.pin(command.checkpoint)
        self._io.submit(self._write, command)

    def refuse(self, request: str, reason: str) -> None:
        self._io.submit(self._fail, request, reason)

    def close(self, reason: str) -> None:
        """The job has ended: what is being copied is finished, what waits for a checkpoint never will be."""
        with self._lock:
            self._closed = reason
            waiting = sorted(self._open)
        for request in waiting:
            self._io.submit(self._fail, request, reason)
        self._io.shutdown(wait=False)

    # -- on the thread --------------------------------------------------------------------------------------------

    def _begin(self, request: str, name: str) -> None:
        try:
            self._creations[request] = self._storage.begin_savepoint(name)
        except FlinkrayError as error:
            self._settle(request, None, error)
        else:
            self._post(SavepointRequested(request))

    def _write(self, command: WriteSavepoint) -> None:
        creation = self._creations.pop(command.request, None)
        try:
            if creation is not None:
                self._settle(command.request, self._storage.write_savepoint(creation, command.checkpoint), None)
        except FlinkrayError as error:
            self._settle(command.request, None, error)
        except Exception as error:  # noqa: BLE001 - a defect fails the savepoint, not the job
            self._settle(command.request, None, StorageError(f"making the savepoint failed: {type(error).__name__}: {error}"))
        finally:
            self._storage.unpin(command.checkpoint)
            self._post(SavepointWritten(command.request))

    def _fail(self, request: str, reason: str) -> None:
        creation = self._creations.pop(request, None)
        if creation is not None:
            with suppress(StorageError):
                self._storage.fail_savepoint(creation, reason)
            self._settle(request, None, JobFailedError(f"savepoint {creation.name!r} was not made: {reason}"))

    def _settle(self, request: str, document: dict[str, Any] | None, error: FlinkrayError | None) -> None:
        with self._lock:
            self._open.discard(request)
            self._outcomes[request] = (document, error)
