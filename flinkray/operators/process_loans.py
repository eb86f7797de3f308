"""Looks whether a process function has changed a value that it read and not assigned again, which changes nothing in state. For the harness,
and for jobs with FLINKRAY_CHECK=1 in the environment of the processes that run them: every value is pickled twice."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from flinkray.errors import UsageError
from flinkray.operators.base import OperatorContext

VARIABLE = "FLINKRAY_CHECK"


def loans_of(context: OperatorContext) -> Loans | None:
    """None where nobody wants to know."""
    return Loans() if context.check_values or os.environ.get(VARIABLE) == "1" else None


class Loans:
    """The values that were read, each as it was then, or when it was assigned."""

    def __init__(self) -> None:
        self._lent: dict[int, tuple[str, Any, bytes]] = {}

    def lend(self, name: str, thaw: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`thaw` that notes what it gives of the state `name`."""

        def lent(kept: Any) -> Any:
            value = thaw(kept)
            self._lent[id(value)] = name, value, pickle.dumps(value)
            return value

        return lent

    def taken(self, value: Any) -> None:
        """It was assigned: as it is now it is kept."""
        if id(value) in self._lent:
            self._lent[id(value)] = self._lent[id(value)][0], value, pickle.dumps(value)

    def forget(self) -> None:
        self._lent.clear()

    def settle(self) -> None:
        """The function has returned. Raises UsageError."""
        lent = list(self._lent.values())
        self._lent.clear()
        for name, value, before in lent:
            if pickle.dumps(value) != before:
                raise UsageError(
                    f"state {name!r}: a value that was read was changed, and not assigned again: {value!r:.80}. What is read is a copy; "
                    "assign it to change the state, or change a copy of your own"
                )
