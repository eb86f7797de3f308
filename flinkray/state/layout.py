"""How the accumulators of an operator's aggregates lie in a row of words, and the programs that fill them.

A row is [generation, flags?, words of each aggregate, extra words]. The same names are the columns of pre-aggregated batches and of
state chunks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from flinkray.columns import EVENT_TIME, MIN_WATERMARK
from flinkray.errors import FlinkrayError
from flinkray.graph.aggregates import FLAGS, ROWS, Aggregate, is_integer, result_type, word_names
from flinkray.state import accumulate as ops
from flinkray.state.accumulate import accumulate, gather_words
from flinkray.state.arrow_buffers import bitmap_of, bytes_of, contiguous, float_values, words_of
from flinkray.state.extents import extent_of
from flinkray.state.memory import touch
from flinkray.state.results import finish, ordered_words

_EXTREMES = {"min": 2**63 - 1, "max": -(2**63)}
"""What rows start with, so that any value replaces it."""

NO_SLOTS = np.empty(0, np.int32)
_NOT_EACH = np.empty((0, 0), np.int64)


_DEFERRED = (ops.SUM_INT, ops.SUM_FLOAT, ops.ADD_WIDE, ops.MIN, ops.MAX)
"""Operations that do not ask for their flag."""


class Program(NamedTuple):
    """Lines for the kernel, and the arrays whose addresses are in them."""

    lines: np.ndarray
    alive: list[Any]
    certain: int
    """Flags of the aggregates that every row gives a value."""


@dataclass
class _Builder:
    lines: list[list[int]] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)
    certain: int = 0
    """See `Program`: set by one line for all."""

    def add(
        self, op: int, word: int, bit: int, inputs: Sequence[int], stride: int = 8, valid: tuple[int, int, int] = (ops.ALWAYS, 0, 0)
    ) -> None:
        a, b, c = (*inputs, 0, 0, 0)[:3]
        if bit >= 0 and valid[0] == ops.ALWAYS and op in _DEFERRED:
            self.certain |= 1 << bit
            bit = -1
        self.lines.append([op, word, bit, a, b, c, stride, *valid])

    def address(self, array: np.ndarray) -> int:
        self.alive.append(array)
        return int(array.ctypes.data)

    def program(self, flag_word: int, into_fresh: bool = False) -> Program:
        if self.certain and not into_fresh:
            self.add(ops.SET_FLAGS, flag_word, -1, [self.certain])
        return Program(np.array(self.lines, np.int64).reshape(-1, ops.LINE), self.alive, self.certain)


class AggregateLayout:
    """Words of the aggregates of one operator. `value_kinds[i]`: type of aggregate i's result; `widths[i]`: its number of words."""

    def __init__(self, aggregates: Sequence[Aggregate], kinds: Sequence[pa.DataType], names: Sequence[str]) -> None:
        self.aggregates = tuple(aggregates)
        self.kinds = tuple(kinds)
        self.names = list(names)
        self.width = 1 + len(self.names)
        self.word = {name: 1 + position for position, name in enumerate(self.names)}
        self.flag_word = self.word.get(FLAGS, 0)
        self.widths = [sum(name.startswith(f"_a{i}_") for name in self.names) for i in range(len(self.aggregates))]
        self.initial = np.zeros(self.width, np.int64)
        for i, aggregate in enumerate(self.aggregates):
            if aggregate.function in _EXTREMES:
                self.initial[self.word[f"_a{i}_0"]] = _EXTREMES[aggregate.function]
        if EVENT_TIME in self.word:
            self.initial[self.word[EVENT_TIME]] = MIN_WATERMARK

    @property
    def initial_words(self) -> dict[str, int]:
        """What each word is before the first row."""
        return {name: int(self.initial[position]) for name, position in self.word.items()}

    @classmethod
    def of_rows(cls, aggregates: Sequence[Aggregate], input_schema: pa.Schema, *extra: str) -> AggregateLayout:
        """For an operator that takes raw rows."""
        kinds = [result_type(aggregate, input_schema) for aggregate in aggregates]
        return cls(aggregates, kinds, word_names(aggregates, input_schema, *extra))

    @classmethod
    def of_partials(
        cls, aggregates: Sequence[Aggregate], partial_schema: pa.Schema, result_schema: pa.Schema, *extra: str
    ) -> AggregateLayout:
        """For an operator that takes pre-aggregated rows."""
        kinds = [result_schema.field(aggregate.output).type for aggregate in aggregates]
        names = [name for name in partial_schema.names if name == FLAGS or re.fullmatch(r"_a\d+_\d", name)]
        return cls(aggregates, kinds, [*names, *extra])

    def update(self, batch: pa.RecordBatch, into_fresh: bool = False) -> Program:
        """The program that folds raw rows. `into_fresh`: into accumulators that have the flags `certain` already."""
        build = _Builder()
        for index, aggregate in enumerate(self.aggregates):
            self._update_lines(build, index, aggregate, batch)
        if EVENT_TIME in self.word:
            build.add(ops.MAX, self.word[EVENT_TIME], -1, [build.address(words_of(batch.column(EVENT_TIME)))])
        if ROWS in self.word:
            build.add(ops.ADD_ONE, self.word[ROWS], -1, [])
        return build.program(self.flag_word, into_fresh)

    def merge(self, batch: pa.RecordBatch) -> Program:
        """The program that folds pre-aggregated rows."""
        build = _Builder()
        columns = {name: build.address(words_of(batch.column(name))) for name in self.names}
        self._merge_lines(build, columns, 8)
        return build.program(self.flag_word)

    def merge_rows(self, rows: np.ndarray) -> Program:
        """The program that folds accumulators of the same layout: row i of `rows` is input row i."""
        build = _Builder()
        base = build.address(rows)
        self._merge_lines(build, {name: base + 8 * word for name, word in self.word.items()}, 8 * self.width)
        return build.program(self.flag_word)

    def merge_lines(self) -> Program:
        """The program of `merge_rows` for rows at address 0."""
        build = _Builder()
        self._merge_lines(build, {name: 8 * word for name, word in self.word.items()}, 8 * self.width)
        return build.program(self.flag_word)

    def run(
        self,
        program: Program,
        rows: np.ndarray,
        slots: np.ndarray,
        generation: int = 0,
        touched: np.ndarray = NO_SLOTS,
        segments: np.ndarray | None = None,
    ) -> int:
        """Runs a program over all slots, or over segments of them (see `accumulate`). Raises FlinkrayError when a sum overflows."""
        failed = np.array((-1,), np.int64)
        if extent_of(rows) is not None:
            for used in [slots] if segments is None else [slots[start:stop] for start, stop, _ in segments]:
                touch(rows, used, generation)
        if segments is None:
            segments = np.array(((0, len(slots), 0),), np.int64)
        count = accumulate(rows, slots, segments, self.flag_word, program.lines, generation, touched, failed, _NOT_EACH)
        self._check(program, int(failed[0]))
        return count

    def run_each(self, program: Program, rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Runs a program row by row; the words after each row, int64[words, n]."""
        touch(rows, slots)
        columns, failed = np.empty((self.width - 1, len(slots)), np.int64), np.full(1, -1, np.int64)
        everything = np.array(((0, len(slots), 0),), np.int64)
        accumulate(rows, slots, everything, self.flag_word, program.lines, 0, NO_SLOTS, failed, columns)
        self._check(program, int(failed[0]))
        return columns

    def gather(self, rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Words of some rows, int64[words, n], in the order of `names`."""
        touch(rows, slots)
        columns = np.empty((self.width - 1, len(slots)), np.int64)
        gather_words(rows, slots, columns)
        return columns

    def results(self, columns: np.ndarray) -> list[pa.Array]:
        """The aggregates' results from gathered words."""
        flags = columns[self.flag_word - 1] if self.flag_word else None
        arrays = []
        for index, aggregate in enumerate(self.aggregates):
            first = self.word[f"_a{index}_0"] - 1
            words = columns[first : first + self.widths[index]]
            valid = None if flags is None else ((flags >> index) & 1).astype(np.bool_)
            arrays.append(finish(aggregate, self.kinds[index], words, valid))
        return arrays

    def _check(self, program: Program, line: int) -> None:
        if line < 0:
            return
        word = int(program.lines[line, ops.WORD])
        index = int(self.names[word - 1].split("_")[1][1:])
        aggregate = self.aggregates[index]
        raise FlinkrayError(
            f"{aggregate.describe()}: the sum does not fit {self.kinds[index]}; cast {aggregate.column!r} to float64 or a decimal"
        )

    def _update_lines(self, build: _Builder, index: int, aggregate: Aggregate, batch: pa.RecordBatch) -> None:
        word, function = self.word[f"_a{index}_0"], aggregate.function
        if aggregate.column is None:
            build.add(ops.ADD_ONE, word, -1, [])
            return
        column = contiguous(batch.column(aggregate.column))
        valid = _validity(build, column)
        if function == "count":
            build.add(_count_op(valid), word, -1, [], valid=valid)
        elif function == "sum":
            self._sum_lines(build, index, column, word, index, valid)
        elif function == "mean":
            build.add(_count_op(valid), word, -1, [], valid=valid)
            self._sum_lines(build, index, column, word + 1, -1, valid)
        elif function == "stddev":
            build.add(ops.SPREAD, word, -1, [build.address(float_values(column))], valid=valid)
        elif function in ("min", "max"):
            op = ops.MIN if function == "min" else ops.MAX
            build.add(op, word, index, [build.address(ordered_words(column))], valid=valid)
        else:
            self._choice_lines(build, index, aggregate, batch, column, valid)

    def _sum_lines(self, build: _Builder, index: int, column: pa.Array, word: int, bit: int, valid: tuple[int, int, int]) -> None:
        if pa.types.is_decimal(column.type):
            halves = _decimal_halves(column)
            build.add(ops.ADD_WIDE, word, bit, [build.address(halves), build.alive[-1].ctypes.data + 8], 16, valid)
        elif not is_integer(column.type):
            build.add(ops.SUM_FLOAT, word, bit, [build.address(float_values(column))], valid=valid)
        else:
            words = words_of(column)
            if pa.types.is_uint64(column.type) and np.any(words < 0):
                aggregate = self.aggregates[index]
                raise FlinkrayError(f"{aggregate.describe()}: {aggregate.column!r} has values above int64; cast it to float64")
            exact = self.aggregates[index].function == "mean"
            build.add(ops.SUM_WIDE if exact else ops.SUM_INT, word, bit, [build.address(words)], valid=valid)

    def _choice_lines(
        self, build: _Builder, index: int, aggregate: Aggregate, batch: pa.RecordBatch, column: pa.Array, valid: tuple[int, int, int]
    ) -> None:
        word, value = self.word[f"_a{index}_0"], build.address(words_of(column))
        if aggregate.function in ("first", "last"):
            timed = EVENT_TIME in batch.schema.names
            times = words_of(batch.column(EVENT_TIME)) if timed else np.zeros(batch.num_rows, np.int64)
            op = ops.FIRST if aggregate.function == "first" else ops.LAST
            build.add(op, word, index, [build.address(times), value], valid=valid)
            return
        by = contiguous(batch.column(aggregate.by))
        if by.null_count:  # rows count where both are there
            both = np.packbits(np.asarray(by.is_valid()) & np.asarray(column.is_valid()), bitorder="little")
            valid = (ops.BITMAP, build.address(both), 0)
        op = ops.LEAST_BY if aggregate.function == "min_by" else ops.MOST_BY
        build.add(op, word, index, [build.address(ordered_words(by)), value], valid=valid)

    def _merge_lines(self, build: _Builder, at: dict[str, int], stride: int) -> None:
        for index, aggregate in enumerate(self.aggregates):
            word = self.word[f"_a{index}_0"]
            inputs = [at[f"_a{index}_{k}"] for k in range(self.widths[index])]
            flag = (ops.FLAG, at[FLAGS], index) if FLAGS in at else (ops.ALWAYS, 0, 0)
            if aggregate.function == "count":
                build.add(ops.ADD, word, -1, inputs, stride)
            elif aggregate.function == "mean":
                build.add(ops.ADD, word, -1, inputs, stride)
                build.add(ops.ADD_WIDE if len(inputs) == 3 else ops.SUM_FLOAT, word + 1, -1, inputs[1:], stride)
            elif aggregate.function == "stddev":
                build.add(ops.ADD_SPREAD, word, -1, inputs, stride)
            else:
                build.add(self._merge_op(aggregate, index), word, index, inputs, stride, flag)
        if EVENT_TIME in at:
            build.add(ops.MAX, self.word[EVENT_TIME], -1, [at[EVENT_TIME]], stride)
        if ROWS in at:
            build.add(ops.ADD, self.word[ROWS], -1, [at[ROWS]], stride)

    def _merge_op(self, aggregate: Aggregate, index: int) -> int:
        if aggregate.function == "sum":
            if self.widths[index] == 2:
                return ops.ADD_WIDE
            return ops.SUM_FLOAT if pa.types.is_floating(self.kinds[index]) else ops.SUM_INT
        choices = {"min": ops.MIN, "max": ops.MAX, "first": ops.FIRST, "last": ops.LAST}
        return {**choices, "min_by": ops.LEAST_BY, "max_by": ops.MOST_BY}[aggregate.function]


def _count_op(valid: tuple[int, int, int]) -> int:
    return ops.ADD_ONE if valid[0] == ops.ALWAYS else ops.ADD_VALID


def _validity(build: _Builder, column: pa.Array) -> tuple[int, int, int]:
    bitmap = bitmap_of(column)
    if bitmap.all_valid:
        return (ops.ALWAYS, 0, 0)
    return (ops.BITMAP, build.address(bitmap.bits), bitmap.offset)


def _decimal_halves(column: pa.Array) -> np.ndarray:
    """uint64[2 n]: lower and upper half of each value."""
    if column.type.bit_width != 128:
        column = column.cast(pa.decimal128(38, column.type.scale))
    offsets, data = bytes_of(column)
    return data[offsets[0] : offsets[-1]].view(np.int64) if data.size else np.zeros(0, np.int64)
