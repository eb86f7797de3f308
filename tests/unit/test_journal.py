"""The journal: write-once slots, doubt, snapshots, compaction, and readers and writers that were overtaken by it (rule 7)."""

from __future__ import annotations

import pytest

from flinkray.core.journal import JournalState
from flinkray.core.journal_calls import (
    CaughtUp,
    Forget,
    GetSlot,
    GetSnapshot,
    JournalAnswer,
    ListSnapshots,
    Lost,
    PutSlot,
    PutSnapshot,
    Recorded,
)
from flinkray.core.journal_records import (
    AttemptBegun,
    CheckpointCompleted,
    Elected,
    JournalEntry,
    JournalFormatError,
    JournalRecord,
    Requested,
    RunEnded,
    StorageClaimed,
    WorkerAdded,
    WorkerGone,
    decode_record,
    encode_record,
)
from flinkray.core.journal_view import JournalView, decode_view, encode_view, fold
from flinkray.core.messages import Counters
from flinkray.errors import DeposedError, ProtocolError
from flinkray.runtime.journal import MemorySlots
from tests.journal_driver import Journal
from tests.unit.journal_fakes import Writer

ENTRIES: list[JournalEntry] = [
    Elected(1, "jm-a"),
    WorkerAdded("i0", 0),
    WorkerAdded("i1", 1),
    WorkerAdded("i2", 2),
    StorageClaimed(5, 77),
    AttemptBegun(3, ("i0", "i1"), 9, 0, Counters(10, 5)),
    CheckpointCompleted(10, "log/6"),
    WorkerGone("i1"),
    AttemptBegun(4, ("i0", "i2"), 10, 1, Counters(20, 10), (9,)),
    Requested("r1", "cancel", "enough"),
    RunEnded("CANCELLED"),
]


def records(token: str = "a") -> list[JournalRecord]:
    return [JournalRecord(token, entry) for entry in ENTRIES]


def leader(slots: MemorySlots, token: str = "a", interval: int = 4) -> Writer:
    writer = Writer(slots, token, interval)
    writer.lead()
    return writer


# -- records and what they mean -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_every_record_comes_back_as_it_was_written(entry: JournalEntry) -> None:
    record = JournalRecord("token", entry)
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[1]", b"null", b'{"token":"a","kind":"unheard","entry":{}}', b'{"token":"a","kind":"gone","entry":{"x":1}}']
)
def test_bytes_that_are_no_record_are_told(value: bytes) -> None:
    with pytest.raises(JournalFormatError):
        decode_record(value)
    with pytest.raises(JournalFormatError):
        decode_view(value)


def test_the_view_holds_what_a_new_leader_needs() -> None:
    view = fold(records())
    assert (view.election, view.leader, view.claim, view.hash_seed) == (1, "jm-a", 5, 77)
    assert view.workers == (("i0", 0), ("i2", 2))
    assert view.next_worker == 3
    assert (view.attempt, view.attempt_workers, view.restored, view.restarts, view.passed_over) == (4, ("i0", "i2"), 10, 1, (9,))
    assert view.counters == Counters(20, 10)
    assert (view.checkpoint, view.manifests) == (10, ((10, "log/6"),))
    assert view.requests == (Requested("r1", "cancel", "enough"),)
    assert view.ended == "CANCELLED"
    assert view.slots == len(ENTRIES)


def test_a_snapshot_at_any_slot_and_the_records_after_it_mean_the_same_as_all_records() -> None:
    for at in range(len(ENTRIES) + 1):
        snapshot = decode_view(encode_view(fold(records()[:at])))
        assert fold(records()[at:], snapshot) == fold(records())


def test_a_record_of_a_leader_that_was_never_elected_or_is_deposed_counts_for_nothing() -> None:
    old, new = records("a"), JournalRecord("b", Elected(2, "jm-b"))
    view = fold([*old[:6], new, JournalRecord("a", AttemptBegun(9, ("x",), None, 5)), JournalRecord("a", Elected(2, "jm-a"))])
    assert (view.election, view.leader, view.token, view.attempt) == (2, "jm-b", "b", 3)


# -- one writer ---------------------------------------------------------------------------------------------------------


def test_a_record_is_recorded_when_it_stands_and_no_snapshot_covers_it() -> None:
    writer = leader(MemorySlots())
    writer.take(writer.core.append(WorkerAdded("i", 0)))
    assert isinstance(writer.one().operation, PutSlot)
    assert writer.results == []
    assert isinstance(writer.one().operation, ListSnapshots)
    assert writer.results == [Recorded(WorkerAdded("i", 0), 1)]


def test_one_put_is_outstanding_at_most_and_what_is_wanted_meanwhile_follows_in_order() -> None:
    writer = leader(MemorySlots(), interval=100)
    for number in range(3):
        writer.take(writer.core.append(WorkerAdded(f"i{number}", number)))
        assert len(writer.calls) == 1
    assert [result.entry.number for result in writer.all()] == [0, 1, 2]


@pytest.mark.parametrize("happens", [True, False])
def test_in_doubt_the_same_slot_is_tried_until_it_is_occupied(happens: bool) -> None:
    slots = MemorySlots()
    writer = leader(slots)
    writer.take(writer.core.append(WorkerAdded("i", 0)))
    first = writer.one(silent=True, happens=happens)
    again = writer.calls[0]
    assert again.again
    assert again.operation == first.operation
    assert writer.all() == [Recorded(WorkerAdded("i", 0), 1)]
    assert slots.get(2) is None, "it was written once"


def test_an_answer_that_comes_after_the_call_was_given_up_counts_for_nothing() -> None:
    writer = leader(MemorySlots())
    writer.take(writer.core.append(WorkerAdded("i", 0)))
    put = writer.one(silent=True)
    stale = JournalAnswer(put.number, ())
    assert writer.core.step(stale) == []
    writer.one()
    assert writer.core.step(stale) == [], "an old list of snapshots is no confirmation"
    assert writer.core.state is JournalState.CONFIRMING


def test_damaged_bytes_in_a_slot_are_read_again() -> None:
    slots = MemorySlots()
    leader(slots)
    reader = Writer(slots, "b")
    reader.take(reader.core.read())
    reader.until(GetSlot)
    call = reader.calls.popleft()
    reader.take(reader.core.step(JournalAnswer(call.number, b"garbage")))
    assert reader.calls[0].again
    assert reader.all() == [CaughtUp()]
    assert reader.core.view.election == 1


def test_a_journal_is_read_before_it_is_written() -> None:
    with pytest.raises(ProtocolError):
        Writer(MemorySlots(), "a").append(Elected(1, "a"))


# -- two writers --------------------------------------------------------------------------------------------------------


def test_who_finds_another_record_in_its_slot_is_deposed_and_writes_nothing_more() -> None:
    slots = MemorySlots()
    old = leader(slots, "a")
    new = leader(slots, "b")
    old.take(old.core.append(WorkerAdded("i", 0)))
    old.take(old.core.append(WorkerAdded("j", 1)))
    (lost,) = old.all()
    assert isinstance(lost, Lost)
    assert not old.core.leads
    with pytest.raises(ProtocolError):
        old.core.append(WorkerAdded("k", 2))
    assert new.append(WorkerAdded("i", 0)) == [Recorded(WorkerAdded("i", 0), 2)]


def test_the_standby_wins_the_slot_while_the_old_leaders_put_is_in_flight() -> None:
    slots = MemorySlots()
    old = leader(slots, "a")
    old.take(old.core.append(AttemptBegun(1, ("i",), None, 0)))
    new = leader(slots, "b")
    assert isinstance(old.one(silent=True).operation, PutSlot), "it arrives, too late"
    assert isinstance(old.all()[0], Lost)
    assert new.core.view.attempt == 0
    assert new.append(AttemptBegun(1, ("j",), None, 0)) == [Recorded(AttemptBegun(1, ("j",), None, 0), 2)]


def test_the_old_leaders_put_lands_first_and_the_standby_reads_it_before_it_leads() -> None:
    slots = MemorySlots()
    old = leader(slots, "a")
    new = Writer(slots, "b")
    new.read()
    old.take(old.core.append(AttemptBegun(1, ("i",), None, 0)))
    old.one(silent=True)
    (lost,) = new.append(Elected(2, "b"))
    assert isinstance(lost, Lost)
    new.core.renew("b2")
    new.lead()
    assert (new.core.view.attempt, new.core.view.election) == (1, 2)


def test_a_leader_that_looks_finds_out_that_it_is_deposed() -> None:
    slots = MemorySlots()
    old = leader(slots, "a")
    assert old.read() == [CaughtUp()]
    leader(slots, "b")
    assert isinstance(old.read()[0], Lost)


def test_a_leader_finds_out_that_the_journal_went_back_in_time() -> None:
    slots = MemorySlots()
    writer = leader(slots, interval=100)
    for number in range(3):
        writer.append(WorkerAdded(f"i{number}", number))
    slots.delete([2, 3])
    (lost,) = writer.read()
    assert isinstance(lost, Lost)
    assert "back in time" in lost.reason
    writer.core.renew("a2")
    assert writer.read() == [CaughtUp()]
    assert writer.core.view.slots == 2, "what it believed is forgotten"


# -- snapshots and compaction -------------------------------------------------------------------------------------------


def filled(slots: MemorySlots, records_: int, token: str = "a") -> Writer:
    writer = leader(slots, token)
    for number in range(records_):
        writer.append(WorkerAdded(f"i{number}", number))
    return writer


def test_snapshots_are_written_and_only_slots_below_the_last_but_one_are_deleted() -> None:
    slots = MemorySlots()
    filled(slots, 14)
    assert slots.snapshots() == (8, 12)
    assert [slot for slot in range(20) if slots.get(slot) is not None] == list(range(8, 15))


def test_a_reader_begins_at_the_newest_snapshot() -> None:
    slots = MemorySlots()
    writer = filled(slots, 14)
    reader = Writer(slots, "b")
    reader.take(reader.core.read())
    operations = []
    while reader.calls:
        operations.append(reader.one().operation)
    assert operations[:3] == [ListSnapshots(), GetSnapshot(12), GetSlot(12)]
    assert reader.core.view.workers == writer.core.view.workers
    assert reader.core.view.slots == 15


def test_a_snapshot_that_cannot_be_written_holds_no_record_up_and_deletes_nothing() -> None:
    slots = MemorySlots()
    writer = leader(slots)
    for number in range(9):
        writer.take(writer.core.append(WorkerAdded(f"i{number}", number)))
        while writer.calls:
            lost = isinstance(writer.calls[0].operation, PutSnapshot)
            writer.one(silent=lost, happens=not lost)
    assert writer.core.view.slots == 10
    assert slots.snapshots() == ()
    assert all(slots.get(slot) is not None for slot in range(10))


def test_an_interrupted_compaction_is_made_up_for() -> None:
    slots = MemorySlots()
    writer = leader(slots)
    for number in range(20):
        writer.take(writer.core.append(WorkerAdded(f"i{number}", number)))
        while writer.calls:
            lost = isinstance(writer.calls[0].operation, Forget) and number < 15
            writer.one(silent=lost, happens=not lost)
    last_but_one = slots.snapshots()[-2]
    assert next(slot for slot in range(30) if slots.get(slot) is not None) == last_but_one
    assert len(slots.snapshots()) == 2


def test_a_put_of_a_frozen_leader_at_a_freed_slot_is_not_won() -> None:
    slots = MemorySlots()
    frozen = leader(slots, "a")
    frozen.take(frozen.core.append(AttemptBegun(1, ("x",), None, 0)))
    new = filled(slots, 14, "b")
    assert slots.get(1) is None, "freed"
    frozen.until(ListSnapshots)
    assert slots.get(1) is not None, "its put has succeeded"
    (lost,) = frozen.all()
    assert isinstance(lost, Lost)
    assert "snapshot covers" in lost.reason
    frozen.core.renew("a2")
    assert frozen.read() == [CaughtUp()]
    assert frozen.core.view == new.core.view


def test_a_candidate_whose_reading_was_overtaken_by_two_snapshots_wins_no_freed_slot() -> None:
    """A stale snapshot is never followed: slots after it may be gone, and look like the end of the journal."""
    slots = MemorySlots()
    writer = filled(slots, 4)
    slow = Writer(slots, "b")
    slow.take(slow.core.read())
    slow.until(GetSlot)
    for number in range(12):
        writer.append(WorkerAdded(f"j{number}", number))
    assert slots.get(4) is None, "the slot that it is about to read is gone"
    assert slow.all() == [CaughtUp()]
    assert slow.core.view == writer.core.view, "it began anew"


def test_a_candidate_that_read_before_two_snapshots_and_puts_after_them_is_told() -> None:
    slots = MemorySlots()
    writer = leader(slots)
    slow = Writer(slots, "b")
    slow.read()
    for number in range(14):
        writer.append(WorkerAdded(f"j{number}", number))
    assert slots.get(1) is None
    (lost,) = slow.append(Elected(2, "b"))
    assert isinstance(lost, Lost)
    slow.core.renew("b2")
    slow.lead()
    assert slow.core.view.workers == writer.core.view.workers
    assert isinstance(writer.append(WorkerAdded("k", 99))[0], Lost)


def test_a_reader_that_met_a_frozen_writers_record_at_a_freed_slot_does_not_believe_it() -> None:
    slots = MemorySlots()
    writer = leader(slots, "a")
    reader = Writer(slots, "r")
    reader.take(reader.core.read())
    reader.one()  # no snapshot yet: it will read from slot 0
    reader.one()
    for number in range(14):
        writer.append(WorkerAdded(f"j{number}", number))
    slots.put_if_absent(1, encode_record(JournalRecord("z", Elected(7, "zombie"))))
    assert reader.all() == [CaughtUp()]
    assert reader.core.view.election == 1
    assert reader.core.view == writer.core.view


def test_a_snapshot_that_goes_while_it_is_fetched_is_looked_for_anew() -> None:
    slots = MemorySlots()
    writer = filled(slots, 4)
    slow = Writer(slots, "b")
    slow.take(slow.core.read())
    slow.until(GetSnapshot)
    for number in range(12):
        writer.append(WorkerAdded(f"j{number}", number))
    assert slow.all() == [CaughtUp()]
    assert slow.core.view == writer.core.view


def test_a_snapshot_of_a_deposed_leader_that_lands_late_changes_nothing() -> None:
    slots = MemorySlots()
    writer = filled(slots, 2)
    writer.take(writer.core.append(WorkerAdded("last", 9)))
    writer.until(PutSnapshot)
    new = filled(slots, 14, "b")
    writer.one()
    assert slots.snapshots()[0] == 4, "it stands, below the others"
    reader = Writer(slots, "r")
    reader.read()
    assert reader.core.view == new.core.view


# -- the shell with one JobManager --------------------------------------------------------------------------------------


def test_a_run_with_one_jobmanager_writes_snapshots_and_frees_slots() -> None:
    slots = MemorySlots()
    journal = Journal(slots, "a", interval=10)
    assert journal.lead("jm-a") == 1
    for number in range(60):
        journal.append(CheckpointCompleted(number + 1, f"log/{number + 1}"))
    assert slots.snapshots() == (50, 60)
    assert slots.get(49) is None
    successor = Journal(slots, "b", interval=10)
    assert successor.lead("jm-b") == 2
    assert successor.view.checkpoint == 60
    with pytest.raises(DeposedError):
        journal.append(RunEnded("FINISHED"))


def test_an_empty_journal_has_an_empty_view() -> None:
    reader = Writer(MemorySlots(), "a")
    assert reader.read() == [CaughtUp()]
    assert reader.core.view == JournalView()
