"""The best n rows of each key, of all rows so far: what comes into them is added, what leaves them is taken back.

Only the best are kept: of a stream that never takes rows back another row can never come in again. With n = 1 the stream may be an upsert
stream, in which the best row of a key replaces the one before; so it is with a rank, where a row replaces the one that had its rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import CHANGE, DELETE, EVENT_TIME, INSERT, MAX_WATERMARK, MIN_WATERMARK, UPDATE_AFTER
from flinkray.errors import PlanError
from flinkray.operators.base import Operator, OperatorContext, Output, RestoredState, StateCapture
from flinkray.operators.join_rows import plain_columns
from flinkray.operators.ranking import OrderBy, best_few, candidates, order_codes
from flinkray.operators.restore import capture_watermark, restored_watermark
from flinkray.operators.row_states import RowStates
from flinkray.state.arrow_buffers import words_of
from flinkray.state.key_encoding import KeyCodec
from flinkray.state.key_index import KeyIndex
from flinkray.state.keyed_rows import KeyedRows
from flinkray.state.row_buffer import plain_schema

Int64Array = npt.NDArray[np.int64]
ROWS = "rows"
_FEW = 64
"""So many of a key are kept in order row by row; more are sorted."""


class RankOperator(Operator):
    """Emits the input's columns and the change. `by`: columns with "asc" or "desc", also `EVENT_TIME`; of equal rows the first to come
    is first, with `newest` the last. `ties`: rows that are equal to the last of the best are kept as well. `upsert`: n is 1, and nothing
    is taken back. `rank`: a column for each row's number, from 1 (an upsert stream by keys and rank). `ttl_us`: a key's best rows are
    forgotten so long after their event time."""

    def __init__(
        self,
        *,
        keys: Sequence[str],
        by: OrderBy,
        n: int,
        ties: bool = False,
        newest: bool = False,
        upsert: bool = False,
        rank: str | None = None,
        ttl_us: int | None = None,
    ) -> None:
        if n < 1 or not by or (upsert and (n > 1 or ties)) or (rank is not None and (upsert or ties or ttl_us is not None)):
            raise PlanError(f"rank: n={n}, {len(by)} columns to order by, ties={ties}, upsert={upsert}, rank={rank!r}, ttl_us={ttl_us}")
        self._keys, self._by, self._n, self._ties, self._newest, self._upsert = tuple(keys), tuple(by), n, ties, newest, upsert
        self._rank, self._ttl_us = rank, ttl_us
        self._watermark = MIN_WATERMARK
        self._cleaned = MIN_WATERMARK

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        schema = context.input_schema()
        ranked = schema if self._rank is None else schema.append(pa.field(self._rank, pa.int64()))
        self._schema = context.output_schema or ranked.append(pa.field(CHANGE, pa.int8(), nullable=False))
        for name, direction in self._by:
            order_codes(pa.array([], schema.field(name).type), direction)
        index = KeyIndex(KeyCodec([schema.field(key).type for key in self._keys]), context.hash_seed)
        self._rows = KeyedRows(index, plain_schema(schema))
        self._states = RowStates(context, index, {ROWS: self._rows}, {ROWS: self._keys})
        self._watermark = restored_watermark(restored)
        self._states.restore(restored, restored_checkpoint)
        self._states.measure()

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        batch = plain_columns(batch, self._rows.schema)
        slots = self._states.slots(batch, ROWS)
        unique, number = _numbered(slots)
        own, kept = self._rows.of(unique)
        groups = np.concatenate([own, number])
        order = self._best(self._codes(kept, batch), groups)
        best = np.zeros(len(groups), np.bool_)
        best[order] = True
        stays = best[: len(kept)]
        came = np.flatnonzero(best[len(kept) :])
        replaced = kept[~stays]
        self._rows.remove(replaced, self._states.history.generation)
        self._rows.add(batch, came, slots[came], self._states.history.generation)
        if self._rank is not None:
            self._emit_ranks(kept, batch, groups, order, out)
        elif self._upsert:
            known = np.zeros(len(unique), np.bool_)
            known[own] = True
            self._emit(batch.take(pa.array(came)), np.where(known[number[came]], UPDATE_AFTER, INSERT), out)
        else:
            self._emit(self._rows.take(replaced), np.full(len(replaced), DELETE), out)
            self._emit(batch.take(pa.array(came)), np.full(len(came), INSERT), out)
        self._states.tidy()
        self._states.measure()

    def _codes(self, kept: Int64Array, batch: pa.RecordBatch) -> list[Int64Array]:
        """What rows are ordered by, those that are kept and then those that came; the smaller, the better, and the first decides first."""
        rows = self._rows.take(kept, list(dict.fromkeys(name for name, _ in self._by)))
        columns = [(pa.concat_arrays([rows.column(name), batch.column(name)]), direction) for name, direction in self._by]
        return [code for column, direction in columns for code in order_codes(column, direction)]

    def _best(self, codes: list[Int64Array], group: Int64Array) -> Int64Array:
        """Positions of the best rows, by group and the best first; rows stand in order of arrival."""
        if not self._ties and self._n <= _FEW:
            return best_few(group, codes, self._n, self._newest)
        chosen = candidates(group, codes[0], self._n)
        if chosen is None:
            chosen = np.arange(len(group))
        group, codes = group[chosen], [code[chosen] for code in codes]
        found = np.lexsort((-chosen if self._newest else chosen, *reversed(codes), group))
        position = np.arange(len(found))
        first = _begins(group[found])
        start = np.maximum.accumulate(np.where(first, position, 0))
        if self._ties:
            for code in codes:
                first = first | _begins(code[found])
            position = np.maximum.accumulate(np.where(first, position, 0))
        return chosen[found[position - start < self._n]]

    def _emit_ranks(self, kept: Int64Array, batch: pa.RecordBatch, groups: Int64Array, best: Int64Array, out: Output) -> None:
        """Rows that came, or have another rank than before. `best`: by group and rank the numbers of rows, those that are kept and then those that
        came."""
        group, old = groups[best], best < len(kept)
        place = np.arange(len(best))
        start = np.maximum.accumulate(np.where(_begins(group), place, 0))
        olds = np.cumsum(old)
        old_rank = olds - olds[start] + old[start]  # of an old row: itself among them
        rank = place - start + 1
        known = rank <= np.bincount(groups[: len(kept)], minlength=int(groups.max(initial=0)) + 1)[group]
        changes = np.where(known, UPDATE_AFTER, INSERT)
        moved, came = np.flatnonzero(old & (rank != old_rank)), np.flatnonzero(~old)
        self._emit(self._rows.take(kept[best[moved]]), changes[moved], out, pa.array(rank[moved], pa.int64()))
        self._emit(batch.take(pa.array(best[came] - len(kept))), changes[came], out, pa.array(rank[came], pa.int64()))

    def _emit(self, rows: pa.RecordBatch, changes: npt.NDArray, out: Output, ranks: pa.Array | None = None) -> None:
        if not rows.num_rows:
            return
        columns = {name: rows.column(name) for name in rows.schema.names}
        if EVENT_TIME in columns and self._watermark not in (MIN_WATERMARK, MAX_WATERMARK):
            columns[EVENT_TIME] = pa.array(np.maximum(words_of(columns[EVENT_TIME]), self._watermark + 1))
        columns[CHANGE] = pa.array(changes.astype(np.int8))
        if self._rank is not None:
            columns[self._rank] = ranks
        arrays = [columns[field.name].cast(field.type) for field in self._schema]
        for start in range(0, rows.num_rows, self.context.batch_rows):
            out.emit(pa.RecordBatch.from_arrays(arrays, schema=self._schema).slice(start, self.context.batch_rows))

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        if watermark_us <= self._watermark:
            return
        self._watermark = watermark_us
        if self._ttl_us is not None and watermark_us != MAX_WATERMARK and watermark_us - self._ttl_us > self._cleaned + self._ttl_us // 4:
            self._cleaned = watermark_us - self._ttl_us
            positions = self._rows.live()
            times = words_of(self._rows.take(positions).column(EVENT_TIME))
            self._rows.remove(positions[times <= self._cleaned], self._states.history.generation)
            self._states.tidy()
            self._states.measure()

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        return [*self._states.snapshot(checkpoint_id, base_id), capture_watermark(self._watermark)]


def _numbered(slots: np.ndarray) -> tuple[np.ndarray, Int64Array]:
    """The distinct slots as they came, and of each row the number of its own."""
    found = pa.array(slots).dictionary_encode()
    return found.dictionary.to_numpy(), found.indices.to_numpy().astype(np.int64)


def _begins(values: np.ndarray) -> npt.NDArray[np.bool_]:
    """True where a value is another than the one before."""
    changed = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed
