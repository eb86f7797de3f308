"""What a JobManager needs of the place it runs in: TaskManager processes to make, to reach and to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from flinkray.core.job_events import JobEvent
from flinkray.core.messages import Command
from flinkray.ids import Epoch
from flinkray.runtime.task_manager import Secrets

Post = Callable[[JobEvent], None]
"""Gives the job core an event, from any thread."""


class WorkerBackend(ABC):
    """Implemented over Ray actors, threads, and the simulator. No method blocks; what comes of it is posted as events."""

    @abstractmethod
    def start(self, post: Post, epoch: Callable[[], Epoch]) -> None:
        """`epoch`: of this leader, as it is known by now."""

    @abstractmethod
    def create(self, instance: str, name: str) -> None:
        """WorkerStarted follows when it is up and warm, or NoRoom, or WorkerLost."""

    @abstractmethod
    def attach(self, instance: str, name: str) -> None:
        """Reach what an earlier leader made: WorkerStarted follows, or WorkerLost."""

    @abstractmethod
    def find(self) -> None:
        """WorkersFound follows: every TaskManager of the run, also those that this leader never asked for. `kill` then ends them, too."""

    @abstractmethod
    def send(self, instance: str, command: Command, secrets: Secrets | None) -> None: ...

    @abstractmethod
    def kill(self, instance: str) -> None: ...

    @abstractmethod
    def operator_metrics(self) -> dict[str, dict[str, int]]:
        """Per operator uid, added up over subtasks; bounded time."""

    @abstractmethod
    def close(self) -> None:
        """End every process that is left."""

    @abstractmethod
    def leave(self) -> None:
        """Another leader has them now: let go of every process, and end none."""


def add_metrics(parts: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for part in parts:
        for uid, counters in part.items():
            into = total.setdefault(uid, {})
            for name, value in counters.items():
                into[name] = into.get(name, 0) + value
    return total
