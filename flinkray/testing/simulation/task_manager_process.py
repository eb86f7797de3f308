"""A TaskManager process: the product's TaskManager, its exchange and uploads on virtual time, and the calls that JobManagers make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flinkray.core.messages import Command, TaskManagerState
from flinkray.errors import ProtocolError
from flinkray.ids import Epoch
from flinkray.runtime.task_manager import MAX_WAIT_S, Secrets
from flinkray.testing.simulation.exchange import SimulatedExchange
from flinkray.testing.simulation.lane import Lane
from flinkray.testing.simulation.stage_calls import SimulatedCalls
from flinkray.testing.simulation.user_code import RehearsedTaskManager
from flinkray.testing.simulation.world import Process

if TYPE_CHECKING:
    from flinkray.testing.simulation.cluster import Cluster, Run

STEP_S = 0.008
"""A turn of the mailbox with something to do; what arrives meanwhile is taken in together."""

IDLE_S = 0.03
"""The shortest sleep of a mailbox with nothing to do."""

POLL_S = 0.5
"""How long a poll is kept open when there is nothing to say."""

WITHOUT_TASKS_S = 0.3
"""How long a mailbox sleeps that has no tasks to run, and no news."""

Answer = Callable[..., None]
"""Takes numbered reports, the newest Stats or None, and why the asker is refused."""


@dataclass
class _Call:
    """A `poll` that a JobManager has open here."""

    after: int
    deadline: float
    answer: Answer


class TaskManagerProcess(Process):
    def __init__(self, cluster: Cluster, run: Run, instance: str, name: str, zone: str) -> None:
        super().__init__(cluster.world, name, zone)
        self.run = run
        self.instance = instance
        self._cluster = cluster
        self._calls: dict[str, _Call] = {}
        self._next_step = float("inf")
        self._heard_of_leader = self.monotonic()
        self.exchange = SimulatedExchange(
            instance, self, cluster.network, cluster.directory, cluster.heartbeat_timeout_s, lambda: self.wake(STEP_S)
        )
        self.uploads = Lane(self)
        self.task_manager = RehearsedTaskManager(
            instance, self.exchange, self.uploads, run.bundle, cluster.store_of(self), calls=SimulatedCalls(self)
        )
        self.task_manager.injector = cluster.injector
        self.wake(0.0)

    # -- calls of JobManagers -------------------------------------------------------------------------------------

    def command(self, command: Command, secrets: Secrets | None) -> None:
        self._heard_of_leader = self.monotonic()
        self.task_manager.submit(command, secrets)

    def poll(self, caller: str, after: int, epoch: Epoch, answer: Answer) -> None:
        """`answer` gets reports with numbers above `after` as soon as there are any, or nothing after a while."""
        self._heard_of_leader = self.monotonic()
        if self.task_manager.core.refuses(epoch):
            answer([], None, f"{self.name} obeys another leader than that of epoch {epoch.rank}")
            return
        self._calls[caller] = _Call(after, self.world.now + POLL_S, answer)
        self._answer()
        self.wake(POLL_S)

    # -- the mailbox ----------------------------------------------------------------------------------------------

    def wake(self, delay_s: float) -> None:
        """A step by then at the latest."""
        at = self.world.now + delay_s
        if at < self._next_step and self.alive:
            self._next_step = at
            self.after(delay_s, lambda: self._step(at))

    def end(self) -> None:
        if self.alive:
            super().end()
            self.task_manager.close()
            self._cluster.task_managers.pop(self.instance, None)

    def _step(self, at: float) -> None:
        if at != self._next_step:
            return  # another one was scheduled before it
        self._next_step = float("inf")
        running = self.task_manager.state is TaskManagerState.RUNNING
        worked = self.task_manager.run_once(MAX_WAIT_S if running else WITHOUT_TASKS_S)
        self._answer()
        if self.monotonic() - self._heard_of_leader > self._cluster.orphan_timeout_s:
            self.note("no JobManager for long: exits")
            self.end()
            return
        self.wake(STEP_S if worked else max(IDLE_S, self.exchange.wait_s))
        self._cluster.checkers.task_manager(self)

    def _answer(self) -> None:
        for caller, call in list(self._calls.items()):
            reports, stats = self.task_manager.poll(call.after, 0.0)
            if reports or stats is not None or self.world.now >= call.deadline:
                del self._calls[caller]
                call.answer(reports, stats)

    def check_invariants(self) -> None:
        """Raises ProtocolError."""
        self.task_manager.core.check_invariants()
        if self.alive and self._next_step == float("inf"):
            raise ProtocolError(f"{self.name} waits without a timer")
