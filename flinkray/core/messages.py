"""What a JobManager and a TaskManager say to each other.

Every command carries the sender's epoch and the attempt it is meant for, every report the TaskManager's instance and attempt, so that
words from the past are recognised and dropped (docs/protocol.md, rules 8 to 12). Plain frozen values: they pickle, and the cores compare them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from flinkray.ids import Epoch, TaskId


class TaskManagerState(Enum):
    IDLE = "idle"
    DEPLOYING = "deploying"
    READY = "ready"
    RUNNING = "running"
    FAILED = "failed"


FailureCause = Literal["user", "process", "node", "storage", "channel", "damaged", "input", "sink", "output", "disk"]
"""Why an attempt failed: each cause has a restart budget of its own. `sink`: an output could not be written; `output`: and never can be; `disk`: local disk of
a node is full, or has lost what was written."""


@dataclass(frozen=True)
class StateRef:
    """One named state of one operator subtask as a checkpoint holds it: its chunks in replay order."""

    uid: str
    subtask: int
    name: str
    kind: Literal["keyed", "list"]
    key_group_start: int
    key_group_stop: int
    chunks: tuple[Any, ...]
    """`checkpoint.base.ChunkRef`s; opaque to the cores."""


@dataclass(frozen=True)
class Counters:
    """Rows of a job or slot since its beginning, replays not counted twice (they roll back with a checkpoint)."""

    records_in: int = 0
    records_out: int = 0
    late_rows: int = 0
    skipped_rows: int = 0
    dead_letter_rows: int = 0

    def plus(self, other: Counters) -> Counters:
        return Counters(
            self.records_in + other.records_in,
            self.records_out + other.records_out,
            self.late_rows + other.late_rows,
            self.skipped_rows + other.skipped_rows,
            self.dead_letter_rows + other.dead_letter_rows,
        )


# -- commands: JobManager to TaskManager ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deploy:
    """Build this slot's tasks, with the state of a checkpoint or empty, and answer Ready. Supersedes every older attempt."""

    slot: int
    claim: int
    hash_seed: int
    peers: tuple[Any, ...]
    """Endpoint of each slot, in order."""
    restored_checkpoint: int | None
    states: tuple[StateRef, ...]
    """What this slot's tasks restore; keyed ones may reach beyond their key groups and are cut on reading."""
    parallelism: int = 0
    """Of the graph, where the job was rescaled; 0: as it was submitted."""


@dataclass(frozen=True)
class Start:
    """All tasks of the attempt are ready: run."""

    halted: bool = False
    """Sources read nothing: the job only commits what its last checkpoint holds, and ends."""


@dataclass(frozen=True)
class Trigger:
    """Begin checkpoint `checkpoint` at the sources. Deltas may refer to `base`; None demands full snapshots."""

    checkpoint: int
    base: int | None
    store: bool = True
    """False: no storage; prepare the sinks only (a bounded job without checkpointing ends this way)."""
    last: bool = False
    """Sources read nothing after it."""


@dataclass(frozen=True)
class Drain:
    """Sources read nothing more, and end as at the end of their input: windows are flushed, timers fire."""


@dataclass(frozen=True)
class Abort:
    """Checkpoint `checkpoint` will never complete. Aborts no sink transaction (rule 14)."""

    checkpoint: int


@dataclass(frozen=True)
class Notify:
    """Checkpoint `checkpoint` and all before it are settled: commit. Cumulative and repeated."""

    checkpoint: int


@dataclass(frozen=True)
class Stop:
    """Close the tasks of this and every older attempt and be idle."""


@dataclass(frozen=True)
class Hello:
    """A new leader asks what runs; answered with HelloReply, whatever the attempt."""


CommandBody = Deploy | Start | Trigger | Drain | Abort | Notify | Stop | Hello


@dataclass(frozen=True)
class Command:
    epoch: Epoch
    attempt: int
    body: CommandBody


# -- reports: TaskManager to JobManager -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """Deploy is done: state restored, channels open."""

    memory_bytes: int = 0
    """Sealed bytes of the checkpoint that the TaskManager still had."""
    storage_bytes: int = 0
    """Those that it read from storage."""


@dataclass(frozen=True)
class Running:
    """Start is obeyed."""


@dataclass(frozen=True)
class Triggered:
    """The barrier of `checkpoint` has left the sources of this slot (or had before)."""

    checkpoint: int


@dataclass(frozen=True)
class Draining:
    """Drain is obeyed."""


@dataclass(frozen=True)
class Aborted:
    checkpoint: int


@dataclass(frozen=True)
class Acknowledged:
    """All tasks of the slot have captured and stored their part of a checkpoint."""

    checkpoint: int
    slot: int
    states: tuple[StateRef, ...]
    transactions: Mapping[str, tuple[Any, ...]]
    """Per sink uid, every transaction prepared and not known to be committed."""
    counters: Counters
    first_row_at_us: int | None = None
    """When the first row of this attempt reached a sink of the slot; wall clock."""
    written_bytes: int = 0
    sync_ms: float = 0.0
    align_ms: float = 0.0


@dataclass(frozen=True)
class CheckpointDeclined:
    """This slot could not store its part; the checkpoint fails, the job goes on."""

    checkpoint: int
    reason: str


@dataclass(frozen=True)
class Committed:
    """Every sink of the slot has committed everything up to `checkpoint`."""

    checkpoint: int


@dataclass(frozen=True)
class SlotEnded:
    """All inputs of all tasks of the slot have ended; tasks stay for the final checkpoint."""


@dataclass(frozen=True)
class TaskFailed:
    """The attempt cannot go on in this slot."""

    task: TaskId | None
    uid: str
    cause: FailureCause
    message: str
    error: Any = None
    """The exception itself where it pickles."""
    object_name: str = ""
    """The damaged object, with cause "damaged"."""


@dataclass(frozen=True)
class PeerLost:
    """A channel's peer is silent or lost frames (rule 23)."""

    peer_instance: str
    reason: str


@dataclass(frozen=True)
class Work:
    """Of a task since its attempt began: the time that it was at work, and the rows that came to it (a source: that it read)."""

    vertex: int
    busy_s: float
    rows: int


@dataclass(frozen=True)
class Stats:
    """Now and then: how far the slot is."""

    counters: Counters
    watermark_us: int
    first_row_at_us: int | None = None
    backlog_bytes: int = 0
    state_rows: int = 0
    state_bytes: int = 0
    spilled_bytes: int = 0
    """Of the state: on local disk, and not in memory."""
    work: tuple[Work, ...] = ()


@dataclass(frozen=True)
class SinkRows:
    """Rows that a collecting sink has committed, as an Arrow IPC stream (collect())."""

    uid: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class HelloReply:
    """All that a new leader must know of a TaskManager whose earlier reports it may never see (rule 10)."""

    epoch: Epoch
    """Of the Hello: an answer to an earlier leader, still in the outbox, is out of date."""
    state: TaskManagerState
    slot: int | None
    """Of the tasks that are there; None when idle."""
    ended: bool
    triggered: int
    """Highest checkpoint that was triggered or aborted here in this attempt."""
    unsettled: tuple[Acknowledged | CheckpointDeclined, ...]
    """Answers to checkpoints above the last Notify that were not aborted."""
    notified: int
    committed: int
    failure: TaskFailed | PeerLost | None = None
    """Why the attempt cannot go on here."""


@dataclass(frozen=True)
class EpochRefused:
    """A command of `refused` was dropped, since `current` is obeyed here: a newer epoch, or an equal one with another token (rule 8)."""

    refused: Epoch
    current: Epoch


ReportBody = (
    HelloReply
    | EpochRefused
    | Ready
    | Running
    | Triggered
    | Draining
    | Aborted
    | Acknowledged
    | CheckpointDeclined
    | Committed
    | SlotEnded
    | TaskFailed
    | PeerLost
    | Stats
    | SinkRows
)


@dataclass(frozen=True)
class Report:
    instance: str
    attempt: int
    body: ReportBody
