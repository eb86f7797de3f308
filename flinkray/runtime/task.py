"""One running task: its input channels, barrier alignment, chain of operators and edges. Run by the slot's mailbox thread."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.core.alignment import Action, AdvanceWatermark, Alignment, AllEnded, BecomeActive, BecomeIdle, TakeSnapshot
from flinkray.core.messages import Counters
from flinkray.exchange.base import Barrier, Batch, EndOfInput, InputChannel, Watermark
from flinkray.exchange.coalesce import coalesce
from flinkray.ids import TaskId
from flinkray.operators.base import StateCapture, SteppingOperator
from flinkray.runtime.chain import Chain
from flinkray.state.memory import current

COALESCE_ROWS = 65536
MOST_ROWS = 1 << 18
ROW_BYTES = 64
"""Taken for the size of a row that waits."""


@dataclass(frozen=True)
class InputPort:
    """A channel and the input number of the head operator that it feeds."""

    channel: InputChannel
    input_index: int


@dataclass
class TaskSnapshot:
    """What a task captured for a checkpoint, before it is encoded and stored."""

    task: TaskId
    captures: dict[str, list[StateCapture]]
    transactions: dict[str, tuple[object, ...]]
    counters: Counters
    """Rows up to the barrier, and none after it."""
    sync_ms: float
    align_ms: float


@dataclass
class Progress:
    """What one run of a task did."""

    worked: bool = False
    wait_s: float | None = None
    """A source, or a head that waits for calls, has nothing to do for so long."""
    snapshots: list[tuple[Barrier, TaskSnapshot]] = field(default_factory=list)


class Task:
    def __init__(self, task: TaskId, chain: Chain, ports: Sequence[InputPort]) -> None:
        self.id = task
        self.chain = chain
        self.ended = False
        self.busy_s = 0.0
        """At work since the beginning of the attempt, as its slot measures it."""
        self._ports = tuple(ports)
        self._next_port = 0
        self._alignment = Alignment([port.channel.id for port in self._ports])
        self._inputs_ended = not self._ports
        self._barrier: Barrier | None = None
        self._aligning_since: float | None = None
        self._last_injected = 0
        self._watermark = MIN_WATERMARK
        self._idle = False
        self._halted = self._draining = False
        self._idle_due = False
        """Idle as soon as no row is in flight."""

    def run_once(self) -> Progress:
        """Take at most one element of each input channel (batches coalesced), or one batch from the source, while there is credit."""
        progress = Progress()
        if not self.chain.ready:
            return progress
        if self.chain.stepping is not None and not self.ended:
            self._advance(self.chain.stepping, progress)
        for _ in range(len(self._ports)):
            port = self._ports[self._next_port]
            self._next_port = (self._next_port + 1) % len(self._ports)
            if self._take(port, progress) and not self.chain.ready:
                return progress
        if self.chain.source is not None and not self.ended and self._alignment.aligning is None:
            self._poll_source(progress)
        return progress

    def inject(self, barrier: Barrier) -> TaskSnapshot | None:
        """A source without input begins a checkpoint here. None when it has begun it before."""
        if self._ports or barrier.checkpoint <= self._last_injected:
            return None
        self._last_injected = barrier.checkpoint
        return self._snapshot(barrier, None)

    def halt(self) -> None:
        """A source reads nothing more."""
        self._halted = True

    def drain(self) -> None:
        """A source reads nothing more, and ends when nothing comes to it any more: a split that was dealt out is in its state then."""
        self._draining = True

    def abandon(self, checkpoint: int) -> None:
        self._alignment.abort(checkpoint)
        self._last_injected = max(self._last_injected, checkpoint)

    @property
    def only_consumes(self) -> bool:
        """It reads no source, and steps through no work of its own: what it does it does for elements of its channels."""
        return self.chain.source is None and self.chain.stepping is None

    @property
    def backlog_bytes(self) -> int:
        return sum(port.channel.queued_bytes for port in self._ports)

    @property
    def rows(self) -> int:
        """That came to the head, or that it read."""
        return self.chain.metrics[self.chain.vertex.operators[0].uid].rows_in

    @property
    def watermark_us(self) -> int:
        return self._watermark

    def counters(self) -> Counters:
        """Rows of this attempt: those that sources have read and sinks have taken."""
        read = written = late = skipped = dead = 0
        for spec in self.chain.vertex.operators:
            metrics = self.chain.metrics[spec.uid]
            read += metrics.rows_out if spec.kind == "source" else 0
            written += metrics.rows_in if spec.kind == "sink" else 0
            late += metrics.late_rows
            skipped += metrics.skipped_rows
            dead += metrics.dead_letter_rows
        return Counters(read, written, late, skipped, dead)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _take(self, port: InputPort, progress: Progress) -> bool:
        channel = port.channel
        if self._alignment.blocked(channel.id):
            return False
        element = channel.peek()
        if element is None:
            return False
        if isinstance(element, Batch) and self.chain.stepping is not None and not self.chain.stepping.accepts:
            return False
        progress.worked = True
        if isinstance(element, Batch):
            self._act(self._alignment.on_rows(channel.id), progress)
            self._idle_due = False
            cuts = self.chain.head.cuts_batches
            for part in within_memory(coalesce(channel, coalesced_rows(cuts)).data, cuts):
                self.chain.process(part, port.input_index)
            return True
        channel.pop()
        if isinstance(element, Watermark):
            actions = self._alignment.on_watermark(channel.id, element.us, element.idle)
        elif isinstance(element, Barrier):
            self._note_barrier(element)
            actions = self._alignment.on_barrier(channel.id, element.checkpoint)
        else:
            assert isinstance(element, EndOfInput)
            actions = self._alignment.on_end(channel.id)
        self._act(actions, progress)
        return True

    def _act(self, actions: Sequence[Action], progress: Progress) -> None:
        for action in actions:
            if isinstance(action, TakeSnapshot):
                assert self._barrier is not None
                progress.snapshots.append((self._barrier, self._snapshot(self._barrier, self._aligning_since)))
            elif isinstance(action, AllEnded):
                self._inputs_ended = True
                if self.only_consumes:
                    self._end()
                else:
                    self.chain.input_ended()
            elif self.chain.source is not None:
                if isinstance(action, AdvanceWatermark):
                    self.chain.input_watermark(action.us)
            elif isinstance(action, AdvanceWatermark):
                self._watermark = action.us
                self._idle_due = False
                self.chain.watermark(action.us)
            elif isinstance(action, BecomeIdle):
                if self.chain.stepping is None or self.chain.stepping.drained:
                    self.chain.idle()
                else:
                    self._idle_due = True
            elif isinstance(action, BecomeActive):
                self._idle_due = False
                self.chain.active()

    def _advance(self, head: SteppingOperator, progress: Progress) -> None:
        progress.worked = self.chain.advance()
        progress.wait_s = head.wait_s
        if not head.drained:
            return
        if self._inputs_ended:
            self._end()
            progress.worked = True
        elif self._idle_due:
            self._idle_due = False
            self.chain.idle()

    def _note_barrier(self, barrier: Barrier) -> None:
        if self._barrier is None or barrier.checkpoint > self._barrier.checkpoint:
            self._barrier = barrier
            self._aligning_since = time.perf_counter()

    def _poll_source(self, progress: Progress) -> None:
        source = self.chain.source
        assert source is not None
        if self._halted:
            return
        if self._draining:
            if self._inputs_ended:
                self._end()
                progress.worked = True
            return
        status = self.chain.poll_source()
        progress.worked = progress.worked or status.emitted
        progress.wait_s = status.wait_s
        us = source.watermark_us()
        if us > self._watermark:
            self._watermark = us
            self.chain.watermark(us)
            self._idle = False
        elif self._idle and not status.idle:
            self.chain.active()
        if status.idle and not self._idle:
            self.chain.idle()
        self._idle = status.idle
        if status.ended and self._inputs_ended:
            self._end()
            progress.worked = True

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self._watermark = MAX_WATERMARK
            self.chain.end()

    def _snapshot(self, barrier: Barrier, aligning_since: float | None) -> TaskSnapshot:
        self._halted = self._halted or barrier.last
        started = time.perf_counter()
        captures = self.chain.snapshot(barrier)
        transactions = {
            uid: tuple(operator.transactions_uncommitted)
            for uid, operator in self.chain.operators()
            if hasattr(operator, "transactions_uncommitted")
        }
        done = time.perf_counter()
        align_ms = (started - aligning_since) * 1e3 if aligning_since is not None else 0.0
        return TaskSnapshot(self.id, captures, transactions, self.counters(), (done - started) * 1e3, align_ms)


def coalesced_rows(cuts: bool) -> int:
    """So many rows that are queued become one batch: more where an operator `cuts` them itself to read much state in a row instead of little here and there."""
    memory = current()
    return COALESCE_ROWS if memory is None or not (cuts and memory.tight) else max(COALESCE_ROWS, min(MOST_ROWS, memory.rows_of(ROW_BYTES)))


def within_memory(batch: pa.RecordBatch, cuts: bool = False) -> Iterator[pa.RecordBatch]:
    """The batch; where state is larger than its memory in parts, each to be processed before the next is asked for: so that the state of its rows fits. Whole
    where the operator `cuts` it itself."""
    memory = current()
    if memory is None or (cuts and memory.tight):
        yield batch
        return
    step = memory.rows_at_once if memory.tight else max(1, batch.num_rows)
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)
        memory.step()
