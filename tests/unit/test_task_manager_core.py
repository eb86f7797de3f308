"""The TaskManager's decisions: stale words are dropped, repeated ones are answered again and obeyed once."""

from __future__ import annotations

from flinkray.core.messages import (
    Abort,
    Aborted,
    Acknowledged,
    Command,
    Committed,
    Counters,
    Deploy,
    EpochRefused,
    Hello,
    HelloReply,
    Notify,
    Ready,
    Report,
    Running,
    SlotEnded,
    Start,
    Stop,
    TaskFailed,
    Trigger,
    Triggered,
)
from flinkray.core.task_manager import (
    AbandonCheckpoint,
    BuildTasks,
    Built,
    CloseTasks,
    CommitUpTo,
    InjectBarrier,
    Observed,
    StartTasks,
    TaskManagerCore,
    TaskManagerState,
    Tell,
)
from flinkray.ids import Epoch

EPOCH = Epoch(1, 1, "token")
DEPLOY = Deploy(0, 1, 7, (), None, ())


def command(body: object, attempt: int = 1, epoch: Epoch = EPOCH) -> Command:
    return Command(epoch, attempt, body)  # type: ignore[arg-type]


def running(attempt: int = 1) -> TaskManagerCore:
    core = TaskManagerCore("i")
    core.step(command(DEPLOY, attempt))
    core.step(Built(attempt))
    core.step(command(Start(), attempt))
    assert core.state is TaskManagerState.RUNNING
    return core


def told(effects: list) -> list:
    return [effect.report.body for effect in effects if isinstance(effect, Tell)]


def ack(checkpoint: int) -> Acknowledged:
    return Acknowledged(checkpoint, 0, (), {}, Counters())


def test_a_deploy_builds_then_answers_ready_and_start_runs() -> None:
    core = TaskManagerCore("i")
    assert core.step(command(DEPLOY)) == [CloseTasks(), BuildTasks(1, DEPLOY)]
    assert told(core.step(Built(1))) == [Ready()]
    assert core.step(command(Start())) == [StartTasks(), Tell(Report("i", 1, Running()))]


def test_a_repeated_deploy_of_one_attempt_is_obeyed_once_and_answered_again() -> None:
    core = TaskManagerCore("i")
    core.step(command(DEPLOY))
    assert core.step(command(DEPLOY)) == [], "still building: the answer comes when it is done"
    core.step(Built(1))
    assert told(core.step(command(DEPLOY))) == [Ready()]


def test_a_newer_attempt_supersedes_and_an_older_one_is_dropped() -> None:
    core = running(attempt=2)
    assert core.step(command(DEPLOY, attempt=1)) == []
    assert core.step(command(Stop(), attempt=1)) == []
    assert core.step(command(DEPLOY, attempt=3)) == [CloseTasks(), BuildTasks(3, DEPLOY)]


def test_a_built_of_a_superseded_attempt_counts_for_nothing() -> None:
    core = TaskManagerCore("i")
    core.step(command(DEPLOY, 1))
    core.step(command(DEPLOY, 2))
    assert core.step(Built(1)) == []
    assert core.state is TaskManagerState.DEPLOYING


def test_a_command_of_an_older_epoch_is_refused_and_an_equal_one_with_another_token_too_and_both_are_told() -> None:
    core = running()
    core.step(command(Trigger(1, None), epoch=Epoch(1, 2, "new")))
    for other in (EPOCH, Epoch(1, 2, "other")):
        effects = core.step(command(Trigger(2, None), epoch=other))
        assert len(effects) == 1
        assert told(effects) == [EpochRefused(other, Epoch(1, 2, "new"))]
    assert core.step(command(Trigger(2, None), epoch=Epoch(1, 2, "new"))) != []


def test_a_trigger_is_obeyed_once_and_its_acknowledgement_told_again() -> None:
    core = running()
    assert core.step(command(Trigger(1, None))) == [InjectBarrier(1, None, True), Tell(Report("i", 1, Triggered(1)))]
    assert told(core.step(command(Trigger(1, None)))) == [Triggered(1)]
    core.step(Observed(1, ack(1)))
    assert told(core.step(command(Trigger(1, None)))) == [Triggered(1), ack(1)]


def test_a_trigger_before_start_is_not_obeyed() -> None:
    core = TaskManagerCore("i")
    core.step(command(DEPLOY))
    core.step(Built(1))
    assert core.step(command(Trigger(1, None))) == []


def test_an_aborted_checkpoint_cannot_be_triggered_afterwards() -> None:
    core = running()
    assert core.step(command(Abort(1))) == [AbandonCheckpoint(1), Tell(Report("i", 1, Aborted(1)))]
    assert InjectBarrier(1, None, True) not in core.step(command(Trigger(1, None)))


def test_notify_is_cumulative_obeyed_once_and_answered_when_committed() -> None:
    core = running()
    assert core.step(command(Notify(3))) == [CommitUpTo(3)]
    assert core.step(command(Notify(3))) == [], "the commit goes on"
    assert core.step(command(Notify(2))) == []
    assert told(core.step(Observed(1, Committed(3)))) == [Committed(3)]
    assert told(core.step(command(Notify(3)))) == [Committed(3)]
    assert told(core.step(command(Notify(2)))) == [Committed(2)]
    core.check_invariants()


def test_a_failed_task_closes_the_slot_and_later_words_of_it_are_dropped() -> None:
    core = running()
    failure = TaskFailed(None, "x", "user", "boom")
    assert core.step(Observed(1, failure)) == [CloseTasks(), Tell(Report("i", 1, failure))]
    assert core.step(Observed(1, ack(1))) == []
    assert core.step(command(DEPLOY, 2)) == [CloseTasks(), BuildTasks(2, DEPLOY)]


def test_stop_leaves_it_idle_and_ready_for_another_attempt() -> None:
    core = running()
    assert core.step(command(Stop())) == [CloseTasks()]
    assert core.state is TaskManagerState.IDLE
    assert core.step(command(Stop())) == []
    assert core.step(command(DEPLOY, 2))[1] == BuildTasks(2, DEPLOY)


def test_hello_is_answered_with_all_that_a_new_leader_must_know() -> None:
    core = TaskManagerCore("i")
    assert told(core.step(command(Hello(), 0))) == [HelloReply(EPOCH, TaskManagerState.IDLE, None, False, 0, (), 0, 0)]
    core = running()
    core.step(command(Trigger(4, None)))
    core.step(Observed(1, ack(4)))
    core.step(Observed(1, SlotEnded()))
    (tell,) = core.step(command(Hello(), attempt=0, epoch=Epoch(1, 2, "new")))
    assert tell == Tell(Report("i", 1, HelloReply(Epoch(1, 2, "new"), TaskManagerState.RUNNING, 0, True, 4, (ack(4),), 0, 0)))
    assert core.epoch == Epoch(1, 2, "new"), "and its leader is obeyed from then on"


def test_hello_of_an_older_leader_is_refused() -> None:
    core = running()
    core.step(command(Hello(), epoch=Epoch(1, 3, "new")))
    assert told(core.step(command(Hello(), epoch=Epoch(1, 2, "old")))) == [EpochRefused(Epoch(1, 2, "old"), Epoch(1, 3, "new"))]


def test_a_failure_is_told_to_a_later_leader_until_the_next_deployment() -> None:
    core = running()
    failure = TaskFailed(None, "x", "user", "boom")
    core.step(Observed(1, failure))
    assert told(core.step(command(Hello())))[0].failure == failure
    core.step(command(DEPLOY, 2))
    assert told(core.step(command(Hello())))[0].failure is None


def test_an_acknowledgement_of_an_aborted_or_settled_checkpoint_is_neither_kept_nor_told() -> None:
    core = running()
    core.step(command(Abort(1)))
    assert core.step(Observed(1, ack(1))) == []
    core.step(command(Notify(2)))
    assert core.step(Observed(1, ack(2))) == []
    assert told(core.step(command(Hello())))[0].unsettled == ()
    core.check_invariants()
