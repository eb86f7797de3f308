"""When the job core makes a checkpoint a savepoint: begun after the request, complete, everything up to it committed."""

from __future__ import annotations

from test_job_core import Driver

from flinkray.core.job_events import (
    CancelRequested,
    JobStatus,
    NameSavepoint,
    RecordEnd,
    SavepointNamed,
    SavepointRequested,
    SavepointWritten,
    Settle,
    Sweep,
    Tick,
    WorkerLost,
    WriteJournal,
    WriteSavepoint,
)
from flinkray.core.messages import Committed, Ready, Running, SlotEnded, Trigger

REQUEST, NAMED = SavepointRequested("r", "one"), SavepointNamed("r")


def running(interval_s: float | None = None, **settings: object) -> Driver:
    driver = Driver(interval_s=interval_s, **settings)
    driver.run()
    return driver


def writes(commands: list) -> list:
    return [command for command in commands if isinstance(command, WriteSavepoint)]


def test_a_checkpoint_is_triggered_at_once_and_written_when_every_slot_has_committed() -> None:
    driver = running()
    assert [c for c in driver.give(REQUEST) if not isinstance(c, WriteJournal)] == [NameSavepoint("r", "one")]
    assert driver.sent(Trigger, driver.give(NAMED))
    assert writes(driver.complete(1)) == []
    assert writes(driver.report(0, Committed(1))) == []
    commands = driver.report(1, Committed(1))
    assert writes(commands) == [WriteSavepoint("r", "one", 1)]
    kinds = [type(command) for command in commands]
    assert kinds.index(WriteSavepoint) < kinds.index(Sweep), "what is copied is known before anything is swept"
    driver.give(SavepointWritten("r"))
    assert writes(driver.give(Tick(), at=9.0)) == []


def test_a_checkpoint_that_was_under_way_does_not_do() -> None:
    driver = running(interval_s=1.0)
    driver.give(Tick(), at=2.0)
    driver.give(REQUEST)
    driver.give(NAMED)
    driver.complete(1)
    assert writes(driver.all_report(Committed(1))) == []
    driver.complete(2)
    assert writes(driver.all_report(Committed(2))) == [WriteSavepoint("r", "one", 2)]


def test_one_request_that_comes_twice_is_one_savepoint() -> None:
    driver = running()
    driver.give(REQUEST)
    assert driver.give(REQUEST) == []
    driver.give(NAMED)
    driver.complete(1)
    assert writes(driver.all_report(Committed(1))) == [WriteSavepoint("r", "one", 1)]
    assert writes(driver.give(REQUEST)) == []


def test_a_lost_worker_delays_it() -> None:
    driver = running()
    driver.give(REQUEST)
    driver.give(NAMED)
    lost = driver.core.workers.assigned()[0].instance
    driver.give(WorkerLost(lost, "process", "killed"))
    driver.give(Tick(), at=5.0)
    driver.all_report(Ready())
    driver.all_report(Running())
    assert driver.core.status is JobStatus.RUNNING
    driver.give(Tick(), at=6.0)
    pending = driver.core.checkpoints.pending
    assert pending is not None
    driver.complete(pending.checkpoint)
    assert writes(driver.all_report(Committed(pending.checkpoint))) == [WriteSavepoint("r", "one", pending.checkpoint)]


def test_a_job_at_its_end_is_finished_when_the_savepoint_is_written() -> None:
    driver = running()
    driver.all_report(SlotEnded())
    driver.give(REQUEST)
    driver.give(NAMED)
    driver.complete(1)
    commands = driver.all_report(Committed(1))
    finished = RecordEnd(JobStatus.FINISHED)
    assert writes(commands) == [WriteSavepoint("r", "one", 1)], "the final checkpoint holds everything, and none follows it"
    assert finished not in commands
    assert finished in driver.give(SavepointWritten("r"))


def test_without_storage_and_at_the_end_it_is_refused() -> None:
    assert running(store=False).give(REQUEST) == [Settle("r", "this job has no checkpoint storage, and so no savepoints", usage=True)]
    driver = running()
    driver.give(CancelRequested())
    assert driver.give(REQUEST) == [Settle("r", "the job is ending (CANCELLING)", usage=True)]
