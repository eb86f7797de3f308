"""The JobManager's decisions, pure: one event in, commands out.

    CREATED -> DEPLOYING -> RUNNING -> FINISHED
       |          ^  |         | ^
       |          |  v         v |          any but the last: -> CANCELLING -> CANCELLED, -> FAILED
       |        RESTARTING <---+ |
       |             ^           |
       +-> ADOPTING -+-----------+          a new leader over tasks that run

An attempt is one deployment of the whole job. Deploy goes to every slot; when all are ready, Start; when all run, checkpoints begin. Any
failure ends the attempt: the policy says when the next one starts, from the newest complete checkpoint. Commands are sent again until
they are answered (rule 12). `job_state` has the table of legal changes; `job_attempts`, `job_checkpoints`, `job_adoption` and `job_endings`
the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

from flinkray.core.job_adoption import advance_adopting, on_adopted, on_adopting_report, on_hello_reply, on_take_over
from flinkray.core.job_attempts import (
    advance_deploying,
    keep_workers,
    on_no_room,
    on_opened,
    on_ready,
    on_running,
    on_task_failed,
    on_worker_lost,
    on_worker_started,
    try_deploy,
)
from flinkray.core.job_channels import on_peer_lost
from flinkray.core.job_checkpoints import advance_checkpoints, on_acknowledged, on_committed, on_declined, on_manifest, record_finished
from flinkray.core.job_endings import advance_cancelling, fail, on_cancel, on_end_recorded, on_epoch_refused, on_superseded
from flinkray.core.job_events import (
    Adopted,
    CancelRequested,
    Deliver,
    EndRecorded,
    JobCommand,
    JobEvent,
    JobStatus,
    LeadershipInDoubt,
    ManifestFate,
    NoRoom,
    Opened,
    OpenFailed,
    RescaleRequested,
    SavepointNamed,
    SavepointRequested,
    SavepointWritten,
    StopRequested,
    Superseded,
    TakeOver,
    WorkerLost,
    WorkersFound,
    WorkerStarted,
)
from flinkray.core.job_halts import on_rescale_requested, on_stop_requested
from flinkray.core.job_migration import watch_degraded
from flinkray.core.job_savepoints import (
    on_savepoint_named,
    on_savepoint_requested,
    on_savepoint_written,
    settled_checkpoint,
    write_savepoints,
)
from flinkray.core.job_state import JobSettings, JobState
from flinkray.core.job_strangers import look_for_strangers, on_workers_found
from flinkray.core.messages import (
    Abort,
    Aborted,
    Acknowledged,
    CheckpointDeclined,
    Committed,
    Drain,
    Draining,
    EpochRefused,
    HelloReply,
    PeerLost,
    Ready,
    Report,
    Running,
    SinkRows,
    SlotEnded,
    Stats,
    TaskFailed,
    Trigger,
    Triggered,
)
from flinkray.errors import JobFailedError

__all__ = ["JobCore", "JobSettings"]


@dataclass
class JobCore(JobState):
    """`step(event, now) -> commands`; `now` is monotonic seconds, only ever compared with itself."""

    def step(self, event: JobEvent, now: float) -> list[JobCommand]:
        if self.status.terminal or self.superseded:
            return []
        out: list[JobCommand] = []
        self._handle(event, now, out)
        if not self.status.terminal and not self.superseded:
            self._advance(now, out)
        return out

    def _handle(self, event: JobEvent, now: float, out: list[JobCommand]) -> None:
        if isinstance(event, Report):
            self._on_report(event, now, out)
        elif isinstance(event, Opened):
            on_opened(self, event, now, out)
        elif isinstance(event, OpenFailed):
            fail(self, event.error or JobFailedError(event.reason), out)
        elif isinstance(event, WorkerStarted):
            on_worker_started(self, event, now, out)
        elif isinstance(event, WorkerLost):
            on_worker_lost(self, event, now, out)
        elif isinstance(event, WorkersFound):
            on_workers_found(self, event, out)
        elif isinstance(event, NoRoom):
            on_no_room(self, event, out)
        elif isinstance(event, ManifestFate):
            on_manifest(self, event, now, out)
        elif isinstance(event, CancelRequested):
            on_cancel(self, event, now, out)
        elif isinstance(event, EndRecorded):
            on_end_recorded(self, event, out)
        elif isinstance(event, SavepointRequested):
            on_savepoint_requested(self, event, out)
        elif isinstance(event, SavepointNamed):
            on_savepoint_named(self, event, out)
            write_savepoints(self, settled_checkpoint(self), out)
            record_finished(self, out)
        elif isinstance(event, StopRequested):
            on_stop_requested(self, event, out)
        elif isinstance(event, RescaleRequested):
            on_rescale_requested(self, event, out)
        elif isinstance(event, SavepointWritten):
            on_savepoint_written(self, event, out)
            record_finished(self, out)
        else:
            self._handle_leadership(event, now, out)

    def _handle_leadership(self, event: JobEvent, now: float, out: list[JobCommand]) -> None:
        if isinstance(event, TakeOver):
            on_take_over(self, event, now, out)
        elif isinstance(event, Adopted):
            on_adopted(self, event, out)
        elif isinstance(event, Superseded):
            on_superseded(self, event, out)
        elif isinstance(event, LeadershipInDoubt):
            self.leadership_in_doubt = event.doubt

    def _advance(self, now: float, out: list[JobCommand]) -> None:
        """Whatever is due at this time in this state."""
        if self.status is JobStatus.CANCELLING:
            advance_cancelling(self, now, out)
            return
        if self.recording:
            return
        if self.status is JobStatus.ADOPTING:
            advance_adopting(self, now, out)
            if self.status.terminal:
                return
        if self.status in (JobStatus.CREATED, JobStatus.RESTARTING):
            try_deploy(self, now, out)
        elif self.status is JobStatus.RUNNING:
            watch_degraded(self, now, out)
            advance_checkpoints(self, now, out)
        if self.status is JobStatus.DEPLOYING:
            advance_deploying(self, now, out)
        if not self.status.terminal:
            keep_workers(self, now, out)
            look_for_strangers(self, now, out)
        out += self.outstanding.due(now)

    def _on_report(self, report: Report, now: float, out: list[JobCommand]) -> None:
        """Words of an unknown instance or another attempt count for nothing."""
        worker = self.workers.get(report.instance)
        if worker is None:
            return
        self.channels.note(report.instance, now)
        if isinstance(report.body, HelloReply):
            on_hello_reply(self, worker, report.attempt, report.body, out)
            return
        if isinstance(report.body, EpochRefused):
            on_epoch_refused(self, report.instance, report.body, out)
            return
        if worker.slot is None or report.attempt != self.attempt:
            return
        if self.status is JobStatus.ADOPTING:
            on_adopting_report(self, worker, worker.slot, report.body, out)
        if self.status not in (JobStatus.DEPLOYING, JobStatus.RUNNING):
            return
        slot, body = worker.slot, report.body
        if self.status is JobStatus.RUNNING:
            self.watch.heard(report.instance, now)
        if isinstance(body, Stats):
            self.stats[slot] = body
            self.watch.worked(report.instance, body.work, now)
            self.note_first_row(body.first_row_at_us)
        elif isinstance(body, Ready):
            on_ready(self, report.instance, slot, body, now, out)
        elif isinstance(body, Running):
            on_running(self, report.instance, slot, now, out)
        elif isinstance(body, Triggered):
            self.answered(report.instance, Trigger, body.checkpoint)
        elif isinstance(body, Draining):
            self.answered(report.instance, Drain)
        elif isinstance(body, Aborted):
            self.answered(report.instance, Abort, body.checkpoint)
        elif isinstance(body, Acknowledged):
            on_acknowledged(self, body, now, out)
        elif isinstance(body, CheckpointDeclined):
            on_declined(self, body, now, out)
        elif isinstance(body, Committed):
            on_committed(self, report.instance, slot, body, out)
        elif isinstance(body, SlotEnded):
            self.ended.add(slot)
        elif isinstance(body, SinkRows):
            out.append(Deliver(body.uid, report.instance, body.data))
        elif isinstance(body, PeerLost):
            on_peer_lost(self, worker, body, now, out)
        elif isinstance(body, TaskFailed):
            on_task_failed(self, body, now, out)
