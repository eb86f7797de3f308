"""Workers of a stage: who gets which batch, and what becomes of a lost one's."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flinkray.core import worker_pool
from flinkray.core.worker_pool import EndWorker, GiveUp, Send, StartWorker, WorkerPool


def pool(least: int = 2, most: int = 2, **options: Any) -> WorkerPool:
    made = WorkerPool(least, most, 2, **options)
    for command in made.tick(0.0):
        assert isinstance(command, StartWorker)
        made.on_up(command.worker, 0.0)
    return made


def test_batches_go_to_the_worker_that_has_least() -> None:
    assert pool().send([0, 1, 2, 3, 4], 0.0) == [Send(0, 0), Send(1, 1), Send(0, 2), Send(1, 3)]


def test_batches_of_a_lost_worker_go_to_others_and_it_is_replaced() -> None:
    workers = pool()
    workers.send([0, 1, 2], 0.0)
    assert workers.on_lost(0, "killed", 1.0) == [Send(1, 0)]
    assert workers.on_answer(1, 1, 1.0) == (True, [Send(1, 2)])
    assert workers.tick(1.0) == []
    assert workers.tick(1.2) == [StartWorker(2)]
    assert workers.on_answer(0, 0, 1.3) == (False, []), "what a lost worker says does not count"


def test_a_batch_that_kills_its_workers_is_given_up() -> None:
    workers = pool(1, 1)
    workers.send([0, 1], 0.0)
    for round in range(worker_pool.MOST_LOSSES - 1):
        workers.on_lost(round, "killed", float(round))
        assert workers.tick(round + 0.9) == [StartWorker(round + 1)]
        assert workers.on_up(round + 1, round + 0.9) == [Send(round + 1, 0), Send(round + 1, 1)]
    (given_up,) = workers.on_lost(worker_pool.MOST_LOSSES - 1, "killed", 9.0)
    assert isinstance(given_up, GiveUp)
    assert given_up.number == 0


def test_workers_that_never_come_up_are_not_tried_for_ever() -> None:
    workers, now, commands = WorkerPool(1, 1, 2), 0.0, []
    for _ in range(worker_pool.MOST_FAILED_STARTS):
        (start,) = workers.tick(now)
        commands = workers.on_lost(start.worker, "no memory", now)  # type: ignore[union-attr]
        now += 100.0
    assert commands == [GiveUp(None, f"{worker_pool.MOST_FAILED_STARTS} workers in a row ended before they were up: no memory")]


def test_a_hung_worker_is_replaced_but_not_for_batches_that_only_wait_behind_others() -> None:
    workers = pool(1, 1, timeout_s=5.0)
    workers.send([0, 1], 0.0)
    workers.on_answer(0, 0, 4.0)
    assert workers.tick(8.0) == []
    assert workers.tick(9.1) == [EndWorker(0, kill=True)]
    assert workers.tick(9.5) == [StartWorker(1)]
    assert workers.on_up(1, 9.5) == [Send(1, 1)]


def test_it_grows_while_all_are_full_and_shrinks_when_there_is_nothing_to_do() -> None:
    workers = pool(1, 2)
    workers.send([0, 1, 2], 0.0)
    assert workers.tick(0.0) == []
    assert workers.tick(1.0) == [StartWorker(1)]
    assert workers.on_up(1, 1.0) == [Send(1, 2)]
    for worker, number in ((0, 0), (0, 1), (1, 2)):
        workers.on_answer(worker, number, 2.0)
    assert workers.tick(2.0 + worker_pool.SCALE_DOWN_AFTER_S + 1) == [EndWorker(1)]
    assert workers.tick(1e6) == [], "never below the least"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_every_batch_is_answered_once_whoever_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    workers, now = WorkerPool(1, 3, 2), 0.0
    starting: list[int] = []
    at: dict[int, list[int]] = {}
    answered: list[int] = []
    losses = 0

    def obey(commands: list[worker_pool.Command]) -> None:
        for command in commands:
            match command:
                case StartWorker(worker):
                    starting.append(worker)
                case Send(worker, number):
                    at[worker].append(number)
                    assert len(at[worker]) <= 2
                case EndWorker(worker):
                    assert at.pop(worker) == []

    sent = 0
    while len(answered) < 30:
        now += 0.05
        obey(workers.tick(now))
        if sent < 30 and workers.free:
            obey(workers.send([sent], now))
            sent += 1
        if starting and chance.random() < 0.5:
            worker = starting.pop()
            at[worker] = []
            obey(workers.on_up(worker, now))
        busy = [worker for worker, batches in at.items() if batches]
        if busy and chance.random() < 0.6:
            worker = chance.choice(busy)
            number = at[worker].pop(0)
            counts, commands = workers.on_answer(worker, number, now)
            assert counts
            answered.append(number)
            obey(commands)
        elif busy and losses < 2 and chance.random() < 0.1:
            losses += 1
            worker = chance.choice(busy)
            del at[worker]
            obey(workers.on_lost(worker, "killed", now))
    assert sorted(answered) == list(range(30))
