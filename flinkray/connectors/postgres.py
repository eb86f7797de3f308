"""`fr.tables.Postgres`: a table of a Postgres database that is asked by key. Arrow in, Arrow out, by ADBC (`pip install 'flinkray[postgres]'`)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flinkray.config import Duration, duration_us
from flinkray.connectors.base import Lookups, LookupTable
from flinkray.connectors.schemas import choose, conform, engine_schema
from flinkray.errors import PlanError, SourceError

_ARRAYS = (
    (pa.types.is_integer, pa.int64(), "int8[]"),
    (pa.types.is_floating, pa.float64(), "float8[]"),
    (pa.types.is_string, pa.string(), "text[]"),
    (pa.types.is_large_string, pa.string(), "text[]"),
    (pa.types.is_boolean, pa.bool_(), "bool[]"),
    (pa.types.is_date32, pa.date32(), "date[]"),
    (pa.types.is_timestamp, pa.timestamp("us", "UTC"), "timestamptz[]"),
)
"""Of keys: their type here, as it is sent, and as Postgres takes it."""

_LATER = ("08", "57P", "57014", "53", "40")
"""SQLSTATE: no connection, shut down, timed out, no resources, a conflict: another time it may work."""


@dataclass(frozen=True)
class PostgresTable(LookupTable):
    """The rows of `table` ("users", "shop.users"), or of a `query` (SELECT ...), by key.

    `uri` as libpq takes it, "postgresql://user@host/database": leave the password to PGPASSWORD or a password file of the workers, so that it
    is not in the job. A query may take `timeout`. A subtask remembers `cached_keys` keys at most, for as long as `lookup_join(cache=)` says.
    """

    uri: str = field(repr=False)
    table: str | None = None
    query: str | None = None
    timeout: Duration = "10s"
    cached_keys: int = 100_000
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.table is None) == (self.query is None):
            raise PlanError("Postgres: give table= or query=, one of them")
        if isinstance(self.cached_keys, bool) or not isinstance(self.cached_keys, int) or self.cached_keys < 1:
            raise PlanError(f"Postgres: cached_keys={self.cached_keys!r}: a whole number, 1 or more")
        if self.timeout_ms < 1:
            raise PlanError(f"Postgres: timeout={self.timeout!r} is under a millisecond")

    @property
    def timeout_ms(self) -> int:
        return duration_us(self.timeout, "Postgres timeout") // 1000

    def schema(self) -> pa.Schema:
        return choose(self._all, self.columns)

    @cached_property
    def _all(self) -> pa.Schema:
        with closing(PostgresLookups(self)) as lookups:
            found = lookups.types()
        return engine_schema(pa.schema([pa.field(each.name, _plain(each, self.describe())) for each in found]), self.describe())

    def check_keys(self, keys: pa.Schema) -> None:
        for key in keys:
            array_kind(key.type, self.describe())

    def with_columns(self, columns: tuple[str, ...]) -> PostgresTable:
        return replace(self, columns=columns)

    def open(self) -> PostgresLookups:
        return PostgresLookups(self)

    def describe(self) -> str:
        return f"Postgres({self.table or 'a query'})"

    @property
    def source(self) -> str:
        """What comes after FROM."""
        if self.query is not None:
            return f"({self.query})"
        assert self.table is not None
        return ".".join(map(_quoted, self.table.split(".")))


class PostgresLookups(Lookups):
    """A connection that is made when it is needed, and once more when it is lost."""

    def __init__(self, table: PostgresTable) -> None:
        self._table, self._driver = table, _driver()
        self._connection: Any = None
        self._wanted: pa.Schema | None = None

    def types(self) -> pa.Schema:
        """Of all columns, as the driver gives them."""
        return self._run(f"SELECT * FROM {self._table.source} AS t LIMIT 0", None).schema

    def find(self, keys: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        self._wanted = self._wanted or self._table.schema()
        keys = _storable(keys)
        if not keys.num_rows:
            return pa.RecordBatch.from_pylist([], self._wanted)
        kinds = [array_kind(column.type, self._table.describe()) for column in keys.columns]
        places = ", ".join(f"${i + 1}::{kind}" for i, (_, kind) in enumerate(kinds))
        on = " AND ".join(f"t.{_quoted(name)} = k.k{i}" for i, name in enumerate(names))
        columns = ", ".join(f"t.{_quoted(name)}" for name in self._wanted.names)
        aliases = ", ".join(f"k{i}" for i in range(len(kinds)))
        text = f"SELECT {columns} FROM {self._table.source} AS t JOIN unnest({places}) AS k({aliases}) ON {on}"
        lists = [
            pa.ListArray.from_arrays(pa.array([0, keys.num_rows], pa.int32()), column.cast(kind))
            for column, (kind, _) in zip(keys.columns, kinds, strict=True)
        ]
        rows = self._run(text, pa.record_batch(lists, names=[f"k{i}" for i in range(len(lists))])).combine_chunks()
        batches = [_stored(batch) for batch in rows.to_batches()]
        if not batches:
            return pa.RecordBatch.from_pylist([], self._wanted)
        return conform(batches[0], self._wanted, self._table.describe())

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be dead already
                connection.close()

    def _run(self, text: str, parameters: pa.RecordBatch | None) -> pa.Table:
        """Asked again on a new connection when the one that there was is lost."""
        was_open = self._connection is not None
        try:
            return self._ask(text, parameters)
        except self._driver.Error as error:
            self.close()
            if not _may_work_later(error):
                raise SourceError(f"{self._table.describe()} cannot be asked: {_line(error)}") from error
            lost = error
        if was_open:
            try:
                return self._ask(text, parameters)
            except self._driver.Error as error:
                self.close()
                lost = error
        message = f"{self._table.describe()} does not answer: {_line(lost)}; is the database up, and does its address fit?"
        raise SourceError(message, permanent=False) from lost

    def _ask(self, text: str, parameters: pa.RecordBatch | None) -> pa.Table:
        if self._connection is None:
            self._connection = self._driver.connect(self._table.uri, autocommit=True)
            with self._connection.cursor() as cursor:
                cursor.execute(f"SET statement_timeout = {self._table.timeout_ms}")
                cursor.execute("SET TimeZone = 'UTC'")  # in which a timestamp without a zone is compared with a key
        with self._connection.cursor() as cursor:
            cursor.execute(text, parameters=parameters)
            return cursor.fetch_arrow_table()


def _driver() -> Any:
    try:
        return importlib.import_module("adbc_driver_postgresql.dbapi")
    except ImportError as error:
        raise PlanError("Postgres needs a driver that is not installed: pip install 'flinkray[postgres]'") from error


def _may_work_later(error: Any) -> bool:
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(_LATER) or (not state and getattr(getattr(error, "status_code", None), "name", "") == "IO")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def array_kind(kind: pa.DataType, where: str) -> tuple[pa.DataType, str]:
    """As which keys of a type are sent. PlanError for others."""
    for test, sent, name in _ARRAYS:
        if test(kind):
            return sent, name
    raise PlanError(f"{where}: a key of type {kind} cannot be asked for; cast it to an integer, a string, a date or a timestamp")


def _storable(keys: pa.RecordBatch) -> pa.RecordBatch:
    """Without keys that Postgres refuses, since no table of its has them: text with a NUL."""
    kept = pa.array(np.ones(keys.num_rows, np.bool_))
    for column in keys.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            kept = pc.and_(kept, pc.invert(pc.match_substring(column, "\0")))
    return keys.filter(kept)


def _plain(each: pa.Field, where: str) -> pa.DataType:
    """Engine knows numbers of a fixed precision; without one they have no type of a fixed width."""
    if not isinstance(each.type, pa.OpaqueType):
        return each.type
    known = int((each.metadata or {}).get(b"POSTGRESQL:typmod", -1)) - 4
    if each.type.type_name == "numeric" and known > 0 and known >> 16 <= 38:
        return pa.decimal128(known >> 16, known & 0xFFFF)
    raise PlanError(f"{where}: column {each.name!r} is {each.type.type_name}; give a query= that casts it, or leaves it out")


def _stored(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Opaque columns as the text that they are stored as."""
    arrays = [array.storage if isinstance(array.type, pa.OpaqueType) else array for array in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
