"""Events that the JobManager's shell gives to the job core, and commands that the core gives back. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from flinkray.core.journal_records import JournalEntry
from flinkray.core.journal_view import JournalView
from flinkray.core.messages import Command, Counters, FailureCause, Report, StateRef


class JobStatus(Enum):
    CREATED = "CREATED"
    ADOPTING = "ADOPTING"
    """A new leader learns what runs; rows flow all the while."""
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
    data_key: str = ""
    """Id of the key that seals what this claim writes."""
    names: tuple[str, ...] = ()
    """Of the manifests of `restore` and `older`, in this order."""


@dataclass(frozen=True)
class OpenFailed:
    reason: str
    error: Any = None


@dataclass(frozen=True)
class TakeOver:
    """First event of a leader that was elected by the journal: `view` is the journal up to its own election. Opened follows where the view
    names no claim, else Adopted; or OpenFailed."""

    view: JournalView


@dataclass(frozen=True)
class Adopted:
    """The storage log as it stands after every earlier leader of the claim was shut out of it (a Void at the next number)."""

    contents: tuple[CheckpointContent, ...]
    """Complete checkpoints that this run has written or may restore (`JournalView.chosen`), newest first: as many as are retained."""
    next_checkpoint: int
    next_attempt: int
    ended: str = ""
    """How the run has ended (a `JobStatus` value), where storage says so."""


@dataclass(frozen=True)
class Superseded:
    """Another leader of this run has taken over: say nothing more to anybody."""

    reason: str


@dataclass(frozen=True)
class LeadershipInDoubt:
    """`doubt`: whether this process still leads could not be confirmed for a lease: trigger and deploy nothing. False: it could again."""

    doubt: bool


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
class WorkersFound:
    """Every process of a TaskManager of this run that there is, or is being made, whoever wanted it."""

    instances: tuple[str, ...]


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
    name: str = ""
    """Of the object that is the manifest, when it is complete."""


@dataclass(frozen=True)
class CancelRequested:
    reason: str = ""
    request: str = ""
    """Its id (rule 24): one that the journal knows already changes nothing."""


@dataclass(frozen=True)
class SavepointRequested:
    """Somebody wants a savepoint; what it is to hold is a checkpoint from now on. `request`: as of `CancelRequested`."""

    request: str
    name: str


@dataclass(frozen=True)
class SavepointNamed:
    """The end of a `NameSavepoint`: the name is taken for this request, or `error` says why not (`usage`: the request was wrong)."""

    request: str
    error: str = ""
    usage: bool = False
    ready: bool = False
    """An earlier leader has made it."""


@dataclass(frozen=True)
class SavepointWritten:
    """The end of a `WriteSavepoint`; `error` says why it is not READY."""

    request: str
    error: str = ""


@dataclass(frozen=True)
class StopRequested:
    """End the job with a last checkpoint, and a savepoint of it where `savepoint` names one. `drain`: at the end of time first."""

    request: str
    savepoint: str = ""
    drain: bool = False


@dataclass(frozen=True)
class RescaleRequested:
    """Go on at another parallelism, from a checkpoint of now."""

    request: str
    parallelism: int


@dataclass(frozen=True)
class EndRecorded:
    """The last record is written and sinks are finished; `error` says why not."""

    error: str = ""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


JobEvent = (
    Opened
    | OpenFailed
    | TakeOver
    | Adopted
    | Superseded
    | LeadershipInDoubt
    | WorkerStarted
    | WorkerLost
    | WorkersFound
    | NoRoom
    | ManifestFate
    | CancelRequested
    | SavepointRequested
    | SavepointNamed
    | SavepointWritten
    | StopRequested
    | RescaleRequested
    | EndRecorded
    | Tick
    | Report
)


# -- commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WriteJournal:
    """Write this to the journal before any command that follows is carried out; where the slot is lost, none of them is (see `gate`)."""

    entry: JournalEntry


@dataclass(frozen=True)
class CreateWorker:
    """Make the process."""

    instance: str
    name: str


@dataclass(frozen=True)
class AttachWorker:
    """Reach a process that an earlier leader made, or wanted to: WorkerStarted when it answers, else WorkerLost."""

    instance: str
    name: str


@dataclass(frozen=True)
class FindWorkers:
    """Look for the processes of this run's TaskManagers: WorkersFound follows when there is an answer."""


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
class NameSavepoint:
    """Take the name in storage for this request; where an earlier leader did, go on with that."""

    request: str
    name: str


@dataclass(frozen=True)
class WriteSavepoint:
    """Copy this checkpoint, complete and with everything up to it committed. No Sweep after this command may take its objects until then."""

    request: str
    name: str
    checkpoint: int


@dataclass(frozen=True)
class FailSavepoint:
    """What was begun of it never will be READY."""

    request: str
    name: str
    reason: str


@dataclass(frozen=True)
class Settle:
    """Tell whoever asked how it went, and again when asked again."""

    request: str
    error: str = ""
    usage: bool = False
    savepoint: str = ""
    """The name of the one that was made."""


@dataclass(frozen=True)
class Sweep:
    """Delete what no retained checkpoint needs. `in_flight` ids and what they may refer to stay, and all that a failure may go back to."""

    complete: int
    in_flight: int | None
    in_flight_base: int | None = None
    restorable: tuple[int, ...] = ()
    """What the job may restore. Not always the newest of the log: somebody may have chosen an older one."""


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


@dataclass(frozen=True)
class StandDown:
    """A TaskManager obeys `election`, above or beside this leader's: nothing follows. The leadership core is to be told."""

    election: int
    reason: str


JobCommand = (
    WriteJournal
    | CreateWorker
    | AttachWorker
    | FindWorkers
    | KillWorker
    | Send
    | WriteManifest
    | NameSavepoint
    | WriteSavepoint
    | FailSavepoint
    | Settle
    | Sweep
    | RecordEnd
    | Deliver
    | End
    | Say
    | StandDown
)
