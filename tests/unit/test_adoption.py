"""A new leader over tasks that run (rules 10 and 11): what it goes on with, what it completes, aborts, restarts, refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flinkray.core.gate import JournalGate
from flinkray.core.job_adoption import ADOPT_TIMEOUT_S
from flinkray.core.job_attempts import WORKER_TIMEOUT_S
from flinkray.core.job_events import (
    AttachWorker,
    CancelRequested,
    Deliver,
    End,
    EndRecorded,
    JobStatus,
    KillWorker,
    LeadershipInDoubt,
    ManifestFate,
    Opened,
    RecordEnd,
    Say,
    Send,
    StandDown,
    Superseded,
    WorkerLost,
    WorkerStarted,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.job_state import TRANSITIONS
from flinkray.core.journal_records import AttemptBegun, CheckpointCompleted, Requested, RunEnded, StorageClaimed, WorkerAdded, WorkerGone
from flinkray.core.messages import (
    Abort,
    Acknowledged,
    CheckpointDeclined,
    Command,
    Counters,
    Deploy,
    EpochRefused,
    Hello,
    HelloReply,
    Notify,
    PeerLost,
    Report,
    Running,
    SinkRows,
    SlotEnded,
    Start,
    Stop,
    TaskFailed,
    TaskManagerState,
    Trigger,
)
from flinkray.core.outstanding import RESEND_S
from flinkray.core.workers import WorkerState
from flinkray.errors import DeposedError, StorageError
from flinkray.ids import Epoch
from tests.unit.adoption_fakes import Run

RUNNING, ADOPTING, RESTARTING = JobStatus.RUNNING, JobStatus.ADOPTING, JobStatus.RESTARTING


def assert_nothing_restarted(run: Run, attempt: int = 1) -> None:
    assert run.leader.status is RUNNING
    assert (run.leader.attempt, run.leader.restarts) == (attempt, 0)
    assert run.sent(Deploy) == run.sent(Start) == run.sent(Stop) == []
    assert run.journaled(AttemptBegun) == []
    assert run.killed() == []


# -- adoption without restart -------------------------------------------------------------------------------------------


def test_a_new_leader_goes_on_with_running_tasks_and_restarts_nothing() -> None:
    run = Run().begin()
    run.checkpoint(1)
    workers = sorted(run.task_managers)
    run.die()
    run.elect()
    assert_nothing_restarted(run)
    assert run.leader.epoch == Epoch(5, 2, "token 2")
    assert sorted(run.task_managers) == workers, "the spare is kept"
    assert [c.body.checkpoint for _, c in run.sent(Notify)] == [1, 1], "the newest complete checkpoint is told again"
    run.checkpoint(2)
    assert run.stored[-1].checkpoint == 2


def test_every_taskmanager_of_the_journal_is_reached_and_greeted_and_the_spare_is_one_again() -> None:
    run = Run().begin()
    run.die()
    run.elect()
    assert len([c for c in run.said if isinstance(c, AttachWorker)]) == 3
    assert len(run.sent(Hello)) == 3
    assert [worker.state for worker in run.leader.workers] == [WorkerState.ASSIGNED, WorkerState.ASSIGNED, WorkerState.IDLE]
    assert [worker.name for worker in run.leader.workers] == ["tm-0", "tm-1", "tm-2"]


def test_commands_of_the_old_leader_are_refused_and_it_is_told() -> None:
    run = Run().begin()
    old = run.die()
    run.elect()
    instance = run.view.attempt_workers[0]
    core = run.task_managers[instance]
    (effect,) = core.step(Command(old.epoch, 1, Trigger(99, None)))
    assert effect.report.body == EpochRefused(old.epoch, run.leader.epoch)
    assert run.leader.step(effect.report, run.now) == [], "the new one does not mind"
    (down,) = old.step(effect.report, run.now)
    assert isinstance(down, StandDown)
    assert down.election == 2
    assert old.step(WorkerLost(instance, "process", "it seems"), run.now) == [], "the old one says nothing more"


def test_hello_answered_twice_counts_once() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.die()
    run.elect()
    instance = run.view.attempt_workers[0]
    before = len(run.said)
    run.give(Report(instance, 1, run.task_managers[instance]._hello_reply(run.leader.epoch)))
    run.give(Report(instance, 7, HelloReply(run.leader.epoch, TaskManagerState.IDLE, None, False, 0, (), 0, 0)))
    assert run.said[before:] == []
    assert run.leader.status is RUNNING


def test_an_answer_to_an_earlier_leader_that_was_still_in_the_outbox_is_not_taken_for_the_own() -> None:
    run = Run().begin()
    run.die()
    run.elect(storage=False)
    instance = run.view.attempt_workers[0]
    stale = Report(instance, 1, run.task_managers[instance]._hello_reply(run.die().epoch))
    run.mute = {instance}
    run.elect()
    run.give(stale)
    assert run.leader.status is ADOPTING
    run.mute.clear()
    run.tick(run.now + RESEND_S + 0.1)
    assert_nothing_restarted(run)


def test_a_spare_that_never_answers_is_given_up_and_replaced() -> None:
    run = Run().begin()
    run.die()
    spare = next(instance for instance, _ in run.view.workers if instance not in run.view.attempt_workers)
    run.mute = {spare}
    run.elect()
    assert_nothing_restarted(run)
    run.tick(run.now + WORKER_TIMEOUT_S + 1.0)
    assert run.killed() == [spare]
    assert len(run.journaled(WorkerAdded)) == 1
    assert run.leader.restarts == 0


def test_hello_is_sent_again_until_it_is_answered() -> None:
    run = Run().begin()
    run.die()
    run.mute = {run.view.attempt_workers[1]}
    run.elect()
    assert run.leader.status is ADOPTING
    assert "tm-1" in run.leader.waiting_for
    run.mute.clear()
    again = run.tick(run.now + RESEND_S + 0.1)
    assert len(run.sent(Hello, again)) == 1
    assert_nothing_restarted(run)


def test_late_reports_of_an_unknown_instance_count_for_nothing() -> None:
    run = Run().begin()
    run.die()
    run.elect()
    run.give(Report("stranger", 1, TaskFailed(None, "x", "user", "boom")))
    run.give(Report("stranger", 9, HelloReply(run.leader.epoch, TaskManagerState.RUNNING, 0, False, 50, (), 50, 50)))
    assert_nothing_restarted(run)
    assert run.leader.checkpoints.next_id == 1


def test_counters_and_the_end_of_inputs_are_not_forgotten() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.observe(0, SlotEnded())
    run.die()
    run.observe(1, SlotEnded())
    run.elect()
    run.stats(0, 10)
    assert run.leader.counters().records_in == 10
    assert run.leader.ended == {0, 1}
    last = max(command.body.checkpoint for _, command in run.sent(Trigger))
    run.acknowledge(last, 0, 1)
    assert RecordEnd(JobStatus.FINISHED) in run.said


def test_counters_before_the_attempt_come_from_the_journal() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.give(WorkerLost(run.kill(0), "process", "killed"))
    assert run.leader.counters() == Counters(2, 2)
    run.die()
    run.stored = run.stored[-1:]
    run.elect()
    assert run.leader.counters() == Counters(2, 2)
    assert (run.leader.attempt, run.leader.restarts) == (2, 1)


def test_rows_and_words_that_come_while_the_new_leader_still_waits_are_not_lost() -> None:
    run = Run().begin()
    run.die()
    run.elect(storage=False)
    assert run.leader.status is ADOPTING
    assert Deliver("out", run.view.attempt_workers[0], b"rows") in run.observe(0, SinkRows("out", b"rows"))
    run.observe(1, SlotEnded())
    run.adopt()
    assert_nothing_restarted(run)
    assert run.leader.ended == {1}


def test_two_leaders_die_one_after_the_other_in_the_middle_of_taking_over() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.die()
    run.elect(storage=False)
    run.die()
    run.elect()
    assert_nothing_restarted(run)
    assert run.leader.epoch.election == 3


# -- checkpoints in flight ----------------------------------------------------------------------------------------------


def test_a_checkpoint_that_all_have_acknowledged_is_completed_by_the_new_leader() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.die()
    run.acknowledge(1, 0, 1, prepared=("t",))
    run.elect()
    (written,) = [c for c in run.said if isinstance(c, WriteManifest)]
    assert (written.content.checkpoint, written.content.attempt) == (1, 1)
    assert written.content.transactions == {"out": ("t", "t")}
    assert run.journaled(CheckpointCompleted) == [CheckpointCompleted(1, "log/1")]
    assert run.sent(Abort) == []
    assert [core.committed for core in map(run.task_manager, (0, 1))] == [1, 1]
    assert_nothing_restarted(run)


def test_a_checkpoint_that_some_have_acknowledged_is_aborted_at_once() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.acknowledge(1, 0)
    run.die()
    run.elect()
    assert [c.body.checkpoint for _, c in run.sent(Abort)] == [1, 1]
    assert_nothing_restarted(run)
    run.acknowledge(1, 1)
    assert run.stored == [], "what comes after the abort counts for nothing"
    run.checkpoint(2)


def test_a_checkpoint_that_was_only_triggered_is_aborted_and_its_id_is_not_used_again() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.die()
    run.elect()
    assert [c.body.checkpoint for _, c in run.sent(Abort)] == [1, 1]
    assert [c.body.checkpoint for _, c in run.sent(Trigger, run.tick(5.0))] == [2, 2]


def test_a_declined_checkpoint_is_aborted() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.die()
    run.acknowledge(1, 0)
    run.observe(1, CheckpointDeclined(1, "disk full"))
    run.elect()
    assert [c.body.checkpoint for _, c in run.sent(Abort)] == [1, 1]


def test_an_acknowledgement_that_comes_after_the_answer_to_hello_completes_it_too() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.acknowledge(1, 0)
    run.die()
    run.elect(storage=False)
    run.acknowledge(1, 1)
    run.adopt()
    assert [c.content.checkpoint for c in run.said if isinstance(c, WriteManifest)] == [1]


def test_a_manifest_in_doubt_when_the_leader_died_that_stands_is_the_newest_checkpoint_and_is_notified() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.storage_on = False
    run.acknowledge(1, 0, 1)
    (in_doubt,) = run.manifests
    run.die()
    run.stored.append(in_doubt.content)
    run.elect()
    assert [c for c in run.said if isinstance(c, WriteManifest)] == [], "it is complete already"
    assert [c.body.checkpoint for _, c in run.sent(Notify)] == [1, 1]
    assert run.sent(Abort) == []
    assert_nothing_restarted(run)


def test_a_manifest_in_doubt_when_the_leader_died_that_does_not_stand_is_written_anew() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.storage_on = False
    run.acknowledge(1, 0, 1)
    run.die()
    run.storage_on = True
    run.elect()
    assert [content.checkpoint for content in run.stored] == [1]
    assert_nothing_restarted(run)


def test_of_two_open_checkpoints_the_newest_whole_one_is_completed_and_the_other_aborted() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.acknowledge(1, 0)
    run.mute = set(run.task_managers)
    run.observe(1, CheckpointDeclined(1, "slow disk"))  # aborted, but nobody hears of it
    run.tick(3.5)
    run.die()
    run.mute = set()
    run.acknowledge(2, 0, 1)
    run.elect()
    assert [content.checkpoint for content in run.stored] == [2]
    assert {c.body.checkpoint for _, c in run.sent(Abort)} == {1}


def test_checkpoint_ids_start_above_everything_in_storage_journal_and_replies() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.die()
    run.elect(storage=False)
    run.adopt(next_checkpoint=40, next_attempt=30)
    assert run.leader.checkpoints.next_id == 40
    run.give(WorkerLost(run.kill(0), "process", "killed"))
    assert run.leader.attempt == 30
    run.die()
    core = run.task_manager(0)
    core.step(Command(run.task_manager(1).epoch, 30, Trigger(77, None)))
    run.elect()
    assert run.leader.checkpoints.next_id == 78


def test_a_spare_that_obeyed_an_attempt_nobody_knows_raises_the_next_attempt() -> None:
    run = Run().begin()
    spare = next(w for w in run.leader.workers if w.slot is None).instance
    run.task_managers[spare].step(Command(run.leader.epoch, 9, Stop()))
    run.die()
    run.elect()
    assert_nothing_restarted(run)
    run.give(WorkerLost(run.kill(0), "process", "killed"))
    assert run.leader.attempt == 10


# -- recovery -----------------------------------------------------------------------------------------------------------


def test_a_taskmanager_that_died_with_the_leader_costs_one_restart_from_the_newest_checkpoint() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.die()
    gone = run.kill(0)
    run.elect()
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 2, 1)
    assert all(command.body.restored_checkpoint == 1 for _, command in run.sent(Deploy))
    assert gone not in run.view.attempt_workers
    assert run.view.attempt_workers[1] in [instance for instance, _ in run.sent(Deploy)], "the survivor keeps its slot"
    (attempt,) = run.journaled(AttemptBegun)
    assert (attempt.attempt, attempt.restarts, attempt.restored) == (2, 1, 1)


def test_half_of_the_taskmanagers_gone_waits_for_new_ones() -> None:
    run = Run(spares=0).begin()
    run.die()
    run.kill(0)
    run.elect()
    assert len(run.journaled(WorkerAdded)) == 1
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 2, 1)


def test_all_taskmanagers_gone_starts_from_storage() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.die()
    run.task_managers.clear()
    run.elect()
    assert (run.leader.status, run.leader.attempt) == (RUNNING, 2)
    assert [command.body.restored_checkpoint for _, command in run.sent(Deploy)] == [1, 1]
    names = [worker.name for worker in run.leader.workers]
    assert names == ["tm-3", "tm-4", "tm-5"], "names never repeat"


def test_a_checkpoint_whole_at_the_survivors_and_at_one_that_died_after_answering_is_completed_before_the_rollback() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.die()
    run.acknowledge(1, 0, 1)
    run.elect(storage=False)
    run.give(WorkerLost(run.kill(0), "process", "killed"))
    run.adopt()
    assert [content.checkpoint for content in run.stored] == [1]
    assert [command.body.restored_checkpoint for _, command in run.sent(Deploy)] == [1, 1]


def test_one_that_does_not_answer_is_given_up_after_the_timeout() -> None:
    run = Run().begin()
    run.die()
    silent = run.view.attempt_workers[0]
    run.mute = {silent}
    run.elect()
    run.tick(run.now + ADOPT_TIMEOUT_S - 0.1)
    assert run.leader.status is ADOPTING
    run.tick(run.now + 0.2)
    assert silent in run.killed()
    gone = [index for index, c in enumerate(run.said) if c == WriteJournal(WorkerGone(silent))]
    killed = [index for index, c in enumerate(run.said) if c == KillWorker(silent)]
    assert gone[0] < killed[0], "the journal comes first: it tells a deposed leader so before it kills"
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 2, 1)


def test_a_leader_lost_in_the_middle_of_a_deployment_is_no_failure_of_the_attempt() -> None:
    run = Run().begin()
    run.checkpoint(1)
    lost = run.kill(0)
    run.mute = set(run.task_managers)  # nobody hears of the new attempt
    run.give(WorkerLost(lost, "process", "killed"))
    assert run.view.attempt == 2
    run.die()
    run.mute = set()
    run.elect()
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 3, 1), "one restart, of the TaskManager"


def test_a_leader_lost_after_some_were_ready_deploys_anew_without_counting() -> None:
    run = Run()
    run.elect(storage=False)
    run.mute = {"nobody"}
    run.give(Opened(5, None, (), 1, 1, 7))
    run.die()
    core = run.task_manager(1)
    core.step(Command(core.epoch or Epoch(5, 1, "token 1"), 1, Deploy(1, 5, 7, (), None, ())))
    core.state = TaskManagerState.READY
    run.elect()
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 2, 0)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [(TaskFailed(None, "m", "user", "boom"), "boom"), (PeerLost("other", "silence"), "silence")],
)
def test_a_failure_that_the_dead_leader_never_heard_of_ends_the_attempt(failure: TaskFailed | PeerLost, cause: str) -> None:
    run = Run().begin()
    run.die()
    run.observe(0, failure)
    run.elect()
    assert run.leader.restarts == 1
    assert cause in str(run.leader.error)
    run.tick(run.now + 1.0)
    assert (run.leader.status, run.leader.attempt) == (RUNNING, 2)


def test_tasks_that_were_stopped_for_a_restart_are_deployed_by_the_new_leader() -> None:
    run = Run().begin()
    run.observe(0, TaskFailed(None, "m", "user", "boom"))
    assert run.leader.status is RESTARTING
    run.die()
    run.elect()
    run.tick(run.now + 1.0)
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 2, 1)


def test_a_checkpoint_found_damaged_is_passed_over_by_later_leaders_too() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.checkpoint(2)
    run.observe(0, TaskFailed(None, "x", "damaged", "data/k2", object_name="data/k2"))
    run.tick(run.now + 5.0)
    assert run.view.passed_over == (2,)
    run.die()
    run.elect()
    assert_still_on(run, attempt=2, latest=1)
    assert run.leader.checkpoints.next_id == 3


def assert_still_on(run: Run, attempt: int, latest: int) -> None:
    assert (run.leader.status, run.leader.attempt, run.leader.checkpoints.latest) == (RUNNING, attempt, latest)
    assert run.sent(Deploy) == []


def test_a_newer_checkpoint_of_another_attempt_than_the_running_one_is_gone_back_to() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.die()
    run.stored.append(replace(run.stored[0], checkpoint=4, attempt=7))
    run.elect()
    assert [command.body.restored_checkpoint for _, command in run.sent(Deploy)] == [4, 4]


# -- workers ------------------------------------------------------------------------------------------------------------


def test_a_worker_of_no_slot_with_tasks_of_its_own_is_ended() -> None:
    run = Run().begin()
    spare = next(w for w in run.leader.workers if w.slot is None).instance
    run.task_managers[spare].step(Command(run.leader.epoch, 1, Deploy(0, 5, 7, (), None, ())))
    run.die()
    run.elect()
    assert spare in run.killed()
    assert WorkerGone(spare) in run.journaled(WorkerGone)
    assert len(run.journaled(WorkerAdded)) == 1, "a new spare is made"


def test_a_worker_that_was_journaled_and_never_made_is_made_up_for() -> None:
    run = Run().begin()
    run.die()
    spare = next(instance for instance, _ in run.view.workers if instance not in run.view.attempt_workers)
    del run.task_managers[spare]
    run.elect()
    assert len(run.journaled(WorkerAdded)) == 1
    assert run.leader.restarts == 0


def test_a_leader_that_died_before_storage_was_claimed_leaves_its_workers_to_the_next() -> None:
    run = Run()
    run.elect(storage=False)
    run.die()
    run.elect(storage=False)
    assert run.leader.status is JobStatus.CREATED
    assert run.sent(Hello) == [], "not before the epoch is whole"
    run.give(Opened(5, None, (), 1, 1, 7))
    assert run.journaled(StorageClaimed) == [StorageClaimed(5, 7)]
    assert run.journaled(WorkerAdded) == []
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 1, 0)


def test_a_leader_that_died_after_claiming_and_before_any_attempt_deploys_the_first() -> None:
    run = Run()
    run.elect(storage=False)
    run.die()
    run.records.append(replace(run.records[-1], entry=StorageClaimed(5, 7)))
    run.elect()
    assert (run.leader.status, run.leader.attempt, run.leader.restarts) == (RUNNING, 1, 0)


def test_a_worker_that_starts_for_nobody_is_ended() -> None:
    run = Run().begin()
    assert run.give(WorkerStarted("unheard", "at", 1, "n")) == [KillWorker("unheard")]


# -- storage ------------------------------------------------------------------------------------------------------------


def test_while_storage_is_away_the_new_leader_leads_the_tasks_and_says_what_it_waits_for() -> None:
    run = Run().begin()
    run.die()
    run.elect(storage=False)
    run.tick(run.now + 100.0)
    assert run.leader.status is ADOPTING
    assert "storage" in run.leader.waiting_for
    assert len(run.sent(Hello)) == 3
    assert run.sent(Trigger) == []
    run.adopt()
    assert_nothing_restarted(run)


def test_a_manifest_that_the_journal_knows_and_storage_lacks_fails_the_job() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.die()
    run.stored.clear()
    run.elect()
    assert run.leader.status is JobStatus.FAILED
    assert isinstance(run.leader.error, StorageError)
    assert "the journal knows checkpoint 1" in str(run.leader.error)


def test_a_checkpoint_that_a_taskmanager_was_notified_of_and_storage_lacks_fails_the_job() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.records = [record for record in run.records if not isinstance(record.entry, CheckpointCompleted)]
    run.die()
    run.stored.clear()
    run.elect()
    assert run.leader.status is JobStatus.FAILED
    assert "a TaskManager knows checkpoint 1" in str(run.leader.error)


def test_storage_ahead_of_the_journal_wins() -> None:
    run = Run().begin()
    run.checkpoint(1)
    run.tick(run.now + 1.5)
    run.storage_on = False
    run.acknowledge(2, 0, 1)
    run.die()
    run.stored.append(run.manifests[-1].content)
    run.elect()
    assert run.leader.checkpoints.latest == 2
    assert run.view.checkpoint == 1


@pytest.mark.parametrize("status", ["FINISHED", "CANCELLED"])
def test_a_run_whose_end_storage_has_recorded_is_over(status: str) -> None:
    run = Run().begin()
    run.die()
    run.elect(storage=False)
    run.adopt(ended=status)
    assert run.leader.status.value == status
    assert run.said[-1] == End(JobStatus(status), None)
    assert run.task_managers == {}
    assert run.journaled(RunEnded) == [RunEnded(status)]


def test_without_storage_a_last_checkpoint_that_was_cut_short_is_taken_anew() -> None:
    run = Run(store=False).begin()
    run.observe(0, SlotEnded())
    run.observe(1, SlotEnded())
    run.commits = False
    run.acknowledge(1, 0, 1)
    run.die()
    run.commits = True
    run.elect()
    triggers = {command.body.checkpoint for _, command in run.sent(Trigger)}
    assert triggers == {2}
    run.acknowledge(2, 0, 1)
    assert RecordEnd(JobStatus.FINISHED) in run.said


# -- requests, the end, fencing -----------------------------------------------------------------------------------------


def test_a_cancel_that_was_journaled_is_gone_on_with() -> None:
    run = Run().begin()
    run.give(CancelRequested("enough", "r1"))
    assert [type(c) for c in run.said if isinstance(c, WriteJournal | KillWorker)][-4:] == [
        WriteJournal,
        KillWorker,
        KillWorker,
        KillWorker,
    ]
    run.die()
    run.elect()
    assert run.leader.status is JobStatus.CANCELLING
    assert RecordEnd(JobStatus.CANCELLED) in run.said
    assert End(JobStatus.CANCELLED, None) in run.give(EndRecorded())
    assert run.view.ended == "CANCELLED"


def test_a_request_that_the_journal_knows_changes_nothing_a_second_time() -> None:
    run = Run().begin()
    run.records.append(replace(run.records[-1], entry=Requested("r9", "look", "")))
    run.die()
    run.elect()
    assert run.give(CancelRequested("again", "r9")) == []
    assert run.leader.status is RUNNING


def test_a_job_that_fails_is_journaled_before_its_processes_are_ended() -> None:
    run = Run().begin()
    run.give(ManifestFate(1, "complete"))
    commands = run.observe(0, TaskFailed(None, "in", "input", "bids.csv line 7"))
    kinds = [type(c) for c in commands if isinstance(c, WriteJournal | KillWorker)]
    assert kinds == [WriteJournal, KillWorker, KillWorker, KillWorker]
    assert run.view.ended == "FAILED"


def test_a_leader_that_storage_calls_deposed_asks_the_journal_before_it_ends_anybody() -> None:
    """It may be its own run's next leader that has the number: then the journal's slot is lost, and what waits for it is dropped."""
    run = Run().begin()
    run.storage_on = False
    run.tick(2.0)
    run.acknowledge(1, 0, 1)
    gate = JournalGate()
    (record,) = [c for c in gate.admit(run.leader.step(ManifestFate(1, "deposed", "log/9"), run.now)) if not isinstance(c, Say)]
    assert isinstance(record, WriteJournal)
    assert isinstance(record.entry, RunEnded)
    assert gate.waiting == 4, "three TaskManagers to end, and the job"


def test_a_superseded_leader_ends_nobodys_process() -> None:
    run = Run().begin()
    commands = run.give(Superseded("slot 9 was won by another"))
    assert [type(c) for c in commands] == [End]
    assert isinstance(run.leader.error, DeposedError)
    assert len(run.task_managers) == 3
    assert run.tick(100.0) == []


def test_a_leader_in_doubt_of_its_leadership_triggers_and_deploys_nothing() -> None:
    run = Run().begin()
    run.give(LeadershipInDoubt(True))
    assert run.sent(Trigger, run.tick(50.0)) == []
    run.give(WorkerLost(run.kill(0), "process", "killed"))
    assert "confirm" in run.leader.waiting_for
    assert run.view.attempt == 1
    run.give(LeadershipInDoubt(False))
    assert (run.leader.status, run.leader.attempt) == (RUNNING, 2)


def test_the_whole_life_of_an_adoption_passes_legal_transitions_only() -> None:
    assert RUNNING in TRANSITIONS[ADOPTING]
    assert ADOPTING not in TRANSITIONS[RUNNING]
    assert JobStatus.DEPLOYING not in TRANSITIONS[ADOPTING], "an attempt begins by way of RESTARTING or CREATED"


def test_a_taskmanager_that_says_it_is_ready_while_the_new_leader_decides_does_not_make_the_attempt_run() -> None:
    run = Run().begin()
    run.die()
    core = run.task_manager(0)
    core.state = TaskManagerState.READY
    run.elect(storage=False)
    run.give(Report(core.instance, 1, Running()))
    run.adopt()
    assert (run.leader.attempt, run.leader.restarts) == (2, 0)


def test_nothing_is_said_to_anybody_but_hello_before_storage_is_read() -> None:
    run = Run().begin()
    run.tick(2.0)
    run.die()
    run.acknowledge(1, 0, 1)
    run.elect(storage=False)
    bodies = {type(c.command.body) for c in run.said if isinstance(c, Send)}
    assert bodies == {Hello}
    assert not [c for c in run.said if isinstance(c, WriteManifest)]
    assert not any(isinstance(c, Say) and "FAILED" in c.text for c in run.said)
    assert isinstance(run.task_manager(0)._acknowledged[1], Acknowledged)
