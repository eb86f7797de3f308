"""The open call of a standby to the leader."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from flinkray.core.leadership_events import Beat, Watch, WatchBroke
from flinkray.runtime.beacon import Beacon, LeaderWatch

LEASE_S = 0.4
HOST = "127.0.0.1"


class Throne:
    """Leads one election until it is deposed."""

    def __init__(self, election: int) -> None:
        self.election = election
        self.deposed = threading.Event()

    def leads(self, election: int, wait_s: float) -> bool:
        return election == self.election and not self.deposed.wait(wait_s)


@pytest.fixture
def heard() -> Any:
    return queue.Queue()


def test_a_leader_is_heard_and_its_end_too(heard: Any) -> None:
    throne = Throne(3)
    beacon, watch = Beacon(HOST, throne.leads, LEASE_S), LeaderWatch(LEASE_S)
    watch(Watch(3, beacon.endpoint), heard.put)
    assert [heard.get(timeout=5) for _ in range(3)] == [Beat(3)] * 3
    throne.deposed.set()
    while (event := heard.get(timeout=5)) == Beat(3):
        pass
    assert event == WatchBroke(3)
    watch(None, heard.put)
    beacon.close()


def test_who_leads_another_election_is_not_the_leader(heard: Any) -> None:
    beacon, watch = Beacon(HOST, Throne(3).leads, LEASE_S), LeaderWatch(LEASE_S)
    watch(Watch(2, beacon.endpoint), heard.put)
    assert heard.get(timeout=5) == WatchBroke(2)
    watch(None, heard.put)
    beacon.close()


def test_a_process_that_is_gone_is_noticed_at_once(heard: Any) -> None:
    beacon, watch = Beacon(HOST, Throne(1).leads, LEASE_S), LeaderWatch(LEASE_S)
    beacon.close()
    watch(Watch(1, beacon.endpoint), heard.put)
    assert heard.get(timeout=5) == WatchBroke(1)
    watch(None, heard.put)


def test_a_leader_that_was_watched_before_says_nothing_more(heard: Any) -> None:
    first, second = Throne(1), Throne(2)
    old, new = Beacon(HOST, first.leads, LEASE_S), Beacon(HOST, second.leads, LEASE_S)
    watch = LeaderWatch(LEASE_S)
    watch(Watch(1, old.endpoint), heard.put)
    assert heard.get(timeout=5) == Beat(1)
    watch(Watch(2, new.endpoint), heard.put)
    while heard.get(timeout=5) != Beat(2):
        pass
    first.deposed.set()
    assert [heard.get(timeout=5) for _ in range(4)] == [Beat(2)] * 4
    watch(None, heard.put)
    old.close()
    new.close()
