"""User code that raises now and then, for rows or when time goes on: before it has done anything, or when it has passed rows on already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flinkray.core.task_manager import BuildTasks
from flinkray.operators.base import SteppingOperator
from flinkray.runtime.task_manager import TaskManager
from flinkray.testing.simulation.faults import Injector

RAISED = "user code raises (simulated)"


class UserCodeError(RuntimeError):
    """What `user_error` and `timer_error` raise."""

    def __init__(self) -> None:
        super().__init__(RAISED)


class RehearsedTaskManager(TaskManager):
    """The product's; every operator may raise."""

    injector: Injector

    def _build(self, effect: BuildTasks) -> None:
        super()._build(effect)
        faults = self.injector.faults
        for task in self._slot.tasks if self._slot is not None else ():
            for uid, operator in task.chain.operators():
                if faults.user_error:
                    self._replace(operator, "process", uid, "user_error")
                if faults.timer_error:
                    self._replace(operator, "on_watermark", uid, "timer_error")
                if faults.timer_error and isinstance(operator, SteppingOperator):
                    self._replace(operator, "advance", uid, "timer_error")

    def _replace(self, operator: Any, method: str, uid: str, kind: str) -> None:
        """Of this instance only."""
        right = getattr(operator, method)
        setattr(operator, method, self._may_raise_after(right, uid) if method == "advance" else self._may_raise(right, uid, kind))

    def _may_raise(self, right: Callable[..., Any], uid: str, kind: str) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            fault = self.injector.strikes(kind)
            if fault is None:
                return right(*arguments)
            passed_on = self.injector.choices(fault).random() < 0.5
            self.injector.record(fault, f"{uid} of {self.core.instance[:4]}, {'after' if passed_on else 'before'} it has passed rows on")
            if passed_on:
                right(*arguments)
            raise UserCodeError

        return called

    def _may_raise_after(self, right: Callable[..., Any], uid: str) -> Callable[..., Any]:
        """Timers fire there; most calls have nothing to do."""

        def called(*arguments: Any) -> Any:
            worked = right(*arguments)
            if worked and (fault := self.injector.strikes("timer_error")) is not None:
                self.injector.record(fault, f"{uid} of {self.core.instance[:4]}, after it has passed rows on")
                raise UserCodeError
            return worked

        return called
