"""User code that raises now and then: before it has seen the rows, or when it has passed them on already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flinkray.core.task_manager import BuildTasks
from flinkray.operators.base import Operator
from flinkray.runtime.task_manager import TaskManager
from flinkray.testing.simulation.faults import Injector

RAISED = "user code raises (simulated)"


class UserCodeError(RuntimeError):
    """What `user_error` raises."""

    def __init__(self) -> None:
        super().__init__(RAISED)


class RehearsedTaskManager(TaskManager):
    """The product's; every operator's `process` may raise."""

    injector: Injector

    def _build(self, effect: BuildTasks) -> None:
        super()._build(effect)
        if self._slot is None or not self.injector.faults.user_error:
            return
        for task in self._slot.tasks:
            for uid, operator in task.chain.operators():
                setattr(operator, "process", self._may_raise(operator, uid))  # noqa: B010 - of this instance only

    def _may_raise(self, operator: Operator, uid: str) -> Callable[..., None]:
        right = operator.process

        def process(*arguments: Any) -> None:
            fault = self.injector.strikes("user_error")
            if fault is None:
                right(*arguments)
                return
            passed_on = self.injector.choices(fault).random() < 0.5
            self.injector.record(fault, f"{uid} of {self.core.instance[:4]}, {'after' if passed_on else 'before'} it has passed rows on")
            if passed_on:
                right(*arguments)
            raise UserCodeError

        return process
