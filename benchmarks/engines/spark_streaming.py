"""Spark Structured Streaming on Parquet files (or CSV), in the environment that `environments.py spark` makes.

One trigger with all there is (`availableNow`), micro-batches of two files, a checkpoint folder (Spark cannot stream without), watermarks 4 s behind, into
`noop`. Seconds are from the start of the query to its end on a running session. State is Spark's default, in memory; RocksDB is not faster here.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable

from harness import Request, request, serve
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.functions import col

Tables = dict[str, DataFrame]
TEN = "10 seconds"


def timed(frame: DataFrame) -> DataFrame:
    return frame.withWatermark("date_time", "4 seconds")


def q3(t: Tables) -> DataFrame:
    auctions = t["auction"].filter(col("category") == 10).select("id", "seller")
    people = t["person"].filter(col("state").isin("OR", "ID", "CA")).select("name", "city", "state", col("id").alias("person"))
    return auctions.join(people, col("seller") == col("person")).select("name", "city", "state", "id")


def q8(t: Tables) -> DataFrame:
    people = timed(t["person"]).select("id", "name", f.window("date_time", TEN).alias("when"))
    sellers = timed(t["auction"]).select("seller", f.window("date_time", TEN).alias("opened")).dropDuplicates(["seller", "opened"])
    return people.join(sellers, (col("id") == col("seller")) & (col("when") == col("opened")))


def q14(t: Tables) -> DataFrame:
    euros, hour = 0.908 * col("price"), f.hour("date_time")
    time_type = f.when((hour >= 8) & (hour <= 18), "dayTime").when((hour <= 6) | (hour >= 20), "nightTime").otherwise("otherTime")
    count = f.length("extra") - f.length(f.regexp_replace("extra", "c", ""))
    bids = t["bid"].filter((euros > 1_000_000) & (euros < 50_000_000))
    return bids.select("auction", "bidder", euros.alias("euros"), time_type.alias("type"), "date_time", "extra", count.alias("c_counts"))


def q17(t: Tables) -> DataFrame:
    price = col("price")
    levels = [price < 10_000, (price >= 10_000) & (price < 1_000_000), price >= 1_000_000]
    counts = [f.count("*").alias("total")] + [f.count_if(level).alias(f"rank{n}") for n, level in enumerate(levels, start=1)]
    days = t["bid"].groupBy("auction", f.to_date("date_time").alias("day"))
    return days.agg(*counts, f.min(price).alias("low"), f.max(price).alias("high"), f.avg(price).alias("mean"), f.sum(price).alias("sum"))


def q21(t: Tables) -> DataFrame:
    channel, found = f.lower("channel"), f.regexp_extract("url", "(&|^)channel_id=([^&]*)", 2)
    known = f.when(channel == "apple", "0").when(channel == "google", "1").when(channel == "facebook", "2").when(channel == "baidu", "3")
    channel_id = known.otherwise(f.when(found != "", found)).alias("channel_id")
    return t["bid"].select("auction", "bidder", "price", "channel", channel_id).filter(col("channel_id").isNotNull())


def windowed(t: Tables, size: str, slide: str | None, key: str | None, answer: object) -> DataFrame:
    """An aggregate of event-time windows."""
    window = f.window("date_time", size, slide) if slide else f.window("date_time", size)
    return timed(t["bid"]).groupBy(*([key] if key else []), window).agg(answer)


QUERIES: dict[str, tuple[str, Callable[[Tables], DataFrame]]] = {
    "q0": ("append", lambda t: t["bid"].select("auction", "bidder", "price", "date_time", "extra")),
    "q1": ("append", lambda t: t["bid"].select("auction", "bidder", 0.908 * col("price"), "date_time", "extra")),
    "q2": ("append", lambda t: t["bid"].filter(col("auction") % 123 == 0).select("auction", "price")),
    "q3": ("append", q3),
    "q5": ("append", lambda t: windowed(t, TEN, "2 seconds", "auction", f.count("*"))),
    "q7": ("append", lambda t: windowed(t, TEN, None, None, f.max("price"))),
    "q8": ("append", q8),
    "q11": ("append", lambda t: timed(t["bid"]).groupBy("bidder", f.session_window("date_time", TEN)).agg(f.count("*"))),
    "q14": ("append", q14),
    "q17": ("update", q17),
    "q21": ("append", q21),
    "q22": ("append", lambda t: t["bid"].select("auction", "bidder", *(f.split_part("url", f.lit("/"), f.lit(n)) for n in (4, 5, 6)))),
    "sum": ("update", lambda t: t["bid"].groupBy("bidder").agg(f.sum("price"))),
}
"""q5 counts in windows and q7 gives the highest price of each: a second aggregate over the first, and rows that belong to a maximum, take joins of streams
that are far slower; so Spark does less here than the others."""


def session() -> SparkSession:
    builder = SparkSession.builder.master(f"local[{request()['parallelism']}]").appName("nexmark")
    settings = {"spark.sql.shuffle.partitions": str(request()["parallelism"]), "spark.ui.enabled": "false", "spark.driver.memory": "4g"}
    settings |= {"spark.sql.session.timeZone": "UTC", "spark.log.level": "ERROR"}
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def run(query: str, asked: Request) -> tuple[float, int | None]:
    spark, tables = session(), {}
    for stream, paths in asked["files"].items():
        place = os.path.dirname(paths[0])
        schema = spark.read.parquet(place).schema
        tables[stream] = spark.readStream.schema(schema).option("maxFilesPerTrigger", 2).parquet(place)
    mode, build = QUERIES[query]
    with tempfile.TemporaryDirectory() as checkpoints:
        writer = build(tables).writeStream.format("noop").outputMode(mode).option("checkpointLocation", checkpoints)
        started = time.perf_counter()
        writer.trigger(availableNow=True).start().awaitTermination()
        return time.perf_counter() - started, None


if __name__ == "__main__":
    serve(run, QUERIES)
