"""What every operator is. An operator lives in one mailbox thread; nothing here is called from two threads at once,
except `StateCapture.encode`, which runs on an upload thread after `snapshot` has returned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import pyarrow as pa

from flinkray.errors import PlanError
from flinkray.ids import KeyGroupRange
from flinkray.operators.calls import Calls, CallSpec, no_calls

StateKind = Literal["keyed", "list"]


class Output(Protocol):
    """Where an operator's rows go. `tag` names a side output; rows of a tag that nobody reads are dropped."""

    def emit(self, batch: pa.RecordBatch, tag: str | None = None) -> None: ...


@dataclass
class OperatorMetrics:
    """Counters of one operator in one subtask; the slot adds them up for `status`."""

    rows_in: int = 0
    rows_out: int = 0
    late_rows: int = 0
    skipped_rows: int = 0
    dead_letter_rows: int = 0
    state_rows: int = 0
    state_bytes: int = 0
    null_divisions: int = 0


@dataclass(frozen=True)
class OperatorContext:
    """What an operator knows about where it runs."""

    uid: str
    name: str
    subtask: int
    parallelism: int
    max_parallelism: int
    key_groups: KeyGroupRange
    hash_seed: int
    claim: int
    attempt: int
    instance: str
    input_schemas: tuple[pa.Schema | None, ...]
    output_schema: pa.Schema | None
    batch_rows: int
    clock: Callable[[], float]
    """Seconds of processing time (the simulator gives virtual time)."""
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    buffer_timeout_s: float = 0.005
    """How old a small batch of a source may become before it is sent."""
    check_values: bool = False
    """Look whether user code changes what it read of state and does not assign it (`process_loans`)."""
    open_calls: Callable[[CallSpec], Calls] = no_calls
    """Calls beside the mailbox, which the task looks after (`in_flight_operator`)."""

    def input_schema(self, index: int = 0) -> pa.Schema:
        """The columns of an input. Raises PlanError where they are known only when rows come."""
        schema = self.input_schemas[index]
        if schema is None:
            which = "its input" if len(self.input_schemas) == 1 else f"its input {index}"
            raise PlanError(f"{self.name}: the columns of {which} must be known; declare output_schema upstream")
        return schema


class StateCapture(ABC):
    """The result of the synchronous part of a snapshot: copies of, or references to, what must be written.

    `full` captures replace what was written before; the others are deltas on top of the chunks of the base checkpoint.
    """

    name: str
    kind: StateKind
    full: bool

    @abstractmethod
    def encode(self) -> pa.Table | None:
        """The chunk to write, on an upload thread. None when a delta has nothing to say.

        keyed: first column `_kg` uint16 (key group), rows sorted by it, then whatever the operator wants (typed columns).
        list: any table; on restore every subtask gets the tables of all subtasks and picks its share.
        """

    def encode_parts(self) -> Iterator[pa.Table]:
        """The same in one or several chunks, of which each is a delta on those before, so that a large one is never in memory as a whole."""
        table = self.encode()
        if table is not None:
            yield table


@dataclass(frozen=True)
class RestoredState:
    """One named state on restore: for each origin subtask its chunks in replay order (full first, then deltas).

    Keyed chunks are already cut to the key groups of this subtask. `continues` says that this subtask's own chain
    is exactly what is restored here (same key groups, same subtask), so that a later snapshot may be a delta on it.
    """

    name: str
    kind: StateKind
    chains: tuple[Sequence[pa.Table], ...]
    continues: bool = False


class Operator(ABC):
    """Takes batches, gives batches. Watermarks, barriers and the end of input are forwarded by the chain, after the operator's hook."""

    context: OperatorContext

    generates_watermarks: bool = False
    """The chain asks `output_watermark_us` after `on_watermark` and every `process`, and forwards an answer that has grown."""

    cuts_batches: bool = False
    """Where state is larger than its memory, it takes large batches, and cuts them itself to what fits (`KeyedTable.in_order`)."""

    idle: bool = False
    """Of an operator that generates watermarks: no row came for long, it holds nobody back (`Watermark(idle=True)`)."""

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        """Called once before any row. `restored` is empty on a fresh start. Override and call super().open(...)."""
        self.context = context

    @abstractmethod
    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        """One batch of an input; has at least one row. May keep references only to copies."""

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        """Event time has reached `watermark_us`: no row at or before it will come. Only called when it grows."""

    def output_watermark_us(self, input_us: int) -> int:
        """The watermark to forward when the inputs stand at `input_us`; never goes back."""
        return input_us

    def on_end(self, out: Output) -> None:
        """All inputs have ended (a final watermark of MAX_WATERMARK was given before)."""

    def on_processing_time(self, now_s: float, out: Output) -> None:
        """Called now and then (some ms to 100 ms) also when no row comes; for emission intervals and the like."""

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        """The synchronous part of a snapshot. `base_id` is the newest checkpoint that a delta may build on; None demands full captures."""
        return []

    def on_notify(self, checkpoint_id: int) -> bool:
        """Checkpoint complete, cumulative and repeated: commit all prepared up to it. True when done."""
        return True

    def close(self) -> None:
        """Release what is held; called once, also after a failure."""


class SteppingOperator(Operator):
    """A head operator that is not done with what it was given when a call returns: the task calls `advance` in every turn."""

    offending: pa.RecordBatch | None = None
    """The rows that it was at work on when `advance` raised."""

    needs_answers: bool = False
    """It waits for somebody else; otherwise calling `advance` again and again is enough."""

    @property
    @abstractmethod
    def accepts(self) -> bool:
        """More rows may come."""

    @property
    @abstractmethod
    def drained(self) -> bool:
        """Everything that came is done."""

    @property
    @abstractmethod
    def wait_s(self) -> float | None:
        """When `advance` should be called, if nothing else happens; None: there is no hurry."""

    @abstractmethod
    def advance(self, out: Output) -> bool:
        """Go on, for a short time. True when anything was done."""


class SourceOperator(Operator):
    """A head operator that makes rows by itself when polled. May have an input (splits) as well."""

    @abstractmethod
    def poll(self, out: Output) -> SourceStatus:
        """Emit at most one batch. Never blocks longer than reading one batch takes."""

    @abstractmethod
    def watermark_us(self) -> int:
        """The current watermark of this subtask; MIN_WATERMARK before any."""


@dataclass(frozen=True)
class SourceStatus:
    """What a poll found. `wait_s` > 0: nothing to do for so long (rate limit, nothing new); `ended`: no row will ever come."""

    emitted: bool
    wait_s: float = 0.0
    ended: bool = False
    idle: bool = False
    """The source has gone idle: its watermark must not hold others back."""
