"""A leader of many TaskManagers: what it does for one report does not grow with them, and the benchmark of it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from benchmarks.scale import adoption, checkpoint, measure, recovery, started, steady, table
from flinkray.core.commits import Commits
from flinkray.core.degraded import _costs, _median_without
from flinkray.core.messages import StateRef, Work
from flinkray.core.state_plan import StatePlan
from flinkray.graph.job_graph import JobGraph, JobVertex, OperatorSpec
from flinkray.graph.key_groups import key_group_range
from flinkray.ids import KeyGroupRange


def steps_of(work: Callable[[], Any]) -> int:
    """Instructions of Python that the cores execute: the same at every run, and loops in one line count, too."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if "flinkray/core/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("what", ["reports", "a checkpoint", "a recovery", "another leader"])
def test_what_a_leader_does_grows_as_the_number_of_task_managers_and_not_as_its_square(what: str) -> None:
    def steps(task_managers: int) -> int:
        leader, slots, cluster, _ = started(task_managers, 3)
        checkpoint(leader)
        if what == "reports":
            return steps_of(lambda: steady(leader, 1.0))
        if what == "a checkpoint":
            return steps_of(lambda: checkpoint(leader))
        return steps_of(lambda: recovery(leader) if what == "a recovery" else adoption(leader, slots, cluster))

    assert steps(40) < 1.5 * 4 * steps(10)


def test_the_benchmark_tells_of_every_part() -> None:
    found = measure(3, 3, 2, 11.0)
    assert found["tasks"] == 9
    assert found["checkpoint"]["journal_slots"] == 1
    assert found["checkpoint"]["events"] >= 3 * 3 + 2
    assert found["start"]["journal_slots"] == 4 + 3, "an election, a claim, four TaskManagers and an attempt"
    assert found["sealed_manifest_bytes"] > 0
    assert "manifest" in table(found)


def test_the_newest_checkpoint_that_all_slots_have_committed() -> None:
    commits = Commits()
    assert commits.by_all(2) == 0
    commits.note(0, 3)
    assert commits.by_all(2) == 0
    commits.note(1, 2)
    assert commits.by_all(2) == 2
    commits.note(1, 4)
    commits.note(0, 1)
    assert (commits.by_all(2), dict(commits)) == (3, {0: 3, 1: 4})
    commits.clear()
    assert commits.by_all(2) == 0


@pytest.mark.parametrize("others", [[1.0], [1.0, 3.0], [5.0, 1.0, 3.0], [1.0, 1.0, 2.0, 9.0]])
def test_peers_are_compared_with_the_median_of_the_others(others: list[float]) -> None:
    for own in (0.5, 1.0, 4.0, 20.0):
        done = [{7: Work(7, cost, 1)} for cost in (*others, own)]
        middle = sorted(others)
        wanted = (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
        assert _median_without(_costs(done)[7], own) == wanted


@pytest.mark.parametrize(("before", "now"), [(1, 1), (2, 3), (5, 2), (7, 7), (1, 9)])
def test_every_slot_gets_the_list_states_and_the_keyed_ones_of_its_key_groups(before: int, now: int) -> None:
    def operator(uid: str) -> OperatorSpec:
        return OperatorSpec(uid, uid, "any", {}, (), None)

    graph = JobGraph((JobVertex(0, (operator("in"),), 1), JobVertex(1, (operator("sum"), operator("out")), now)), (), 16, "")
    states = [StateRef("in", 0, "splits", "list", 0, 16, ())]
    for subtask in range(before):
        groups = key_group_range(16, before, subtask)
        states += [StateRef(uid, subtask, "s", kind, groups.start, groups.stop, ()) for uid, kind in (("sum", "keyed"), ("out", "list"))]
    states.append(StateRef("gone", 0, "s", "keyed", 0, 16, ()))
    plan = StatePlan(graph, states)
    for slot in range(now):
        mine = key_group_range(16, now, slot)
        wanted = [state for state in states if (state.uid == "in" and slot == 0) or state.uid == "out"]
        wanted += [s for s in states if s.uid == "sum" and mine.overlaps(KeyGroupRange(s.key_group_start, s.key_group_stop))]
        assert list(plan.for_slot(slot)) == wanted
