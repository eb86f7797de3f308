"""The plan as text, word for word: what was pushed down, chained, pre-aggregated and shuffled."""

from __future__ import annotations

from textwrap import dedent

import pytest
from plan_fakes import FakeSink, FakeSource

import flinkray as fr
from flinkray import col


@pytest.fixture
def env():
    return fr.StreamEnvironment("test", parallelism=2, runtime="local")


@pytest.fixture
def bids(env):
    return env.from_source(FakeSource(), watermark=fr.Watermarks.bounded("date_time", "4s"), uid="bids")


def expect(text: str, picture: str) -> None:
    assert text == dedent(picture).lstrip("\n")


def test_hot_items(env, bids):
    sliding = bids.filter(col("price") > 100).key_by("auction").window(fr.windows.Sliding("10s", "2s"))
    counts = sliding.aggregate(bids=fr.agg.count()).uid("counts")
    hottest = counts.window_all(fr.windows.Tumbling("2s")).top_n(1, by="bids").uid("hottest")
    hottest.sink_to(FakeSink(), uid="out").set_parallelism(1)
    expect(
        env.explain(),
        """
        [0] parallelism 1
         │  bids splits  finds splits of Parquet bids/*.parquet
         │
         ▼  dealt out in turn
        [1] parallelism 2, 3 operators chained
         │  bids          reads Parquet bids/*.parquet
         │                3 of 7 columns: auction, price, date_time
         │                event time date_time, 4s behind
         │  filter        keeps rows where col("price") > 100
         │  counts local  aggregates each batch before it is sent
         │
         ▼  shuffled by hash of auction; sends auction, partial aggregates
        [2] parallelism 2, 2 operators chained
         │  counts         bids=count() per auction, window sliding 10s every 2s
         │  hottest local  sends only rows that can still be among the first
         │
         ▼  dealt out in turn; sends auction, window_start, window_end, bids, event time
        [3] parallelism 1, 2 operators chained
         │  hottest  first 1 by bids desc, ties kept, over all rows, window tumbling 2s
         │  out      writes Parquet out/
        """,
    )


def test_a_running_aggregate_without_uids_warns(env):
    stream = env.from_source(FakeSource())
    stream.key_by("auction").aggregate(total=fr.agg.sum(col("price") * 2), emit="row").sink_to(FakeSink(changes=True))
    expect(
        env.explain(),
        """
        [0] parallelism 1
         │  source splits  finds splits of Parquet bids/*.parquet
         │
         ▼  dealt out in turn
        [1] parallelism 2, 2 operators chained
         │  source     reads Parquet bids/*.parquet
         │             2 of 7 columns: auction, price
         │  arguments  gives auction, _arg0 = col("price") * 2
         │
         ▼  shuffled by hash of auction; sends auction, _arg0
        [2] parallelism 2, 2 operators chained
         │  aggregate  total=sum(col("price") * 2) per auction, emit='row'
         │             not aggregated before the shuffle: every row gets an answer
         │  sink       writes Parquet out/

        warning: source Parquet bids/*.parquet has state and no uid: a restore may miss it after the program has changed; give it .uid(...)
        warning: aggregate has state and no uid: a restore may miss it after the program has changed; give it .uid(...)
        warning: sink Parquet out/ has state and no uid: a restore may miss it after the program has changed; give it .uid(...)
        """,
    )


def test_branches_functions_and_unions(env, bids):
    def clean(row):
        return row

    bids.map(clean, {"auction": "int"}).select((col("auction") + 1).alias("next")).sink_to(FakeSink("next/"), uid="next")
    more = env.from_source(FakeSource(path="more"), uid="more").select("auction", "price")
    bids.select("auction", "price").union(more).filter(lambda row: True).sink_to(FakeSink("both/"), uid="both")
    expect(
        env.explain().replace("test_branches_functions_and_unions.<locals>.", ""),
        """
        [0] parallelism 1
         │  bids splits  finds splits of Parquet bids/*.parquet
         │
         ▼  dealt out in turn
        [1] parallelism 2, 5 operators chained
         │  bids      reads Parquet bids/*.parquet
         │            all 7 columns: auction, bidder, price, channel, url, date_time, extra
         │            event time of date_time is not tracked: nothing after it needs it
         │  ↳ map     calls clean for each row
         │    select  gives next = col("auction") + 1
         │    next    writes Parquet next/
         │  ↳ select  gives auction, price

        [2] parallelism 1
         │  more splits  finds splits of Parquet more
         │
         ▼  dealt out in turn
        [3] parallelism 2
         │  more  reads Parquet more
         │        2 of 7 columns: auction, price
         │
         ▼  from [1], one to one; sends auction, price
         ▼  from [3], one to one; sends auction, price
        [4] parallelism 2, 3 operators chained
         │  union   brings streams together
         │  filter  keeps rows for which <lambda> says so
         │  both    writes Parquet both/
        """,
    )


def test_a_stream_explains_what_collect_would_run(bids):
    expect(
        bids.select("auction").explain(),
        """
        [0] parallelism 1
         │  bids splits  finds splits of Parquet bids/*.parquet
         │
         ▼  dealt out in turn
        [1] parallelism 2, 2 operators chained
         │  bids     reads Parquet bids/*.parquet
         │           1 of 7 columns: auction
         │           event time of date_time is not tracked: nothing after it needs it
         │  collect  writes Collect
        """,
    )
