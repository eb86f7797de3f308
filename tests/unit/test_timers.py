"""Timers come out in order of time, then payload, exactly once each, however they went in."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from flinkray.state.timers import TimerQueue

INT64 = np.iinfo(np.int64)


def ints(*values):
    return np.array(values, np.int64)


def pairs(popped):
    return list(zip(*(part.tolist() for part in popped), strict=True))


def test_timers_fire_in_order_of_time_then_payload():
    queue = TimerQueue()
    queue.register(ints(30, 10, 20, 10), ints(1, 9, 3, 2))
    queue.register(ints(10, 40), ints(5, 4))
    assert queue.peek_us() == 10
    assert pairs(queue.pop_due(20)) == [(10, 2), (10, 5), (10, 9), (20, 3)]
    assert (len(queue), queue.peek_us()) == (2, 30)
    assert pairs(queue.pop_due(20)) == []
    assert pairs(queue.pop_due(INT64.max)) == [(30, 1), (40, 4)]
    assert (len(queue), queue.peek_us()) == (0, None)


def test_the_whole_range_of_int64_is_ordered():
    values = ints(INT64.max, INT64.min, 0, -1, 1, INT64.min + 1, INT64.max - 1)
    queue = TimerQueue()
    queue.register(np.tile(values, 10), np.tile(values[::-1], 10))
    queue.register(values, values)
    times, payloads = queue.pop_due(INT64.max)
    expected = sorted([*zip(np.tile(values, 10), np.tile(values[::-1], 10), strict=True), *zip(values, values, strict=True)])
    assert pairs((times, payloads)) == expected


def test_arrays_given_may_be_reused_by_their_owner():
    queue, times = TimerQueue(), ints(5, 6)
    queue.register(times, times)
    times[:] = 0
    assert pairs(queue.pop_due(10)) == [(5, 5), (6, 6)]


def test_nothing_registered_is_nothing():
    queue = TimerQueue()
    queue.register(ints(), ints())
    assert pairs(queue.pop_due(INT64.max)) == []
    assert [len(part) for part in queue.snapshot()] == [0, 0]


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="2 times and 1 payloads"):
        TimerQueue().register(ints(1, 2), ints(1))


@pytest.mark.parametrize(("batch", "rounds"), [(1, 100), (7, 100), (700, 40), (70_000, 4)])
@pytest.mark.parametrize("deduplicate", [False, True])
def test_random_timers_fire_as_from_a_heap(batch, rounds, deduplicate):
    random = np.random.default_rng(batch)
    queue, heap, registered, watermark = TimerQueue(deduplicate), [], set(), 0
    for _ in range(rounds):
        times = watermark + 1 + random.integers(0, 50 * batch, random.integers(0, 2 * batch))
        payloads = random.integers(-3, 3, len(times))
        queue.register(times, payloads)
        for pair in zip(times.tolist(), payloads.tolist(), strict=True):
            if not deduplicate or pair not in registered:
                registered.add(pair)
                heapq.heappush(heap, pair)
        watermark += int(random.integers(0, 20 * batch))
        due = []
        while heap and heap[0][0] <= watermark:
            due.append(heapq.heappop(heap))
        assert pairs(queue.pop_due(watermark)) == due
        assert queue.peek_us() == (heap[0][0] if heap else None)
        assert deduplicate or len(queue) == len(heap)
    assert pairs(queue.pop_due(INT64.max)) == sorted(heap)


@pytest.mark.parametrize("deduplicate", [False, True])
def test_a_limit_takes_the_first_and_leaves_the_rest(deduplicate):
    random = np.random.default_rng(3)
    queue, expected = TimerQueue(deduplicate), []
    for _ in range(20):
        times, payloads = random.integers(-50, 50, 5000), random.integers(0, 100, 5000)
        queue.register(times, payloads)
        expected += zip(times.tolist(), payloads.tolist(), strict=True)
        queue.pop_due(-60)
    expected = sorted(set(expected) if deduplicate else expected)
    assert pairs(queue.pop_due(10, limit=0)) == []
    popped, sizes = [], []
    while slice_ := pairs(queue.pop_due(10, limit=777)):
        popped += slice_
        sizes.append(len(slice_))
    assert max(sizes) <= 777
    assert popped == [pair for pair in expected if pair[0] <= 10]
    assert pairs(queue.pop_due(100)) == [pair for pair in expected if pair[0] > 10]


def test_a_snapshot_restores_what_has_not_fired():
    random = np.random.default_rng(5)
    queue = TimerQueue()
    for _ in range(5):
        queue.register(random.integers(0, 1000, 30_000), random.integers(0, 1000, 30_000))
    queue.pop_due(400)
    saved = queue.snapshot()
    left = len(queue)
    restored = TimerQueue()
    restored.register(*saved)
    assert len(restored) == left == len(saved[0])
    rest = pairs(queue.pop_due(INT64.max))
    assert rest == pairs(saved) == pairs(restored.pop_due(INT64.max))


def test_memory_is_reported_and_given_back():
    queue = TimerQueue()
    for _ in range(20):
        queue.register(np.arange(50_000), np.arange(50_000))
    assert 16 * len(queue) <= queue.memory_bytes <= 16 * len(queue) + 4 * 16 * 65_536
    queue.pop_due(INT64.max)
    assert queue.memory_bytes <= 2 * 16 * 65_536
    queue.clear()
    assert queue.peek_us() is None
