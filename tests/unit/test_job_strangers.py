"""TaskManagers that the journal does not know: looked for by a leader that follows another, ended after the journal has heard of it."""

from __future__ import annotations

from flinkray.core.gate import JournalGate
from flinkray.core.job_events import FindWorkers, KillWorker, Tick, WorkersFound, WriteJournal
from flinkray.core.journal_records import WorkerGone
from tests.unit.adoption_fakes import Run

STRANGER = "of-a-leader-that-froze"


def looks(commands: list) -> int:
    return sum(isinstance(command, FindWorkers) for command in commands)


def test_the_first_leader_of_a_run_looks_for_nobody() -> None:
    run = Run().begin()
    run.give(Tick(), at=100.0)
    assert not looks(run.said)


def test_a_leader_that_follows_another_looks_at_once_and_now_and_then() -> None:
    run = Run().begin()
    run.die()
    run.elect()
    assert looks(run.said) == 1
    since = run.now
    run.give(Tick(), at=since + run.settings.search_s / 2)
    assert looks(run.said) == 1
    run.give(Tick(), at=since + run.settings.search_s)
    assert looks(run.said) == 2


def test_who_is_not_in_the_journal_is_ended_and_nobody_else() -> None:
    run = Run().begin()
    run.die()
    run.elect()
    known = [worker.instance for worker in run.leader.workers]
    commands = run.leader.step(WorkersFound((*known, STRANGER)), run.now)
    assert [command for command in commands if isinstance(command, KillWorker)] == [KillWorker(STRANGER)]
    assert run.leader.attempt == 1
    assert [worker.instance for worker in run.leader.workers] == known


def test_the_journal_hears_of_it_first() -> None:
    """A deposed leader knows its successor's TaskManagers as little: it loses the slot, and ends none."""
    run = Run().begin()
    run.die()
    run.elect()
    gate = JournalGate()
    admitted = gate.admit(run.leader.step(WorkersFound((STRANGER,)), run.now))
    assert WriteJournal(WorkerGone(STRANGER)) in admitted
    assert not [command for command in admitted if isinstance(command, KillWorker)]
    assert KillWorker(STRANGER) in gate.recorded()


def test_one_that_was_given_up_before_its_leader_died_is_found_and_ended() -> None:
    run = Run().begin()
    given_up = run.leader.workers.assigned()[0].instance
    run.records.append(type(run.records[0])(run.records[-1].token, WorkerGone(given_up)))
    run.die()
    run.elect()
    commands = run.leader.step(WorkersFound((given_up,)), run.now)
    assert KillWorker(given_up) in commands
