"""A handle is called by several threads (the user's, and the one that says that the driver lives): they share one look at who may lead."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flinkray.runtime.ray import leader as leader_module
from flinkray.runtime.ray.leader import Leader

THREADS = 4


class SlowToStart(threading.Thread):
    def start(self) -> None:
        time.sleep(0.02)  # another caller comes in between making and starting
        super().start()


def test_threads_that_look_at_the_same_time_share_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in CI: the second caller joined the first one's thread before it was started, and its RuntimeError ended the driver's presence."""
    looks: list[str] = []
    seen = threading.Event()
    together = threading.Barrier(THREADS)

    def slow_look(name: str) -> list[Any]:
        looks.append(name)
        assert seen.wait(60)
        return []

    def look(leader: Leader) -> threading.Thread:
        together.wait(60)
        return leader.look_around()

    monkeypatch.setattr(leader_module, "Thread", SlowToStart)
    monkeypatch.setattr(leader_module, "job_managers", slow_look)
    with ThreadPoolExecutor(THREADS) as pool:
        asked = Leader("bids")
        found = [call.result() for call in [pool.submit(look, asked) for _ in range(THREADS)]]
        seen.set()
        for thread in found:
            thread.join(60)
    assert looks == ["bids"]
    assert len(set(found)) == 1
