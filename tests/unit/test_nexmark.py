"""The Nexmark generator: the same rows however they are cut, with the proportions of the benchmark."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flinkray.connectors.base import Split
from flinkray.connectors.nexmark import NexmarkSource, nexmark_table
from flinkray.connectors.nexmark_events import LAYOUTS, stream_schema
from flinkray.errors import PlanError


def read_all(source: NexmarkSource, splits: list[Split], max_rows: int = 1000) -> pa.Table:
    batches = []
    for split in splits:
        reader = source.open_split(split, None)
        while (batch := reader.read(max_rows)) is not None:
            batches.append(batch)
    return pa.Table.from_batches(batches, schema=source.schema()).combine_chunks()


def splits_of(source: NexmarkSource, parallelism: int) -> list[Split]:
    enumerator = source.enumerator(None, "date_time", parallelism)
    splits = []
    while not enumerator.finished:
        splits += enumerator.discover()
    return splits


@pytest.mark.parametrize("stream", ["bid", "auction", "person"])
@pytest.mark.parametrize("parallelism", [1, 2, 3, 7])
def test_rows_are_the_same_at_any_parallelism_and_batch_size(stream: str, parallelism: int) -> None:
    source = NexmarkSource(stream, rows=20_011, seed=7)
    whole = nexmark_table(stream, 20_011, seed=7)
    assert whole.schema == stream_schema(stream)
    for max_rows in (997, 65_536):
        assert read_all(source, splits_of(source, parallelism), max_rows).equals(whole.combine_chunks())


def test_a_reader_goes_on_exactly_at_its_offset() -> None:
    source = pickle.loads(pickle.dumps(NexmarkSource("bid", rows=5_000)))
    [split] = source.enumerator(None, "date_time", 1).discover()
    for taken in (1, 45, 46, 47, 777, 4_999, 5_000):
        reader = source.open_split(split, None)
        head = reader.read(taken)
        rest = read_all(source, [split]).slice(taken)
        again = source.open_split(split, reader.offset())
        assert head.num_rows == taken
        tail = [again.read(5_000)] if taken < 5_000 else []
        assert again.read(5_000) is None
        assert pa.Table.from_batches(tail, source.schema()).combine_chunks().equals(rest.combine_chunks())


def test_an_enumerator_goes_on_after_a_restore_at_another_parallelism() -> None:
    source = NexmarkSource("bid", rows=1030 * 262_144 + 5)
    first = source.enumerator(None, "date_time", 1)
    splits = first.discover()
    assert not first.finished
    second = source.enumerator(first.state(), "date_time", 3)
    while not second.finished:
        splits += second.discover()
    assert second.discover() == []
    edges = [(s.payload["first"], s.payload["end"]) for s in splits]
    assert edges[0][0] == 0
    assert edges[-1][1] == source.event_count
    assert all(end == first for (_, end), (first, _) in pairwise(edges))
    assert sum(s.size for s in splits) == 1030 * 262_144 + 5
    assert len({s.id for s in splits}) == len(splits)


def test_no_row_of_a_split_is_older_than_the_split_says() -> None:
    source = NexmarkSource("auction", rows=50_000, columns=("date_time",))
    splits = splits_of(source, 1)
    assert len(splits) > 2
    for split in splits:
        times = read_all(source, [split])["date_time"].cast(pa.int64())
        assert split.min_event_time_us <= pc.min(times).as_py() < split.min_event_time_us + 5_000
        assert pc.all(pc.greater_equal(pc.pairwise_diff(times.combine_chunks()).drop_null(), 0)).as_py()
    assert source.enumerator(None, "expires", 1).discover()[0].min_event_time_us is None


def test_of_fifty_events_one_is_a_person_three_are_auctions_and_the_others_bids() -> None:
    counts = {stream: len(read_all(s := NexmarkSource(stream, events=5_037), splits_of(s, 2))) for stream in LAYOUTS}
    assert counts == {"person": 101, "auction": 303, "bid": 5_037 - 101 - 303}
    times = [t for stream in LAYOUTS for t in nexmark_table(stream, counts[stream])["date_time"].to_pylist()]
    assert len(set(times)) == 5_037
    assert min(times) == datetime(2015, 7, 15, tzinfo=UTC)
    assert max(times) == datetime(2015, 7, 15, 0, 0, 0, 503_600, tzinfo=UTC)


def test_bids_have_the_hot_keys_and_prices_of_the_benchmark() -> None:
    bids = nexmark_table("bid", 200_000, seed=3)
    hot_auctions = np.mean(bids["auction"].to_numpy() % 100 == 0)
    hot_bidders = np.mean(bids["bidder"].to_numpy() % 100 == 1)
    assert 0.49 < hot_auctions < 0.52  # one half, and a hundredth of the rest
    assert 0.74 < hot_bidders < 0.77
    assert 2 <= pc.min(pc.log10(bids["price"])).as_py() < 2.01
    assert 7.99 < pc.max(pc.log10(bids["price"])).as_py() <= 8
    assert 4.98 < pc.mean(pc.log10(bids["price"])).as_py() < 5.02
    named = pc.mean(pc.match_substring_regex(bids["channel"], "^(Google|Facebook|Baidu|Apple)$").cast("int8")).as_py()
    assert 0.49 < named < 0.51
    assert pc.all(pc.starts_with(bids["url"], "https://www.nexmark.com/")).as_py()
    assert 66 < pc.mean(pc.utf8_length(bids["extra"])).as_py() < 69


def test_bids_refer_to_auctions_and_people_that_are_there_or_come_soon() -> None:
    bids = nexmark_table("bid", 46_000, columns=("auction", "bidder"))
    assert pc.min(bids["auction"]).as_py() >= 1000
    assert pc.max(bids["auction"]).as_py() <= nexmark_table("auction", 3_000)["id"][-1].as_py() + 10
    assert pc.max(bids["bidder"]).as_py() <= nexmark_table("person", 1_000)["id"][-1].as_py() + 10


def test_auctions_and_people_are_well_formed() -> None:
    auctions, people = nexmark_table("auction", 3_000), nexmark_table("person", 1_000)
    assert auctions["id"].to_pylist() == list(range(1000, 4000))
    assert people["id"].to_pylist() == list(range(1000, 2000))
    assert pc.all(pc.greater(auctions["expires"], auctions["date_time"])).as_py()
    assert pc.all(pc.greater(auctions["reserve"], auctions["initial_bid"])).as_py()
    assert set(auctions["category"].to_pylist()) == {10, 11, 12, 13, 14}
    assert pc.all(pc.match_substring_regex(people["email_address"], "^[a-z]{3,7}@[a-z]{3,5}[.]com$")).as_py()
    assert pc.all(pc.match_substring_regex(people["credit_card"], "^([0-9]{4} ){3}[0-9]{4}$")).as_py()
    assert people["name"].null_count == 0


def test_chosen_columns_have_the_values_they_have_among_all() -> None:
    source = NexmarkSource("bid", rows=3_000, seed=1).with_columns(("price", "auction"))
    assert source.schema().names == ["price", "auction"]
    assert read_all(source, splits_of(source, 1)).equals(nexmark_table("bid", 3_000, 1).select(["price", "auction"]).combine_chunks())
    empty = source.with_columns(())
    assert sum(s.size for s in splits_of(empty, 1)) == 3_000
    assert empty.open_split(splits_of(empty, 1)[0], None).read(3_000).num_rows == 3_000


def test_another_seed_gives_other_rows() -> None:
    one, two = (nexmark_table("bid", 1_000, seed=seed) for seed in (1, 2))
    for column in ("auction", "bidder", "price", "channel", "url", "extra"):
        assert not one[column].equals(two[column])


def splitmix64(seed: int, event: int, name: str) -> int:
    """Written anew with Python's own integers."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    z = (seed * 0x9E3779B97F4A7C15 + crc32(name.encode()) * 0xD1B54A32D192ED03) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    key = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return mix((event * 0x9E3779B97F4A7C15 + key) % 2**64)


def test_bids_are_what_a_generator_of_single_rows_makes() -> None:
    bids = nexmark_table("bid", 50_000, seed=5).slice(49_900).to_pylist()
    for row, bid in enumerate(bids, 49_900):
        epoch, event = row // 46, row // 46 * 50 + 4 + row % 46
        bits = splitmix64(5, event, "auction")
        newest = epoch * 3 + 2
        cold = newest - 100 + ((bits >> 32) * 111 >> 32)
        assert bid["auction"] == 1000 + (newest // 100 * 100 if (bits & 0xFFFF) * 2 >= 0x10000 else cold)
        bits = splitmix64(5, event, "bidder")
        cold = epoch + 1 - 1000 + ((bits >> 32) * 1010 >> 32)
        assert bid["bidder"] == 1000 + (epoch // 100 * 100 + 1 if (bits & 0xFFFF) * 4 >= 0x10000 else cold)
        price = 10 ** (2 + 6 * (splitmix64(5, event, "price") >> 44) / 2**20)
        assert abs(bid["price"] - price) <= 0.5001
        assert bid["date_time"] == datetime(2015, 7, 15, tzinfo=UTC) + timedelta(microseconds=100 * event)


def test_rows_are_these_on_every_machine_and_in_every_version() -> None:
    bids = nexmark_table("bid", 100_000)
    sums = [pc.sum(bids[name]).as_py() for name in ("auction", "bidder", "price")]
    texts = [crc32("".join(bids[name].to_pylist()).encode()) for name in ("channel", "url", "extra")]
    assert sums == [421441321, 195532464, 721495848519]
    assert texts == [3477373982, 782530492, 2447431270]


@pytest.mark.parametrize(
    "arguments",
    [{"stream": "bids", "rows": 1}, {}, {"rows": 1, "events": 1}, {"rows": -1}, {"rows": 1, "rate": 0}, {"rows": 1, "interval": 0}],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict) -> None:
    with pytest.raises(PlanError, match="Nexmark"):
        NexmarkSource(**arguments)


def test_no_rows_are_no_splits() -> None:
    enumerator = NexmarkSource("bid", rows=0).enumerator(None, None, 2)
    assert enumerator.discover() == []
    assert enumerator.finished
