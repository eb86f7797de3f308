"""What follows a journal record waits until it stands."""

from __future__ import annotations

from flinkray.core.gate import JournalGate
from flinkray.core.job_events import JobCommand, KillWorker, Say, Send, StandDown, WriteJournal
from flinkray.core.journal_records import WorkerGone
from flinkray.core.messages import Command, Start
from flinkray.ids import Epoch

GONE = WriteJournal(WorkerGone("i"))
SEND = Send("i", Command(Epoch(1, 1, "t"), 1, Start()))


def test_what_follows_a_record_waits_until_it_stands() -> None:
    gate = JournalGate()
    assert gate.admit([SEND, GONE, KillWorker("i")]) == [SEND, GONE]
    assert gate.admit([KillWorker("j")]) == []
    assert gate.recorded() == [KillWorker("i"), KillWorker("j")]
    assert gate.admit([SEND]) == [SEND]


def test_records_are_written_one_after_the_other() -> None:
    gate = JournalGate()
    other = WriteJournal(WorkerGone("j"))
    assert gate.admit([GONE, other, SEND]) == [GONE]
    assert gate.recorded() == [other]
    assert gate.recorded() == [SEND]


def test_what_touches_nothing_outside_does_not_wait() -> None:
    gate = JournalGate()
    gate.admit([GONE])
    at_once: list[JobCommand] = [Say("hello"), StandDown(2, "refused")]
    assert gate.admit([KillWorker("i"), *at_once]) == at_once


def test_what_is_sent_again_while_it_waits_goes_out_once() -> None:
    gate = JournalGate()
    gate.admit([GONE, SEND])
    assert gate.admit([SEND]) == []
    assert gate.recorded() == [SEND]


def test_a_deposed_leader_carries_out_nothing_that_waited() -> None:
    gate = JournalGate()
    gate.admit([GONE, KillWorker("i")])
    gate.clear()
    assert gate.recorded() == []
    assert gate.waiting == 0
