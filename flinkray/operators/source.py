"""Sources: one subtask finds splits and deals them out, readers read them. Both are ordinary task state at a barrier (rule 13)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from flinkray.columns import MIN_WATERMARK
from flinkray.connectors.base import Rejected, Source, Split, SplitEnumerator
from flinkray.graph.windows import WatermarkStrategy
from flinkray.operators.base import (
    OperatorContext,
    Output,
    RestoredState,
    SourceOperator,
    SourceStatus,
    StateCapture,
)
from flinkray.operators.functions import user_errors
from flinkray.operators.list_state import ListCapture, origin_tables, share
from flinkray.operators.rate_limit import RateLimit
from flinkray.operators.splits import MAX_OPEN_SPLITS, SplitSet, SplitWork, restored_works, split_to_json
from flinkray.operators.watermarks import with_event_time

SPLIT_SCHEMA = pa.schema([("split", pa.string()), ("size", pa.int64())])

DISCOVERED_US = MIN_WATERMARK + 1
"""The enumerator's watermark once its first discovery is out: readers have their splits, and one without was given none."""

DEAL_ROWS = 4096
"""Splits in a batch at most: larger batches are not dealt out row by row."""

DEAD_LETTER_TAG = "dead_letter"

_NOTHING_YET_S = 0.005
"""How long a split that had nothing at present is left alone."""

_NO_SPLIT_S = 0.02
"""How long a reader without splits sleeps; a split that comes wakes it."""

_FEW_ROWS = 4096
"""A batch of less is small."""

BATCH_BYTES = 8 << 20
"""Of wide rows fewer are read at once than `batch_rows`: a batch should stay in the cache that a core has to itself, or nearly."""
TURN_S = 0.1
"""A batch should not take longer, with all that is chained to the reader: a barrier waits for it."""
_FEWEST_ROWS = 64
"""Smaller batches are not asked for, however long a row takes."""
_FIRST_ROWS = 4096
"""While nobody knows how long a row takes."""
_TEXT_BYTES = 32
"""Guessed of a value of variable length, before any has been read."""

_ENUMERATOR_STATE = "enumerator"
_SPLITS_STATE = "splits"
_READER_STATE = "reader"
_ENUMERATOR_SCHEMA = pa.schema([("state", pa.string())])
_READER_SCHEMA = pa.schema([("watermark_us", pa.int64()), ("taken_s", pa.float64())])
"""`taken_s`: when the snapshot was taken, seconds since 1970; checkpoints of before have none."""


class EnumerateOperator(SourceOperator):
    """Finds splits and emits a row for each, in the order of reading, so that dealing them out one by one loads readers alike."""

    def __init__(self, source: Source, event_time_column: str | None, readers: int) -> None:
        self._source = source
        self._event_time_column = event_time_column
        self._loads = [0] * readers
        self._emitted = 0
        self._discovered = False
        self._next_s = 0.0

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._next_s = context.clock()
        states = [json.loads(table.column(0)[0].as_py()) for table in origin_tables(restored, _ENUMERATOR_STATE)]
        with user_errors(context):
            self._enumerator: SplitEnumerator = self._source.enumerator(
                states[0] if states else None, self._event_time_column, len(self._loads)
            )

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        raise AssertionError("an enumerator has no input")

    def poll(self, out: Output) -> SourceStatus:
        """One discovery, all of it: readers know their splits before one of them reads far."""
        now_s = self.context.clock()
        with user_errors(self.context):
            if self._discovered and self._enumerator.finished:
                return SourceStatus(emitted=False, ended=True)
            if self._discovered and now_s < self._next_s:
                return SourceStatus(emitted=False, wait_s=self._next_s - now_s)
            splits = self._enumerator.discover()
            finished, interval_s = self._enumerator.finished, self._enumerator.poll_interval_s
        self._discovered = True
        self._next_s = now_s + interval_s
        dealt = self._balanced(splits)
        for start in range(0, len(dealt), DEAL_ROWS):
            out.emit(_split_rows(dealt[start : start + DEAL_ROWS]))
        return SourceStatus(emitted=bool(splits), wait_s=0.0 if finished else interval_s, ended=finished)

    def watermark_us(self) -> int:
        return DISCOVERED_US if self._discovered else MIN_WATERMARK

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        with user_errors(self.context):
            state = json.dumps(self._enumerator.state())
        return [ListCapture(_ENUMERATOR_STATE, pa.table({"state": [state]}, schema=_ENUMERATOR_SCHEMA))]

    def _balanced(self, splits: Sequence[Split]) -> list[Split]:
        """Rows go to the readers in turn: within each turn the largest split goes to the reader that has least. Turns keep their order."""
        dealt: list[Split] = []
        readers = len(self._loads)
        while len(dealt) < len(splits):
            first = self._emitted % readers
            turn = splits[len(dealt) : len(dealt) + readers - first]
            takers = range(first, first + len(turn))
            by_load = sorted(takers, key=lambda reader: (self._loads[reader], reader))
            by_size = sorted(turn, key=lambda split: -split.size)
            given = dict(zip(by_load, by_size, strict=True))
            for reader in takers:
                self._loads[reader] += given[reader].size
                dealt.append(given[reader])
            self._emitted += len(turn)
        return dealt


def _split_rows(splits: Sequence[Split]) -> pa.RecordBatch:
    texts = pa.array([split_to_json(split) for split in splits], pa.string())
    return pa.RecordBatch.from_arrays([texts, pa.array([split.size for split in splits], pa.int64())], schema=SPLIT_SCHEMA)


class ReadOperator(SourceOperator):
    """Reads the splits that come in as rows; adds event times and makes the subtask's watermark."""

    def __init__(self, source: Source, watermark: WatermarkStrategy | None) -> None:
        self._source = source
        self._strategy = watermark
        self._splits = SplitSet(watermark, source.max_skew_us)
        self._watermark_us = MIN_WATERMARK
        self._discovered = False
        self._input_ended = False
        self._had_split = False
        self._limit: RateLimit | None = None
        self._buffer_until_s = 0.0
        self._row_bytes = _guess_row_bytes(source.schema())
        self._row_s: float | None = None
        """What a row took lately, with all that is chained to this reader."""

    def open(self, context: OperatorContext, restored: Sequence[RestoredState], restored_checkpoint: int | None) -> None:
        super().open(context, restored, restored_checkpoint)
        self._guard = user_errors(context)
        now_s = self._last_row_s = context.clock()
        readers = origin_tables(restored, _READER_STATE)
        if self._source.rate is not None:
            taken_s = max((table.column("taken_s")[0].as_py() for table in readers if "taken_s" in table.column_names), default=now_s)
            self._limit = RateLimit(self._source.rate / context.parallelism, now_s, owed_s=now_s - taken_s)
        for work in share(restored_works(origin_tables(restored, _SPLITS_STATE)), context):
            self._splits.put_back(work)
        self._had_split = bool(self._splits)
        marks = [table.column("watermark_us")[0].as_py() for table in readers]
        self._watermark_us = min((mark for mark in marks if mark is not None), default=MIN_WATERMARK)

    # ------------------------------------------------------------------------------------------------ the input: splits

    def process(self, batch: pa.RecordBatch, input_index: int, out: Output) -> None:
        self._splits.add(batch.column("split").to_pylist())
        self._had_split = True

    def on_watermark(self, watermark_us: int, out: Output) -> None:
        self._discovered = watermark_us >= DISCOVERED_US

    def on_end(self, out: Output) -> None:
        self._discovered = self._input_ended = True

    # ------------------------------------------------------------------------------------------------ reading

    def poll(self, out: Output) -> SourceStatus:
        now_s = self.context.clock()
        max_rows = min(self.context.batch_rows, max(int(BATCH_BYTES / self._row_bytes), 1), self._rows_of_a_turn())
        if self._limit is not None:
            max_rows = min(max_rows, self._limit.allowance(now_s))
        if not self._splits:
            idle = self._discovered and (not self._had_split or self._rowless_for(now_s - self._last_row_s))
            return SourceStatus(emitted=False, wait_s=_NO_SPLIT_S, ended=self._input_ended, idle=idle)
        if now_s < self._buffer_until_s:
            return SourceStatus(emitted=False, wait_s=self._buffer_until_s - now_s, idle=self._splits.all_idle)
        if not max_rows:
            assert self._limit is not None
            return SourceStatus(emitted=False, wait_s=self._limit.wait_s(), idle=self._splits.all_idle)
        emitted = False
        for _ in range(MAX_OPEN_SPLITS):
            self._open_due(now_s)
            readable = self._splits.readable(now_s)
            emitted = bool(readable) and self._read(readable[0], max_rows, now_s, out)
            if emitted or not readable:
                break
        over = self._input_ended and not self._splits
        wait_s = 0.0 if emitted or over or self._splits.more(now_s) else _NOTHING_YET_S
        return SourceStatus(emitted=emitted, wait_s=wait_s, ended=over, idle=self._splits.all_idle)

    def _open_due(self, now_s: float) -> None:
        while (work := self._splits.next_to_open()) is not None:
            with self._guard:
                work.reader = self._source.open_split(work.split, work.offset)
            work.last_row_s = now_s

    def _read(self, work: SplitWork, max_rows: int, now_s: float, out: Output) -> bool:
        """One batch of one split. False when it gave no row."""
        assert work.reader is not None
        with self._guard:
            batch = work.reader.read(max_rows)
            rejected = work.reader.take_rejected()
            if batch is None:
                work.reader.close()
        put_aside = self._put_aside(rejected, out)
        if batch is None:
            self._splits.finish(work)
            return False
        if not batch.num_rows:
            if not put_aside:
                work.retry_s = now_s + _NOTHING_YET_S
                work.idle = self._rowless_for(now_s - work.last_row_s)
            return False
        self._row_bytes = max(batch.nbytes / batch.num_rows, 1.0)
        if self._limit is not None:
            self._limit.take(batch.num_rows)
        work.idle, work.last_row_s, self._last_row_s = False, now_s, now_s
        if self._strategy is not None:
            batch, largest_us = with_event_time(batch, self._strategy, self.context)
            if largest_us is None:
                return False
            self._splits.read(work, largest_us)
        if batch.num_rows < min(_FEW_ROWS, self.context.batch_rows // 16):
            self._buffer_until_s = now_s + self.context.buffer_timeout_s  # let rows gather: each batch costs the same, however small
        out.emit(batch)
        taken_s = (self.context.clock() - now_s) / batch.num_rows
        self._row_s = taken_s if self._row_s is None else (self._row_s + taken_s) / 2
        return True

    def _rows_of_a_turn(self) -> int:
        if self._row_s is None:
            return _FIRST_ROWS
        return self.context.batch_rows if self._row_s <= 0 else max(int(TURN_S / self._row_s), _FEWEST_ROWS)

    def _put_aside(self, rejected: Rejected, out: Output) -> bool:
        """Rows that could not be read: counted, and for those who want them in the side output. Whether there were any."""
        letters = rejected.dead_letters
        self.context.metrics.skipped_rows += rejected.skipped_rows
        if letters is not None and letters.num_rows:
            self.context.metrics.dead_letter_rows += letters.num_rows
            out.emit(letters, DEAD_LETTER_TAG)
            return True
        return rejected.skipped_rows > 0

    def _rowless_for(self, silence_s: float) -> bool:
        return self._strategy is not None and self._strategy.idle_us is not None and silence_s * 1e6 >= self._strategy.idle_us

    # ------------------------------------------------------------------------------------------------ time and state

    def watermark_us(self) -> int:
        """Does not move before all splits of the first discovery are here."""
        if self._discovered:
            self._watermark_us = max(self._watermark_us, self._splits.watermark_us())
        return self._watermark_us

    def snapshot(self, checkpoint_id: int, base_id: int | None) -> list[StateCapture]:
        with self._guard:
            splits = self._splits.table()
        mark = self.watermark_us() if self._had_split and (self._splits or not self._input_ended) else None
        reader = pa.table({"watermark_us": [mark], "taken_s": [self.context.clock()]}, schema=_READER_SCHEMA)
        return [ListCapture(_SPLITS_STATE, splits), ListCapture(_READER_STATE, reader)]

    def close(self) -> None:
        for work in self._splits.open:
            if work.reader is not None:
                work.reader.close()


def _guess_row_bytes(schema: pa.Schema) -> float:
    return max(sum(_width_bytes(kind) for kind in schema.types), 1.0)


def _width_bytes(kind: pa.DataType) -> float:
    try:
        return kind.bit_width / 8
    except ValueError:
        return _TEXT_BYTES
