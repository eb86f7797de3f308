"""DuckDB as a batch reference on Parquet files, by the SQL of each query.

Seconds are from the query's start to its last row, which is read as Arrow batches and dropped (q10 is written to folders); files are in the page cache.
"""

from __future__ import annotations

import tempfile
import time

from harness import Request, serve
from nexmark.oracle import connect
from nexmark.queries import NAMES, query

QUERIES = (*(name for name in NAMES if name != "q12"), "sum")
"""q12 is of the clock, which a batch has not."""


def run(name: str, request: Request) -> tuple[float, int | None]:
    sql = query(name).sql
    with connect(request["files"], request["parallelism"]) as connection, tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        if name == "q10":
            connection.execute(f"COPY ({sql}) TO '{folder}' (FORMAT parquet, PARTITION_BY (dt, hm), OVERWRITE_OR_IGNORE)")
            return time.perf_counter() - started, None
        rows = sum(batch.num_rows for batch in connection.sql(sql).to_arrow_reader(100_000))
        return time.perf_counter() - started, rows


if __name__ == "__main__":
    serve(run, QUERIES)
