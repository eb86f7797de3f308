"""Apache Flink SQL on CSV files, in the environment that `environments.py flink` makes.

Streaming mode, mini-batches and object reuse as in the settings of the Nexmark project, watermarks 4 s behind, into a blackhole. Seconds are the
job's net run time, from its start on a running cluster (JVM, planning and cluster start-up are not in it, deployment of its few tasks is) to its
end. `checkpoints`: their interval, or null.
"""

from __future__ import annotations

import os
import tempfile

from harness import Request, serve
from pyflink.table import EnvironmentSettings, TableEnvironment

COLUMNS = {
    "bid": """auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP(3), extra STRING,
        clock AS PROCTIME(), WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND""",
    "auction": """id BIGINT, item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP(3),
        expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra STRING, WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND""",
    "person": """id BIGINT, name STRING, email_address STRING, credit_card STRING, city STRING, state STRING, date_time TIMESTAMP(3),
        extra STRING, WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND""",
}

HOP = "TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))"
SESSION = "TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '10' SECOND))"
BID = "auction, bidder, price, channel, url, date_time, extra"
VALID = "auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires"


def tumble(table: str, time: str = "date_time") -> str:
    return f"TABLE(TUMBLE(TABLE {table}, DESCRIPTOR({time}), INTERVAL '10' SECOND))"


def ranks(distinct: bool) -> str:
    levels = {"rank1": "price < 10000", "rank2": "price >= 10000 AND price < 1000000", "rank3": "price >= 1000000"}
    found = []
    for what, count in (("bids", "COUNT(*)"), ("bidders", "COUNT(DISTINCT bidder)"), ("auctions", "COUNT(DISTINCT auction)")):
        if distinct or what == "bids":
            found.append(f"{count} AS total_{what}")
            found += [f"{count} FILTER (WHERE {condition}) AS {level}_{what}" for level, condition in levels.items()]
    return ", ".join(found)


DAY = "DATE_FORMAT(date_time, 'yyyy-MM-dd')"
MINUTE = "DATE_FORMAT(date_time, 'HH:mm')"
CHANNEL_ID = "REGEXP_EXTRACT(url, '(&|^)channel_id=([^&]*)', 2)"

QUERIES = {
    "q0": "SELECT auction, bidder, price, date_time, extra FROM bid",
    "q1": "SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0",
    "q3": """SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')""",
    "q4": f"""SELECT category, AVG(final) AS average
        FROM (SELECT MAX(b.price) AS final, a.category FROM {VALID} GROUP BY a.id, a.category) GROUP BY category""",
    "q5": f"""
        WITH counts AS (
            SELECT auction, COUNT(*) AS bids, window_start, window_end FROM {HOP} GROUP BY auction, window_start, window_end
        ), most AS (SELECT MAX(bids) AS bids, window_start, window_end FROM counts GROUP BY window_start, window_end)
        SELECT counts.window_start, counts.auction, counts.bids FROM counts JOIN most
        ON counts.window_start = most.window_start AND counts.window_end = most.window_end AND counts.bids >= most.bids""",
    "q7": f"""
        SELECT bid.auction, bid.price, bid.bidder, bid.date_time, bid.extra FROM bid JOIN (
            SELECT MAX(price) AS price, window_end FROM {tumble("bid")} GROUP BY window_start, window_end
        ) AS highest ON bid.price = highest.price
        WHERE bid.date_time BETWEEN highest.window_end - INTERVAL '10' SECOND AND highest.window_end""",
    "q8": f"""
        SELECT p.id, p.name, p.window_start FROM (
            SELECT id, name, window_start, window_end FROM {tumble("person")} GROUP BY id, name, window_start, window_end
        ) p JOIN (
            SELECT seller, window_start, window_end FROM {tumble("auction")} GROUP BY seller, window_start, window_end
        ) s ON p.id = s.seller AND p.window_start = s.window_start AND p.window_end = s.window_end""",
    "q9": f"""
        SELECT id, item_name, description, initial_bid, reserve, seller, category, extra, bidder, price, bid_time, bid_extra FROM (
            SELECT a.*, b.bidder, b.price, b.date_time AS bid_time, b.extra AS bid_extra,
                ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time ASC) AS place FROM {VALID}
        ) WHERE place <= 1""",
    "q11": f"SELECT bidder, COUNT(*) AS bids, window_start, window_end FROM {SESSION} GROUP BY bidder, window_start, window_end",
    "q12": f"SELECT bidder, COUNT(*) AS bids, window_start FROM {tumble('bid', 'clock')} GROUP BY bidder, window_start, window_end",
    "q14": """
        SELECT auction, bidder, 0.908 * price AS price,
            CASE WHEN HOUR(date_time) >= 8 AND HOUR(date_time) <= 18 THEN 'dayTime'
                WHEN HOUR(date_time) <= 6 OR HOUR(date_time) >= 20 THEN 'nightTime' ELSE 'otherTime' END AS bid_time_type,
            date_time, extra, CHAR_LENGTH(extra) - CHAR_LENGTH(REPLACE(extra, 'c', '')) AS c_counts
        FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000""",
    "q15": f"SELECT {DAY} AS `day`, {ranks(True)} FROM bid GROUP BY {DAY}",
    "q16": f"SELECT channel, {DAY} AS `day`, MAX({MINUTE}) AS `minute`, {ranks(True)} FROM bid GROUP BY channel, {DAY}",
    "q17": f"""SELECT auction, {DAY} AS `day`, {ranks(False)}, MIN(price) AS low, MAX(price) AS high, AVG(price) AS average, SUM(price) AS total
        FROM bid GROUP BY auction, {DAY}""",
    "q18": f"""SELECT {BID} FROM (
        SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS place FROM bid) WHERE place <= 1""",
    "q19": f"""SELECT {BID}, place FROM (
        SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC) AS place FROM bid) WHERE place <= 10""",
    "q20": """SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra, a.item_name, a.description, a.initial_bid, a.reserve,
            a.date_time AS auction_time, a.expires, a.seller, a.category, a.extra AS auction_extra
        FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10""",
    "q21": f"""SELECT auction, bidder, price, channel, CASE LOWER(channel)
            WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3' ELSE {CHANNEL_ID} END AS channel_id
        FROM bid WHERE {CHANNEL_ID} IS NOT NULL OR LOWER(channel) IN ('apple', 'google', 'facebook', 'baidu')""",
    "q22": """SELECT auction, bidder, price, channel, SPLIT_INDEX(url, '/', 3) AS dir1, SPLIT_INDEX(url, '/', 4) AS dir2,
        SPLIT_INDEX(url, '/', 5) AS dir3 FROM bid""",
    "sum": "SELECT bidder, SUM(price) AS total FROM bid GROUP BY bidder",
}
"""Not q6 (an OVER window takes no retractions), q10 (a sink of files) and q13 (no table of files can be looked up)."""

SETTINGS = {
    "pipeline.object-reuse": "true",
    "table.local-time-zone": "UTC",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "2s",
    "table.exec.mini-batch.size": "50000",
    "table.optimizer.distinct-agg.split.enabled": "true",
}


def run(query: str, request: Request) -> tuple[float, int | None]:
    environment = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    settings = environment.get_config()
    for key, value in SETTINGS.items():
        settings.set(key, value)
    settings.set("parallelism.default", str(request["parallelism"]))
    with tempfile.TemporaryDirectory() as checkpoints:
        if request["checkpoints"] is not None:
            settings.set("execution.checkpointing.interval", request["checkpoints"])
            settings.set("execution.checkpointing.dir", f"file://{checkpoints}")
        for table, columns in COLUMNS.items():
            place = os.path.dirname(request["files"][table][0])
            environment.execute_sql(f"CREATE TABLE {table} ({columns}) WITH ('connector'='filesystem', 'path'='{place}', 'format'='csv')")
        client = environment.execute_sql(f"CREATE TABLE results WITH ('connector' = 'blackhole') AS {QUERIES[query]}").get_job_client()
        return client.get_job_execution_result().result().get_net_runtime() / 1000, None


if __name__ == "__main__":
    serve(run, QUERIES)
