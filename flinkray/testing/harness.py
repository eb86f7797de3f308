"""Drive one operator by hand, without a job: rows and watermarks in, a table out, snapshots and restores as well.

    harness = OperatorHarness(FilterOperator(predicate=col("price") > 100), input_schemas=schema)
    harness.rows([{"price": 50}, {"price": 150}])
    assert harness.output_rows() == [{"price": 150}]

It calls the operator as a slot does and holds it to its contract: what the operator emits and captures is checked, and
a breach raises ProtocolError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import EVENT_TIME, HIDDEN, MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import ProtocolError, UsageError
from flinkray.graph.key_groups import key_group_range
from flinkray.ids import KeyGroupRange
from flinkray.operators.base import (
    Operator,
    OperatorContext,
    OperatorMetrics,
    RestoredState,
    SourceOperator,
    SourceStatus,
    StateCapture,
    SteppingOperator,
)
from flinkray.operators.calls import CallSpec
from flinkray.operators.restore import StateChain, restored_states
from flinkray.testing.capture_checks import check_chunk
from flinkray.testing.manual_calls import ManualCalls

Rows: TypeAlias = Sequence[Mapping[str, Any]] | pa.RecordBatch | pa.Table


@dataclass(frozen=True)
class HarnessSettings:
    """Where the operator believes it runs; equal in all subtasks and across a restore."""

    input_schemas: tuple[pa.Schema, ...]
    output_schema: pa.Schema | None = None
    event_time: str | None = None
    max_parallelism: int = 128
    hash_seed: int = 7
    batch_rows: int = 65536
    uid: str = "operator"


@dataclass(frozen=True)
class SnapshotTables:
    """A snapshot of one subtask: what it wrote itself, and all that a restore from it reads."""

    checkpoint_id: int
    base_id: int | None
    subtask: int
    written: Mapping[str, pa.Table]
    """State name to the chunk that this snapshot wrote; a delta that had nothing to say is left out."""
    chains: tuple[StateChain, ...]
    settings: HarnessSettings

    @property
    def written_bytes(self) -> int:
        return sum(table.nbytes for table in self.written.values())


class OperatorHarness:
    """One operator in one subtask.

    `input_schemas` is a schema, or one per input. Dicts become rows of that schema; times are int µs or datetimes.
    `event_time` names the column that fills the hidden `_event_time`, which is then added to every input. `restored` is
    what `restored_states` gives; it is simpler to call `restore`. `metrics` are the operator's own counters.
    """

    def __init__(
        self,
        operator: Operator,
        *,
        input_schemas: pa.Schema | Sequence[pa.Schema] = (),
        output_schema: pa.Schema | None = None,
        event_time: str | None = None,
        subtask: int = 0,
        parallelism: int = 1,
        max_parallelism: int = 128,
        hash_seed: int = 7,
        batch_rows: int = 65536,
        uid: str = "operator",
        restored: Sequence[RestoredState] | None = None,
        restored_checkpoint: int | None = None,
    ) -> None:
        schemas = (input_schemas,) if isinstance(input_schemas, pa.Schema) else tuple(input_schemas)
        self.settings = HarnessSettings(schemas, output_schema, event_time, max_parallelism, hash_seed, batch_rows, uid)
        self.operator = operator
        self.subtask = subtask
        self.parallelism = parallelism
        self.metrics = OperatorMetrics()
        self.watermark_us = MIN_WATERMARK
        self.ended = False
        self._now_s = 0.0
        self._emitted: dict[str | None, list[pa.RecordBatch]] = {}
        self._schemas: dict[str | None, pa.Schema | None] = {None: output_schema}
        self._chains: dict[int, tuple[StateChain, ...]] = {}
        self.calls: ManualCalls
        """What the operator has called beside the mailbox, to be answered by hand; then `advance`."""
        if restored and restored_checkpoint is not None:
            self._chains[restored_checkpoint] = self._continued(restored)
        operator.open(self._context(schemas), restored or (), restored_checkpoint)

    @property
    def key_groups(self) -> KeyGroupRange:
        return key_group_range(self.settings.max_parallelism, self.parallelism, self.subtask)

    # --- what goes in

    def rows(self, rows: Rows, input: int = 0) -> OperatorHarness:
        """Give rows to an input as one batch (a Table: as its batches); none at all is no call, as in a slot."""
        if self.ended:
            raise UsageError("the harness has seen the end of input; make a new one, or restore a snapshot")
        if not 0 <= input < len(self.settings.input_schemas):
            raise UsageError(f"input {input} is not one of the {len(self.settings.input_schemas)} of this harness")
        for batch in self._batches(rows, self.settings.input_schemas[input]):
            if batch.num_rows:
                self._finish()
                self.operator.process(batch, input, self)
        return self

    def watermark(self, us: int) -> OperatorHarness:
        """Event time reaches `us`; one that is no larger than the last is ignored, as in a slot."""
        if us > self.watermark_us:
            self.watermark_us = us
            self.operator.on_watermark(us, self)
            self._finish()
        return self

    def processing_time(self, now_s: float) -> OperatorHarness:
        """Set the clock (seconds, never back; it starts at 0) and let the operator look at it."""
        if now_s < self._now_s:
            raise UsageError(f"processing time {now_s} s lies before {self._now_s} s")
        self._now_s = now_s
        self.operator.on_processing_time(now_s, self)
        return self

    def end(self) -> OperatorHarness:
        """The end of all inputs: the last watermark, then `on_end`."""
        self.watermark(MAX_WATERMARK)
        self.ended = True
        self.operator.on_end(self)
        self._finish()
        return self

    def _finish(self) -> None:
        """An operator that goes on by itself does, until it is done."""
        operator = self.operator
        while isinstance(operator, SteppingOperator) and not operator.needs_answers and not operator.drained:
            operator.advance(self)

    def advance(self) -> OperatorHarness:
        """Let an operator with rows in flight take in answers, or fire the next slice of timers."""
        if not isinstance(self.operator, SteppingOperator):
            raise UsageError(f"{type(self.operator).__name__} has no rows in flight")
        self.operator.advance(self)
        return self

    @property
    def output_watermark_us(self) -> int:
        """What the operator lets the chain forward by now."""
        return self.operator.output_watermark_us(self.watermark_us)

    def poll(self) -> SourceStatus:
        """Ask a source operator for a batch."""
        if not isinstance(self.operator, SourceOperator):
            raise UsageError(f"{type(self.operator).__name__} is no source operator; it is fed with rows()")
        return self.operator.poll(self)

    # --- what comes out

    def emit(self, batch: pa.RecordBatch, tag: str | None = None) -> None:
        """Called by the operator."""
        expected = self._schemas.setdefault(tag, batch.schema)
        if expected is None:
            self._schemas[tag] = batch.schema
        elif not batch.schema.equals(expected):
            raise ProtocolError(f"{self._who} emitted to {tag or 'its output'}:\n{batch.schema}\ninstead of:\n{expected}")
        position = batch.schema.get_field_index(EVENT_TIME)
        if position >= 0 and (batch.schema.field(position).type != pa.int64() or batch.column(position).null_count):
            raise ProtocolError(f"{self._who} emitted rows whose {EVENT_TIME} is null or no int64")
        self._emitted.setdefault(tag, []).append(batch)

    def output(self, tag: str | None = None) -> pa.Table:
        """What came out since the last call, hidden columns included. Without rows: the schema if it is known."""
        schema = self._schemas.get(tag)
        return pa.Table.from_batches(self._emitted.pop(tag, []), schema if schema is not None else pa.schema([]))

    def output_rows(self, tag: str | None = None) -> list[dict[str, Any]]:
        """The same as dicts, times as int µs, without hidden columns."""
        table = self.output(tag)
        table = table.select([name for name in table.column_names if name not in HIDDEN])
        plain = [pc.cast(c, pa.int64()) if pa.types.is_timestamp(c.type) else c for c in table.columns]
        return pa.table(plain, names=table.column_names).to_pylist()

    # --- checkpoints

    def capture(self, checkpoint_id: int, base_id: int | None = None) -> Callable[[], SnapshotTables]:
        """The synchronous part of a snapshot. Call the result for the rest, later; it must not see rows given since."""
        if base_id is not None and base_id not in self._chains:
            raise UsageError(f"base {base_id} is not a finished snapshot of this harness; those are {list(self._chains)}")
        captures = self.operator.snapshot(checkpoint_id, base_id)

        def finish() -> SnapshotTables:
            return self._encoded(captures, checkpoint_id, base_id)

        return finish

    def snapshot(self, checkpoint_id: int, base_id: int | None = None) -> SnapshotTables:
        """A whole snapshot; `base_id` is an earlier one on which deltas may build, None demands full captures."""
        return self.capture(checkpoint_id, base_id)()

    def notify(self, checkpoint_id: int) -> bool:
        """The checkpoint is complete. True when the operator has committed all that it must."""
        return self.operator.on_notify(checkpoint_id)

    def close(self) -> None:
        self.operator.close()

    def __enter__(self) -> OperatorHarness:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    # --- inside

    @property
    def _who(self) -> str:
        return f"{type(self.operator).__name__} ({self.settings.uid!r}, subtask {self.subtask})"

    def _context(self, schemas: tuple[pa.Schema, ...]) -> OperatorContext:
        settings = self.settings
        return OperatorContext(
            uid=settings.uid,
            name=settings.uid,
            subtask=self.subtask,
            parallelism=self.parallelism,
            max_parallelism=settings.max_parallelism,
            key_groups=self.key_groups,
            hash_seed=settings.hash_seed,
            claim=1,
            attempt=1,
            instance="0" * 32,
            input_schemas=tuple(self._with_event_time(schema) for schema in schemas),
            output_schema=settings.output_schema,
            batch_rows=settings.batch_rows,
            clock=lambda: self._now_s,
            metrics=self.metrics,
            check_values=True,
            open_calls=self._open_calls,
        )

    def _open_calls(self, spec: CallSpec) -> ManualCalls:
        self.calls = ManualCalls(spec)
        return self.calls

    def _with_event_time(self, schema: pa.Schema) -> pa.Schema:
        if self.settings.event_time is None or EVENT_TIME in schema.names:
            return schema
        return schema.append(pa.field(EVENT_TIME, pa.int64(), nullable=False))

    def _batches(self, rows: Rows, schema: pa.Schema) -> list[pa.RecordBatch]:
        if isinstance(rows, pa.RecordBatch):
            batches = [rows]
        elif isinstance(rows, pa.Table):
            batches = rows.to_batches()
        else:
            _check_columns(rows, schema)
            batches = [pa.RecordBatch.from_pylist(list(rows), schema)]
        column = self.settings.event_time
        if column is None:
            return batches
        return [
            batch if EVENT_TIME in batch.schema.names else _add_event_time(batch, column, self._with_event_time(batch.schema))
            for batch in batches
        ]

    def _continued(self, restored: Sequence[RestoredState]) -> tuple[StateChain, ...]:
        return tuple(
            StateChain(state.name, state.kind, self.subtask, self.key_groups, state.chains[0]) for state in restored if state.continues
        )

    def _encoded(self, captures: list[StateCapture], checkpoint_id: int, base_id: int | None) -> SnapshotTables:
        base = {} if base_id is None else {chain.name: chain for chain in self._chains[base_id]}
        written: dict[str, pa.Table] = {}
        chains = []
        for capture in captures:
            parts = list(capture.encode_parts())
            for chunk in parts or [None]:
                check_chunk(capture, chunk, capture.name in base, self.key_groups, self._who)
            tables = () if capture.full else base[capture.name].tables
            if parts:
                written[capture.name] = pa.concat_tables(parts)
                tables = (*tables, *parts)
            chains.append(StateChain(capture.name, capture.kind, self.subtask, self.key_groups, tables))
        self._chains[checkpoint_id] = tuple(chains)
        return SnapshotTables(checkpoint_id, base_id, self.subtask, written, tuple(chains), self.settings)


def restore(operator_factory: Callable[[], Operator], snapshots: Sequence[SnapshotTables], parallelism: int) -> list[OperatorHarness]:
    """Fresh operators restored from the snapshots of all subtasks of one checkpoint, at any parallelism.

    State is cut exactly as the engine does it. The watermark begins anew, as after a restart of the job.
    Raises UsageError when the snapshots are not of one checkpoint.
    """
    if not snapshots or len({snapshot.checkpoint_id for snapshot in snapshots}) != 1:
        raise UsageError("restore takes the snapshots of all subtasks of one checkpoint, at least one")
    if len({snapshot.subtask for snapshot in snapshots}) != len(snapshots):
        raise UsageError("restore was given two snapshots of one subtask")
    settings = snapshots[0].settings
    chains = [chain for snapshot in snapshots for chain in snapshot.chains]
    harnesses = []
    for subtask in range(parallelism):
        key_groups = key_group_range(settings.max_parallelism, parallelism, subtask)
        harnesses.append(
            OperatorHarness(
                operator_factory(),
                **vars(settings),
                subtask=subtask,
                parallelism=parallelism,
                restored=restored_states(chains, key_groups, subtask),
                restored_checkpoint=snapshots[0].checkpoint_id,
            )
        )
    return harnesses


def _add_event_time(batch: pa.RecordBatch, column: str, schema: pa.Schema) -> pa.RecordBatch:
    times = pc.cast(batch.column(column), pa.int64())
    return pa.RecordBatch.from_arrays([*batch.columns, times], schema=schema)


def _check_columns(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """A misspelt name would be a silent null."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise UsageError(f"rows have columns {sorted(unknown)} that the input's schema has not; it has {schema.names}")
