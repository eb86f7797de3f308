"""What to do after a failure: a pure function from the history of failures to Restart(after) or GiveUp. Budgets are kept per cause."""

from __future__ import annotations

from dataclasses import dataclass, field

from flinkray.core.messages import FailureCause

CALM_FACTOR = 2.0
"""A cause that was quiet for this many times its last delay (and ten seconds) starts anew at the initial delay."""

NEVER_RETRIED: frozenset[FailureCause] = frozenset({"input"})
"""The same malformed row would fail again."""

USER_ATTEMPTS = 3
"""User code that fails so often in a row, with no checkpoint completed in between, will fail for ever."""

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
    """Exponential backoff with a budget for each cause. `attempts=None` never gives up."""

    initial_s: float
    maximum_s: float
    attempts: int | None
    _delays: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _count: dict[str, int] = field(default_factory=dict)

    def on_progress(self) -> None:
        """A checkpoint completed: the job gets somewhere. User code's failures are counted anew, and the next lost process is again the
        first."""
        self._count.pop("user", None)
        for cause in AT_ONCE:
            self._delays.pop(cause, None)

    def decide(self, cause: FailureCause, now: float) -> Restart | GiveUp:
        if cause in NEVER_RETRIED:
            return GiveUp("the same input would fail again")
        delay = self._delays.get(cause)
        if delay is not None and now - self._last[cause] > max(10.0, CALM_FACTOR * delay):
            delay = None
            self._count[cause] = 0
        self._count[cause] = self._count.get(cause, 0) + 1
        if self.attempts is not None and self._count[cause] > self.attempts:
            return GiveUp(f"{self.attempts} restarts for this cause ({cause}) are used up")
        if cause == "user" and self._count[cause] >= USER_ATTEMPTS:
            return GiveUp(f"it failed {USER_ATTEMPTS} times in a row without a checkpoint completed in between")
        first = 0.0 if cause in AT_ONCE else self.initial_s
        delay = first if delay is None else min(max(2 * delay, self.initial_s), self.maximum_s)
        self._delays[cause] = delay
        self._last[cause] = now
        return Restart(delay)
