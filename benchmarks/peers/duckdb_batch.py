"""DuckDB as a batch reference on Parquet files. Prints JSON lines, see `peers/__init__.py`.

Seconds are from the query's start to its last row, which is read as Arrow batches and dropped; files are in the page cache. q5 takes each
row once for each of its windows, as Flink's HOP is written; `q5-panes` counts in panes of 2 s first, as somebody who tunes SQL would.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import duckdb

HOT = "SELECT window_start, auction, bids FROM counts QUALIFY bids = max(bids) OVER (PARTITION BY window_start)"
HIGHEST = "SELECT max(price) AS price, epoch_us(date_time) // 10_000_000 AS number FROM bids GROUP BY number"

QUERIES = {
    "q0": "SELECT auction, bidder, price, date_time, extra FROM bids",
    "q1": "SELECT auction, bidder, 0.908::DOUBLE * price AS price, date_time, extra FROM bids",
    "q2": "SELECT auction, price FROM bids WHERE auction % 123 = 0",
    "q5": f"""
        WITH counts AS (
            SELECT auction, epoch_us(date_time) // 2_000_000 - back AS window_start, count(*) AS bids
            FROM bids, range(5) AS earlier(back) GROUP BY ALL
        ) {HOT}""",
    "q5-panes": f"""
        WITH panes AS (
            SELECT auction, epoch_us(date_time) // 2_000_000 AS pane, count(*) AS bids FROM bids GROUP BY ALL
        ), counts AS (
            SELECT auction, pane - back AS window_start, sum(bids) AS bids FROM panes, range(5) AS earlier(back) GROUP BY ALL
        ) {HOT}""",
    "q7": f"""
        SELECT auction, bids.price, bidder, date_time, extra FROM bids SEMI JOIN ({HIGHEST}) AS highest
        ON bids.price = highest.price AND epoch_us(date_time) // 10_000_000 = number""",
    "q11": """
        WITH paused AS (
            SELECT bidder, epoch_us(date_time) AS us, coalesce(us - lag(us) OVER by_time > 10_000_000, true) AS begins FROM bids
            WINDOW by_time AS (PARTITION BY bidder ORDER BY epoch_us(date_time))
        ), numbered AS (SELECT bidder, us, sum(begins::INT) OVER (PARTITION BY bidder ORDER BY us) AS number FROM paused)
        SELECT bidder, count(*) AS bids, min(us), max(us) + 10_000_000 FROM numbered GROUP BY bidder, number""",
    "sum": "SELECT bidder, sum(price)::BIGINT AS total FROM bids GROUP BY bidder",
}


def run(query: str, files: list[str], threads: int) -> float:
    """Seconds that the query took."""
    with duckdb.connect(config={"threads": threads, "temp_directory": ""}) as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.read_parquet(files).create_view("bids")
        started = time.perf_counter()
        for _ in connection.sql(QUERIES[query]).to_arrow_reader(100_000):
            pass
        return time.perf_counter() - started


def main() -> None:
    request: dict[str, Any] = json.loads(sys.argv[1])
    for query in request["queries"]:
        seconds = [run(query, request["files"], request["parallelism"]) for _ in range(request["repeat"])]
        print(json.dumps({"query": query, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
