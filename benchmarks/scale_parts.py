"""What `scale.py` puts together: a wide job, TaskManagers that answer at once, and the cores of a leader as its process runs them."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flinkray.checkpoint.base import ChunkRef
from flinkray.checkpoint.manifest import CheckpointStats, Manifest, RunFacts, encode_manifest
from flinkray.checkpoint.sealing import seal
from flinkray.core.checkpoints import CheckpointPolicy
from flinkray.core.gate import JournalGate
from flinkray.core.job import JobCore, JobSettings
from flinkray.core.job_events import (
    AttachWorker,
    CreateWorker,
    JobCommand,
    JobEvent,
    ManifestFate,
    Send,
    TakeOver,
    WorkerStarted,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.journal import JournalCore
from flinkray.core.journal_calls import CaughtUp, JournalCall, JournalCommand, PutSlot, PutSnapshot, Recorded
from flinkray.core.journal_records import Elected, JournalEntry
from flinkray.core.messages import (
    Acknowledged,
    Committed,
    Counters,
    Deploy,
    Hello,
    HelloReply,
    Notify,
    Ready,
    Report,
    Running,
    Start,
    StateRef,
    TaskManagerState,
    Trigger,
    Triggered,
)
from flinkray.exchange.base import Endpoint
from flinkray.graph.job_graph import Forward, Hash, JobEdge, JobGraph, JobVertex, OperatorSpec
from flinkray.graph.key_groups import key_group_range
from flinkray.runtime.journal import MemorySlots, answer

MAX_PARALLELISM = 32768
INTERVAL_S = 10.0
CLAIM = 1


def wide_graph(slots: int, vertices: int) -> JobGraph:
    """A source, keyed operators behind shuffles, and a sink, each at parallelism `slots`."""
    kinds = ["source", *["keyed"] * (vertices - 2), "sink"]
    operators = [OperatorSpec(f"{kind}-{index}", f"{kind} {index}", kind, {}, (), None) for index, kind in enumerate(kinds)]
    made = tuple(JobVertex(index, (operator,), slots) for index, operator in enumerate(operators))
    edges = tuple(JobEdge(i, i, i + 1, 0, Forward() if i + 2 == vertices else Hash(("key",)), None) for i in range(vertices - 1))
    return JobGraph(made, edges, MAX_PARALLELISM, "scale")


@dataclass
class TaskManagers:
    """Says what TaskManagers say, at once."""

    graph: JobGraph
    slots: dict[str, int] = field(default_factory=dict)
    """By instance, of those that have tasks."""
    commands: Counter[str] = field(default_factory=Counter)
    pickled_bytes: Counter[str] = field(default_factory=Counter)
    """By kind of command, as they go over the wire; one in a hundred is weighed."""
    notified: int = 0

    def obey(self, send: Send) -> list[Report]:
        body = send.command.body
        kind = type(body).__name__
        if self.commands[kind] % 100 == 0:
            self.pickled_bytes[kind] = len(pickle.dumps(send.command))
        self.commands[kind] += 1
        return [Report(send.instance, send.command.attempt, said) for said in self._answers(send, body)]

    def _answers(self, send: Send, body: Any) -> list[Any]:
        if isinstance(body, Deploy):
            self.slots[send.instance] = body.slot
            return [Ready()]
        if isinstance(body, Start):
            return [Running()]
        if isinstance(body, Trigger):
            return [Triggered(body.checkpoint), self._acknowledged(send, body.checkpoint)]
        if isinstance(body, Notify):
            self.notified = max(self.notified, body.checkpoint)
            return [Committed(body.checkpoint)]
        if isinstance(body, Hello):
            slot, last = self.slots.get(send.instance), self.notified
            state = TaskManagerState.IDLE if slot is None else TaskManagerState.RUNNING
            return [HelloReply(send.command.epoch, state, slot, False, last, (), last, last)]
        return []

    def _acknowledged(self, send: Send, checkpoint: int) -> Acknowledged:
        slot, sink = self.slots[send.instance], self.graph.vertices[-1]
        states = tuple(state for vertex in self.graph.vertices for state in self._states(vertex, send, slot, checkpoint))
        prepared = {sink.operators[0].uid: ({"slot": slot, "file": f"part-{slot:05d}-{checkpoint:09d}.parquet", "rows": 65536},)}
        return Acknowledged(checkpoint, slot, states, prepared, Counters(checkpoint, checkpoint), written_bytes=1 << 20, sync_ms=2.0)

    def _states(self, vertex: JobVertex, send: Send, slot: int, checkpoint: int) -> list[StateRef]:
        """A list state of each operator; of a keyed one also its table, a full chunk and a delta."""
        groups, uid = key_group_range(MAX_PARALLELISM, vertex.parallelism, slot), vertex.operators[0].uid

        def chunk(of: int, name: str, kind: Any, full: bool) -> ChunkRef:
            where = f"data/c{CLAIM}-k{of}-a{send.command.attempt}-{send.instance}-slot-{slot}"
            digest = hashlib.sha256(f"{vertex.index} {slot} {of} {name}".encode()).hexdigest()
            return ChunkRef(
                where, vertex.index << 20, 1 << 20, 1 << 21, digest, "key-1", "scale/1", of, uid, name, kind, full, 1 << 16, groups.start, groups.stop
            )  # fmt: skip

        made = [StateRef(uid, slot, "ended", "list", groups.start, groups.stop, (chunk(checkpoint, "ended", "list", True),))]
        if uid.startswith("keyed"):
            chain = [chunk(1, "table", "keyed", True), *([chunk(checkpoint, "table", "keyed", False)] if checkpoint > 1 else [])]
            made.append(StateRef(uid, slot, "table", "keyed", groups.start, groups.stop, tuple(chain)))
        return made


@dataclass
class Work:
    """Of the leader, by kind: seconds of its core, and events that it took."""

    seconds: Counter[str] = field(default_factory=Counter)
    events: int = 0

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


class Leader:
    """The cores of one JobManager, carried out as `runtime.job_manager` does, over storage and GCS that answer at once."""

    def __init__(self, graph: JobGraph, slots: MemorySlots, election: int, task_managers: TaskManagers) -> None:
        token = f"token-{election}"
        policy = CheckpointPolicy(INTERVAL_S, 0.5, 600.0, store=True)
        self.core = JobCore(
            graph, JobSettings("scale", 1, policy, 0.1, 60.0, None), token, frozenset({graph.vertices[-1].operators[0].uid})
        )
        self.now = 0.0
        self.work = Work()
        self.journal_puts: list[int] = []
        """Bytes of each slot that was written."""
        self.snapshot_bytes = 0
        self.manifest_bytes = self.sealed_bytes = 0
        self._graph, self._slots, self._task_managers = graph, slots, task_managers
        self._gate, self._journal = JournalGate(), JournalCore(token)
        self._events: deque[JobEvent] = deque()
        self._obey_journal(self._journal.read())
        self._write(Elected(election, "scale"))
        self.give(TakeOver(self._journal.view))

    def give(self, *events: JobEvent) -> None:
        """These, and all that follows of them."""
        self._events.extend(events)
        while self._events:
            event = self._events.popleft()
            started = time.perf_counter()
            commands = self._gate.admit(self.core.step(event, self.now))
            self._spent("decisions", started)
            self.work.events += 1
            self._carry_out(commands)

    def measured(self, *events: JobEvent) -> Work:
        """What these cost the leader, and all that follows of them."""
        self.work = Work()
        self.give(*events)
        return self.work

    def _spent(self, kind: str, started: float) -> None:
        self.work.seconds[kind] += time.perf_counter() - started

    def _carry_out(self, commands: Iterable[JobCommand]) -> None:
        waiting = deque(commands)
        while waiting:
            command = waiting.popleft()
            if isinstance(command, Send):
                self._events.extend(self._task_managers.obey(command))
            elif isinstance(command, WriteJournal):
                self._write(command.entry)
                started = time.perf_counter()
                waiting.extend(self._gate.recorded())
                self._spent("decisions", started)
            elif isinstance(command, CreateWorker | AttachWorker):
                number = int(command.name.removeprefix("tm-"))
                host = f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}"
                endpoint = Endpoint(command.instance, host, f"/tmp/flinkray-{number}/exchange.sock", f"tcp://{host}:40000", "k" * 40)
                self._events.append(WorkerStarted(command.instance, endpoint, 1000 + number, host))
            elif isinstance(command, WriteManifest):
                self._write_manifest(command)

    def _write_manifest(self, command: WriteManifest) -> None:
        started = time.perf_counter()
        run = RunFacts("scale", CLAIM, self._graph, 7, 1)
        manifest = Manifest.of(command.content, run, 0, CheckpointStats.of(command.content, 1.0, command.sync_ms))
        encoded = encode_manifest(manifest)
        self._spent("manifest", started)
        started = time.perf_counter()
        self.manifest_bytes, self.sealed_bytes = len(encoded), len(seal(b"k" * 32, b"header", encoded))
        self._spent("sealing", started)
        self._events.append(ManifestFate(command.content.checkpoint, "complete", name=f"log/{command.content.checkpoint}"))

    def _write(self, entry: JournalEntry) -> None:
        started = time.perf_counter()
        commands = self._journal.append(entry)
        self._spent("journal", started)
        self._obey_journal(commands)

    def _obey_journal(self, commands: list[JournalCommand]) -> None:
        """Until the journal rests."""
        waiting = deque(commands)
        while waiting:
            command = waiting.popleft()
            if not isinstance(command, JournalCall):
                assert isinstance(command, CaughtUp | Recorded), f"nobody else leads: {command}"
                continue
            if isinstance(command.operation, PutSlot):
                self.journal_puts.append(len(command.operation.value))
            elif isinstance(command.operation, PutSnapshot):
                self.snapshot_bytes = len(command.operation.value)
            started = time.perf_counter()
            waiting.extend(self._journal.step(answer(self._slots, command)))  # type: ignore[arg-type]
            self._spent("journal", started)
