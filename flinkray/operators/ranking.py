"""SQL's `RANK() OVER (PARTITION BY keys ORDER BY by) <= n` over a record batch, without a loop over rows.

Ties are kept. Nulls come last in either direction, NaN is the largest number, -0.0 equals 0.0; a null key is a key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import PlanError
from flinkray.state.ranking_kernels import best_of_groups, mark_candidates

Int64Array = npt.NDArray[np.int64]
OrderBy = Sequence[tuple[str, str]]
"""Columns with "asc" or "desc", the first one decides first."""


def top_rows(rows: pa.RecordBatch, keys: Sequence[str], by: OrderBy, n: int, groups: Int64Array | None = None) -> Int64Array:
    """Positions of the rows whose rank among the rows of their key is at most `n`: best first, equal ones as they came.

    `groups`: ids from 0 on; rows of another group are ranked apart, and come out by group. Within it rows of one key stand together.
    Raises PlanError for a column that has no order.
    """
    codes = [code for name, direction in by for code in order_codes(rows.column(name), direction)]
    if groups is None:
        groups = np.zeros(rows.num_rows, np.int64)
    if not keys:
        return _top_of_groups(groups, groups, codes, n)
    combined = key_codes(rows, keys, groups)
    dense = pa.array(combined).dictionary_encode().indices.to_numpy().astype(np.int64)
    return _top_of_groups(combined, dense, codes, n)


def order_codes(column: pa.Array, direction: str) -> list[Int64Array]:
    """One or two int64 arrays, the first decides first, that sort as the column does: the smaller, the better."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    codes = _ascending_codes(column)
    if direction == "desc":
        codes = ~codes
    if column.null_count == 0:
        return [codes]
    nulls = column.is_null().to_numpy(zero_copy_only=False).astype(np.int64)
    return [nulls, np.where(nulls == 0, codes, 0)]


def key_codes(rows: pa.RecordBatch, keys: Sequence[str], groups: Int64Array) -> Int64Array:
    """int64 per row, equal where the group and all keys are equal; smaller in a smaller group."""
    combined = groups
    combinations = int(groups.max(initial=0)) + 1
    for name in keys:
        column = rows.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_floating(column.type):
            column = pc.add(column, pa.scalar(0.0, column.type))
        encoded = column.dictionary_encode(null_encoding="encode")
        if combinations * len(encoded.dictionary) > 2**62:
            distinct, combined = np.unique(combined, return_inverse=True)
            combinations = len(distinct)
        combined = combined * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
        combinations *= max(1, len(encoded.dictionary))
    return combined


def _top_of_groups(groups: Int64Array, dense: Int64Array, codes: Sequence[Int64Array], n: int) -> Int64Array:
    """`dense`: the groups, numbered from 0 on."""
    chosen = candidates(dense, codes[0], n)
    if chosen is not None:
        groups, codes = groups[chosen], [code[chosen] for code in codes]
    order = np.lexsort((*reversed(codes), groups))
    position = np.arange(len(order))
    new_group = _changes(groups[order])
    new_value = new_group.copy()
    for code in codes:
        new_value |= _changes(code[order])
    group_start = np.maximum.accumulate(np.where(new_group, position, 0))
    value_start = np.maximum.accumulate(np.where(new_value, position, 0))
    best = order[value_start - group_start < n]
    return best if chosen is None else chosen[best]


def candidates(groups: Int64Array, codes: Int64Array, n: int) -> Int64Array | None:
    """Positions of the rows that their first code leaves a chance to be among the best n of their group, ascending; None where finding them does
    not pay. `groups`: numbers from 0 on."""
    heaps = int(groups.max(initial=0)) + 1
    if 2 * heaps * n > len(groups):
        return None
    mask = np.empty(len(groups), np.uint8)
    mark_candidates(groups, codes, np.full((heaps, n), np.iinfo(np.int64).max), mask)
    return np.flatnonzero(mask)


def best_few(groups: Int64Array, codes: Sequence[Int64Array], n: int, newest: bool) -> Int64Array:
    """Positions of the n best rows of each group, by group and the best first; of equal ones the first to come is first, with `newest` the last."""
    sizes = np.bincount(groups)
    found = np.empty(int(np.minimum(sizes, n).sum()), np.int64)
    starts = np.concatenate([[0], sizes])
    best_of_groups(groups, np.stack(codes), n, newest, starts, found, np.zeros(len(sizes), np.int64))
    return found


def _changes(values: Int64Array) -> npt.NDArray[np.bool_]:
    """True where a value is another than the one before."""
    changed = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed


def _ascending_codes(column: pa.Array) -> Int64Array:
    """int64 that sort as the values do; anything where the value is null."""
    kind = column.type
    if pa.types.is_floating(kind):
        numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        return _float_codes(numbers)
    if pa.types.is_uint64(kind):
        plain = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        return (plain ^ np.uint64(1 << 63)).view(np.int64)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return _filled(column.cast(pa.int64()))
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        narrow = pa.int32() if kind.bit_width == 32 else pa.int64()
        return _filled(column.view(narrow).cast(pa.int64()))
    try:
        ranks = pc.rank(column, sort_keys="ascending", tiebreaker="dense")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise PlanError(f"top_n cannot order by a column of type {kind}: {error}") from error
    return ranks.to_numpy(zero_copy_only=False).astype(np.int64)


def _filled(column: pa.Array) -> Int64Array:
    return (pc.fill_null(column, 0) if column.null_count else column).to_numpy(zero_copy_only=False)


def _float_codes(numbers: npt.NDArray[np.float64]) -> Int64Array:
    """The bits of a double sort as int64 once the negative ones are turned round."""
    normal = np.where(np.isnan(numbers), np.nan, numbers + 0.0)
    bits = normal.view(np.int64)
    return bits ^ ((bits >> 63) & np.int64(2**63 - 1))
