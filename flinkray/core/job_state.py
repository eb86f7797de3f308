"""What the job core knows, and which status may follow which. The other `job_*` modules are its decisions, functions over this state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flinkray.core.channels import Channels
from flinkray.core.checkpoints import CheckpointCoordinator, CheckpointPolicy
from flinkray.core.commits import Commits
from flinkray.core.degraded import DegradedPolicy, DegradedWatch
from flinkray.core.failures import BUDGETS, FailurePolicy
from flinkray.core.job_events import Adopted, CheckpointContent, JobCommand, JobStatus, KillWorker, WriteJournal
from flinkray.core.journal_records import WorkerGone
from flinkray.core.journal_view import JournalView
from flinkray.core.messages import Acknowledged, Command, CommandBody, Counters, HelloReply, PeerLost, Ready, Stats, TaskFailed
from flinkray.core.outstanding import Outstanding
from flinkray.core.workers import Worker, Workers
from flinkray.errors import ProtocolError
from flinkray.graph.job_graph import JobGraph
from flinkray.ids import Epoch

_CREATED, _ADOPTING = JobStatus.CREATED, JobStatus.ADOPTING
_DEPLOYING, _RUNNING = JobStatus.DEPLOYING, JobStatus.RUNNING
_RESTARTING, _CANCELLING = JobStatus.RESTARTING, JobStatus.CANCELLING
_FINISHED, _STOPPED = JobStatus.FINISHED, JobStatus.STOPPED
_CANCELLED, _FAILED = JobStatus.CANCELLED, JobStatus.FAILED

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    _CREATED: frozenset({_ADOPTING, _DEPLOYING, _CANCELLING, _FAILED}),
    _ADOPTING: frozenset({_CREATED, _RUNNING, _RESTARTING, _CANCELLING, _FINISHED, _STOPPED, _CANCELLED, _FAILED}),
    _DEPLOYING: frozenset({_RUNNING, _RESTARTING, _CANCELLING, _FAILED}),
    _RUNNING: frozenset({_RESTARTING, _CANCELLING, _FINISHED, _STOPPED, _FAILED}),
    _RESTARTING: frozenset(
        {_DEPLOYING, _CANCELLING, _FINISHED, _STOPPED, _FAILED}
    ),  # FINISHED, STOPPED: a process was lost after the last commit
    _CANCELLING: frozenset({_CANCELLED, _FAILED}),
}
"""Every legal change of status; what is not a key is the end."""


@dataclass(frozen=True)
class JobSettings:
    """What the core needs of the configuration; seconds throughout."""

    name: str
    spares: int
    checkpoints: CheckpointPolicy
    restart_initial_s: float
    restart_maximum_s: float
    restart_attempts: int | None
    allow_repeated_output: bool = False
    restart_budgets: Mapping[str, int] = field(default_factory=dict)
    """Over `failures.BUDGETS`."""
    degraded: DegradedPolicy = field(default_factory=DegradedPolicy)
    retained: int = 3
    """Complete checkpoints that storage keeps, and a restart may fall back to."""
    search_s: float = 30.0
    """From one look for TaskManagers that the journal does not know to the next."""


@dataclass
class Adoption:
    """What a new leader has learned so far, while ADOPTING."""

    view: JournalView
    since: float
    storage: Adopted | None = None
    replies: dict[int, tuple[int, HelloReply]] = field(default_factory=dict)
    """By slot of the journal's current attempt: the attempt that its TaskManager is in, and what it said."""
    late: dict[int, dict[int, Acknowledged]] = field(default_factory=dict)
    """By slot and checkpoint: acknowledged after the reply."""
    failure: TaskFailed | PeerLost | None = None
    """Why the attempt cannot go on."""
    lost: str = ""
    """A TaskManager of the attempt that is gone, and why."""


@dataclass
class SavepointOrder:
    """A savepoint that was asked for."""

    name: str
    first: int | None = None
    """The first checkpoint that may become it; None until its name is taken."""


@dataclass
class HaltOrder:
    """Sources are to stand still at a checkpoint, for a stop, a rescale or a migration. One at a time."""

    request: str
    what: Literal["stop", "rescale", "migrate"]
    savepoint: str = ""
    drain: bool = False
    parallelism: int = 0
    named: bool = True
    """The savepoint's name is taken, or none is wanted."""
    begun: bool = False
    """Sources stand still, or are being drained."""
    checkpoint: int | None = None
    """That decides it: once it is complete the order is carried out, whatever fails."""
    leaves: str = ""
    """The instance that a migration leaves."""
    before: int = 0
    """Parallelism to go back to where there is no room."""
    error: str = ""
    """Why its savepoint was not made."""
    savepoint_ready: bool = False

    @property
    def wants_savepoint(self) -> bool:
        """Its name is taken, and it is not made yet."""
        return bool(self.savepoint) and self.named and not self.error and not self.savepoint_ready


@dataclass
class JobState:
    graph: JobGraph
    settings: JobSettings
    token: str
    """Random, from the shell: instance ids are derived from it."""
    transactional_uids: frozenset[str] = frozenset()
    """Sinks whose committed rows are visible outside (rule 20)."""
    graph_at: Callable[[int], JobGraph] | None = None
    """The same job at another parallelism, where it can be rescaled."""
    status: JobStatus = JobStatus.CREATED
    attempt: int = 0
    restarts: int = 0
    error: Any = None
    running_at: float | None = None
    waiting_for: str = ""
    """What the job cannot go on without, in words, for the status."""

    def __post_init__(self) -> None:
        slots = self.graph.slots()
        self.workers = Workers(slots, self.settings.spares)
        self.checkpoints = CheckpointCoordinator(self.settings.checkpoints, slots, next_id=1)
        self.policy = FailurePolicy(
            self.settings.restart_initial_s,
            self.settings.restart_maximum_s,
            self.settings.restart_attempts,
            BUDGETS | dict(self.settings.restart_budgets),
        )
        self.outstanding = Outstanding()
        self.channels = Channels()
        self.watch = DegradedWatch(self.settings.degraded)
        self.degraded: dict[str, str] = {}
        """Instances that fall behind their peers, and how."""
        self.migrations = 0
        self.migrate_after = 0.0
        self.left_nodes: set[str] = set()
        """Nodes of TaskManagers that were left: spares of others are taken first."""
        self.search_at = 0.0
        self.epoch = Epoch(0, 1, self.token)
        self.claim: int | None = None
        self.hash_seed = 0
        self.contents: dict[int, CheckpointContent] = {}
        """The newest complete checkpoints, by id."""
        self.passed_over: tuple[int, ...] = ()
        """Complete checkpoints that were found damaged since the newest that was not (rule 20)."""
        self.highest_attempt = 0
        """That anybody has ever heard of: the next one is above."""
        self.adoption: Adoption | None = None
        self.requests: set[str] = set()
        """Ids of requests that are journaled (rule 24)."""
        self.halt: HaltOrder | None = None
        self.submitted_graph = self.graph
        self.parallelism = 0
        """That the job was rescaled to; 0: as it was submitted."""
        self.leadership_in_doubt = False
        self.superseded = False
        """Another leads: every event is dropped."""
        self.base_counters = Counters()
        """Rows up to the checkpoint that the attempt started from."""
        self.stats: dict[int, Stats] = {}
        self.first_row_at_us: int | None = None
        self.restart_at = 0.0
        self.deployed_at = 0.0
        self.catching_up_until = 0.0
        """A restarted attempt reads again what the last one had read: no spare is made beside it."""
        self.slots_up_at: float | None = None
        """When every slot could first have had a TaskManager."""
        self.cancelled_at = 0.0
        self.created = 0
        """TaskManagers made so far: numbers their instance ids."""
        self.ready: dict[int, Ready] = {}
        self.running: set[int] = set()
        self.ended: set[int] = set()
        """Slots of this attempt, by what they have reported."""
        self.committed = Commits()
        """By slot: the checkpoint up to which its sinks have committed."""
        self.storage_open = False
        """Storage is claimed or adopted: the end can be recorded."""
        self.savepoints: dict[str, SavepointOrder] = {}
        """By request."""
        self.writing_savepoints: dict[str, SavepointOrder] = {}
        self.swept = 0
        self.final: int | None = None
        """The checkpoint after the end of all inputs, or of a stop, once it is complete."""
        self.writing: CheckpointContent | None = None
        """Its manifest is on its way to storage."""
        self.recording = False
        """The record of the end is on its way to storage."""

    @property
    def halted_for_good(self) -> bool:
        """The checkpoint of a stop or rescale is complete: a failure delays what was asked for, and does not undo it."""
        return self.halt is not None and self.halt.checkpoint is not None and self.halt.checkpoint == self.checkpoints.latest

    @property
    def shown_status(self) -> JobStatus:
        """For people: a job that is being stopped says so."""
        stopping = self.halt is not None and self.halt.what == "stop" and self.halt.begun and not self.status.terminal
        return JobStatus.STOPPING if stopping and self.status is not JobStatus.CANCELLING else self.status

    def set_parallelism(self, parallelism: int, out: list[JobCommand]) -> None:
        """Of the next attempt; 0: as it was submitted. Its TaskManagers must be at rest. Those that are too many go."""
        assert not parallelism or self.graph_at is not None
        self.graph = self.graph_at(parallelism) if parallelism and self.graph_at is not None else self.submitted_graph
        self.parallelism = parallelism
        self.checkpoints.slots = self.graph.slots()
        for instance in self.workers.resize(self.graph.slots()):
            self.lose(instance, out)

    def move(self, status: JobStatus) -> None:
        """Raises ProtocolError for a change that is not in the table, and changes nothing then."""
        if status not in TRANSITIONS.get(self.status, frozenset()):
            raise ProtocolError(f"a job that is {self.status.value} cannot become {status.value}")
        self.status = status
        self.adoption = None

    def lose(self, instance: str, out: list[JobCommand], kill: bool = True) -> Worker | None:
        """Give a TaskManager up. The journal comes first: a leader that was deposed ends no process of its successor's."""
        worker = self.workers.remove(instance)
        if worker is not None:
            self.outstanding.forget(instance)
            self.channels.forget(instance)
            self.watch.forget(instance)
            out.append(WriteJournal(WorkerGone(instance)))
            if kill:
                out.append(KillWorker(instance))
        return worker

    def send(self, instance: str, body: CommandBody, now: float, out: list[JobCommand]) -> None:
        """Say it now, and again until `answered`."""
        out.append(self.outstanding.send(instance, Command(self.epoch, self.attempt, body), now))

    def answered(self, instance: str, kind: type, number: int = 0) -> None:
        self.outstanding.answered(instance, kind, number)

    def counters(self) -> Counters:
        """Rows so far; those of a replay are not counted twice."""
        if self.final is not None:
            return self.contents[self.final].counters
        total = self.base_counters
        for stats in self.stats.values():
            total = total.plus(stats.counters)
        return total

    def note_first_row(self, at_us: int | None) -> None:
        if at_us is not None and (self.first_row_at_us is None or at_us < self.first_row_at_us):
            self.first_row_at_us = at_us

    def check_invariants(self) -> None:
        """Raises ProtocolError when the state makes no sense; called by tests and the simulator after every step."""
        self.checkpoints.check_invariants()
        if self.status is JobStatus.RUNNING and len(self.running) != self.workers.slots:
            raise ProtocolError("RUNNING, but not every slot runs")
        stopping = self.halt is not None and self.halt.checkpoint == self.final
        if self.final is not None and len(self.ended) != self.workers.slots and not stopping and not self.status.terminal:
            raise ProtocolError("a final checkpoint before all inputs ended")
        if (self.adoption is not None) != (self.status is JobStatus.ADOPTING):
            raise ProtocolError(f"a job that is {self.status.value}, and what an adoption has learned: {self.adoption}")
        if self.writing is not None and (self.checkpoints.pending is None or not self.checkpoints.pending.writing):
            raise ProtocolError("a manifest is being written that nobody awaits")
