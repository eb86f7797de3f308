"""Channels between TaskManagers that are lost: who is waited for, and who is parted (rule 23)."""

from __future__ import annotations

import pytest

from flinkray.core.job_channels import FORGET_S, PATIENCE_S, SILENT_S
from flinkray.core.job_events import CreateWorker, JobStatus, KillWorker, Opened, Tick, WorkerLost, WorkerStarted
from flinkray.core.messages import Counters, Deploy, PeerLost, Ready, Running, Stats
from tests.unit.test_job_core import Driver

STATS = Stats(Counters(), 0)


class Hosts(Driver):
    """Every TaskManager is on a node of its own."""

    def start_workers(self) -> list:
        commands = self.give(Tick())
        for number, command in enumerate(c for c in self.commands if isinstance(c, CreateWorker)):
            commands += self.give(WorkerStarted(command.instance, f"at {command.name}", 1, self.node(number)))
        return commands

    def node(self, number: int) -> str:
        return f"n{number}"

    def instances(self) -> list[str]:
        return [worker.instance for worker in self.core.workers.assigned()]

    def lose_channel(self, at: float, silent: bool = False) -> list:
        """Slot 0 does not hear slot 1."""
        self.now = at
        self.report(0, STATS)
        if not silent:
            self.report(1, STATS)
        return self.report(0, PeerLost(self.instances()[1], "silence"))

    def run_again(self) -> None:
        assert self.core.status is JobStatus.DEPLOYING, self.core.waiting_for
        self.all_report(Ready())
        self.all_report(Running())


class OneHost(Hosts):
    def node(self, number: int) -> str:
        return "n"


def test_a_peer_that_the_leader_does_not_hear_either_is_given_up_before_the_next_attempt() -> None:
    driver = Hosts()
    driver.run()
    commands = driver.lose_channel(at=10.0, silent=True)
    assert not driver.sent(Deploy, commands)
    assert driver.core.waiting_for == "tm-1 to be heard again"
    gone = driver.instances()[1]
    commands = driver.give(WorkerLost(gone, "process", "no answer"), at=10.5)
    assert gone not in [instance for instance, _ in driver.sent(Deploy, commands)]
    assert len(driver.sent(Deploy, commands)) == 2
    assert driver.core.restarts == 1


def test_a_silent_peer_that_is_heard_again_keeps_its_slot() -> None:
    driver = Hosts()
    driver.run()
    driver.lose_channel(at=10.0, silent=True)
    pair = driver.instances()
    assert len(driver.sent(Deploy, driver.report(1, STATS))) == 2
    assert driver.instances() == pair


def test_a_silent_peer_is_not_waited_for_for_ever() -> None:
    driver = Hosts()
    driver.run()
    driver.lose_channel(at=10.0, silent=True)
    assert not driver.sent(Deploy, driver.give(Tick(), at=10.0 + 0.9 * PATIENCE_S))
    assert driver.sent(Deploy, driver.give(Tick(), at=10.0 + 1.1 * PATIENCE_S))


def test_peers_that_are_both_heard_are_deployed_again_at_once_and_parted_the_second_time() -> None:
    driver = Hosts()
    driver.run()
    pair = driver.instances()
    assert len(driver.sent(Deploy, driver.lose_channel(at=10.0))) == 2
    assert driver.instances() == pair
    driver.run_again()
    commands = [*driver.lose_channel(at=14.0), *driver.give(Tick(), at=15.0)]
    assert KillWorker(pair[1]) in commands
    assert driver.instances()[0] == pair[0]
    assert driver.instances()[1] not in pair
    assert driver.core.restarts == 2


@pytest.mark.parametrize("hosts", [lambda: Hosts(spares=0), OneHost], ids=["no spare", "the spare is where they are"])
def test_without_a_spare_elsewhere_both_stay(hosts: type[Hosts]) -> None:
    driver = hosts()
    driver.run()
    pair = driver.instances()
    driver.lose_channel(at=10.0)
    driver.run_again()
    driver.lose_channel(at=14.0)
    driver.give(Tick(), at=20.0)
    assert driver.instances() == pair


def test_a_quarrel_is_forgotten_in_time() -> None:
    driver = Hosts()
    driver.run()
    pair = driver.instances()
    driver.lose_channel(at=10.0)
    driver.run_again()
    driver.lose_channel(at=10.0 + FORGET_S + SILENT_S)
    assert driver.instances() == pair


def test_what_is_known_of_an_instance_goes_with_it() -> None:
    driver = Hosts()
    driver.give(Opened(5, None, (), 1, 1, 7))
    driver.start_workers()
    driver.all_report(Ready())
    driver.all_report(Running())
    for turn in range(20):
        driver.lose_channel(at=100.0 * (turn + 1), silent=turn % 2 == 0)
        for instance in driver.instances():
            driver.give(WorkerLost(instance, "process", "killed"))
        for command in driver.commands:
            if isinstance(command, CreateWorker):
                driver.give(WorkerStarted(command.instance, "somewhere", 1, command.name))
        driver.give(Tick(), at=driver.now + 30.0)
        driver.run_again()
    known = {worker.instance for worker in driver.core.workers}
    channels = driver.core.channels
    assert set(channels.heard) | set(channels.suspects) | {one for pair in channels.quarrels for one in pair} <= known
