"""What to do after a failure: a pure function from the history of failures to Restart(after) or GiveUp. Budgets are kept per cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flinkray.core.messages import FailureCause

CALM_FACTOR = 2.0
"""A cause that was quiet for this many times its last delay (and ten seconds) starts anew at the initial delay."""

NEVER_RETRIED: dict[FailureCause, str] = {"input": "the same input would fail again", "output": "the same output would fail again"}
"""And why."""

BUDGETS: dict[str, int] = {"user": 3, "sink": 20, "disk": 20}
"""A cause that fails an attempt so often in a row, with no checkpoint completed in between, will fail for ever. Twenty tries to write an output, or
state to local disk, are some ten minutes with the delays of the default."""

REMEDIES: dict[str, str] = {
    "sink": "; when it can be written again, start the job once more: it goes on from its newest checkpoint, and no row is lost or doubled",
    "disk": "; when there is room on local disk, start the job once more: it goes on from its newest checkpoint, and no row is lost or doubled",
}

AT_ONCE: frozenset[FailureCause] = frozenset({"process", "node", "channel"})
"""The first loss of a process says nothing about the job: a spare takes over without waiting."""


@dataclass(frozen=True)
class Restart:
    after_s: float


@dataclass(frozen=True)
class GiveUp:
    why: str


@dataclass
class FailurePolicy:
    """Exponential backoff with a budget for each cause. `attempts=None` never gives up, but where `budgets` says so: failures of a cause in a
    row that end the job."""

    initial_s: float
    maximum_s: float
    attempts: int | None
    budgets: Mapping[str, int] = field(default_factory=lambda: BUDGETS)
    failures: dict[str, int] = field(default_factory=dict)
    """By cause, in all."""
    _delays: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _count: dict[str, int] = field(default_factory=dict)
    _in_a_row: dict[str, int] = field(default_factory=dict)

    def on_progress(self) -> None:
        """A checkpoint completed: the job gets somewhere. Failures in a row are counted anew, and the next lost process is again the first."""
        self._in_a_row.clear()
        for cause in AT_ONCE:
            self._delays.pop(cause, None)

    def decide(self, cause: FailureCause, now: float) -> Restart | GiveUp:
        self.failures[cause] = self.failures.get(cause, 0) + 1
        if cause in NEVER_RETRIED:
            return GiveUp(NEVER_RETRIED[cause])
        delay = self._delays.get(cause)
        if delay is not None and now - self._last[cause] > max(10.0, CALM_FACTOR * delay):
            delay = None
            self._count[cause] = 0
        self._count[cause] = self._count.get(cause, 0) + 1
        if self.attempts is not None and self._count[cause] > self.attempts:
            return GiveUp(f"{self.attempts} restarts for this cause ({cause}) are used up")
        self._in_a_row[cause] = self._in_a_row.get(cause, 0) + 1
        if cause in self.budgets and self._in_a_row[cause] >= self.budgets[cause]:
            times = f"{self.budgets[cause]} times in a row " if self.budgets[cause] > 1 else ""
            return GiveUp(f"it failed {times}without a checkpoint completed in between{REMEDIES.get(cause, '')}")
        first = 0.0 if cause in AT_ONCE else self.initial_s
        delay = first if delay is None else min(max(2 * delay, self.initial_s), self.maximum_s)
        self._delays[cause] = delay
        self._last[cause] = now
        return Restart(delay)
