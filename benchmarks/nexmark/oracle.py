"""What an answer must be: DuckDB over the same files, by each query's SQL."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.dataset

from flinkray.api.collect import final_rows
from flinkray.connectors.file_sink import SEQUENCE

from .data import Files
from .queries import Query


def connect(files: Files, threads: int = 2) -> duckdb.DuckDBPyConnection:
    """A database with a view of each stream (of Parquet files), times naive and UTC."""
    connection = duckdb.connect(config={"threads": threads, "temp_directory": ""})  # a mistake must not fill the disk
    connection.execute("SET preserve_insertion_order = false")
    for name, paths in files.items():
        rows = connection.read_parquet(paths)
        times = [column for column, kind in zip(rows.columns, rows.types, strict=True) if "TIMESTAMP" in str(kind)]
        naive = ", ".join(f"make_timestamp(epoch_us({column})) AS {column}" for column in times)
        connection.execute(f"CREATE VIEW {name} AS SELECT * {f'REPLACE ({naive})' if times else ''} FROM read_parquet({paths})")
    return connection


def expected(query: Query, files: Files) -> pa.Table:
    with connect(files) as connection:
        return connection.sql(query.sql).to_arrow_table()


def answer(query: Query, folder: str) -> pa.Table:
    """What the job's files hold in the end: of a changelog the last row of each key; columns of folders' names too."""
    rows = pyarrow.dataset.dataset(folder, format="parquet", partitioning="hive" if query.sink is not None else None).to_table()
    if query.key:
        rows = final_rows(rows.sort_by(SEQUENCE).drop_columns([SEQUENCE]), query.key)
    return query.checked(rows)


def difference(got: pa.Table, wanted: pa.Table, shown: int = 3) -> str | None:
    """None when both hold the same rows as often, in any order; else what differs."""
    if sorted(got.column_names) != sorted(wanted.column_names):
        return f"columns {sorted(got.column_names)}, expected {sorted(wanted.column_names)}"
    with duckdb.connect() as connection:
        connection.register("wanted", wanted)
        connection.register("got", _naive(got.select(wanted.column_names)))
        kinds = [dict(connection.sql(f"SELECT column_name, column_type FROM (DESCRIBE {name})").fetchall()) for name in ("got", "wanted")]
        if kinds[0] != kinds[1]:
            return f"types {kinds[0]}, expected {kinds[1]}"
        missing = connection.sql("FROM wanted EXCEPT ALL FROM got").fetchall()
        unwanted = connection.sql("FROM got EXCEPT ALL FROM wanted").fetchall()
    if not missing and not unwanted:
        return None
    lines = [f"{len(missing)} rows missing, {len(unwanted)} too many"]
    lines += [f"  missing {row}" for row in missing[:shown]] + [f"  unwanted {row}" for row in unwanted[:shown]]
    return "\n".join(lines)


def _naive(table: pa.Table) -> pa.Table:
    fields = [field.with_type(pa.timestamp("us")) if pa.types.is_timestamp(field.type) else field for field in table.schema]
    fields = [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in fields]
    return table.cast(pa.schema(fields))
