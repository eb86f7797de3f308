"""What must hold after every step of any process, every write to storage and every commit, whatever faults there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flinkray.checkpoint.names import log_name, parse_data_object, parse_log
from flinkray.core.job_events import Adopted, CheckpointContent, JobEvent, ManifestFate, Opened
from flinkray.core.log_records import RecordFormatError, RecordHeader, RecordKind, decode
from flinkray.core.messages import Command, Deploy, Report, TaskFailed
from flinkray.errors import ProtocolError
from flinkray.testing.simulation.output import Output, Row, Rows
from flinkray.testing.simulation.user_code import RAISED

if TYPE_CHECKING:
    from flinkray.testing.simulation.job_manager_process import JobManagerProcess
    from flinkray.testing.simulation.storage import Disk
    from flinkray.testing.simulation.task_manager_process import TaskManagerProcess
    from flinkray.testing.simulation.world import World

LOOK_S = 0.2
LOOKS_LIMIT = 4
"""A leader that finds a TaskManager which it does not know ends it: it does not find it so often."""


@dataclass(frozen=True)
class Complete:
    """A manifest that stands in the log and counts."""

    number: int
    header: RecordHeader
    objects: frozenset[str]
    transactions: frozenset[str]


class Checkers:
    """`violations` fills; the first one ends the simulation."""

    def __init__(self, world: World, disk: Disk, output: Output, expected: Rows | None) -> None:
        self.violations: list[str] = []
        self.coverage: Counter[str] = Counter()
        self.complete: dict[int, Complete] = {}
        """By number in the log."""
        self.completed = 0
        self.abandoned: set[int] = set()
        """Checkpoints later than one that was gone back to."""
        self.deployments: set[tuple[int, int]] = set()
        """Claim and attempt."""
        self._world = world
        self._disk = disk
        self._output = output
        self._expected = Counter((uid, row) for uid, rows in expected.items() for row in rows) if expected is not None else None
        self._seen: Counter[tuple[str, Row]] = Counter()
        self._headers: dict[int, RecordHeader] = {}
        self._wanted: dict[tuple[int, int, int], CheckpointContent] = {}
        self._checkpoints: dict[int, str] = {}
        self._task_managers: dict[str, tuple[tuple[int, int], int]] = {}
        self._epochs: dict[str, tuple[tuple[int, int], int]] = {}
        self._elections: dict[int, int] = {}
        self._strange: Counter[tuple[str, str]] = Counter()
        """How often who leads has found whom."""
        self._found_at: dict[str, float] = {}
        self._states: dict[tuple[str, str], str] = {}
        self._abandoned: set[str] = set()
        disk.on_write = self._on_write
        disk.on_delete = self._on_delete
        output.on_commit = self._on_commit
        output.on_prepare = self._on_prepare

    def violated(self, rule: str, what: str) -> None:
        self.violations.append(f"{rule}: {what}")
        self._world.note("VIOLATION", f"{rule}: {what}")

    def inherit(self, before: Checkers) -> None:
        """What an earlier run has completed counts."""
        self.complete.update(before.complete)
        self.abandoned |= before.abandoned
        self._headers.update(before._headers)
        self._checkpoints.update(before._checkpoints)

    # -- after every step -----------------------------------------------------------------------------------------

    def task_manager(self, process: TaskManagerProcess) -> None:
        core = process.task_manager.core
        try:
            process.check_invariants()
        except ProtocolError as error:
            self.violated("core invariant", f"{process.name}: {error}")
        rank = core.epoch.rank if core.epoch is not None else (0, 0)
        before = self._task_managers.get(process.instance)
        if before is not None and (rank < before[0] or core.attempt < before[1]):
            self.violated("epochs and attempts only grow", f"{process.name} went from {before} to {(rank, core.attempt)}")
        self._task_managers[process.instance] = (rank, core.attempt)
        self._cover(process.instance, "TaskManager", core.state.value)

    def job_manager(self, process: JobManagerProcess) -> None:
        try:
            process.check_invariants()
        except ProtocolError as error:
            self.violated("core invariant", f"{process.name}: {error}")
        self._cover(process.name, "JobManager", process.leadership.state.value)
        core = process.core
        if core is None:
            return
        self._cover(core.token, "job", core.status.value)
        rank, before = core.epoch.rank, self._epochs.get(core.token)
        if before is not None and (rank < before[0] or core.attempt < before[1]):
            self.violated("epochs and attempts only grow", f"{process.name} went from {before} to {(rank, core.attempt)}")
        self._epochs[core.token] = (rank, core.attempt)

    def found(self, process: JobManagerProcess, reachable: Sequence[str]) -> None:
        """Nothing is left behind. Answers that come together, after a pause, count once, and a deposed leader's not at all."""
        core = process.core
        assert core is not None
        if process.run.leader is not process or self._world.now - self._found_at.get(core.token, -1.0) < LOOK_S:
            return
        self._found_at[core.token] = self._world.now
        for instance in (one for one in reachable if one not in core.workers):
            self._strange[(core.token, instance)] += 1
            if self._strange[(core.token, instance)] == LOOKS_LIMIT:
                self.violated("nothing is left behind", f"{process.name} leads, and TaskManager {instance} runs for nobody")

    def leads(self, process: JobManagerProcess, election: int, journal_forgot: bool) -> None:
        """Elections of a run only grow, unless the journal itself forgot some."""
        before = self._elections.get(process.run.number, 0)
        if election <= before and not journal_forgot:
            self.violated("elections only grow", f"{process.name} leads by election {election}; {before} was won already")
        self._elections[process.run.number] = max(before, election)

    def event(self, event: JobEvent) -> None:
        if isinstance(event, ManifestFate):
            self.coverage[f"manifest {event.fate}"] += 1
        elif isinstance(event, Report):
            self.coverage[f"report {type(event.body).__name__}"] += 1
            if isinstance(event.body, TaskFailed):
                self._failed(event.body)
        else:
            self.coverage[f"event {type(event).__name__}"] += 1

    def _failed(self, failure: TaskFailed) -> None:
        """Storage and channels fail in a storm; operators and user code do where `user_error` strikes, and nowhere else."""
        self.coverage[f"failure {failure.cause}"] += 1
        if failure.cause in ("user", "input") and RAISED not in failure.message:
            self.violated("an attempt fails for a reason", f"{failure.uid or failure.task}: {failure.message}")

    def command(self, command: Command) -> None:
        self.coverage[f"command {type(command.body).__name__}"] += 1
        if isinstance(command.body, Deploy):
            self.deployments.add((command.epoch.claim, command.attempt))

    def opened(self, process: JobManagerProcess, event: Opened | Adopted) -> None:
        if isinstance(event, Adopted):
            return
        used = max((entry.header.checkpoint for number, entry in self.complete.items() if number < event.claim), default=0)
        if event.next_checkpoint <= used:
            self.violated("ids never repeat", f"{process.name} would begin with checkpoint {event.next_checkpoint}; {used} is in the log")

    def _cover(self, who: str, what: str, state: str) -> None:
        if self._states.get((who, what)) != state:
            self._states[(who, what)] = state
            self.coverage[f"{what} {state}"] += 1

    # -- storage --------------------------------------------------------------------------------------------------

    def manifest_wanted(self, process: JobManagerProcess, content: CheckpointContent) -> None:
        """A JobManager holds all acknowledgements of a checkpoint."""
        core = process.core
        assert core is not None
        key = (core.claim or 0, content.checkpoint, content.attempt)
        known = self._wanted.setdefault(key, content)
        if _facts(known) != _facts(content):  # a new leader may want what the old one wanted
            self.violated("ids never repeat", f"{process.name} completes another checkpoint {content.checkpoint}")
        for state in content.states:
            for chunk in state.chunks:
                self._check_chunk(content, state.uid, chunk.object_name, chunk.checkpoint)

    def _check_chunk(self, content: CheckpointContent, uid: str, object_name: str, checkpoint: int) -> None:
        """Offsets and state of one checkpoint belong together: nothing in it is of a later checkpoint or attempt."""
        name = parse_data_object(object_name)
        if name is None or checkpoint > content.checkpoint or name.checkpoint != checkpoint:
            self.violated("state of one checkpoint belongs together", f"{uid} of checkpoint {content.checkpoint} refers to {object_name}")

    def _on_write(self, name: str, before: bytes | None, data: bytes) -> None:
        number = parse_log(name)
        if number is None:
            return
        if before is not None and before != data:
            self.violated("one record at most per number", f"{name} was overwritten")
        try:
            header, _, _ = decode(data)
        except RecordFormatError:
            return
        self.coverage[f"record {header.kind.value}"] += 1
        deposed = any(known.claim > header.claim for at, known in self._headers.items() if at < number)
        late = any(at > number for at in self._headers if log_name(at) in self._disk.objects)
        self._headers[number] = header
        if header.kind is RecordKind.MANIFEST and not deposed and not late:
            self._on_manifest(number, header)
        elif header.kind is RecordKind.MANIFEST:
            self.coverage["manifest of a deposed owner"] += 1

    def _on_manifest(self, number: int, header: RecordHeader) -> None:
        content = self._wanted.get((header.claim, header.checkpoint, header.attempt))
        restored = self._restored_from_a_savepoint(header)
        if content is None and restored:
            self.coverage["manifest of a restored savepoint"] += 1
            self.complete[number] = Complete(number, header, restored, frozenset())
            return
        if content is None:
            self.violated("a manifest after all acknowledgements", f"record {number}: checkpoint {header.checkpoint} is not complete")
            return
        if header.checkpoint in self._checkpoints:
            self.violated("one complete manifest per checkpoint", f"checkpoint {header.checkpoint} is complete twice")
        self._checkpoints[header.checkpoint] = f"record {number}"
        objects = frozenset(chunk.object_name for state in content.states for chunk in state.chunks)
        transactions = frozenset(t["name"] for prepared in content.transactions.values() for t in prepared)
        self.complete[number] = Complete(number, header, objects, transactions)
        self.completed += 1
        self._check_referenced(self.complete[number])

    def _restored_from_a_savepoint(self, header: RecordHeader) -> frozenset[str]:
        """Objects that a run has copied out of a savepoint, to begin with."""
        names = ((name, parse_data_object(name)) for name in self._disk.objects)
        of = (header.claim, header.checkpoint)
        return frozenset(
            name for name, known in names if known and (known.claim, known.checkpoint) == of and known.part.startswith("restored-")
        )

    def _on_delete(self, names: Sequence[str]) -> None:
        gone = frozenset(names)
        for entry in self.complete.values():
            if entry.objects & gone and log_name(entry.number) in self._disk.objects:
                self._check_referenced(entry)

    def _check_referenced(self, entry: Complete) -> None:
        missing = sorted(name for name in entry.objects if name not in self._disk.objects)
        if missing:
            self.violated("every referenced chunk exists", f"checkpoint {entry.header.checkpoint} needs {missing[0]}, which is gone")

    # -- output ---------------------------------------------------------------------------------------------------

    def _on_prepare(self, name: str, again: bool) -> None:
        if again or name in self._output.retracted:
            self.violated("names of transactions never repeat", f"{name} was prepared a second time")

    def _on_commit(self, name: str, uid: str, rows: list[Row]) -> None:
        if name in self._output.retracted:
            self.violated("transactions are committed at most once", f"{name} was taken back, and is committed again")
        if not any(name in entry.transactions for entry in self.complete.values()) or name in self._abandoned:
            self.violated("no commit before the manifest", f"{name} is in no complete checkpoint")
        for row in rows:
            self._seen[(uid, row)] += 1
            if self._expected is not None and self._seen[(uid, row)] > self._expected[(uid, row)]:
                many = self._expected[(uid, row)]
                self.violated("exactly once", f"{name} commits {row}, which is there {many} times without failures, more often")
                return

    def taken_back(self, checkpoint: int) -> None:
        """The output was put back to `checkpoint`: transactions of later ones are not to be committed any more."""
        self._seen = self._output.count()
        later = [entry for entry in self.complete.values() if entry.header.checkpoint > checkpoint]
        self.abandoned |= {entry.header.checkpoint for entry in later}
        kept = frozenset().union(*(e.transactions for e in self.complete.values() if e.header.checkpoint not in self.abandoned))
        self._abandoned |= frozenset().union(*(entry.transactions for entry in later)) - kept


def _facts(content: CheckpointContent) -> tuple[object, ...]:
    """What is the same for all who have the acknowledgements, in whatever order they came."""
    return content.states, content.counters, {uid: sorted(t["name"] for t in prepared) for uid, prepared in content.transactions.items()}
