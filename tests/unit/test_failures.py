"""The failure policy: when to try again, and when to stop trying."""

from __future__ import annotations

import pickle

import pytest

from flinkray.config import RestartStrategy
from flinkray.core.failures import BUDGETS, FailurePolicy, GiveUp, Restart
from flinkray.errors import ConfigError, SinkError
from flinkray.runtime.task_failure import cause_of


def policy(attempts: int | None = None) -> FailurePolicy:
    return FailurePolicy(initial_s=0.1, maximum_s=1.0, attempts=attempts)


def delays(p: FailurePolicy, cause: str, times: list[float]) -> list[float]:
    decisions = [p.decide(cause, now) for now in times]  # type: ignore[arg-type]
    assert all(isinstance(d, Restart) for d in decisions)
    return [d.after_s for d in decisions if isinstance(d, Restart)]


def test_a_lost_process_restarts_at_once_and_then_ever_later_up_to_the_maximum() -> None:
    assert delays(policy(), "process", [0, 1, 2, 3, 4, 5, 6]) == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_cause_that_was_quiet_starts_anew() -> None:
    assert delays(policy(), "process", [0, 1, 20]) == [0.0, 0.1, 0.0]


def test_a_checkpoint_in_between_makes_the_next_lost_process_the_first_again() -> None:
    p = policy()
    delays(p, "process", [0, 1])
    p.on_progress()
    assert delays(p, "process", [2]) == [0.0]


def test_causes_have_budgets_of_their_own() -> None:
    p = policy()
    delays(p, "process", [0, 1, 2])
    assert delays(p, "storage", [3]) == [0.1]


def test_user_code_gets_three_tries_without_progress() -> None:
    p = policy()
    delays(p, "user", [0, 1])
    assert isinstance(p.decide("user", 2), GiveUp)


def test_user_code_that_gets_somewhere_in_between_is_tried_again() -> None:
    p = policy()
    for now in range(0, 20, 2):
        assert isinstance(p.decide("user", now), Restart)
        p.on_progress()


def test_a_malformed_input_is_never_tried_again() -> None:
    assert isinstance(policy().decide("input", 0), GiveUp)


def test_attempts_are_a_limit_and_zero_means_none() -> None:
    assert isinstance(policy(0).decide("process", 0), GiveUp)
    p = policy(1)
    assert isinstance(p.decide("process", 0), Restart)
    assert isinstance(p.decide("process", 1), GiveUp)


def test_an_output_that_cannot_be_written_is_tried_long_and_not_for_ever_however_rarely_it_fails() -> None:
    p = policy()
    for number in range(BUDGETS["sink"] - 1):
        assert isinstance(p.decide("sink", 100.0 * number), Restart)
    last = p.decide("sink", 5000.0)
    assert isinstance(last, GiveUp)
    assert "newest checkpoint" in last.why
    assert p.failures == {"sink": BUDGETS["sink"]}


def test_an_outage_of_an_output_is_forgotten_with_the_next_checkpoint() -> None:
    p = policy()
    for _ in range(3):
        for number in range(BUDGETS["sink"] - 1):
            assert isinstance(p.decide("sink", number), Restart)
        p.on_progress()


def test_an_output_that_never_can_be_written_is_not_tried_again() -> None:
    assert isinstance(policy().decide("output", 0), GiveUp)
    assert cause_of(SinkError("no", permanent=True)) == "output"
    assert cause_of(pickle.loads(pickle.dumps(SinkError("no", permanent=True)))) == "output"
    assert cause_of(SinkError("not now")) == "sink"


def test_budgets_are_given_by_cause() -> None:
    p = FailurePolicy(0.1, 1.0, None, {"process": 2})
    assert isinstance(p.decide("process", 0), Restart)
    assert isinstance(p.decide("user", 0), Restart)
    assert isinstance(p.decide("process", 100), GiveUp)


def test_a_budget_of_no_cause_is_refused() -> None:
    with pytest.raises(ConfigError, match="user, process"):
        RestartStrategy(budgets={"weather": 3})
    with pytest.raises(ConfigError, match="1 or more"):
        RestartStrategy(budgets={"user": 0})
