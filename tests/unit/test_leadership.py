"""Who leads: elections over the journal, watches, leases, clocks that jump (rules 7 to 9), and random interleavings of three candidates."""

from __future__ import annotations

import random

import pytest

from flinkray.core.journal_calls import JournalAnswer, JournalCall, JournalSilent, ListSnapshots, PutSlot, Recorded
from flinkray.core.journal_records import Elected, RunEnded, WorkerAdded, decode_record, encode_record
from flinkray.core.journal_view import fold
from flinkray.core.leadership import TRANSITIONS, LeadershipState
from flinkray.core.leadership_events import (
    Append,
    Beat,
    Begin,
    Lead,
    LeaseChanged,
    Leave,
    StandDown,
    Superseded,
    Waited,
    Watch,
    WatchBroke,
)
from flinkray.runtime.journal import carry_out
from tests.unit.leadership_fakes import LEASE_S, History, Process

LEADING, STANDBY = LeadershipState.LEADING, LeadershipState.STANDBY


def pair() -> tuple[Process, Process]:
    """`a` leads, `b` stands by."""
    slots = History()
    a, b = Process("a", slots), Process("b", slots)
    a.begin()
    b.begin()
    assert (a.state, b.state) == (LEADING, STANDBY)
    return a, b


def test_the_first_candidate_leads_and_the_next_one_stands_by_and_watches_it() -> None:
    slots = History()
    a, b = Process("a", slots), Process("b", slots)
    (lead,) = a.begin()
    assert isinstance(lead, Lead)
    assert (lead.election, lead.view.election, lead.view.leader) == (1, 1, "a")
    assert b.begin() == [Watch(1, "a")]


def test_an_empty_journal_is_begun_by_the_first_process_only() -> None:
    """A standby, or a leader that Ray has restarted, meets one when the run is over and its journal was deleted."""
    late = Process("late", History())
    late.core.may_begin = False
    assert late.begin() == [Leave("")]
    assert late.state is LeadershipState.LEFT


def test_two_candidates_at_once_and_one_wins() -> None:
    slots = History()
    a, b = Process("a", slots), Process("b", slots)
    a.give(Begin())
    b.give(Begin())
    a.until(PutSlot)
    b.until(PutSlot)
    token = b.core.journal.token
    assert isinstance(a.all()[-1], Lead)
    assert b.all() == [Watch(1, "a")]
    assert b.core.journal.token != token, "a new candidacy has a new token"


def test_a_broken_watch_makes_the_standby_lead() -> None:
    a, b = pair()
    a.append(WorkerAdded("i", 0))
    b.give(WatchBroke(1))
    (lead,) = b.all()
    assert (lead.election, lead.view.workers) == (2, (("i", 0),))
    (down,) = a.append(WorkerAdded("j", 1))[:1]
    assert isinstance(down, StandDown)
    assert a.state is STANDBY
    assert a.watch == Watch(2, "b")


def test_a_watch_that_broke_on_an_earlier_leader_means_nothing() -> None:
    a, b = pair()
    b.give(WatchBroke(0))
    assert b.state is STANDBY
    assert a.state is LEADING


def test_a_leader_that_is_silent_for_a_lease_is_taken_over() -> None:
    a, b = pair()
    for _ in range(30):
        b.wait(0.1)
        b.give(Beat(1))
    assert b.state is STANDBY
    out = b.wait(LEASE_S + 0.2)
    assert any(isinstance(command, Lead) for command in out)
    del a


def test_a_beat_of_another_election_renews_nothing() -> None:
    _, b = pair()
    for _ in range(25):
        b.wait(0.1)
        b.give(Beat(7))
    assert b.state is LEADING


def test_a_standby_that_was_paused_itself_grants_a_new_lease() -> None:
    _, b = pair()
    b.give(Waited(), b.now + 60.0)
    b.all()
    assert b.state is STANDBY
    b.wait(LEASE_S + 0.2)
    assert b.state is LEADING


@pytest.mark.parametrize("jump", [-1000.0, 1000.0])
def test_a_clock_that_jumps_neither_ends_a_leader_nor_keeps_a_standby_from_trying(jump: float) -> None:
    a, b = pair()
    for process in (a, b):
        process.give(Waited(), process.now + jump)
        process.all()
    assert (a.state, b.state) == (LEADING, STANDBY)
    a.wait(1.0)
    assert a.core.lease_held
    b.wait(LEASE_S + 0.2)
    assert b.state is LEADING


def test_a_standby_whose_suspicion_proves_wrong_while_it_reads_stays_one() -> None:
    _, b = pair()
    for _ in range(19):
        b.wait(0.1)
    b.give(Waited(), b.now + 0.15)
    assert b.state is LeadershipState.READING
    b.give(Beat(1))
    b.all()
    assert b.state is STANDBY


def test_the_slot_of_an_election_lost_to_the_dead_leaders_last_record_is_read_and_the_next_one_won() -> None:
    a, b = pair()
    a.give(Append(WorkerAdded("i", 0)))
    b.give(WatchBroke(1))
    b.until(PutSlot)
    a.one()  # its put lands first, then it dies
    assert b.all() == [Watch(1, "a")], "it stands by again"
    b.give(WatchBroke(1))
    (lead,) = b.all()
    assert (lead.election, lead.view.workers) == (2, (("i", 0),))


def test_an_election_in_doubt_is_tried_in_the_same_slot() -> None:
    a, b = pair()
    b.give(WatchBroke(1))
    b.until(PutSlot)
    b.one(silent=True)
    assert b.calls[0].again
    (lead,) = b.all()
    assert lead.election == 2
    del a


def test_a_frozen_leader_that_wakes_up_finds_out_by_looking_and_holds_back_until_then() -> None:
    a, b = pair()
    b.give(WatchBroke(1))
    b.all()
    assert a.give(Waited(), a.now + 20.0) == [LeaseChanged(False)]
    out = a.all()
    assert isinstance(out[1], StandDown)
    assert a.watch == Watch(2, "b")


def test_a_leader_that_cannot_reach_the_journal_holds_back_and_goes_on_when_it_can() -> None:
    a, _ = pair()
    out: list[object] = []
    for _ in range(30):
        out += a.give(Waited(), a.now + 0.1)
        while a.calls and not a.calls[0].again:
            a.one(silent=True, happens=False)
    assert out == [LeaseChanged(False)]
    assert a.state is LEADING
    out = a.wait(1.0)
    assert out == [LeaseChanged(False), LeaseChanged(True)] or out == [LeaseChanged(True)]
    assert a.core.lease_held


def test_a_leader_refused_by_a_taskmanager_stands_down_and_is_elected_above_what_is_obeyed_there() -> None:
    a, _ = pair()
    out = a.give(Superseded(6, "a TaskManager obeys epoch 6"))
    assert isinstance(out[0], StandDown)
    (lead,) = [command for command in a.all() if isinstance(command, Lead)]
    assert lead.election == 7
    assert lead.token not in a.dead_tokens


def test_a_leader_whose_journal_went_back_in_time_is_elected_anew() -> None:
    a, _ = pair()
    for number in range(3):
        a.append(WorkerAdded(f"i{number}", number))
    a.slots.delete([0, 1, 2, 3])
    a.slots.first.clear()
    out = a.wait(1.0)
    assert isinstance(out[0], StandDown)
    (lead,) = [command for command in out if isinstance(command, Lead)]
    assert (lead.election, lead.view.workers) == (2, ())


def test_when_the_run_has_ended_everybody_leaves() -> None:
    a, b = pair()
    assert a.append(RunEnded("FINISHED"))[-1] == Leave("FINISHED")
    assert Leave("FINISHED") in b.wait(2.0)
    late = Process("c", a.slots)
    assert late.begin() == [Leave("FINISHED")]
    assert {process.state for process in (a, b, late)} == {LeadershipState.LEFT}
    assert late.give(Begin()) == []


def test_a_standby_follows_when_leaders_change_without_it() -> None:
    a, b = pair()
    c = Process("c", a.slots)
    c.begin()
    b.give(WatchBroke(1))
    b.all()
    assert Watch(2, "b") in c.wait(1.5)


def test_records_of_a_job_core_that_was_dropped_go_nowhere() -> None:
    a, b = pair()
    b.give(WatchBroke(1))
    b.all()
    a.append(WorkerAdded("i", 0))
    assert a.state is STANDBY
    assert a.append(WorkerAdded("j", 1)) == []
    assert all(decode_record(value).entry != WorkerAdded("j", 1) for value in a.slots.first.values())


def test_every_state_but_the_last_can_be_left() -> None:
    assert {state for state, after in TRANSITIONS.items() if not after} == {LeadershipState.LEFT}
    assert set(TRANSITIONS) == set(LeadershipState)


# -- random interleavings -----------------------------------------------------------------------------------------------


class Storm:
    """Three candidates with frequent snapshots; calls are lost, happen without an answer, or happen long after they were given up."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.slots = History()
        self.processes = [Process(name, self.slots, interval=3) for name in "abc"]
        self.floating: list[JournalCall] = []
        self.frozen: dict[str, int] = {}
        self.appended = 0
        for process in self.processes:
            process.give(Begin())

    def step(self, faults: bool) -> None:
        process = self.random.choice(self.processes)
        if self.floating and self.random.random() < 0.1:
            carry_out(self.slots, self.floating.pop(self.random.randrange(len(self.floating))).operation)
        if self.frozen.get(process.name, 0) > 0:
            self.frozen[process.name] -= 1
            return
        if faults and self.random.random() < 0.01:
            self.frozen[process.name] = self.random.randrange(60)
        elif process.calls and self.random.random() < 0.8:
            self._call(process, faults)
        elif process.state is LEADING and self.random.random() < 0.7:
            self.appended += 1
            process.give(Append(WorkerAdded(f"{process.name}{self.appended}", self.appended)))
        else:
            self._time(process, faults)

    def _call(self, process: Process, faults: bool) -> None:
        fate = self.random.random() if faults else 1.0
        if fate < 0.05:
            process.one(silent=True, happens=False)
        elif fate < 0.1:
            process.one(silent=True)
        elif fate < 0.15:
            call = process.calls.popleft()
            self.floating.append(call)
            process.give(JournalSilent(call.number))
        else:
            process.one()

    def _time(self, process: Process, faults: bool) -> None:
        jump = self.random.choice([-30.0, 30.0]) if faults and self.random.random() < 0.02 else 0.0
        watch = process.watch
        if process.state is STANDBY and watch is not None:
            leader = next(other for other in self.processes if other.name == watch.leader)
            alive = leader.lead is not None and leader.lead.election == watch.election and not self.frozen.get(leader.name)
            lies = faults and self.random.random() < 0.05
            process.give(Beat(watch.election) if alive and not lies else WatchBroke(watch.election))
        process.give(Waited(), process.now + 0.1 + jump)

    def check(self) -> None:
        winners = [(recorded.slot, process.name) for process in self.processes for recorded in process.recorded]
        assert len(winners) == len({slot for slot, _ in winners}), "two winners of one slot"
        for process in self.processes:
            for recorded in process.recorded:
                assert decode_record(self.slots.first[recorded.slot]).entry == recorded.entry
        elections = [decode_record(value).entry for _, value in sorted(self.slots.first.items())]
        numbers = [entry.election for entry in elections if isinstance(entry, Elected)]
        assert numbers == sorted(set(numbers)), "elections only grow"


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_a_slot_has_one_winner_and_a_deposed_leader_writes_nothing(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(1500):
        storm.step(faults=True)
    storm.check()
    storm.frozen.clear()
    for _ in range(2000):
        storm.step(faults=False)
    storm.check()
    (leader,) = [process for process in storm.processes if process.state is LEADING]
    leader.all()
    storm.check()
    truth = fold(decode_record(storm.slots.first[slot]) for slot in range(leader.core.view.slots))
    assert leader.core.view == truth
    assert len(storm.slots.snapshots()) >= 2
    assert truth.election > 1


def test_the_storm_reaches_what_it_is_for() -> None:
    """Else the seeds above would prove nothing: freed slots won by frozen writers, readers overtaken, elections lost."""
    reasons: list[str] = []
    late = 0
    for seed in range(20):
        storm = Storm(seed)
        for _ in range(1500):
            storm.step(faults=True)
        for process in storm.processes:
            reasons += [command.reason for command in process.out if isinstance(command, StandDown)]
        late += sum(storm.slots.get(slot) is not None for slot in range(max(0, sorted(storm.slots.snapshots())[-2])))
    assert any("won by another" in reason for reason in reasons)
    assert any("another leader has written" in reason for reason in reasons)
    assert late, "puts have landed at freed slots"


def test_the_checker_would_notice_a_writer_that_does_not_look_at_the_snapshots() -> None:
    slots = History()
    a, b = Process("a", slots, interval=3), Process("b", slots, interval=3)
    a.begin()
    a.give(Append(WorkerAdded("frozen", 0)))
    b.begin()
    b.give(WatchBroke(1))
    b.all()
    for number in range(9):
        b.append(WorkerAdded(f"b{number}", number))
    put = a.calls.popleft()
    assert isinstance(put.operation, PutSlot)
    assert carry_out(slots, put.operation) == put.operation.value, "it has won a slot that was freed"
    a.give(JournalAnswer(put.number, put.operation.value))
    blind = a.calls.popleft()
    assert isinstance(blind.operation, ListSnapshots)
    a.give(JournalAnswer(blind.number, ()))
    assert [command for command in a.out if isinstance(command, Recorded)], "told that there is no snapshot, it believes that it leads"
    assert slots.first[put.operation.slot] != encode_record(decode_record(put.operation.value)), "which the history contradicts"
