"""A submitted job as the driver sees it. Each runtime implements `JobHandle`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from flinkray.errors import FlinkrayError, WaitTimeoutError

_POLL_S = 0.02


@dataclass(frozen=True)
class JobResult:
    """How a job ended. Times are aware datetimes in UTC."""

    status: str
    started_at: datetime | None
    """When all tasks ran for the first time."""
    first_row_at: datetime | None
    """When the first row reached a sink."""
    finished_at: datetime | None
    records_in: int
    records_out: int
    restarts: int

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> JobResult:
        """From the document that `JobHandle.status()` and `flinkray status --json` give."""
        timing = status.get("timing") or {}
        return cls(
            status=status["status"],
            started_at=_time(timing.get("running_at")),
            first_row_at=_time(timing.get("first_row_at")),
            finished_at=_time(timing.get("finished_at")),
            records_in=status.get("records_in", 0),
            records_out=status.get("records_out", 0),
            restarts=status.get("restarts", 0),
        )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


class JobHandle(ABC):
    """A running or ended job. Safe to use from several threads."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """The document of `flinkray status NAME --json`."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> JobResult:
        """Block until the job has ended. Raises JobFailedError (or the operator's own error) when it FAILED, JobCancelledError when
        it was CANCELLED, WaitTimeoutError when `timeout` seconds were not enough (the job goes on)."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """Counters per operator uid, added up over subtasks."""

    @abstractmethod
    def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints that storage still holds, oldest first."""

    def savepoint(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """Make a savepoint of what the job holds from now on, and wait until it is READY; returns what `flinkray savepoint describe --json` prints.
        The job goes on. Raises UsageError for a name that is no name or is taken, JobFailedError when the job ends before, StorageError,
        WaitTimeoutError after `timeout` seconds (it may still become READY)."""
        request, deadline = self._begin_savepoint(name), None if timeout is None else time.monotonic() + timeout
        while (outcome := self._savepoint_outcome(request)) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise WaitTimeoutError(f"savepoint {name!r} of job {self.name} is not READY after {timeout} s; it may still become so")
            time.sleep(_POLL_S)
        document, error = outcome
        if error is not None:
            raise error
        assert document is not None
        return document

    @abstractmethod
    def _begin_savepoint(self, name: str) -> str:
        """Ask for it; returns a request id."""

    @abstractmethod
    def _savepoint_outcome(self, request: str) -> tuple[dict[str, Any] | None, FlinkrayError | None] | None:
        """Its document, or the error; None while it is being made."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the job without a savepoint; checkpoints are kept. Returns at once; `wait` sees the end."""

    @abstractmethod
    def results(self, uid: str) -> pa.Table:
        """The rows that the CollectSink of this uid has committed so far; all of them once the job has ended (`DataStream.collect`)."""
