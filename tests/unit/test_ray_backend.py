"""Whom the leader's listening thread takes for lost."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from flinkray.core.job_events import WorkerLost
from flinkray.runtime.ray.backend import POLL_S, RayBackend, _Worker


def listening(*asked_at: float) -> tuple[RayBackend, list[Any]]:
    backend, posted = object.__new__(RayBackend), []
    backend._lock, backend._heartbeat_timeout_s, backend._post = threading.Lock(), 3.0, posted.append
    workers = [_Worker(f"w{i}", SimpleNamespace(), None, at, started=True) for i, at in enumerate(asked_at)]
    backend._workers = {worker.instance: worker for worker in workers}
    return backend, posted


def lost(posted: list[Any]) -> set[str]:
    return {event.instance for event in posted if isinstance(event, WorkerLost)}


def test_who_does_not_answer_for_longer_than_the_heartbeat_timeout_is_lost() -> None:
    backend, posted = listening(100.0, 103.0)
    backend._look_for_silence(100.0 + 3.0 + POLL_S, 0.05)
    assert lost(posted) == set()
    backend._look_for_silence(100.1 + 3.0 + POLL_S, 0.05)
    backend._look_for_silence(100.2 + 3.0 + POLL_S, 0.05)
    assert lost(posted) == {"w0"}
    assert len(posted) == 1


def test_time_in_which_nobody_listened_is_not_silence() -> None:
    """The leader was stopped for 20 s, or Ray waited for a GCS that was away: the answers lie there, unheard."""
    backend, posted = listening(100.0, 101.0)
    backend._look_for_silence(121.0, 20.0)
    assert lost(posted) == set()
    backend._look_for_silence(121.0 + 1.9 + POLL_S, 0.05)
    assert lost(posted) == set(), "they have their heartbeat timeout still"
    backend._look_for_silence(121.1 + 3.0 + POLL_S, 0.05)
    assert lost(posted) == {"w0", "w1"}
