"""Rows dealt out to folders by the values of columns: `day=2026-01-31/hour=7/`, as Hive, Spark, DuckDB and pyarrow read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.errors import ConfigError, PlanError

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
"""The value of a null."""


def partition_columns(given: str | Sequence[str]) -> tuple[str, ...]:
    """Checked; raises ConfigError."""
    columns = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(name, str) and name for name in columns) or len(set(columns)) < len(columns):
        raise ConfigError(f"partition_by={given!r}: give names of columns, none twice")
    return columns


def check_partitions(columns: Sequence[str], schema: pa.Schema, sink: str) -> None:
    """Raises PlanError where a column is not there, has a type that makes no names of folders, or no other column is left."""
    for name in columns:
        if name not in schema.names:
            raise PlanError(f"{sink}: partition_by names {name!r}, which is no column; there are: {', '.join(schema.names)}")
        kind = schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date(kind)):
            raise PlanError(
                f"{sink}: partition_by column {name!r} is {kind}; strings, integers, booleans and dates become folders; cast it"
            )
    if columns and len(columns) == len(schema):
        raise PlanError(f"{sink}: partition_by names every column; files need one at least")


def split_by_folder(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """(folder, its rows in their order, without the columns)."""
    if not columns:
        yield "", batch
        return
    encoded = [batch.column(name).dictionary_encode(null_encoding="encode") for name in columns]
    group = np.zeros(batch.num_rows, np.int64)
    for column in encoded:
        codes = column.indices.to_numpy(zero_copy_only=False)
        group = np.unique(group * len(column.dictionary) + codes, return_inverse=True)[1]
    rows = batch.drop_columns(list(columns))
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 2))
    together = rows if len(bounds) <= 2 else rows.take(pa.array(order))
    for start, stop in pairwise(bounds.tolist()):
        row = int(order[start])
        names = [f"{quote(name, safe='')}={_folder(batch.column(name)[row])}" for name in columns]
        yield "/".join(names), together.slice(start, stop - start)


def _folder(value: pa.Scalar) -> str:
    return NULL_FOLDER if not value.is_valid else quote(pc.cast(value, pa.string()).as_py(), safe="")
