"""The TaskManager: a shell over its pure core, one slot, one mailbox thread. The Ray actor, the local runtime and the simulator all run this class.

Commands come in from any thread and are obeyed in the mailbox; reports wait in an outbox that the JobManager reads with a cursor, so
that none is lost when an answer is.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.chunk_reader import AHEAD_BYTES, ChunkReader
from flinkray.checkpoint.incidents import incident_name, save_incident
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.local_copies import LocalCopies
from flinkray.checkpoint.store import check_probe
from flinkray.config import JobConfig, Resources, duration_s
from flinkray.core.messages import (
    CheckpointDeclined,
    Command,
    Committed,
    HelloReply,
    PeerLost,
    Ready,
    Report,
    SinkRows,
    SlotEnded,
)
from flinkray.core.task_manager import (
    AbandonCheckpoint,
    BuildTasks,
    Built,
    CloseTasks,
    CommitUpTo,
    DrainTasks,
    Effect,
    InjectBarrier,
    Observed,
    StartTasks,
    TaskManagerCore,
    TaskManagerState,
    Tell,
)
from flinkray.errors import DeposedError, OperatorError, SpillError
from flinkray.exchange.base import Barrier, Exchange
from flinkray.graph.job_graph import JobGraph
from flinkray.graph.logical import SinkNode
from flinkray.graph.planner import plan
from flinkray.ids import Epoch
from flinkray.operators.calls import CallsFactory
from flinkray.runtime.calls import InProcessCalls
from flinkray.runtime.clock import steady_clock
from flinkray.runtime.incident import incident_of
from flinkray.runtime.outbox import Outbox
from flinkray.runtime.slot import Slot, SlotCheckpoint, SlotPlace
from flinkray.runtime.task_failure import task_failed
from flinkray.runtime.uploader import Uploader
from flinkray.state.memory import StateMemory, use

STATS_INTERVAL_S = 0.1
PROCESSING_TIME_INTERVAL_S = 0.02
MAX_WAIT_S = 0.05


@dataclass(frozen=True)
class JobBundle:
    """What a TaskManager needs to know of its job, once."""

    graph: JobGraph
    config: JobConfig
    application: str
    code_digest: str = ""
    """SHA-256 of the job's script, hex: what a savepoint says it was made by."""
    sinks: tuple[SinkNode, ...] = ()
    """The logical plan, so that the job can be planned at another parallelism; empty where that is not wanted."""

    def graph_at(self, parallelism: int) -> JobGraph:
        """0: as it was submitted."""
        return plan(self.sinks, parallelism, self.graph.max_parallelism) if parallelism else self.graph


@dataclass(frozen=True)
class Secrets:
    """Keys of an attempt; given over the authenticated channel only (rule 18)."""

    exchange: bytes = field(repr=False)
    data_key: DataKey | None = field(default=None, repr=False)
    """Seals what this attempt writes."""
    data_keys: dict[str, DataKey] = field(default_factory=dict, repr=False)
    """Open what it restores, by id."""


T = TypeVar("T")


class Background(Protocol):
    """Runs functions away from the mailbox."""

    def run(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """In order, one at a time; `done` gets the result or exception, on any thread."""
        ...

    def start(self, function: Callable[[], T]) -> Callable[[], T]:
        """Begin it; what is returned waits for the result, or raises its error."""
        ...

    def close(self) -> None: ...


def state_memory(resources: Resources) -> StateMemory | None:
    """The budget that a job's configuration gives each TaskManager for state. Raises ConfigError where files cannot be made."""
    if resources.state_memory_mb is None:
        return None
    disk_bytes = None if resources.state_disk_mb is None else resources.state_disk_mb << 20
    return StateMemory(resources.state_memory_mb << 20, resources.spill_folder, disk_bytes)


class TaskManager:
    def __init__(
        self,
        instance: str,
        exchange: Exchange,
        background: Background,
        bundle: JobBundle,
        store: ObjectStore | None,
        clock: Callable[[], float] | None = None,
        calls: CallsFactory | None = None,
    ) -> None:
        """`clock`: seconds since 1970, that must not jump. `calls`: where operators' calls run; in this process if not given."""
        self.core = TaskManagerCore(instance)
        self._exchange = exchange
        self._background = background
        self._bundle = bundle
        self._store = store
        self._clock = clock or steady_clock()
        self._calls = calls or InProcessCalls()
        self._inbox: deque[Callable[[], None]] = deque()
        self._outbox = Outbox()
        self._slot: Slot | None = None
        self._uploader: Uploader | None = None
        self._copies = LocalCopies(bundle.config.resources.local_copies_mb << 20)
        self._running = False
        self._told_end = False
        self._commit_up_to: int | None = None
        self._next_stats = self._next_processing_time = 0.0
        self._secrets: dict[int, Secrets] = {}
        self._memory: StateMemory | None = None
        """The budget of state; None until there are tasks, and where there is none."""

    # -- from any thread ------------------------------------------------------------------------------------------

    def submit(self, command: Command, secrets: Secrets | None = None) -> None:
        """Obey `command` in the mailbox. A Deploy comes with the attempt's secrets."""

        def obey() -> None:
            if secrets is not None:
                self._secrets = {command.attempt: secrets}
            self._carry_out(self.core.step(command))

        self._post(obey)

    def poll(self, after: int, timeout_s: float, epoch: Epoch | None = None) -> tuple[list[tuple[int, Report]], Report | None]:
        """Reports with numbers above `after` (earlier ones are heard and forgotten), and the newest Stats; waits while there is nothing.

        `epoch`: the asker's. A leader that is not obeyed here any more gets DeposedError, and takes no report from its successor, which begins
        with `after` 0 and Hello.
        """
        if epoch is not None and self.core.refuses(epoch):
            raise DeposedError(f"TaskManager {self.core.instance} obeys another leader than that of epoch {epoch.rank}")
        return self._outbox.read(after, timeout_s)

    def operator_metrics(self) -> dict[str, dict[str, int]]:
        slot = self._slot
        return {uid: vars(metrics).copy() for uid, metrics in slot.operator_metrics().items()} if slot else {}

    # -- the mailbox ----------------------------------------------------------------------------------------------

    def run_once(self, max_wait_s: float = MAX_WAIT_S) -> bool:
        """One turn: commands, tasks, channels. Returns False when nothing was to be done (after waiting for news, at most `max_wait_s`)."""
        use(self._memory)
        try:
            return self._turn(max_wait_s)
        finally:
            use(None)  # of several TaskManagers in one process only this one's state counts against its budget

    def _turn(self, max_wait_s: float) -> bool:
        worked = self._drain()
        wait_s = max_wait_s
        if self._running and self._slot is not None:
            try:
                turn_worked, wait_s = self._run_tasks(wait_s)
                worked = worked or turn_worked
            except Exception as error:  # noqa: BLE001 - whatever a task raises ends the attempt, not the process
                self._task_failed(error)
        for lost in self._exchange.poll(0.0 if worked or self._inbox else wait_s):
            self._observe(PeerLost(lost.peer_instance, lost.reason))
        self._tell_stats()
        return worked

    def close(self) -> None:
        """Drop everything. Call from the mailbox thread, or after it has ended."""
        self._close_tasks()
        self._calls.close()
        self._exchange.close()
        self._background.close()

    def leave(self, within_s: float) -> bool:
        """From any thread, before the process is killed: the user's functions are closed. False where that takes longer."""
        closed = threading.Event()

        def close() -> None:
            self._close_tasks()
            closed.set()

        self._post(close)
        return closed.wait(within_s)

    def _drain(self) -> bool:
        worked = False
        while self._inbox:
            self._inbox.popleft()()
            worked = True
        return worked

    def _run_tasks(self, wait_s: float) -> tuple[bool, float]:
        slot = self._slot
        assert slot is not None
        now = self._clock()
        if now >= self._next_processing_time:
            self._next_processing_time = now + PROCESSING_TIME_INTERVAL_S
            slot.processing_time(now)
        turn = slot.turn()
        if self._memory is not None:
            self._memory.step()
        for part in turn.complete:
            self._upload(part)
        if self._commit_up_to is not None:
            self._commit(self._commit_up_to)
        if slot.ended and not self._told_end:
            self._told_end = True
            self._observe(SlotEnded())
        return turn.worked, min(wait_s, turn.wait_s)

    # -- effects of the core --------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Tell):
                self._outbox.put(effect.report)
                if isinstance(effect.report.body, HelloReply):
                    self._next_stats = 0.0  # a new leader has no counters yet
            elif isinstance(effect, CloseTasks):
                self._close_tasks()
            elif isinstance(effect, BuildTasks):
                self._build(effect)
            elif isinstance(effect, StartTasks):
                self._running = True
                if effect.halted and self._slot is not None:
                    self._slot.halt()
            elif isinstance(effect, DrainTasks):
                if self._slot is not None:
                    self._slot.drain()
            elif isinstance(effect, InjectBarrier):
                self._inject(effect)
            elif isinstance(effect, AbandonCheckpoint):
                if self._slot is not None:
                    self._slot.abandon(effect.checkpoint)
            elif isinstance(effect, CommitUpTo):
                self._commit_up_to = effect.checkpoint

    def _build(self, effect: BuildTasks) -> None:
        deploy, attempt = effect.deploy, effect.attempt
        secrets = self._secrets.get(attempt, Secrets(b""))
        config = self._bundle.config
        place = SlotPlace(
            deploy.slot,
            attempt,
            deploy.claim,
            self.core.instance,
            deploy.hash_seed,
            config.batch_rows,
            duration_s(config.buffer_timeout),
            self._clock,
            lambda spec: self._calls.open(spec, self._exchange.wake),
        )
        try:
            self._check_probe(deploy.claim)
            self._limit_memory()
            graph = self._bundle.graph_at(deploy.parallelism)
            self._slot = Slot(graph, place, self._exchange, secrets.exchange, deploy.peers)
            origin = f"{self._bundle.application}/{deploy.claim}"
            self._uploader = Uploader(graph, place, self._store, secrets.data_key, origin, self._copies, self._memory)
            reader = self._reader(secrets)
            reader.expect(chunk for state in deploy.states for chunk in state.chunks)
            if deploy.restored_checkpoint is not None:
                self._uploader.restored(deploy.restored_checkpoint, deploy.states)
            self._slot.open(deploy, reader.read)
            self._calls.settle(frozenset(uid for task in self._slot.tasks for uid in task.chain.metrics))
        except Exception as error:  # noqa: BLE001 - whatever building raises ends the attempt, not the process
            self._task_failed(error)
            return
        self._carry_out(self.core.step(Built(attempt, Ready(reader.memory_bytes, reader.storage_bytes))))

    def _limit_memory(self) -> None:
        """State that is made from now on lies within the budget, where there is one. Raises ConfigError."""
        if self._memory is None:
            self._memory = state_memory(self._bundle.config.resources)
            use(self._memory)

    def _reader(self, secrets: Secrets) -> ChunkReader:
        ahead_bytes = None if self._memory is None else min(AHEAD_BYTES, self._memory.budget_bytes // 8)
        return ChunkReader(self._store, secrets.data_keys, self._copies, self._background.start, ahead_bytes)

    def _check_probe(self, claim: int) -> None:
        """A store that this node does not share with the JobManager's must be found out before anything is written (rule 6)."""
        if self._store is not None:
            check_probe(self._store, f"claim-{claim}")

    def _close_tasks(self) -> None:
        slot, self._slot = self._slot, None
        self._uploader = None
        self._running = self._told_end = False
        self._commit_up_to = None
        if slot is not None:
            slot.close()
            del slot
            if self._memory is not None:
                gc.collect()  # operators refer to each other: their disk is free now, and not some time

    def _inject(self, effect: InjectBarrier) -> None:
        if self._slot is None:
            return
        try:
            for part in self._slot.inject(Barrier(effect.checkpoint, effect.base, effect.store, effect.last)):
                self._upload(part)
        except Exception as error:  # noqa: BLE001 - whatever a source's user code raises ends the attempt, not the process
            self._task_failed(error)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _upload(self, part: SlotCheckpoint) -> None:
        uploader, attempt, checkpoint = self._uploader, self.core.attempt, part.barrier.checkpoint
        assert uploader is not None

        def done(answer: Any) -> None:
            body = answer if not isinstance(answer, BaseException) else CheckpointDeclined(checkpoint, f"{type(answer).__name__}: {answer}")
            self._post(lambda: self._carry_out(self.core.step(Observed(attempt, body))))

        self._background.run(lambda: uploader.upload(part), done)

    def _commit(self, checkpoint: int) -> None:
        assert self._slot is not None
        if not self._slot.commit(checkpoint):
            return
        self._commit_up_to = None
        if self._uploader is not None:
            self._uploader.settled(checkpoint)
        for task in self._slot.tasks:
            for uid, operator in task.chain.operators():
                take = getattr(operator, "take_collected", None)
                if take is not None and (data := take()):
                    self._observe(SinkRows(uid, data))
        self._observe(Committed(checkpoint))

    # -- reports --------------------------------------------------------------------------------------------------

    def _observe(self, body: Any) -> None:
        self._carry_out(self.core.step(Observed(self.core.attempt, body)))

    def _task_failed(self, error: Exception) -> None:
        self._running = False
        if isinstance(error, SpillError):
            self._copies.clear()  # they lie on the same disk: room for state, or as lost as it
        save = self._saving_incident(error) if isinstance(error, OperatorError) else None
        failed = task_failed(error, self._slot.tasks if self._slot is not None else ())  # says where the incident is
        if save is None:
            self._observe(failed)
            return
        attempt = self.core.attempt
        # Whoever hears of the failure finds the incident, unless storage refused it.
        self._background.run(save, lambda answer: self._post(lambda: self._carry_out(self.core.step(Observed(attempt, failed)))))

    def _saving_incident(self, error: OperatorError) -> Callable[[], None] | None:
        """Saves what the operator was given when it raised, for `flinkray replay`; None where that cannot be done. Runs in the background."""
        data_key = self._secrets.get(self.core.attempt, Secrets(b"")).data_key
        store, application = self._store, self._bundle.application
        if self._slot is None or store is None or data_key is None:
            return None
        task = next((task for task in self._slot.tasks if task.chain.offence is not None and error.uid in task.chain.metrics), None)
        if task is None:
            return None
        try:
            content = incident_of(application, task.chain, error, self.core.notified, self._clock()).to_bytes()
        except Exception:  # noqa: BLE001 - whatever user code's objects raise when they are pickled; the failure itself counts more
            return None
        name = incident_name(self._slot.claim, error.uid, task.id.subtask)
        error.incident = f"{application}/{name}"
        return lambda: save_incident(store, data_key, application, name, content)

    def _tell_stats(self) -> None:
        now = self._clock()
        if self._slot is None or now < self._next_stats:
            return
        self._next_stats = now + STATS_INTERVAL_S
        self._outbox.put_stats(Report(self.core.instance, self.core.attempt, self._slot.stats()))

    def _post(self, action: Callable[[], None]) -> None:
        self._inbox.append(action)
        self._exchange.wake()

    @property
    def state(self) -> TaskManagerState:
        return self.core.state
