"""The clock of running tasks."""

from __future__ import annotations

import time

import pytest

from flinkray.runtime.clock import steady_clock


def test_a_wall_clock_set_back_by_hours_does_not_stop_the_clock_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5_000.0, 100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[1])
    clock = steady_clock()
    assert clock() == 5_000.0
    now[:] = [5_000.0 - 7_200.0, 101.5]
    assert clock() == 5_001.5
