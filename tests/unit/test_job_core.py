"""The JobManager's decisions, driven by hand: deployment, checkpoints, failures, the end."""

from __future__ import annotations

import pytest

from flinkray.core.checkpoints import CheckpointPolicy
from flinkray.core.job import JobCore, JobSettings
from flinkray.core.job_attempts import CATCH_UP_S, SPARE_PATIENCE_S
from flinkray.core.job_events import (
    CancelRequested,
    CheckpointContent,
    CreateWorker,
    End,
    EndRecorded,
    JobStatus,
    KillWorker,
    ManifestFate,
    Opened,
    OpenFailed,
    RecordEnd,
    Say,
    Send,
    Sweep,
    Tick,
    WorkerLost,
    WorkerStarted,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.journal_records import AttemptBegun
from flinkray.core.messages import (
    Abort,
    Acknowledged,
    CheckpointDeclined,
    Committed,
    Counters,
    Deploy,
    Notify,
    Ready,
    Report,
    Running,
    SlotEnded,
    Start,
    StateRef,
    Stats,
    Stop,
    TaskFailed,
    Trigger,
)
from flinkray.core.outstanding import RESEND_S
from flinkray.errors import JobFailedError, StorageError
from flinkray.graph.job_graph import Forward, JobEdge, JobGraph, JobVertex, OperatorSpec

TOKEN = "token"


def graph(parallelism: int = 2) -> JobGraph:
    spec = [OperatorSpec(uid, uid, kind, {}, (), None) for uid, kind in (("in", "source"), ("out", "sink"))]
    vertices = tuple(JobVertex(index, (operator,), parallelism) for index, operator in enumerate(spec))
    return JobGraph(vertices, (JobEdge(0, 0, 1, 0, Forward(), None),), 128, "print")


class Driver:
    """Plays the shell and the TaskManagers."""

    def __init__(self, spares: int = 1, interval_s: float | None = 1.0, store: bool = True, **settings: object) -> None:
        policy = CheckpointPolicy(interval_s, 0.0, 60.0, store)
        self.core = JobCore(graph(), JobSettings("job", spares, policy, 0.1, 10.0, None, **settings), TOKEN, frozenset({"out"}))
        self.now = 0.0
        self.commands: list = []

    def give(self, event: object, at: float | None = None) -> list:
        self.now = self.now if at is None else at
        commands = self.core.step(event, self.now)
        self.core.check_invariants()
        self.commands += commands
        return commands

    def sent(self, kind: type, commands: list) -> list:
        return [(c.instance, c.command) for c in commands if isinstance(c, Send) and isinstance(c.command.body, kind)]

    def report(self, slot: int, body: object) -> list:
        worker = self.core.workers.assigned()[slot]
        return self.give(Report(worker.instance, self.core.attempt, body))

    def start_workers(self) -> list:
        commands = self.give(Tick())
        for command in [c for c in self.commands if isinstance(c, CreateWorker)]:
            commands += self.give(WorkerStarted(command.instance, f"at {command.name}", 1, "n"))
        return commands

    def run(self, restore: CheckpointContent | None = None, older: tuple = ()) -> None:
        self.give(Opened(5, restore, older, (restore.checkpoint if restore else 0) + 1, 1, 7))
        self.start_workers()
        self.all_report(Ready())
        self.all_report(Running())
        assert self.core.status is JobStatus.RUNNING

    def all_report(self, body: object) -> list:
        out = []
        for slot in range(2):
            out += self.report(slot, body)
        return out

    def complete(self, checkpoint: int, prepared: tuple = ()) -> list:
        for slot in range(2):
            self.report(slot, Acknowledged(checkpoint, slot, (), {"out": prepared}, Counters(1, 1)))
        return self.give(ManifestFate(checkpoint, "complete"))


def content(checkpoint: int, prepared: tuple = ()) -> CheckpointContent:
    state = StateRef("in", 0, "splits", "list", 0, 64, (f"chunk {checkpoint}",))
    return CheckpointContent(checkpoint, 1, (state,), {"out": prepared}, Counters(10, 5))


def test_nothing_is_deployed_before_storage_is_claimed() -> None:
    driver = Driver()
    assert not driver.sent(Deploy, driver.start_workers())
    assert "claimed" in driver.core.waiting_for
    assert len(driver.sent(Deploy, driver.give(Opened(5, None, (), 1, 1, 7)))) == 2


@pytest.mark.parametrize("late", [False, True])
def test_the_first_deployment_waits_a_moment_for_the_spare_and_not_longer(late: bool) -> None:
    driver = Driver()
    driver.give(Opened(5, None, (), 1, 1, 7))
    *first, spare = [c for c in driver.commands if isinstance(c, CreateWorker)]
    for command in first:
        driver.give(WorkerStarted(command.instance, "somewhere", 1, "n"))
    assert driver.core.status is JobStatus.CREATED
    assert "spare" in driver.core.waiting_for
    if late:
        driver.give(Tick(), SPARE_PATIENCE_S + 0.1)
    else:
        driver.give(WorkerStarted(spare.instance, "somewhere", 1, "n"))
    assert driver.core.status is JobStatus.DEPLOYING


def test_an_attempt_is_journaled_before_its_deployment() -> None:
    driver = Driver()
    driver.give(Opened(5, None, (), 1, 1, 7))
    driver.start_workers()
    wanted = [
        c
        for c in driver.commands
        if (isinstance(c, WriteJournal) and isinstance(c.entry, AttemptBegun))
        or (isinstance(c, Send) and isinstance(c.command.body, Deploy))
    ]
    assert [type(c) for c in wanted] == [WriteJournal, Send, Send]


def test_start_goes_out_after_ready_from_all_and_no_trigger_before_all_run() -> None:
    driver = Driver()
    driver.give(Opened(5, None, (), 1, 1, 7))
    driver.start_workers()
    assert not driver.sent(Start, driver.report(0, Ready()))
    assert len(driver.sent(Start, driver.report(1, Ready()))) == 2
    driver.report(0, Running())
    assert not driver.sent(Trigger, driver.give(Tick(), at=50.0))
    driver.report(1, Running())
    assert driver.core.status is JobStatus.RUNNING
    assert driver.sent(Trigger, driver.give(Tick(), at=52.0))


def test_an_unanswered_command_is_sent_again_and_an_answered_one_is_not() -> None:
    driver = Driver()
    driver.give(Opened(5, None, (), 1, 1, 7))
    driver.start_workers()
    driver.report(0, Ready())
    again = driver.sent(Deploy, driver.give(Tick(), at=RESEND_S + 0.1))
    assert [instance for instance, _ in again] == [driver.core.workers.assigned()[1].instance]


def test_a_report_of_an_unknown_instance_or_an_old_attempt_counts_for_nothing() -> None:
    driver = Driver()
    driver.run()
    driver.give(Report("stranger", 1, TaskFailed(None, "x", "user", "boom")))
    driver.give(Report(driver.core.workers.assigned()[0].instance, 0, TaskFailed(None, "x", "user", "boom")))
    assert driver.core.status is JobStatus.RUNNING


def test_a_checkpoint_is_complete_when_its_manifest_stands_and_only_then_commits_go_out() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    driver.report(0, Acknowledged(1, 0, (), {}, Counters()))
    written = driver.report(1, Acknowledged(1, 1, (), {}, Counters()))
    assert [c for c in written if isinstance(c, WriteManifest)]
    assert not driver.sent(Notify, written)
    assert len(driver.sent(Notify, driver.give(ManifestFate(1, "complete")))) == 2
    assert driver.core.checkpoints.completed == 1


def test_only_the_retained_checkpoints_are_kept_in_mind() -> None:
    driver = Driver()
    driver.run()
    for number in range(1, 7):
        driver.give(Tick(), at=2.0 * number)
        driver.complete(number)
        for slot in range(2):
            driver.report(slot, Committed(number))
    assert sorted(driver.core.contents) == [4, 5, 6]


def test_notify_is_repeated_until_every_slot_has_committed_and_then_old_objects_are_swept() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    driver.complete(1)
    driver.report(0, Committed(1))
    again = driver.sent(Notify, driver.give(Tick(), at=2.5 + RESEND_S))
    assert [instance for instance, _ in again] == [driver.core.workers.assigned()[1].instance]
    assert any(isinstance(c, Sweep) for c in driver.report(1, Committed(1)))


def test_a_sweep_spares_the_older_checkpoint_that_was_chosen_to_restore_until_newer_ones_replace_it() -> None:
    """Simulated seed 768 of two-inputs: the sweep kept the newest of the log, and deleted what the job stood on."""
    driver = Driver()
    chosen, before = (CheckpointContent(number, 1, (), {}, Counters()) for number in (5, 4))
    driver.give(Opened(11, chosen, (before,), 10, 2, 7))  # 6 to 9 stand in the log, too
    driver.start_workers()
    driver.all_report(Ready())
    driver.all_report(Running())
    swept = [c for slot in range(2) for c in driver.report(slot, Committed(5)) if isinstance(c, Sweep)]
    assert swept == [Sweep(5, None, None, (4, 5))]
    for number in (10, 11, 12):
        driver.give(Tick(), at=2.0 * number)
        driver.complete(number)
        swept = [c for slot in range(2) for c in driver.report(slot, Committed(number)) if isinstance(c, Sweep)]
    assert swept == [Sweep(12, None, None, (10, 11, 12))]


def test_a_declined_checkpoint_is_aborted_everywhere_and_the_job_goes_on() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    aborted = driver.report(0, CheckpointDeclined(1, "disk full"))
    assert len(driver.sent(Abort, aborted)) == 2
    assert driver.core.status is JobStatus.RUNNING
    assert driver.core.checkpoints.failed == 1
    assert driver.sent(Trigger, driver.give(Tick(), at=4.0))[0][1].body.checkpoint == 2, "ids never repeat"


def test_a_voided_manifest_fails_the_checkpoint_only() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    for slot in range(2):
        driver.report(slot, Acknowledged(1, slot, (), {}, Counters()))
    assert len(driver.sent(Abort, driver.give(ManifestFate(1, "failed", "voided")))) == 2
    assert driver.core.checkpoints.latest is None


def test_a_deposed_owner_ends_failed() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    for slot in range(2):
        driver.report(slot, Acknowledged(1, slot, (), {}, Counters()))
    commands = driver.give(ManifestFate(1, "deposed", "log/9"))
    assert driver.core.status is JobStatus.FAILED
    assert not driver.sent(Notify, commands)


def test_a_lost_worker_is_replaced_by_the_spare_at_once_from_the_latest_checkpoint() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    driver.complete(1)
    lost = driver.core.workers.assigned()[0].instance
    deployed = driver.sent(Deploy, driver.give(WorkerLost(lost, "process", "killed")))
    assert len(deployed) == 2
    assert all(c.body.restored_checkpoint == 1 and c.attempt == 2 for _, c in deployed)
    assert lost not in [instance for instance, _ in deployed]
    assert driver.core.restarts == 1


def test_the_next_spare_is_made_when_the_restarted_attempt_has_caught_up() -> None:
    driver = Driver()
    driver.run()
    made = [c for c in driver.commands if isinstance(c, CreateWorker)]
    driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"), 10.0)
    driver.all_report(Ready())
    driver.all_report(Running())
    assert driver.core.status is JobStatus.RUNNING
    driver.give(Tick(), 10.0 + CATCH_UP_S / 2)
    assert [c for c in driver.commands if isinstance(c, CreateWorker)] == made
    driver.give(Tick(), 10.0 + CATCH_UP_S)
    assert len([c for c in driver.commands if isinstance(c, CreateWorker)]) == len(made) + 1


def test_what_was_restored_and_from_where_is_said() -> None:
    driver = Driver()
    driver.run()
    driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))
    driver.report(0, Ready(0, 2_000_000))
    driver.report(1, Ready(3_000_000, 0))
    driver.all_report(Running())
    said = [command.text for command in driver.commands if isinstance(command, Say)]
    assert any("3.0 MB from memory, 2.0 MB from storage" in text for text in said)


def test_survivors_keep_their_slots() -> None:
    driver = Driver()
    driver.run()
    first, second = driver.core.workers.assigned()
    driver.give(WorkerLost(first.instance, "process", "killed"))
    assert driver.core.workers.assigned()[1].instance == second.instance


def test_without_a_spare_the_job_waits_for_a_new_worker_and_says_so() -> None:
    driver = Driver(spares=0)
    driver.run()
    commands = driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))
    assert [c for c in commands if isinstance(c, CreateWorker)]
    assert "TaskManagers" in driver.core.waiting_for


def test_losing_the_spare_restarts_nothing_and_makes_a_new_one() -> None:
    driver = Driver()
    driver.run()
    spare = next(w for w in driver.core.workers if w.slot is None)
    commands = driver.give(WorkerLost(spare.instance, "process", "killed"))
    assert driver.core.restarts == 0
    assert [c for c in commands if isinstance(c, CreateWorker)]


def test_a_manifest_in_doubt_is_resolved_before_the_rollback() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    for slot in range(2):
        driver.report(slot, Acknowledged(1, slot, (), {}, Counters()))
    commands = driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))
    assert not driver.sent(Deploy, commands)
    assert "manifest" in driver.core.waiting_for
    deployed = driver.sent(Deploy, driver.give(ManifestFate(1, "complete")))
    assert [c.body.restored_checkpoint for _, c in deployed] == [1, 1]


def test_user_code_that_fails_three_times_without_progress_fails_the_job() -> None:
    driver = Driver()
    driver.run()
    for round_ in range(3):
        assert driver.core.status is JobStatus.RUNNING
        driver.report(0, TaskFailed(None, "m", "user", "boom"))
        driver.give(Tick(), at=driver.now + 5.0)
        if round_ < 2:
            driver.all_report(Ready())
            driver.all_report(Running())
    assert driver.core.status is JobStatus.FAILED
    assert "boom" in str(driver.core.error)


def test_a_malformed_input_is_not_tried_again() -> None:
    driver = Driver()
    driver.run()
    driver.report(0, TaskFailed(None, "in", "input", "bids.csv line 7"))
    assert driver.core.status is JobStatus.FAILED


def test_survivors_are_stopped_while_the_restart_delay_lasts() -> None:
    driver = Driver()
    driver.run()
    commands = driver.report(0, TaskFailed(None, "m", "user", "boom"))
    assert len(driver.sent(Stop, commands)) == 2
    assert driver.core.status is JobStatus.RESTARTING


def test_at_the_end_of_all_inputs_a_final_checkpoint_is_taken_and_committed_before_finished() -> None:
    driver = Driver(interval_s=None)
    driver.run()
    driver.report(0, SlotEnded())
    triggers = driver.sent(Trigger, driver.report(1, SlotEnded()))
    assert triggers
    driver.complete(1, ("t",))
    assert driver.core.status is JobStatus.RUNNING
    driver.report(0, Committed(1))
    assert RecordEnd(JobStatus.FINISHED) in driver.report(1, Committed(1))
    assert End(JobStatus.FINISHED, None) in driver.give(EndRecorded())


def test_a_final_checkpoint_that_fails_is_tried_again() -> None:
    driver = Driver(interval_s=None)
    driver.run()
    driver.all_report(SlotEnded())
    driver.report(0, CheckpointDeclined(1, "storage is away"))
    assert driver.sent(Trigger, driver.give(Tick(), at=driver.now + 5.0))


def test_a_worker_lost_between_the_last_manifest_and_its_commits_restarts_from_it() -> None:
    driver = Driver(interval_s=None)
    driver.run()
    driver.all_report(SlotEnded())
    driver.complete(1, ("t",))
    driver.report(0, Committed(1))
    deployed = driver.sent(Deploy, driver.give(WorkerLost(driver.core.workers.assigned()[1].instance, "process", "killed")))
    assert [c.body.restored_checkpoint for _, c in deployed] == [1, 1]


def test_without_storage_the_final_checkpoint_only_prepares_the_sinks() -> None:
    driver = Driver(store=False)
    driver.run()
    assert not driver.sent(Trigger, driver.give(Tick(), at=100.0))
    driver.report(0, SlotEnded())
    assert [c.body.store for _, c in driver.sent(Trigger, driver.report(1, SlotEnded()))] == [False, False]
    driver.report(0, Acknowledged(1, 0, (), {}, Counters()))
    assert driver.sent(Notify, driver.report(1, Acknowledged(1, 1, (), {}, Counters())))


def test_cancel_ends_workers_and_records_the_end() -> None:
    driver = Driver()
    driver.run()
    commands = driver.give(CancelRequested())
    assert len([c for c in commands if isinstance(c, KillWorker)]) == 3
    assert RecordEnd(JobStatus.CANCELLED) in commands
    assert End(JobStatus.CANCELLED, None) in driver.give(EndRecorded())


def test_storage_that_cannot_be_opened_fails_the_job_and_leaves_nothing_running() -> None:
    driver = Driver()
    driver.start_workers()
    commands = driver.give(OpenFailed("wrong credentials", StorageError("wrong credentials")))
    assert driver.core.status is JobStatus.FAILED
    assert len([c for c in commands if isinstance(c, KillWorker)]) == 3


def test_a_damaged_checkpoint_falls_back_when_nothing_after_the_older_one_was_committed() -> None:
    driver = Driver()
    driver.run(content(4), (content(3),))
    driver.report(0, TaskFailed(None, "x", "damaged", "data/c1-k4", object_name="data/c1-k4"))
    driver.give(Tick(), at=20.0)
    assert driver.core.checkpoints.latest == 3
    assert driver.core.attempt == 2


def test_a_damaged_checkpoint_does_not_fall_back_over_committed_rows() -> None:
    driver = Driver()
    driver.run(content(4, ("t",)), (content(3),))
    driver.report(0, TaskFailed(None, "x", "damaged", "object data/c1-k4 is damaged", object_name="data/c1-k4"))
    assert driver.core.status is JobStatus.FAILED
    assert isinstance(driver.core.error, JobFailedError)
    assert "--allow-repeated-output" in str(driver.core.error)
    assert "data/c1-k4" in str(driver.core.error)


def test_repeated_output_is_accepted_when_asked_for() -> None:
    driver = Driver(allow_repeated_output=True)
    driver.run(content(4, ("t",)), (content(3),))
    driver.report(0, TaskFailed(None, "x", "damaged", "data/c1-k4", object_name="data/c1-k4"))
    assert driver.core.checkpoints.latest == 3


def test_counters_go_back_to_the_checkpoint_when_an_attempt_fails() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    driver.complete(1)
    driver.report(0, Stats(Counters(100, 50), 0))
    assert driver.core.counters().records_in == 100
    driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))
    assert driver.core.counters().records_in == 2, "one row of each slot belongs to checkpoint 1"


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_budget_of_restarts_is_kept(attempts: int) -> None:
    driver = Driver()
    driver.core.policy.attempts = attempts
    driver.run()
    for _ in range(attempts):
        driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))
        driver.start_workers()
        driver.all_report(Ready())
        driver.all_report(Running())
    driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))
    assert driver.core.status is JobStatus.FAILED
