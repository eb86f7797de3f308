"""DataFusion as a batch reference on Parquet files: the SQL of each query where DataFusion takes it, else words of its own.

Seconds are from the query's start to its last record batch, which is dropped.
"""

from __future__ import annotations

import time

import datafusion
from harness import Request, serve
from nexmark.queries import query

MICROS = "arrow_cast(date_time, 'Int64')"

OWN = {
    "q5": f"""
        WITH panes AS (
            SELECT auction, {MICROS} / 2000000 AS pane, count(*) AS bids FROM bid GROUP BY auction, {MICROS} / 2000000
        ), counts AS (
            SELECT auction, pane - back AS pane, sum(bids) AS bids
            FROM panes CROSS JOIN (VALUES (0), (1), (2), (3), (4)) AS earlier(back) GROUP BY auction, pane - back
        )
        SELECT pane, auction, bids FROM counts QUALIFY bids = max(bids) OVER (PARTITION BY pane)""",
    "q7": f"""
        WITH highest AS (SELECT max(price) AS top, {MICROS} / 10000000 AS pane FROM bid GROUP BY {MICROS} / 10000000)
        SELECT auction, price, bidder, date_time, extra FROM bid LEFT SEMI JOIN highest
        ON price = top AND {MICROS} / 10000000 = pane""",
    "q8": f"""
        WITH sellers AS (SELECT DISTINCT seller, {MICROS} / 10000000 AS pane FROM auction)
        SELECT id, name, pane FROM person JOIN sellers ON id = seller AND {MICROS} / 10000000 = pane""",
    "q11": f"""
        WITH paused AS (
            SELECT bidder, {MICROS} AS us, coalesce({MICROS} - lag({MICROS}) OVER (PARTITION BY bidder ORDER BY {MICROS}) > 10000000, true) AS begins
            FROM bid
        ), numbered AS (
            SELECT bidder, us, sum(CASE WHEN begins THEN 1 ELSE 0 END) OVER (PARTITION BY bidder ORDER BY us) AS number FROM paused
        )
        SELECT bidder, count(*) AS bids, min(us) AS first, max(us) + 10000000 AS last FROM numbered GROUP BY bidder, number""",
    "q14": """
        SELECT auction, bidder, 0.908::DOUBLE * price AS price,
            CASE
                WHEN date_part('hour', date_time) BETWEEN 8 AND 18 THEN 'dayTime'
                WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
                ELSE 'otherTime'
            END AS bid_time_type,
            date_time, extra, char_length(extra) - char_length(replace(extra, 'c', '')) AS c_counts
        FROM bid WHERE 0.908::DOUBLE * price > 1000000 AND 0.908::DOUBLE * price < 50000000""",
    "q21": """
        SELECT auction, bidder, price, channel, channel_id FROM (
            SELECT auction, bidder, price, channel,
                CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
                    ELSE (regexp_match(url, '(&|^)channel_id=([^&]*)'))[2] END AS channel_id
            FROM bid)
        WHERE channel_id IS NOT NULL""",
}
SAME = ("q0", "q1", "q2", "q3", "q4", "q6", "q9", "q13", "q15", "q17", "q18", "q19", "q20", "q22", "sum")
QUERIES = {name: query(name).sql.replace("_000", "000") for name in SAME} | OWN
QUERIES["q16"] = query("q16").sql.replace("_000", "000").replace("strftime(date_time, '%H:%M')", "to_char(date_time, '%H:%M')")


def run(name: str, request: Request) -> tuple[float, int | None]:
    context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(request["parallelism"]))
    for stream, paths in request["files"].items():
        context.register_parquet(stream, paths[0].rsplit("/", 1)[0])
    started = time.perf_counter()
    rows = sum(batch.to_pyarrow().num_rows for batch in context.sql(QUERIES[name]).execute_stream())
    return time.perf_counter() - started, rows


if __name__ == "__main__":
    serve(run, QUERIES)
