"""PyFlink SQL on CSV files. Runs in the environment that `flink_env.py` makes; prints JSON lines, see `peers/__init__.py`.

Streaming mode, exactly-once checkpoints every second to a folder, mini-batches and object reuse as in the settings of the Nexmark project,
watermarks 4 s behind. Seconds are the job's net run time, from its start on a running cluster (JVM, planning and cluster start-up are not
in it, deployment of its few tasks is) to its end. Each query has run once before, so that the JVM is warm.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from pyflink.table import EnvironmentSettings, TableEnvironment

BIDS = """
CREATE TABLE bid (
    auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP(3), extra STRING,
    WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'filesystem', 'path' = '{folder}', 'format' = 'csv')
"""

HOP = "TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))"
TUMBLE = "TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))"
SESSION = "TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '10' SECOND))"

# query: (columns of the sink, SELECT); the forms of the Nexmark project
QUERIES = {
    "q0": (
        "auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP(3), extra STRING",
        "SELECT auction, bidder, price, date_time, extra FROM bid",
    ),
    "q1": (
        "auction BIGINT, bidder BIGINT, price DECIMAL(23, 3), date_time TIMESTAMP(3), extra STRING",
        "SELECT auction, bidder, 0.908 * price, date_time, extra FROM bid",
    ),
    "q2": ("auction BIGINT, price BIGINT", "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0"),
    "q5": (
        "window_start TIMESTAMP(3), auction BIGINT, bids BIGINT",
        f"""
        WITH counts AS (
            SELECT auction, COUNT(*) AS bids, window_start, window_end FROM {HOP} GROUP BY auction, window_start, window_end
        ), most AS (SELECT MAX(bids) AS bids, window_start, window_end FROM counts GROUP BY window_start, window_end)
        SELECT counts.window_start, counts.auction, counts.bids FROM counts JOIN most
        ON counts.window_start = most.window_start AND counts.window_end = most.window_end AND counts.bids >= most.bids
        """,
    ),
    "q7": (
        "auction BIGINT, price BIGINT, bidder BIGINT, date_time TIMESTAMP(3), extra STRING",
        f"""
        SELECT bid.auction, bid.price, bid.bidder, bid.date_time, bid.extra FROM bid JOIN (
            SELECT MAX(price) AS price, window_end FROM {TUMBLE} GROUP BY window_start, window_end
        ) AS highest ON bid.price = highest.price
        WHERE bid.date_time BETWEEN highest.window_end - INTERVAL '10' SECOND AND highest.window_end
        """,
    ),
    "q11": (
        "bidder BIGINT, bids BIGINT, window_start TIMESTAMP(3), window_end TIMESTAMP(3)",
        f"SELECT bidder, COUNT(*), window_start, window_end FROM {SESSION} GROUP BY bidder, window_start, window_end",
    ),
    "sum": ("bidder BIGINT, total BIGINT", "SELECT bidder, SUM(price) FROM bid GROUP BY bidder"),
}

SETTINGS = {
    "execution.checkpointing.interval": "1s",
    "pipeline.object-reuse": "true",
    "table.local-time-zone": "UTC",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "2s",
    "table.exec.mini-batch.size": "50000",
}


def run(query: str, folder: str, parallelism: int, checkpoints: str) -> float:
    """Seconds that the query took; the sink drops every row."""
    environment = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    settings = environment.get_config()
    for key, value in SETTINGS.items():
        settings.set(key, value)
    settings.set("parallelism.default", str(parallelism))
    settings.set("execution.checkpointing.dir", f"file://{checkpoints}")
    columns, select = QUERIES[query]
    environment.execute_sql(BIDS.format(folder=folder))
    environment.execute_sql(f"CREATE TABLE results ({columns}) WITH ('connector' = 'blackhole')")
    client = environment.execute_sql(f"INSERT INTO results {select}").get_job_client()
    return client.get_job_execution_result().result().get_net_runtime() / 1000


def main() -> None:
    request: dict[str, Any] = json.loads(sys.argv[1])
    for query in request["queries"]:
        with tempfile.TemporaryDirectory() as checkpoints:
            seconds = [run(query, request["folder"], request["parallelism"], checkpoints) for _ in range(1 + request["repeat"])]
        print(json.dumps({"query": query, "seconds": seconds[1:]}), flush=True)


if __name__ == "__main__":
    main()
