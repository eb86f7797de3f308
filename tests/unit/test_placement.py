"""Where processes go: first the zone that has fewest, then the node."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from flinkray.config import HighAvailability
from flinkray.runtime.ray import placement, replicas
from flinkray.runtime.ray.placement import (
    Node,
    answering,
    apart_from,
    for_first_job_manager,
    for_task_manager,
    is_stranded,
    least_taken,
    shuffled,
)
from flinkray.runtime.ray.replicas import Replicas

NODES = [Node("a1", "a"), Node("a2", "a"), Node("b1", "b"), Node("c1", "c")]


def place(count: int, by_zone: bool = True) -> list[str]:
    taken: list[str] = []
    for _ in range(count):
        node = least_taken(NODES, taken, by_zone)
        assert node is not None
        taken.append(node)
    return taken


def test_zones_are_filled_evenly_and_nodes_within_them() -> None:
    assert place(6) == ["a1", "b1", "c1", "a2", "b1", "c1"]


def test_without_zones_nodes_are_filled_evenly() -> None:
    assert place(5, by_zone=False) == ["a1", "a2", "b1", "c1", "a1"]


def test_processes_of_nodes_that_are_gone_count_for_nothing() -> None:
    assert least_taken(NODES, ["gone", "gone", "a1"], True) == "b1"


def test_without_nodes_there_is_no_place() -> None:
    assert least_taken([], ["a1"], True) is None


def living(monkeypatch: pytest.MonkeyPatch, nodes: Sequence[Node]) -> None:
    for module in (placement, replicas):
        monkeypatch.setattr(module, "living_nodes", lambda zone_label: list(nodes))
        monkeypatch.setattr(module, "answering", lambda asked: list(asked))


def test_a_node_whose_raylet_is_gone_gets_nothing_although_ray_still_lists_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as raylet, socket.create_server(("127.0.0.1", 0)) as dead:
        nodes = [Node("dead", "a", dead.getsockname()), Node("up", "b", raylet.getsockname())]
        dead.close()
        assert answering(nodes, 5.0) == nodes[1:]


def test_a_node_that_is_cut_off_gets_nothing() -> None:
    with silent_listener() as silent, socket.create_server(("127.0.0.1", 0)) as raylet:
        nodes = [Node("cut off", "a", silent), Node("up", "b", raylet.getsockname())]
        assert answering(nodes, 0.2) == nodes[1:]


def test_when_no_raylet_answers_all_are_tried() -> None:
    with silent_listener() as silent:
        nodes = [Node("x", "a", silent)]
        assert answering(nodes, 0.05) == nodes


class Actor:
    _actor_id = bytes(16)


@pytest.mark.parametrize("state", ["ALIVE", "RESTARTING"])
def test_an_actor_is_stranded_when_ray_believes_that_it_lives_on_a_node_that_is_gone(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as raylet, socket.create_server(("127.0.0.1", 0)) as dead:
        nodes = [Node("dead", "a", dead.getsockname()), Node("up", "b", raylet.getsockname())]
        dead.close()
        monkeypatch.setattr(placement, "living_nodes", lambda zone_label: nodes)
        found = {}
        for node in (*nodes, Node("not listed", "")):
            monkeypatch.setattr(placement.ray_state, "actors", lambda actor, at=node.node_id: {"State": state, "Address": {"NodeID": at}})
            found[node.node_id] = is_stranded(Actor(), "label")
    assert found == {"dead": state == "ALIVE", "up": False, "not listed": False}


@contextmanager
def silent_listener() -> Iterator[tuple[str, int]]:
    """An address whose connections are never made: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as callers:
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()


def test_the_first_leader_has_a_zone_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    living(monkeypatch, [Node("plain", ""), *NODES])
    assert {for_first_job_manager(f"job-{n}", HighAvailability()) for n in range(40)} == {"a1", "a2", "b1", "c1"}
    assert "plain" in {for_first_job_manager(f"job-{n}", HighAvailability(zones="ignore")) for n in range(40)}


def test_a_standby_has_a_zone_where_there_are_any() -> None:
    nodes = [Node("plain", ""), Node("a1", "a"), Node("b1", "b")]
    assert apart_from(HighAvailability(), "a1", (), nodes) == "b1"
    assert apart_from(HighAvailability(), "a1", (), nodes[:2]) == "plain"


def test_the_spare_is_not_in_the_leaders_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    living(monkeypatch, NODES)
    for job in ("one", "two", "three"):
        assert for_task_manager(job, HighAvailability(), ["a1", "b1", "c1"], "c1") != "c1"
        assert for_task_manager(job, HighAvailability(), ["a1", "b1"], "c1") == "c1"


def test_jobs_begin_on_different_nodes() -> None:
    assert len({shuffled(NODES, f"job-{n}")[0] for n in range(40)}) == len(NODES)
    assert shuffled(NODES, "job") == shuffled(reversed(NODES), "job")


@pytest.mark.parametrize(
    ("node_id", "moves"),
    [("b1", False), ("a2", True), ("a1", True), ("head", True)],
    ids=["apart", "in its zone", "beside it", "on the head"],
)
def test_a_standby_that_came_back_in_the_wrong_place_is_moved(monkeypatch: pytest.MonkeyPatch, node_id: str, moves: bool) -> None:
    living(monkeypatch, NODES)  # a head without CPUs is not among them
    assert Replicas("job", 0, "a1", HighAvailability(), lambda number, node: None, print)._misplaced(node_id) is moves


def test_a_defect_is_told_once_and_does_not_end_the_search_for_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    turns: list[int] = []
    enough = threading.Event()

    def tend(number: int) -> None:
        turns.append(number)
        if len(turns) == 3:
            enough.set()
        raise TypeError("unforeseen")

    monkeypatch.setattr(replicas, "LOOK_S", 0.01)
    standbys = Replicas("job", 0, "a1", HighAvailability(), lambda number, node: None, said.append)
    monkeypatch.setattr(standbys, "_tend", tend)
    standbys.start()
    assert enough.wait(30)
    standbys.stop()
    assert said == ["no standby JobManager for now: TypeError: unforeseen"]
