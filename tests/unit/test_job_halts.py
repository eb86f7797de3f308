"""Stop and rescale in the job core: journaled before each step, undone by a failure before their checkpoint, by none after it."""

from __future__ import annotations

from test_job_core import Driver, graph

from flinkray.core.job_events import (
    CancelRequested,
    EndRecorded,
    JobStatus,
    NameSavepoint,
    RecordEnd,
    RescaleRequested,
    SavepointNamed,
    SavepointWritten,
    Settle,
    StopRequested,
    Tick,
    WorkerLost,
    WriteJournal,
    WriteSavepoint,
)
from flinkray.core.journal_records import Answered, Begun, Requested, RunEnded
from flinkray.core.messages import CheckpointDeclined, Committed, Deploy, Drain, Draining, Ready, Running, SlotEnded, Start, Trigger
from flinkray.core.outstanding import RESEND_S

STOP, DRAIN = StopRequested("r"), StopRequested("r", drain=True)


def running(interval_s: float | None = None) -> Driver:
    driver = Driver(interval_s=interval_s)
    driver.core.graph_at = graph
    driver.run()
    return driver


def journaled(commands: list, kind: type) -> list:
    return [command.entry for command in commands if isinstance(command, WriteJournal) and isinstance(command.entry, kind)]


def settled(commands: list) -> list[Settle]:
    return [command for command in commands if isinstance(command, Settle)]


def again(driver: Driver, at: float) -> list:
    """The next attempt comes up."""
    commands = driver.give(Tick(), at=at)
    commands += driver.all_report(Ready())
    return commands + driver.all_report(Running())


def test_a_stop_is_journaled_sources_stand_still_and_what_they_gave_is_committed() -> None:
    driver = running()
    commands = driver.give(STOP)
    kinds = [type(c.entry) if isinstance(c, WriteJournal) else type(c) for c in commands]
    assert kinds.index(Requested) < kinds.index(Begun)
    (_, trigger), _ = driver.sent(Trigger, commands)
    assert journaled(commands, Begun) == [Begun("r", trigger.body.checkpoint)]
    assert trigger.body.last
    assert driver.core.shown_status is JobStatus.STOPPING
    assert driver.give(STOP) == [], "the same request"
    driver.complete(1)
    assert RecordEnd(JobStatus.STOPPED) not in driver.report(0, Committed(1))
    assert RecordEnd(JobStatus.STOPPED) in driver.report(1, Committed(1))
    entries = [c.entry for c in driver.give(EndRecorded()) if isinstance(c, WriteJournal)]
    assert entries == [Answered("r"), RunEnded("STOPPED")]
    assert settled(driver.commands) == [Settle("r")]


def test_the_savepoint_is_named_before_anything_stands_still_and_made_of_the_last_checkpoint() -> None:
    driver = running()
    commands = driver.give(StopRequested("r", "s"))
    assert NameSavepoint("r", "s") in commands
    assert not driver.sent(Trigger, commands)
    assert driver.sent(Trigger, driver.give(SavepointNamed("r")))
    driver.complete(1)
    commands = driver.all_report(Committed(1))
    assert WriteSavepoint("r", "s", 1) in commands
    assert RecordEnd(JobStatus.STOPPED) not in commands
    assert RecordEnd(JobStatus.STOPPED) in driver.give(SavepointWritten("r"))
    driver.give(EndRecorded())
    assert settled(driver.commands) == [Settle("r", savepoint="s")]


def test_a_name_that_is_taken_fails_the_stop_and_the_job_runs_on() -> None:
    driver = running()
    driver.give(StopRequested("r", "s"))
    commands = driver.give(SavepointNamed("r", "taken", usage=True))
    assert settled(commands) == [Settle("r", "taken", usage=True)]
    assert driver.core.shown_status is JobStatus.RUNNING
    assert driver.sent(Trigger, driver.give(StopRequested("again")))


def test_a_worker_lost_before_the_checkpoint_is_complete_undoes_the_stop() -> None:
    driver = running()
    driver.give(STOP)
    commands = driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))
    (told,) = settled(commands)
    assert "runs on" in told.error
    assert journaled(commands, Answered)
    assert driver.sent(Start, again(driver, 5.0))[0][1].body.halted is False
    assert driver.core.shown_status is JobStatus.RUNNING


def test_a_worker_lost_after_it_only_repeats_the_commits() -> None:
    driver = running()
    driver.give(STOP)
    driver.complete(1)
    assert settled(driver.give(WorkerLost(driver.core.workers.assigned()[0].instance, "process", "killed"))) == []
    commands = again(driver, 5.0)
    assert driver.sent(Deploy, commands)[0][1].body.restored_checkpoint == 1
    assert all(command.body.halted for _, command in driver.sent(Start, commands))
    assert not driver.sent(Trigger, commands)
    assert RecordEnd(JobStatus.STOPPED) in driver.all_report(Committed(1))


def test_a_checkpoint_that_fails_undoes_the_stop_and_counts_as_no_restart() -> None:
    driver = running()
    driver.give(STOP)
    commands = driver.report(0, CheckpointDeclined(1, "the disk is full"))
    (told,) = settled(commands)
    assert "the disk is full" in told.error
    assert (driver.core.restarts, driver.core.halt) == (0, None)
    again(driver, 1.0)
    assert driver.core.status is JobStatus.RUNNING


def test_a_drain_goes_to_every_slot_until_it_is_answered_and_the_last_checkpoint_comes_when_all_have_ended() -> None:
    driver = running()
    commands = driver.give(DRAIN)
    assert journaled(commands, Begun) == [Begun("r", 0)]
    assert len(driver.sent(Drain, commands)) == 2
    driver.report(0, Draining())
    assert len(driver.sent(Drain, driver.give(Tick(), at=RESEND_S + 0.1))) == 1
    driver.report(1, Draining())
    driver.report(0, SlotEnded())
    (_, trigger), _ = driver.sent(Trigger, driver.report(1, SlotEnded()))
    assert not trigger.body.last, "they have ended: there is nothing to hold back"
    driver.complete(trigger.body.checkpoint)
    assert RecordEnd(JobStatus.STOPPED) in driver.all_report(Committed(trigger.body.checkpoint))


def test_a_rescale_goes_on_from_its_checkpoint_at_the_new_parallelism() -> None:
    driver = running()
    driver.give(RescaleRequested("r", 1))
    commands = driver.complete(1)
    ((_, deploy),) = driver.sent(Deploy, commands)
    assert (deploy.body.parallelism, deploy.body.restored_checkpoint, len(deploy.body.peers)) == (1, 1, 1)
    driver.report(0, Ready())
    assert settled(driver.report(0, Running())) == [Settle("r")]
    assert (driver.core.restarts, driver.core.workers.slots, driver.core.status) == (0, 1, JobStatus.RUNNING)


def test_what_cannot_be_is_refused_at_once() -> None:
    driver = running()
    assert settled(driver.give(RescaleRequested("a", 129)))[0].usage
    assert settled(driver.give(RescaleRequested("b", 2)))[0].usage
    driver.give(STOP)
    assert "being stopped already" in settled(driver.give(RescaleRequested("c", 1)))[0].error
    driver.give(CancelRequested())
    assert settled(driver.give(StopRequested("d")))[0].usage
