"""Which TaskManagers fall behind their peers: heard late now and then, or in need of far more time for the same rows. Pure.

A host that is worn out or overloaded is not lost, and slows the whole job down: everything waits for the slowest subtask. Peers are what tells
it from a job that is slow by itself: a vertex's subtasks do the same work, so the time that each needs for a row is compared vertex by
vertex, which leaves keys that many rows have, and slots with other tasks, out of it.

What is heard costs the same whatever the number of TaskManagers is; they are compared once a second, all at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from flinkray.core.messages import Work

WINDOW_S = 60.0
SAMPLES = 6
BEHIND_FACTOR = 3.0
BUSY_SHARE = 0.3
"""Who has little to do holds nobody up, and says little about a row's cost."""
COMPARE_S = 1.0
"""From one comparison of all to the next."""


@dataclass(frozen=True)
class DegradedPolicy:
    """Seconds throughout."""

    migrates: bool = False
    """TaskManagers that fall behind are left; else they are reported."""
    late_s: float = 1.75
    """One that is well is heard twice in that time at least."""
    late_reports: int = 3
    """Heard late so often within a minute."""
    sample_s: float = 2.0
    """Work is compared over five times that."""
    behind_s: float = 20.0
    """Behind for so long: not a moment's compaction or upload."""
    pause_s: float = 300.0
    """From one migration to the next, also when it failed: what did not help is not repeated at once."""


@dataclass
class _Watched:
    heard: float
    was_late: bool = False
    """When it was heard last it had not been for too long."""
    samples: deque[tuple[float, dict[int, Work]]] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    behind_since: float | None = None
    factor: float = 1.0


@dataclass
class DegradedWatch:
    """All times are monotonic seconds."""

    policy: DegradedPolicy
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _late: dict[str, deque[float]] = field(default_factory=dict)
    """When each instance was heard late; kept over attempts."""
    _behind: set[str] = field(default_factory=set)
    """Instances with `behind_since`."""
    _compared_at: float | None = None

    def begin(self) -> None:
        """Another attempt: tasks count anew, and nobody was heard while they were deployed."""
        self._watched.clear()
        self._behind.clear()

    def forget(self, instance: str) -> None:
        self._watched.pop(instance, None)
        self._late.pop(instance, None)
        self._behind.discard(instance)

    def heard(self, instance: str, now: float) -> None:
        """Late counts only where a peer was heard in time: a leader that was stopped or cut off itself hears everybody late."""
        watched = self._watched.setdefault(instance, _Watched(now))
        watched.was_late = now - watched.heard > self.policy.late_s
        watched.heard = now
        if not watched.was_late:
            return
        peers = [peer for name, peer in self._watched.items() if name != instance]
        well = sum(not peer.was_late and now - peer.heard <= self.policy.late_s / 2 for peer in peers)
        if peers and 2 * well >= len(peers):
            self._late.setdefault(instance, deque(maxlen=100)).append(now)

    def worked(self, instance: str, work: Iterable[Work], now: float) -> None:
        """What its tasks have done since the attempt began."""
        watched = self._watched.setdefault(instance, _Watched(now))
        if not watched.samples or now - watched.samples[-1][0] >= self.policy.sample_s:
            watched.samples.append((now, {done.vertex: done for done in work}))
            if self._compared_at is None or now - self._compared_at >= COMPARE_S:
                self._compared_at = now
                self._compare(now)

    def degraded(self, now: float) -> dict[str, str]:
        """Instances, and what is wrong with them."""
        found = {}
        for instance, times in list(self._late.items()):
            while times and now - times[0] > WINDOW_S:
                times.popleft()
            if not times:
                del self._late[instance]
            if len(times) >= self.policy.late_reports:
                found[instance] = f"heard late {len(times)} times within a minute"
        for instance in sorted(self._behind):
            watched = self._watched[instance]
            if watched.behind_since is not None and now - watched.behind_since >= self.policy.behind_s:
                found[instance] = f"needs {watched.factor:.1f} times as long for its rows as its peers"
        return found

    def _compare(self, now: float) -> None:
        done = {name: _since_first(watched.samples) for name, watched in self._watched.items() if len(watched.samples) == SAMPLES}
        costs = _costs(done.values())
        for instance, work in done.items():
            watched = self._watched[instance]
            spent, due = _spent_and_due(work, costs)
            span_s = watched.samples[-1][0] - watched.samples[0][0]
            behind = due > 0 and spent >= BEHIND_FACTOR * due and spent >= BUSY_SHARE * span_s
            watched.factor = spent / due if due > 0 else 1.0
            watched.behind_since = (watched.behind_since if watched.behind_since is not None else now) if behind else None
            (self._behind.add if behind else self._behind.discard)(instance)


def _since_first(samples: deque[tuple[float, dict[int, Work]]]) -> dict[int, Work]:
    (_, first), (_, last) = samples[0], samples[-1]
    return {v: Work(v, work.busy_s - first[v].busy_s, work.rows - first[v].rows) for v, work in last.items() if v in first}


def _costs(all_done: Iterable[dict[int, Work]]) -> dict[int, list[float]]:
    """By vertex: seconds for a row of each that had rows, ascending."""
    costs: dict[int, list[float]] = {}
    for done in all_done:
        for vertex, work in done.items():
            if work.rows > 0:
                costs.setdefault(vertex, []).append(work.busy_s / work.rows)
    for known in costs.values():
        known.sort()
    return costs


def _spent_and_due(work: dict[int, Work], costs: dict[int, list[float]]) -> tuple[float, float]:
    """Seconds for the rows of the vertices that peers have, too, and what these would have needed for as many."""
    spent = due = 0.0
    for vertex, done in work.items():
        if done.rows > 0 and len(costs[vertex]) > 1:
            spent += done.busy_s
            due += done.rows * _median_without(costs[vertex], done.busy_s / done.rows)
    return spent, due


def _median_without(ascending: list[float], value: float) -> float:
    """The median of the others: `value` is one of two or more."""
    at, others = bisect_left(ascending, value), len(ascending) - 1

    def other(index: int) -> float:
        return ascending[index if index < at else index + 1]

    return (other((others - 1) // 2) + other(others // 2)) / 2
