"""Events that the JobManager's shell gives to the job core, and commands that the core gives back. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from flinkray.core.messages import Command, Counters, FailureCause, Report, StateRef


class JobStatus(Enum):
    CREATED = "CREATED"
    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    STOPPING = "STOPPING"
    CANCELLING = "CANCELLING"
    FINISHED = "FINISHED"
    STOPPED = "STOPPED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"

    @property
    def terminal(self) -> bool:
        return self in (JobStatus.FINISHED, JobStatus.STOPPED, JobStatus.CANCELLED, JobStatus.FAILED)


@dataclass(frozen=True)
class CheckpointContent:
    """What a complete checkpoint holds, as the cores need it; the manifest in storage holds the same and more."""

    checkpoint: int
    attempt: int
    states: tuple[StateRef, ...]
    transactions: Mapping[str, tuple[Any, ...]]
    counters: Counters


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """Storage is claimed and what is to be restored is read (or there is no storage at all)."""

    claim: int
    restore: CheckpointContent | None
    older: tuple[CheckpointContent, ...]
    """Complete checkpoints before `restore`, newest first: where a damaged one falls back to."""
    next_checkpoint: int
    next_attempt: int
    hash_seed: int


@dataclass(frozen=True)
class OpenFailed:
    reason: str
    error: Any = None


@dataclass(frozen=True)
class WorkerStarted:
    instance: str
    endpoint: Any
    pid: int
    node_id: str
    zone: str = ""


@dataclass(frozen=True)
class WorkerLost:
    instance: str
    cause: FailureCause
    reason: str


@dataclass(frozen=True)
class NoRoom:
    """The cluster cannot hold a TaskManager that was asked for."""

    instance: str
    reason: str
    error: Any = None


@dataclass(frozen=True)
class ManifestFate:
    """`complete`: it stands in the log. `failed`: it never will. `deposed`: another owner has the application."""

    checkpoint: int
    fate: Literal["complete", "failed", "deposed"]
    reason: str = ""


@dataclass(frozen=True)
class CancelRequested:
    reason: str = ""


@dataclass(frozen=True)
class EndRecorded:
    """The last record is written and sinks are finished; `error` says why not."""

    error: str = ""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


JobEvent = Opened | OpenFailed | WorkerStarted | WorkerLost | NoRoom | ManifestFate | CancelRequested | EndRecorded | Tick | Report


# -- commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JournalAttempt:
    """Write the attempt and its workers to the journal before any command that follows is carried out."""

    attempt: int
    workers: tuple[str, ...]


@dataclass(frozen=True)
class CreateWorker:
    """Journal the instance, then make the process."""

    instance: str
    name: str


@dataclass(frozen=True)
class KillWorker:
    instance: str


@dataclass(frozen=True)
class Send:
    instance: str
    command: Command


@dataclass(frozen=True)
class WriteManifest:
    content: CheckpointContent
    started_at: float
    sync_ms: float


@dataclass(frozen=True)
class Sweep:
    """Delete what no retained checkpoint needs. `in_flight` ids and what they may refer to stay."""

    complete: int
    in_flight: int | None
    in_flight_base: int | None = None


@dataclass(frozen=True)
class RecordEnd:
    """Write the `Ended` record; finish the sinks first when the job FINISHED."""

    status: JobStatus


@dataclass(frozen=True)
class Deliver:
    """Rows for the one who called collect()."""

    uid: str
    instance: str
    data: bytes


@dataclass(frozen=True)
class End:
    """The job is over; nothing follows."""

    status: JobStatus
    error: Any = None


@dataclass(frozen=True)
class Say:
    """One line for people: the log and the live view."""

    text: str


JobCommand = JournalAttempt | CreateWorker | KillWorker | Send | WriteManifest | Sweep | RecordEnd | Deliver | End | Say
