"""A submitted job as the driver sees it. Each runtime implements `JobHandle`."""

from __future__ import annotations

import secrets
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
        document = self._request("savepoint", {"name": name}, timeout, f"savepoint {name!r} of job {self.name} is not READY")
        assert document is not None
        return document

    def stop(self, savepoint: str | None = None, drain: bool = False, timeout: float | None = None) -> JobResult:
        """End the job with a last checkpoint, everything up to it committed, and a savepoint of it where a name is given; returns when it has STOPPED.
        Windows that are open stay in the checkpoint; with `drain` they are flushed first and timers fire, as at the end of the input. Raises
        UsageError for a name that is no name or is taken, JobFailedError when it was not done (the job runs on, or has stopped without its
        savepoint: the error says which), WaitTimeoutError after `timeout` seconds (it may still happen; to ask again is safe)."""
        self._request("stop", {"savepoint": savepoint or "", "drain": drain}, timeout, f"job {self.name} has not stopped")
        return self.wait(timeout)

    def rescale(self, parallelism: int, timeout: float | None = None) -> None:
        """Go on at another parallelism, from a checkpoint of now: key groups are dealt out anew, no row is lost or repeated, and it is not counted as a
        restart. Returns when all tasks run. Operators with a parallelism of their own keep it. Raises UsageError for a parallelism that cannot be,
        JobFailedError when it was not done (the job runs on as it was), WaitTimeoutError after `timeout` seconds (it may still happen)."""
        self._request("rescale", {"parallelism": parallelism}, timeout, f"job {self.name} is not rescaled")

    def _request(self, what: str, arguments: dict[str, Any], timeout: float | None, not_yet: str) -> dict[str, Any] | None:
        """Under one id until there is an answer, whoever leads the job meanwhile."""
        request, deadline = secrets.token_hex(8), None if timeout is None else time.monotonic() + timeout
        while (outcome := self._ask(request, what, arguments)) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise WaitTimeoutError(f"{not_yet} after {timeout} s; it may still happen")
            time.sleep(_POLL_S)
        document, error = outcome
        if error is not None:
            raise error
        return document

    @abstractmethod
    def _ask(self, request: str, what: str, arguments: dict[str, Any]) -> tuple[dict[str, Any] | None, FlinkrayError | None] | None:
        """Ask for it, the first time, and for how it went; None while that is not known."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the job without a savepoint; checkpoints are kept. Returns at once; `wait` sees the end."""

    @abstractmethod
    def results(self, uid: str) -> pa.Table:
        """The rows that the CollectSink of this uid has committed so far; all of them once the job has ended (`DataStream.collect`)."""
