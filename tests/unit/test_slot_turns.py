"""A slot's tasks share its time: what is queued is not left lying because a reader's batches take long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flinkray.runtime.slot import Slot
from flinkray.runtime.task import Progress


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Work:
    """A task with so many elements to take, each of which takes so long."""

    clock: Clock
    left: int
    each_s: float
    only_consumes: bool
    busy_s: float = 0.0
    ended: bool = False

    def run_once(self) -> Progress:
        progress = Progress()
        if self.left:
            self.left -= 1
            self.clock.now_s += self.each_s
            progress.worked = True
        return progress


def slot_of(clock: Clock, *tasks: Work) -> Any:
    slot: Any = Slot.__new__(Slot)
    slot.tasks, slot._place, slot._sinks = list(tasks), type("Place", (), {"clock": clock}), []
    slot.first_row_at_us, slot._longest_s, slot.ended = 0, 0.0, False
    return slot


def test_what_is_queued_gets_as_much_time_as_a_slow_reader_takes() -> None:
    clock = Clock()
    queue, reader = Work(clock, 1_000, 0.001, True), Work(clock, 100, 0.1, False)
    slot = slot_of(clock, queue, reader)
    slot.turn()
    assert (queue.left, reader.left) == (999, 99), "nobody knows yet how long a batch takes"
    slot.turn()
    assert 890 <= queue.left <= 910
    assert reader.left == 98


def test_a_task_that_has_nothing_more_is_not_asked_again_and_again() -> None:
    clock = Clock()
    queue, reader = Work(clock, 3, 0.001, True), Work(clock, 100, 0.1, False)
    slot = slot_of(clock, queue, reader)
    for _ in range(3):
        slot.turn()
    assert (queue.left, reader.left) == (0, 97)
    assert queue.busy_s + reader.busy_s == clock.now_s


def test_readers_take_turns_and_without_a_clock_everybody_has_one() -> None:
    clock = Clock()
    first, second, queue = Work(clock, 100, 0.001, False), Work(clock, 100, 0.1, False), Work(clock, 100, 0.0, True)
    slot = slot_of(clock, queue, first, second)
    for _ in range(5):
        slot.turn()
    assert (first.left, second.left, queue.left) == (95, 95, 95)
