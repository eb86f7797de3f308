"""Bugs to be planted: each breaks one rule of docs/protocol.md in the running program, so that the simulator can show that it notices.

with PLANTS["no-alignment"].planted():
    report = simulate(...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from flinkray.checkpoint import sweep as _sweep
from flinkray.checkpoint.log_store import StorageLog
from flinkray.checkpoint.names import log_name, parse_data_object
from flinkray.checkpoint.retention import plan as plan_deletions
from flinkray.columns import MIN_WATERMARK
from flinkray.core import job as _job
from flinkray.core import state_plan
from flinkray.core.alignment import Action, Alignment, BecomeIdle, TakeSnapshot
from flinkray.core.checkpoints import CheckpointCoordinator
from flinkray.core.job import JobCore
from flinkray.core.job_checkpoints import notify, on_acknowledged
from flinkray.core.job_events import JobCommand
from flinkray.core.journal import JournalCore, JournalState
from flinkray.core.journal_calls import CaughtUp, GetSlot, GetSnapshot, JournalCommand
from flinkray.core.log_records import digest
from flinkray.core.log_writer import Confirmed, Created, Listed, LogCommand, LogWriter, Taken, Voided, WriterState
from flinkray.core.messages import Acknowledged, Report
from flinkray.core.task_manager import TaskManagerCore
from flinkray.operators import general_window, process_store, restore, window_aggregate, window_top_n
from flinkray.operators.base import StateCapture
from flinkray.operators.list_state import ListCapture
from flinkray.operators.sink import _STATE, _STATE_SCHEMA, SinkOperator
from flinkray.operators.source import EnumerateOperator
from flinkray.runtime.slot import Slot
from flinkray.testing.simulation.exchange import Message, SimulatedExchange

Patch = tuple[Any, str, Any]
"""Object, attribute, what it becomes."""


@dataclass(frozen=True)
class Plant:
    """A bug. `job` and `faults`: what finds it soonest; `directed`: the test that shows it where random seeds do not."""

    name: str
    doc: str
    patches: Callable[[], Sequence[Patch]]
    job: str = "hot-items"
    faults: str = "swarm"
    seed: int = 0
    """One that finds it, as of today; tried first."""
    directed: str = ""
    parallelism: int = 2

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for target, attribute, value in self.patches():
                stack.enter_context(patch.object(target, attribute, value))
            yield


# -- checkpoints ------------------------------------------------------------------------------------------------------


def _no_alignment() -> Sequence[Patch]:
    def on_barrier(self: Alignment, channel: object, checkpoint: int) -> list[Action]:
        if checkpoint <= self._settled:
            return []
        self._finish(checkpoint)
        return [TakeSnapshot(checkpoint)]

    return [(Alignment, "on_barrier", on_barrier)]


def _early_commit() -> Sequence[Patch]:
    def acknowledged(job: JobCore, ack: Acknowledged, now: float, out: list[JobCommand]) -> None:
        on_acknowledged(job, ack, now, out)
        if job.writing is not None:
            notify(job, job.writing.checkpoint, now, out)

    return [(_job, "on_acknowledged", acknowledged)]


def _forgotten_commits() -> Sequence[Patch]:
    def snapshot(self: SinkOperator, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        captures = right(self, checkpoint_id, base_id)
        table = captures[0].encode()
        assert table is not None
        rows = [row for row in table.to_pylist() if row["checkpoint"] == checkpoint_id]
        return [ListCapture(_STATE, pa.Table.from_pylist(rows, _STATE_SCHEMA))]

    right = SinkOperator.snapshot
    return [(SinkOperator, "snapshot", snapshot)]


def _aborted_transactions() -> Sequence[Patch]:
    def abandon(self: Slot, checkpoint: int) -> None:
        right(self, checkpoint)
        for task in self.tasks:
            for _, operator in task.chain.operators():
                if isinstance(operator, SinkOperator):
                    operator._prepared.pop(checkpoint, None)

    right = Slot.abandon
    return [(Slot, "abandon", abandon)]


def _old_instances_ack() -> Sequence[Patch]:
    def on_report(self: JobCore, report: Report, now: float, out: list[JobCommand]) -> None:
        if isinstance(report.body, Acknowledged):
            on_acknowledged(self, report.body, now, out)
        else:
            right_report(self, report, now, out)

    def acknowledge(self: CheckpointCoordinator, attempt: int, ack: Acknowledged) -> bool:
        return right_acknowledge(self, self.pending.attempt if self.pending else attempt, ack)

    right_report, right_acknowledge = JobCore._on_report, CheckpointCoordinator.acknowledge
    return [(JobCore, "_on_report", on_report), (CheckpointCoordinator, "acknowledge", acknowledge)]


def _hasty_idle() -> Sequence[Patch]:
    def become_idle(self: Alignment) -> list[Action]:
        return [action for action in right(self) if isinstance(action, BecomeIdle)]

    right = Alignment._become_idle
    return [(Alignment, "_become_idle", become_idle)]


# -- restore ----------------------------------------------------------------------------------------------------------


def _skipped_key_groups() -> Sequence[Patch]:
    def owners(*found: Any) -> range:
        return right(*found)[:1]

    right = state_plan._owners
    return [(state_plan, "_owners", owners)]


def _watermark_forgotten() -> Sequence[Patch]:
    def forgotten(restored: object) -> int:
        return MIN_WATERMARK

    return [(window_aggregate, "restored_watermark", forgotten), (window_top_n, "restored_watermark", forgotten)]


def _splits_lost() -> Sequence[Patch]:
    def open_(self: EnumerateOperator, context: Any, restored: Any, restored_checkpoint: int | None) -> None:
        right(self, context, (), restored_checkpoint)

    right = EnumerateOperator.open
    return [(EnumerateOperator, "open", open_)]


# -- the storage log --------------------------------------------------------------------------------------------------


def _slot_overwritten() -> Sequence[Patch]:
    def create(self: StorageLog, command: Any, data_key: Any, patience: Any) -> Any:
        data = self._bytes(command, data_key)
        self.store.put(log_name(command.number), data)
        return Created(command.number, digest(data))

    return [(StorageLog, "_create", create)]


def _deposed_manifest() -> Sequence[Patch]:
    def on_taken(self: LogWriter, event: Taken) -> list[LogCommand]:
        return self._stands(event.number, event.digest, void=False)

    return [(LogWriter, "_on_taken", on_taken)]


def _freed_number() -> Sequence[Patch]:
    def on_listed(self: LogWriter, event: Listed) -> list[LogCommand]:
        self.state = WriterState.IDLE
        self.last = self._standing
        return [Voided(event.number) if self._standing_is_void else Confirmed(event.number)]

    return [(LogWriter, "_on_listed", on_listed)]


def _deleted_chunk() -> Sequence[Patch]:
    def plan(manifests: Any, *arguments: Any) -> Any:
        own = [
            replace(kept, object_names=frozenset(name for name in kept.object_names if _checkpoint_of(name) == kept.checkpoint))
            for kept in manifests
        ]
        return right(own, *arguments)

    right = plan_deletions
    return [(_sweep, "plan", plan)]


def _checkpoint_of(name: str) -> int:
    parsed = parse_data_object(name)
    return parsed.checkpoint if parsed is not None else 0


# -- who is obeyed ----------------------------------------------------------------------------------------------------


def _stale_epoch() -> Sequence[Patch]:
    return [(TaskManagerCore, "refuses", lambda self, epoch: False)]


def _stale_frame() -> Sequence[Patch]:
    def take_in(self: SimulatedExchange, message: Message, now: float) -> None:
        if message.attempt >= self._attempt:
            right(self, message, now)
            return
        for frame in message.frames:
            if frame.kind == "element" and frame.channel in self._inputs:
                self._take_frame(frame)

    right = SimulatedExchange._take_in
    return [(SimulatedExchange, "_take_in", take_in)]


def _stale_snapshot() -> Sequence[Patch]:
    """The oldest snapshot is taken for the newest, as a pointer that lags behind would have it."""

    def on_listed(self: JournalCore, snapshots: tuple[int, ...]) -> list[JournalCommand]:
        pointed_at = min(snapshots, default=0)
        if pointed_at > self.view.slots:
            return self._ask(JournalState.LOADING, GetSnapshot(pointed_at))
        self._start = self.view.slots
        return self._ask(JournalState.READING, GetSlot(self.view.slots))

    def on_verified(self: JournalCore, snapshots: tuple[int, ...]) -> list[JournalCommand]:
        self._rest()
        return [CaughtUp(), *self._go_on()]

    def on_confirmed(self: JournalCore, snapshots: tuple[int, ...]) -> list[JournalCommand]:
        return right(self, tuple(number for number in snapshots if number <= self.view.slots))

    right = JournalCore._on_confirmed
    return [
        (JournalCore, "_on_listed", on_listed),
        (JournalCore, "_on_verified", on_verified),
        (JournalCore, "_on_confirmed", on_confirmed),
    ]


def _strangers_stay() -> Sequence[Patch]:
    return [(_job, "on_workers_found", lambda job, event, out: None)]


def _time_stays_at_its_end() -> Sequence[Patch]:
    return [
        (process_store, "begun_anew", lambda watermark_us: watermark_us),
        (general_window, "restored_watermark", restore._smallest_watermark),
    ]


PLANTS: dict[str, Plant] = {
    plant.name: plant
    for plant in (
        Plant("no-alignment", "a task snapshots at the first barrier, and reads on", _no_alignment, "two-inputs", seed=0),
        Plant("early-commit", "sinks commit before the manifest stands", _early_commit, seed=5),
        Plant(
            "forgotten-commits",
            "a snapshot holds only this checkpoint's transactions",
            _forgotten_commits,
            "transactional-sink",
            "delay=0.1,crash=1.5",
            seed=1,
        ),
        Plant("slot-overwritten", "a record is written over another", _slot_overwritten, seed=6),
        Plant(
            "stale-frame",
            "frames of an older attempt are taken in",
            _stale_frame,
            "transactional-sink",
            "frame_delay=0.3,frame_drop=0.02,crash",
            seed=3,
        ),
        Plant(
            "stale-epoch",
            "commands of a deposed leader are obeyed",
            _stale_epoch,
            faults="pause_leader,crash_leader,delay,duplicate",
            seed=20,
        ),
        Plant(
            "old-instances-ack",
            "whoever acknowledges is counted",
            _old_instances_ack,
            directed="test_an_old_instances_acknowledgement_is_not_counted",
        ),
        Plant("hasty-idle", "a task becomes idle behind its siblings", _hasty_idle, "idle-readers", "frame_delay", seed=0, parallelism=3),
        Plant("deleted-chunk", "a sweep deletes what later deltas refer to", _deleted_chunk, seed=0),
        Plant(
            "skipped-key-groups",
            "a restore at another parallelism reads only states that begin in its key groups",
            _skipped_key_groups,
            seed=6,
        ),
        Plant("watermark-forgotten", "windows start again at the beginning of time", _watermark_forgotten, seed=2),
        Plant(
            "deposed-manifest",
            "a manifest whose number another has won is believed to stand",
            _deposed_manifest,
            faults="freeze_owner,resubmit,crash",
            seed=0,
        ),
        Plant(
            "aborted-transactions", "an aborted checkpoint's transactions are dropped", _aborted_transactions, "transactional-sink", seed=16
        ),
        Plant(
            "freed-number",
            "a number that retention has freed counts for the owner who wins it",
            _freed_number,
            "transactional-sink",
            "freeze_owner=0.6",
            seed=8,
        ),
        Plant(
            "stale-snapshot",
            "the journal is read from a snapshot that is not the newest",
            _stale_snapshot,
            faults="pause_leader,crash_leader",
            seed=270,
        ),
        Plant(
            "strangers-stay",
            "a TaskManager that a lost leader made, and the journal does not know, runs on",
            _strangers_stay,
            faults="crash=3,crash_leader=1.5,pause_leader=1.5",
            seed=193,
        ),
        Plant(
            "time-stays-at-its-end",
            "what is restored from a drained savepoint takes every new row for late",
            _time_stays_at_its_end,
            "drained",
            "drain=3",
            seed=1,
        ),
        Plant("splits-lost", "split assignments do not survive", _splits_lost, seed=0),
    )
}
"""By name."""
