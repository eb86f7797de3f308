"""TaskManagers that fall behind their peers: who is told from a job that is slow by itself, and how one is left without a row read again."""

from __future__ import annotations

import pytest

from flinkray.core.degraded import SAMPLES, WINDOW_S, DegradedPolicy, DegradedWatch
from flinkray.core.job_events import JobStatus, KillWorker, ManifestFate, Say, WorkerLost, WriteJournal
from flinkray.core.journal_records import Answered, Begun, Requested
from flinkray.core.messages import Acknowledged, CheckpointDeclined, Counters, Deploy, Stats, Trigger, Work
from tests.unit.test_job_channels import Hosts, OneHost

POLICY = DegradedPolicy()
MIGRATES = DegradedPolicy(migrates=True)
LATE_REPORTS = POLICY.late_reports


class Watching:
    """Three TaskManagers, heard every half second; `cost`: seconds for a row."""

    def __init__(self, names: str = "abc") -> None:
        self.watch, self.now = DegradedWatch(POLICY), 0.0
        self.costs = dict.fromkeys(names, 1e-5)
        self.rates = dict.fromkeys(names, 40_000.0)
        self.silent: set[str] = set()
        self.done = {name: Work(1, 0.0, 0) for name in names}
        self.watch.begin()

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            self.now += 0.5
            for name, before in self.done.items():
                rows = round(0.5 * self.rates[name])
                self.done[name] = Work(1, before.busy_s + rows * self.costs[name], before.rows + rows)
                if name not in self.silent:
                    self.watch.heard(name, self.now)
                    self.watch.worked(name, [self.done[name]], self.now)

    def stutter(self, *names: str) -> None:
        self.silent = set(names)
        self.run(2.0)
        self.silent = set()
        self.run(2.0)

    @property
    def degraded(self) -> dict[str, str]:
        return self.watch.degraded(self.now)


def test_one_that_needs_far_longer_for_its_rows_than_its_peers_is_degraded_until_it_keeps_up_again() -> None:
    w = Watching()
    w.costs["b"] = 5e-5
    w.run(POLICY.sample_s * SAMPLES + POLICY.behind_s - 3)
    assert not w.degraded
    w.run(6)
    assert w.degraded == {"b": "needs 5.0 times as long for its rows as its peers"}
    w.costs["b"] = 1e-5
    w.run(POLICY.sample_s * SAMPLES)
    assert not w.degraded


def test_one_with_many_more_rows_is_not_degraded() -> None:
    w = Watching()
    w.rates["a"] = 100_000.0
    w.run(120)
    assert not w.degraded


def test_one_with_little_to_do_is_not_judged_by_what_a_row_costs_it() -> None:
    w = Watching()
    w.rates["a"], w.costs["a"] = 100.0, 1e-4
    w.run(120)
    assert not w.degraded


def test_a_job_that_is_slow_everywhere_has_no_degraded_host_and_a_single_slot_has_no_peers() -> None:
    for names in ("abc", "a"):
        w = Watching(names)
        w.costs = dict.fromkeys(names, 1e-2)
        w.run(120)
        assert not w.degraded


def test_a_vertex_that_only_one_has_is_left_out_of_the_comparison() -> None:
    w = Watching("ab")
    for step in range(60):
        w.run(0.5)
        extra = Work(7, 0.4 * step, step)
        w.watch.worked("a", [w.done["a"], extra], w.now)
    assert not w.degraded


def test_one_that_is_heard_late_again_and_again_is_degraded_for_a_while() -> None:
    w = Watching()
    w.run(1.0)
    for number in range(LATE_REPORTS):
        assert not w.degraded
        w.stutter("b")
        assert bool(w.degraded) == (number == LATE_REPORTS - 1)
    assert w.degraded == {"b": f"heard late {LATE_REPORTS} times within a minute"}
    w.run(WINDOW_S)
    assert not w.degraded


def test_a_leader_that_hears_everybody_late_blames_nobody() -> None:
    w = Watching()
    for _ in range(2 * LATE_REPORTS):
        w.stutter("a", "b", "c")
    assert not w.degraded


def test_a_new_attempt_forgets_the_silence_of_its_deployment_and_not_what_was_late_before() -> None:
    w = Watching()
    for _ in range(LATE_REPORTS):
        w.run(1.0)
        w.stutter("b")
        w.watch.begin()
        w.now += 10.0
    assert list(w.degraded) == ["b"]
    w.watch.forget("b")
    assert not w.degraded


# -- the job ----------------------------------------------------------------------------------------------------------


class Migrating(Hosts):
    def __init__(self, migrates: bool = True, **more: object) -> None:
        super().__init__(degraded=MIGRATES if migrates else POLICY, interval_s=1000.0, **more)
        self.run()

    def make_late(self, slot: int) -> list:
        """The reports of a slot come late, again and again. Returns what was commanded in the end."""
        self.all_report(Stats(Counters(), 0))
        commands: list = []
        for _ in range(LATE_REPORTS):
            for other in range(5):
                self.now += 0.5
                self.report(1 - slot, Stats(Counters(), 0))
                commands += self.report(slot, Stats(Counters(), 0)) if other == 4 else []
        return commands

    def answer_checkpoint(self, complete: bool = True) -> list:
        checkpoint = self.core.checkpoints.pending.checkpoint
        for slot in range(2):
            self.report(slot, Acknowledged(checkpoint, slot, (), {"out": ()}, Counters(1, 1)))
        return self.give(ManifestFate(checkpoint, "complete" if complete else "failed"))


def test_a_degraded_task_manager_is_named_in_log_and_status_and_left_alone_by_default() -> None:
    driver = Migrating(migrates=False)
    late = driver.core.workers.assigned()[1]
    said = [c.text for c in driver.make_late(1) if isinstance(c, Say)]
    assert any(late.name in text and late.node_id in text and "heard late" in text for text in said)
    assert list(driver.core.degraded) == [late.instance]
    assert driver.core.halt is None


def test_it_is_left_at_a_checkpoint_without_a_restart_and_without_a_row_read_again() -> None:
    driver = Migrating()
    stays, late = driver.core.workers.assigned()
    commands = driver.make_late(1)
    trigger = driver.sent(Trigger, commands)
    assert trigger
    assert all(command.body.last for _, command in trigger)
    assert [type(c.entry) for c in commands if isinstance(c, WriteJournal)] == [Requested, Begun]
    commands = driver.answer_checkpoint()
    assert [c.instance for c in commands if isinstance(c, KillWorker)] == [late.instance]
    deployed = driver.sent(Deploy, commands)
    assert all(command.body.restored_checkpoint == driver.core.checkpoints.latest for _, command in deployed)
    assert driver.core.workers.assigned()[0].instance == stays.instance
    assert late.instance not in [instance for instance, _ in deployed]
    assert (driver.core.restarts, driver.core.migrations) == (0, 1)
    assert any(isinstance(c, WriteJournal) and isinstance(c.entry, Answered) and not c.entry.error for c in commands)
    driver.run_again()
    assert driver.core.status is JobStatus.RUNNING
    assert driver.core.halt is None


def test_the_next_migration_waits() -> None:
    driver = Migrating()
    driver.make_late(1)
    driver.answer_checkpoint()
    driver.run_again()
    driver.now += 2.0
    driver.start_workers()
    driver.make_late(0)
    assert driver.core.degraded
    assert driver.core.halt is None
    driver.now += POLICY.pause_s
    driver.make_late(0)
    assert driver.core.halt is not None


def test_without_a_spare_elsewhere_it_is_only_reported() -> None:
    driver = Migrating(spares=0)
    driver.make_late(1)
    assert driver.core.degraded
    assert driver.core.halt is None


def test_on_the_node_of_others_that_do_well_it_is_the_process_and_a_spare_there_will_do() -> None:
    class OnOneHost(Migrating, OneHost):
        pass

    driver = OnOneHost()
    driver.make_late(1)
    assert driver.core.halt is not None


@pytest.mark.parametrize("declined", [True, False])
def test_a_migration_whose_checkpoint_fails_is_undone_and_the_job_runs_on(declined: bool) -> None:
    driver = Migrating()
    driver.make_late(1)
    pending = driver.core.checkpoints.pending.checkpoint
    commands = driver.report(0, CheckpointDeclined(pending, "storage is full")) if declined else driver.answer_checkpoint(complete=False)
    assert driver.core.halt is None
    assert any(isinstance(c, WriteJournal) and isinstance(c.entry, Answered) and "not migrated" in c.entry.error for c in commands)
    assert not [c for c in commands if isinstance(c, KillWorker)]
    driver.run_again()
    assert (driver.core.restarts, driver.core.migrations) == (0, 0)


def test_one_that_dies_while_it_is_being_left_is_an_ordinary_loss() -> None:
    driver = Migrating()
    late = driver.core.workers.assigned()[1]
    driver.make_late(1)
    driver.give(WorkerLost(late.instance, "process", "killed"))
    assert driver.core.halt is None
    driver.run_again()
    assert (driver.core.restarts, driver.core.migrations) == (1, 0)
