"""Running aggregates by key: each row changes its key's answer, and the new answers go out as upserts (`_change` = +1).

`emit="batch"`: each touched key once per processed batch. `"row"`: once per input row. `"final"`: every key once, at the end of input.
A number of seconds: each touched key at most that often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flinkray.columns import CHANGE, EVENT_TIME
from flinkray.errors import PlanError, ProtocolError
from flinkray.graph.aggregates import Aggregate, result_schema
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.list_state import ListCapture, origin_tables
from flinkray.operators.restore import TableCapture
from flinkray.state.accumulate import LINE
from flinkray.state.arrow_buffers import contiguous, words_of
from flinkray.state.arrow_memory import rows_of
from flinkray.state.growth import rows_at_most
from flinkray.state.layout import AggregateLayout, Program
from flinkray.state.memory import current
from flinkray.state.table import Copy, KeyedTable, Snapshots, encode_parts, encode_rows, is_as_now, read_rows

ROWS_STATE, PENDING_STATE, ENDED_STATE = "rows", "pending", "ended"

_STAMP_ONLY = Program(np.zeros((0, LINE), np.int64), [], 0)


class KeyedAggregateOperator(Operator):
    """Emits `aggregates.result_schema`: keys, aggregates, the key's largest event time where there is one, change."""

    cuts_batches = True

    def __init__(
        self,
        *,
        keys: Sequence[str],
        aggregates: Sequence[Aggregate],
        emit: str | float = "batch",
        pre_aggregated: bool = False,
    ) -> None:
        if isinstance(emit, str) and emit not in ("batch", "row", "final"):
            raise PlanError(f'emit={emit!r}: use "batch", "row", "final" or a duration')
        if emit == "row" and pre_aggregated:
            raise PlanError('emit="row" needs every row; it cannot follow pre-aggregation')
        self._keys, self._aggregates, self._emit, self._pre_aggregated = tuple(keys), tuple(aggregates), emit, pre_aggregated
        self._snapshots = Snapshots()
        self._pending: list[np.ndarray] = []
        self._ended = False

    # --- life

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schemas[0]
        if schema is None:
            raise PlanError(f"{context.name}: aggregates need to know their input's columns; declare output_schema upstream")
        self._layout = self._make_layout(context, schema)
        self._key_fields = [self._schema.field(key) for key in self._keys]
        expected = sum(_keys_of(chain) for state in restored if state.name == ROWS_STATE for chain in state.chains)
        self._table = KeyedTable([field.type for field in self._key_fields], self._layout.initial, context.hash_seed, expected)
        for state in restored:
            if state.name == ROWS_STATE:
                self._restore_rows(state, restored_checkpoint)
        for state in restored:
            if state.name == PENDING_STATE:
                self._restore_pending(state)
        ended = [table.column(0)[0].as_py() for table in origin_tables(restored, ENDED_STATE)]
        self._ended = bool(ended) and all(ended)
        self._next_emit_s = context.clock() + self._emit if not isinstance(self._emit, str) else 0.0
        self._measure()

    def _make_layout(self, context: OperatorContext, schema: pa.Schema) -> AggregateLayout:
        extra = [EVENT_TIME] if EVENT_TIME in schema.names else []
        if not self._pre_aggregated:
            self._schema = context.output_schema or result_schema(self._keys, self._aggregates, None, schema)
            return AggregateLayout.of_rows(self._aggregates, schema, *extra)
        if context.output_schema is None:
            raise ProtocolError(f"{context.name}: the result's types are not in the plan, and cannot be told from parts")
        self._schema = context.output_schema
        return AggregateLayout.of_partials(self._aggregates, schema, self._schema, *extra)

    # --- rows

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        self._ended = False
        memory = current()
        if memory is None or not memory.tight:
            self._fold(batch, self._table.slots(self._table.index.keys(batch, self._keys)), out)
        else:
            for part, slots in self._table.in_order(batch, self._keys, memory):
                self._fold(part, slots, out)
        self._measure()

    def _fold(self, batch: pa.RecordBatch, slots: np.ndarray, out: Output) -> None:
        touched = np.empty(len(slots), np.int32)
        generation = self._snapshots.generation
        program = self._layout.merge(batch) if self._pre_aggregated else self._layout.update(batch)
        if self._emit == "row":
            words = self._layout.run_each(program, self._table.rows, slots)
            self._layout.run(_STAMP_ONLY, self._table.rows, slots, generation, touched)
            self._emit_each(batch, words, out)
        else:
            count = self._layout.run(program, self._table.rows, slots, generation, touched)
            if self._emit == "batch":
                self._emit_slots(touched[:count], out)
                self._snapshots.generation += 1
            elif self._emit != "final" and count:
                self._pending.append(touched[:count].copy())

    def on_processing_time(self, now_s: float, out: Output) -> None:
        if not isinstance(self._emit, str) and now_s >= self._next_emit_s:
            self._next_emit_s = now_s + self._emit
            self._emit_pending(out)

    def on_end(self, out: Output) -> None:
        self._emit_pending(out)
        if self._emit == "final" and not self._ended:
            self._emit_slots(np.arange(len(self._table), dtype=np.int32), out)
        self._ended = True

    def _emit_pending(self, out: Output) -> None:
        if self._pending:
            self._emit_slots(self._pending_slots(), out)
            self._pending.clear()
            self._snapshots.generation += 1

    def _pending_slots(self) -> np.ndarray:
        """A snapshot in between makes a key pending twice."""
        return self._pending[0] if len(self._pending) == 1 else np.unique(np.concatenate(self._pending))

    def _emit_slots(self, slots: np.ndarray, out: Output) -> None:
        step = rows_at_most(self.context.batch_rows, self._table.rows)
        for start in range(0, len(slots), step):
            part = slots[start : start + step]
            words = self._layout.gather(self._table.rows, part)
            self._emit_words(self._table.index.copy_keys(part).columns(), words, out)

    def _emit_each(self, batch: pa.RecordBatch, words: np.ndarray, out: Output) -> None:
        if EVENT_TIME in self._layout.word:
            words[self._layout.word[EVENT_TIME] - 1] = words_of(batch.column(EVENT_TIME))
        self._emit_words([contiguous(batch.column(key)) for key in self._keys], words, out)

    def _emit_words(self, keys: Sequence[pa.Array], words: np.ndarray, out: Output) -> None:
        columns: dict[str, Any] = dict(zip(self._keys, keys, strict=True))
        columns |= zip((a.output for a in self._aggregates), self._layout.results(words), strict=True)
        columns[CHANGE] = pa.array(np.ones(words.shape[1], np.int8))
        if EVENT_TIME in self._layout.word:
            columns[EVENT_TIME] = pa.array(words[self._layout.word[EVENT_TIME] - 1])
        out.emit(pa.RecordBatch.from_arrays([columns[name] for name in self._schema.names], schema=self._schema))

    # --- state

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        rows = self._capture_rows(checkpoint_id, base_id)
        captures: list[StateCapture] = [rows, ListCapture(ENDED_STATE, pa.table({"ended": [self._ended]}))]
        if not isinstance(self._emit, str):
            slots = self._pending_slots() if self._pending else np.empty(0, np.int32)
            captures.append(self._capture(PENDING_STATE, True, self._table.copy(slots), []))
        return captures

    def _capture_rows(self, checkpoint_id: int, base_id: int | None) -> TableCapture:
        since = self._snapshots.base_generation(base_id)
        slots = None if since is None else self._table.changed_after(since)
        if slots is not None and base_id is not None and not self._snapshots.worth_a_delta(base_id, len(slots), len(self._table)):
            slots = None
        copy = self._table.copy(slots)
        self._snapshots.taken(checkpoint_id, base_id, slots is not None, len(copy))
        return self._capture(ROWS_STATE, slots is None, copy, self._layout.names)

    def _capture(self, name: str, full: bool, copy: Copy, words: Sequence[str]) -> TableCapture:
        def encode() -> pa.Table | None:
            if not full and not len(copy):
                return None
            return encode_rows([(copy, ())], self._key_fields, words, self.context.max_parallelism)

        def parts() -> Iterator[pa.Table]:
            if full or len(copy):
                yield from encode_parts([(copy, ())], self._key_fields, words, self.context.max_parallelism)

        return TableCapture(name, "keyed", full, encode, parts)

    def _restore_rows(self, state: RestoredState, checkpoint_id: int | None) -> None:
        kinds = [field.type for field in self._key_fields]
        as_now = True
        for chain in state.chains:
            for chunk in chain:
                self._table.load(*read_rows(chunk, self._keys, self._layout.names, self.context.name, kinds, self._layout.initial_words))
                as_now = as_now and is_as_now(chunk, self._key_fields, self._layout.names)
        if state.continues and checkpoint_id is not None and as_now:
            self._snapshots.restored(checkpoint_id, state.chains[0], len(self._table))

    def _restore_pending(self, state: RestoredState) -> None:
        for chain in state.chains:
            keys, _ = read_rows(chain[-1], self._keys, [], self.context.name, [field.type for field in self._key_fields])
            if len(keys[0]):
                index = self._table.index
                self._pending.append(index.lookup(index.codec.encode(keys, len(keys[0]), index.seed)))

    def _measure(self) -> None:
        self.context.metrics.state_rows = len(self._table)
        self.context.metrics.state_bytes = self._table.memory_bytes


def _keys_of(chain: Sequence[pa.Table]) -> int:
    """Of a chain that is restored, about: those of the full chunk; where that is in parts, no fewer than of all."""
    return rows_of(chain) if current() is not None else rows_of(chain[:1])
