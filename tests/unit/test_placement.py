"""Where processes go: first the zone that has fewest, then the node."""

from __future__ import annotations

from flinkray.runtime.ray.placement import Node, least_taken

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
