"""Automatic savepoints: which are kept, and when the next one is due."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from checkpoint_fakes import faulty_store, provider

import flinkray as fr
from flinkray.checkpoint.savepoint_retention import Retention
from flinkray.checkpoint.savepoints import Savepoints, SavepointState
from flinkray.checkpoint.state_reader import StateReader
from flinkray.runtime.auto_savepoints import AutoSavepoints

START = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)


def made(count: int, every: timedelta) -> list[tuple[str, int]]:
    times = [START - number * every for number in range(count)]
    return [(at.strftime("%m-%dT%H:%M"), int(at.timestamp() * 1e6)) for at in times]


def test_the_newest_of_each_hour_and_day_is_kept() -> None:
    every_half_hour = made(48 * 10, timedelta(minutes=30))
    kept = Retention.parse("keep 24 hourly, 7 daily").kept(every_half_hour)
    hours = {f"{(START - timedelta(hours=back)).strftime('%m-%dT%H')}:30" for back in range(24)}
    days = {f"01-{31 - back}T23:30" for back in range(1, 7)} | {"01-31T12:30"}
    assert kept == hours | days


def test_hours_without_a_savepoint_do_not_count() -> None:
    every_five_hours = made(200, timedelta(hours=5))
    assert Retention.parse("keep 3 hourly").kept(every_five_hours) == {name for name, _ in every_five_hours[:3]}
    assert Retention.parse("keep 2 newest").kept(every_five_hours) == {name for name, _ in every_five_hours[:2]}
    assert len(Retention.parse("keep 1 weekly, 2 monthly").kept(every_five_hours)) == 2
    assert Retention.parse("keep 1 hourly").kept([]) == set()


@pytest.mark.parametrize("text", ["", "keep", "24 hourly", "keep x hourly", "keep 0 daily", "keep 3 yearly", "keep 3 hourly, "])
def test_a_policy_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(fr.ConfigError, match="keep 24 hourly, 7 daily"):
        Retention.parse(text)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def test_it_is_due_an_interval_after_the_last_one_also_for_the_next_leader() -> None:
    named, clock = Savepoints(faulty_store(), "app", provider), Clock()
    first = AutoSavepoints(3600.0, Retention.parse("keep 1 hourly"), clock)
    assert first.due() is None, "nobody knows yet when the last one was made"
    first.begin(named)
    assert first.due() is None
    clock.now += 3601
    event = first.due()
    assert event is not None
    assert event.name.startswith("auto-20")
    assert first.due() is None
    named.begin(event.name, request=event.request)
    second = AutoSavepoints(3600.0, Retention.parse("keep 1 hourly"), clock)
    second.begin(named)
    assert second.due() is not None, "begun_at is the real clock: an hour ago"


def test_named_savepoints_are_never_deleted_and_failed_automatic_ones_are() -> None:
    named = Savepoints(faulty_store(), "app", provider)
    named.fail(named.begin("mine", request="a1b2"), "no")
    named.fail(named.begin("auto-x", request="auto-1"), "no")
    auto = AutoSavepoints(1.0, Retention.parse("keep 1 newest"))
    assert auto.settled(named) == [], "no later one is READY"
    assert {info.name: info.state for info in named.list()} == {"mine": SavepointState.FAILED, "auto-x": SavepointState.FAILED}


def test_a_job_makes_them_and_keeps_as_many_as_wanted(tmp_path: Path) -> None:
    checkpointing = fr.Checkpointing(
        interval="50ms", min_pause="0s", storage=f"file://{tmp_path}/c", auto_savepoint="1s", savepoint_retention="keep 2 newest"
    )
    env = fr.StreamEnvironment("auto", runtime="local", checkpointing=checkpointing)
    source = fr.sources.Nexmark("bid", rows=100_000_000, rate=1_000)
    env.from_source(source, uid="in").sink_to(fr.sinks.Blackhole(), uid="out")
    job = env.execute_async()
    job.savepoint("mine", timeout=60)
    deadline = time.monotonic() + 60
    while not any("deleted" in line.text for line in job.lines(0)):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.stop(timeout=60)
    names = [info.name for info in StateReader(f"file://{tmp_path}/c", "auto").savepoints.list() if info.state is SavepointState.READY]
    assert "mine" in names
    assert 2 <= len([name for name in names if name.startswith("auto-")]) <= 3
