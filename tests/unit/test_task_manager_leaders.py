"""A TaskManager's shell: two leaders, and who may hear its reports; whose budget of memory counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import flinkray as fr
from flinkray.core.messages import Command, Hello, HelloReply, Stop
from flinkray.errors import DeposedError
from flinkray.exchange.in_process import InProcessExchange, InProcessNetwork
from flinkray.ids import Epoch
from flinkray.runtime.background import ThreadBackground
from flinkray.runtime.task_manager import JobBundle, TaskManager
from flinkray.state.memory import StateMemory, current

OLD, NEW = Epoch(1, 1, "old"), Epoch(1, 2, "new")


@pytest.fixture
def task_manager() -> TaskManager:
    env = fr.StreamEnvironment("app", parallelism=1, runtime="local")
    env.from_source(fr.sources.Nexmark("bid", rows=10), uid="in").sink_to(fr.sinks.Print(), uid="out")
    bundle = JobBundle(env.job_graph(), replace(env.config, restore="none"), "app")
    return TaskManager("i", InProcessExchange(InProcessNetwork(), "i"), ThreadBackground("test"), bundle, None)


def test_a_deposed_leader_that_still_asks_takes_no_report_from_its_successor(task_manager: TaskManager) -> None:
    task_manager.submit(Command(OLD, 0, Hello()))
    task_manager.run_once(0.0)
    ((heard, _),) = task_manager.poll(0, 0.0, OLD)[0]
    task_manager.submit(Command(NEW, 0, Hello()))
    task_manager.run_once(0.0)
    with pytest.raises(DeposedError):
        task_manager.poll(heard + 1, 0.0, OLD)
    with pytest.raises(DeposedError):
        task_manager.poll(heard + 1, 0.0, Epoch(1, 2, "another"))
    reports, _ = task_manager.poll(0, 0.0, NEW)
    assert [type(report.body) for _, report in reports] == [HelloReply, HelloReply]
    task_manager.close()


def test_a_leader_that_nobody_has_superseded_hears_everything(task_manager: TaskManager) -> None:
    task_manager.submit(Command(OLD, 1, Stop()))
    task_manager.run_once(0.0)
    assert task_manager.poll(0, 0.0, OLD) == ([], None)
    assert task_manager.poll(0, 0.0) == ([], None)
    task_manager.close()


def test_a_budget_of_state_holds_during_the_turns_of_its_own_task_manager_only(
    task_manager: TaskManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, seen = StateMemory(1 << 20, str(tmp_path)), list[StateMemory | None]()
    monkeypatch.setattr(task_manager, "_memory", memory)
    monkeypatch.setattr(task_manager.core, "step", lambda command: seen.append(current()) or [])
    task_manager.submit(Command(OLD, 1, Stop()))
    task_manager.run_once(0.0)
    assert seen == [memory]
    assert current() is None
    task_manager.close()
