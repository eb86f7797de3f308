"""Aggregates whose accumulators are Arrow values: choices of any type, lists, sketches, and what users write (`graph.udaf`).

Each has the interface of a `Udaf`: parts of a group are accumulated apart and merged in the order in which they came. Loops are over
groups at most, and only in sketches.
"""

from __future__ import annotations

import functools
import importlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.columns import EVENT_TIME
from flinkray.errors import OperatorError
from flinkray.graph.aggregates import Aggregate
from flinkray.graph.udaf import Udaf
from flinkray.operators.ranking import order_codes
from flinkray.operators.rows import to_rows
from flinkray.state.arrow_buffers import contiguous, float_values
from flinkray.state.key_hash import hash_keys

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowGroups:
    """See `graph.udaf.Groups`."""

    starts: Int64Array

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def of_row(self) -> Int64Array:
        """The group of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def array_aggregate(aggregate: Aggregate, schema: pa.Schema) -> Udaf:
    """The aggregate over rows of `schema`."""
    if aggregate.function == "udaf":
        return _Checked(aggregate)
    kinds = [_plain(schema.field(name).type) for name in aggregate.inputs()]
    if aggregate.function == "collect_list":
        return CollectList(kinds[0])
    if aggregate.function == "top_k":
        return TopK(kinds[0], int(aggregate.parameter))
    if aggregate.function == "reduce":
        return Reduced(aggregate.parameter, pa.struct(list(zip(aggregate.inputs(), kinds, strict=True))))
    if aggregate.function == "count_distinct":
        return CountDistinct(kinds[0])
    if aggregate.function == "approx_distinct":
        return ApproxDistinct()
    if aggregate.function == "quantile":
        return Quantile(float(aggregate.parameter))
    if aggregate.function in ("min", "max"):
        return Choice(kinds[0], kinds[0], largest=aggregate.function == "max")
    if aggregate.function in ("min_by", "max_by"):
        return Choice(kinds[0], kinds[1], largest=aggregate.function == "max_by")
    return Choice(kinds[0], pa.int64(), largest=aggregate.function == "last", last=aggregate.function == "last")


def columns_of(aggregate: Aggregate, rows: pa.RecordBatch) -> list[pa.Array]:
    """What its `accumulate` takes of rows."""
    columns = [contiguous(rows.column(name)) for name in aggregate.inputs()]
    if aggregate.function in ("min", "max"):
        return [columns[0], columns[0]]
    if aggregate.function in ("first", "last"):
        timed = EVENT_TIME in rows.schema.names
        return [columns[0], rows.column(EVENT_TIME) if timed else pa.array(np.zeros(rows.num_rows, np.int64))]
    return columns


class _Array(Udaf):
    """Types are known when it is made."""

    def __init__(self, accumulator: pa.DataType, result: pa.DataType) -> None:
        self._types = accumulator, result

    def types(self) -> tuple[pa.DataType, pa.DataType]:
        return self._types


class Choice(_Array):
    """The value whose `by` is smallest, or largest; of equal ones the first to come, with `last` the last. Rows where one is null do
    not count."""

    def __init__(self, value: pa.DataType, by: pa.DataType, largest: bool, last: bool = False) -> None:
        super().__init__(pa.struct([("by", by), ("value", value)]), value)
        self._direction, self._last = "desc" if largest else "asc", last

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        value, by = columns
        valid = pc.and_(value.is_valid(), by.is_valid()).to_numpy(zero_copy_only=False)
        return self._chosen(groups, value, by, valid)

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        valid = accumulators.is_valid().to_numpy(zero_copy_only=False)
        return self._chosen(groups, pc.struct_field(accumulators, "value"), pc.struct_field(accumulators, "by"), valid)

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return pc.struct_field(accumulators, "value")

    def _chosen(self, groups: RowGroups, value: pa.Array, by: pa.Array, valid: npt.NDArray[np.bool_]) -> pa.Array:
        candidates = np.flatnonzero(valid)
        codes = [code[candidates] for code in order_codes(by, self._direction)]
        of_row = groups.of_row[candidates]
        order = np.lexsort((-candidates if self._last else candidates, *reversed(codes), of_row))
        found, first = np.unique(of_row[order], return_index=True)
        chosen = np.full(len(groups), -1, np.int64)
        chosen[found] = candidates[order][first]
        none = chosen < 0
        take = pa.array(np.where(none, 0, chosen))
        fields = [by.take(take), value.take(take)] if len(value) else [by, value]
        return pa.StructArray.from_arrays(fields, fields=list(self._types[0]), mask=pa.array(none))


class CollectList(_Array):
    """The values that are not null, in the order in which they came."""

    def __init__(self, kind: pa.DataType) -> None:
        super().__init__(pa.list_(kind), pa.list_(kind))

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        (values,) = columns
        starts = groups.starts
        if values.null_count:
            valid = values.is_valid().to_numpy(zero_copy_only=False)
            starts = np.concatenate([[0], np.cumsum(valid)])[starts]
            values = values.drop_null()
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values)

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        ends = np.concatenate([[0], np.cumsum(accumulators.value_lengths().to_numpy())])
        return pa.ListArray.from_arrays(pa.array(ends[groups.starts], pa.int32()), accumulators.flatten())

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return accumulators


class TopK(_Array):
    """The `k` largest values, largest first; null and NaN are not among them."""

    def __init__(self, kind: pa.DataType, k: int) -> None:
        super().__init__(pa.list_(kind), pa.list_(kind))
        self._k = k

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        values = columns[0].dictionary_decode() if pa.types.is_dictionary(columns[0].type) else columns[0]
        valid = values.is_valid()
        if pa.types.is_floating(values.type):
            valid = pc.and_(valid, pc.fill_null(pc.invert(pc.is_nan(values)), False))
        chosen = np.flatnonzero(valid.to_numpy(zero_copy_only=False))
        return self._best(groups.of_row[chosen], values.take(pa.array(chosen)), len(groups))

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        return self._best(np.repeat(groups.of_row, accumulators.value_lengths().to_numpy()), accumulators.flatten(), len(groups))

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return accumulators

    def _best(self, of_row: Int64Array, values: pa.Array, groups: int) -> pa.Array:
        order = np.lexsort((*reversed(order_codes(values, "desc")), of_row))
        place = np.arange(len(order)) - np.searchsorted(of_row[order], of_row[order])
        order = order[place < self._k]
        starts = np.searchsorted(of_row[order], np.arange(groups + 1))
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values.take(pa.array(order)))


class Reduced(_Array):
    """All rows of a group made one by a function of two rows, in the order in which they came. A row is a struct here, for the function a dict."""

    def __init__(self, function: Callable[[Any, Any], Any], row: pa.DataType) -> None:
        super().__init__(row, row)
        self._function, self._names = function, frozenset(field.name for field in row)

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        plain = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in columns]
        return self.merge(groups, pa.StructArray.from_arrays(plain, fields=list(self._types[0])))

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        lengths = np.diff(groups.starts)
        if (lengths == 1).all():
            return accumulators
        rows = to_rows(pa.RecordBatch.from_struct_array(accumulators))
        made = [rows[start] if stop - start == 1 else self._one(rows[start:stop]) for start, stop in pairwise(groups.starts.tolist())]
        try:
            return pa.array(made, self._types[0])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise OperatorError(f"reduce: the function gave what is no {self._types[0]}: {error}") from error

    def _one(self, rows: list[dict[str, Any]]) -> Mapping[str, Any]:
        row = functools.reduce(self._function, rows)
        if not isinstance(row, Mapping) or row.keys() != self._names:
            raise OperatorError(f"reduce: the function gave {row!r:.80}, not a dict with {', '.join(sorted(self._names))}")
        return row

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return accumulators


class CountDistinct(_Array):
    """How many values there are, null not among them; the accumulator is a list of them. A second column says which rows count."""

    def __init__(self, kind: pa.DataType) -> None:
        super().__init__(pa.list_(kind), pa.int64())

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        values = columns[0].dictionary_decode() if pa.types.is_dictionary(columns[0].type) else columns[0]
        counts = values.is_valid()
        for condition in columns[1:]:
            counts = pc.and_(counts, pc.fill_null(condition, False))
        chosen = np.flatnonzero(counts.to_numpy(zero_copy_only=False))
        return self._distinct(groups.of_row[chosen], values.take(pa.array(chosen)), len(groups))

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        return self._distinct(np.repeat(groups.of_row, accumulators.value_lengths().to_numpy()), accumulators.flatten(), len(groups))

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return accumulators.value_lengths().cast(pa.int64())

    def _distinct(self, group: Int64Array, values: pa.Array, groups: int) -> pa.Array:
        if pa.types.is_floating(values.type):  # one zero, one NaN
            values = pc.if_else(pc.is_nan(values), float("nan"), pc.add(values, pa.scalar(0.0, values.type)))
        pairs = pa.table([pa.array(group), values.cast(self._types[0].value_type)], names=["group", "value"])
        found = pairs.group_by(["group", "value"], use_threads=False).aggregate([]).sort_by("group").combine_chunks()
        starts = np.searchsorted(found["group"].to_numpy(), np.arange(groups + 1))
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), contiguous(found["value"]))


class _Sketched(_Array):
    """The accumulator is a sketch of datasketches, as bytes."""

    def __init__(self, result: pa.DataType) -> None:
        super().__init__(pa.binary(), result)
        self._library = importlib.import_module("datasketches")

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        parts, bounds = accumulators.to_pylist(), groups.starts.tolist()
        return pa.array([self._merged(parts[start:stop]) for start, stop in pairwise(bounds)], pa.binary())

    def _merged(self, parts: Sequence[bytes]) -> bytes:
        return parts[0] if len(parts) == 1 else self._union(parts)

    @abstractmethod
    def _union(self, parts: Sequence[bytes]) -> bytes:
        """One sketch of several."""


class ApproxDistinct(_Sketched):
    """About how many values there are, null not among them: a HyperLogLog sketch, 1.6 % off as a rule (2 KiB a key at most)."""

    def __init__(self) -> None:
        super().__init__(pa.int64())

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        (values,) = columns
        hashes = hash_keys(pa.record_batch([values], names=["value"]), ["value"], 0)
        chosen = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        of_row, hashes = groups.of_row[chosen], hashes[chosen]
        order = np.lexsort((hashes, of_row))
        of_row, hashes = of_row[order], hashes[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = (of_row[1:] != of_row[:-1]) | (hashes[1:] != hashes[:-1])
        bounds = np.searchsorted(of_row[new], np.arange(len(groups) + 1)).tolist()
        distinct = hashes[new].view(np.int64).tolist()
        return pa.array([self._sketch(distinct[start:stop]) for start, stop in pairwise(bounds)], pa.binary())

    def _sketch(self, values: list[int]) -> bytes:
        sketch = self._library.hll_sketch(_LOG2_REGISTERS)
        for value in values:
            sketch.update(value)
        return bytes(sketch.serialize_compact())

    def _union(self, parts: Sequence[bytes]) -> bytes:
        union = self._library.hll_union(_LOG2_REGISTERS)
        for part in parts:
            union.update(self._library.hll_sketch.deserialize(part))
        return bytes(union.get_result(self._library.tgt_hll_type.HLL_4).serialize_compact())

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return pa.array([round(self._library.hll_sketch.deserialize(each).get_estimate()) for each in accumulators.to_pylist()], pa.int64())


_LOG2_REGISTERS = 12


class Quantile(_Sketched):
    """The smallest value at or below which a share of the values lies, about: a KLL sketch, 1.3 % of the ranks off as a rule. Exact of
    up to 200 values, and always the smallest and the largest (which sketches know, while their quantiles 0 and 1 are of what they sampled)."""

    def __init__(self, share: float) -> None:
        super().__init__(pa.float64())
        self._share = share

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        (values,) = columns
        valid, numbers = values.is_valid().to_numpy(zero_copy_only=False), float_values(values)
        valid &= ~np.isnan(numbers)
        ends = np.concatenate([[0], np.cumsum(valid)])[groups.starts].tolist()
        numbers = numbers[valid]
        return pa.array([self._sketch(numbers[start:stop]) for start, stop in pairwise(ends)], pa.binary())

    def _sketch(self, values: npt.NDArray[np.float64]) -> bytes:
        sketch = self._library.kll_doubles_sketch(_KLL_K)
        if len(values):
            sketch.update(values)
        return bytes(sketch.serialize())

    def _union(self, parts: Sequence[bytes]) -> bytes:
        whole = self._library.kll_doubles_sketch.deserialize(parts[0])
        for part in parts[1:]:
            whole.merge(self._library.kll_doubles_sketch.deserialize(part))
        return bytes(whole.serialize())

    def finish(self, accumulators: pa.Array) -> pa.Array:
        sketches = [self._library.kll_doubles_sketch.deserialize(each) for each in accumulators.to_pylist()]
        return pa.array([None if each.is_empty() else self._quantile(each) for each in sketches], pa.float64())

    def _quantile(self, sketch: Any) -> float:
        if self._share in (0.0, 1.0):
            return float(sketch.get_max_value() if self._share else sketch.get_min_value())
        return float(sketch.get_quantile(self._share, True))


_KLL_K = 200


class _Checked(_Array):
    """A user's aggregate, whose answers are looked at before they are kept."""

    def __init__(self, aggregate: Aggregate) -> None:
        self._given: Udaf = aggregate.parameter
        self._who = f"{aggregate.describe()}: {type(self._given).__name__}"
        super().__init__(*self._given.types())

    def accumulate(self, groups: Any, *columns: pa.Array) -> pa.Array:
        return self._fitted("accumulate", self._given.accumulate(groups, *columns), len(groups), 0)

    def merge(self, groups: Any, accumulators: pa.Array) -> pa.Array:
        return self._fitted("merge", self._given.merge(groups, accumulators), len(groups), 0)

    def finish(self, accumulators: pa.Array) -> pa.Array:
        return self._fitted("finish", self._given.finish(accumulators), len(accumulators), 1)

    def _fitted(self, method: str, given: Any, count: int, which: int) -> pa.Array:
        try:
            array = contiguous(given) if isinstance(given, pa.Array | pa.ChunkedArray) else pa.array(given, self._types[which])
            array = array if array.type == self._types[which] else array.cast(self._types[which])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise OperatorError(f"{self._who}.{method} gave what is no {self._types[which]}: {error}") from error
        if len(array) != count:
            raise OperatorError(f"{self._who}.{method} gave {len(array)} values for {count} groups")
        return array


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
