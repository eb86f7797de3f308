"""The events of the Nexmark benchmark as columns: each value is a pure function of (seed, event number, column).

Of 50 events 1 is a person, 3 are auctions and 46 are bids; ids, hot auctions, bidders and sellers, prices and sizes follow the reference
generator. Randomness is splitmix64 of a counter, so any range of events can be made anywhere, in any order, with the same result. Floating
point is used only in operations that IEEE 754 fixes, hence rows are equal on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flinkray.columns import TIMESTAMP

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

EVENTS_PER_EPOCH = 50
BASE_TIME_US = 1_436_918_400_000_000
"""2015-07-15T00:00:00Z, the time of event 0."""

FIRST_ID = 1000
FIRST_CATEGORY = 10
CATEGORIES = 5
HOT_AUCTION_RATIO, HOT_BIDDER_RATIO, HOT_SELLER_RATIO = 2, 4, 4
HOT_BATCH = 100
"""The hot auction, bidder and seller is one of each hundred."""
IN_FLIGHT_AUCTIONS, ACTIVE_PEOPLE, ID_LEAD = 100, 1000, 10
BID_BYTES, AUCTION_BYTES, PERSON_BYTES = 100, 500, 200
"""Average size of a row; `extra` fills up to it."""

FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")
CITIES = ("Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne")
STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
COLD_CHANNELS = 10_000

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_TO_LETTER = bytes(b"abcdefghijklmnopqrstuvwxyz"[i * 26 // 256] for i in range(256))


@dataclass(frozen=True)
class Layout:
    """Where a stream's events lie among the 50 of an epoch."""

    first: int
    count: int

    def event_of(self, row: int) -> int:
        return row // self.count * EVENTS_PER_EPOCH + self.first + row % self.count

    def rows_before(self, event: int) -> int:
        """Rows of this stream among the first `event` events."""
        epoch, offset = divmod(event, EVENTS_PER_EPOCH)
        return epoch * self.count + min(max(offset - self.first, 0), self.count)


LAYOUTS = {"person": Layout(0, 1), "auction": Layout(1, 3), "bid": Layout(4, 46)}


class Rows:
    """Rows `first` to `end` of a stream; its methods make one column each."""

    def __init__(self, layout: Layout, first: int, end: int, seed: int, interval_us: int) -> None:
        rows = np.arange(first, end, dtype=np.int64)
        self.size = end - first
        self.epochs: Int64s = rows // layout.count
        self.in_epoch: Int64s = rows - self.epochs * layout.count
        self.events: Int64s = self.epochs * EVENTS_PER_EPOCH + (self.in_epoch + layout.first)
        self.seed = seed
        self._interval_us = interval_us

    @cached_property
    def _counters(self) -> UInt64s:
        return self.events.astype(np.uint64) * np.uint64(_GOLDEN)

    def random(self, name: str) -> UInt64s:
        """64 random bits a row, independent for each name."""
        return _mix(self._counters + np.uint64(_key(self.seed, name)))

    def time(self) -> Int64s:
        return BASE_TIME_US + self.events * self._interval_us

    @property
    def last_auction(self) -> Int64s:
        """Newest auction when the event happens, counted from 0 (of the epoch, for bids)."""
        return self.epochs * LAYOUTS["auction"].count + (LAYOUTS["auction"].count - 1)

    def auction_horizon_us(self) -> int:
        return IN_FLIGHT_AUCTIONS * EVENTS_PER_EPOCH // LAYOUTS["auction"].count * self._interval_us

    def person(self, name: str, hot_ratio: int, hot_offset: int) -> Int64s:
        """A hot person (bidders one beside sellers) or any of the active ones; some are yet to come, as in the reference."""
        bits = self.random(name)
        people = self.epochs + 1
        active = np.minimum(people, ACTIVE_PEOPLE)
        cold = people - active + _below(bits, active + ID_LEAD)
        hot = self.epochs // HOT_BATCH * HOT_BATCH + hot_offset
        return np.where(_is_hot(bits, hot_ratio), hot, cold) + FIRST_ID

    def auction(self) -> Int64s:
        bits, last = self.random("auction"), self.last_auction
        oldest = np.maximum(last - IN_FLIGHT_AUCTIONS, 0)
        cold = oldest + _below(bits, last - oldest + (1 + ID_LEAD))
        return np.where(_is_hot(bits, HOT_AUCTION_RATIO), last // HOT_BATCH * HOT_BATCH, cold) + FIRST_ID

    def price(self, name: str) -> Int64s:
        """Cents, 10 to the power of 2 to 8, evenly in the exponent."""
        bits = self.random(name)
        coarse, fine = _price_tables()
        upper = (bits >> np.uint64(54)).view(np.int64)
        lower = ((bits >> np.uint64(44)) & np.uint64(1023)).view(np.int64)
        return np.rint(coarse[upper] * fine[lower]).astype(np.int64)

    def pick(self, name: str, values: pa.Array) -> pa.Array:
        return values.take(pa.array(_below(self.random(name), len(values))))

    def text(self, name: str, shortest: int, longest: int) -> pa.Array:
        """Random letters, `shortest` to `longest` of them, evenly."""
        lengths = shortest + _below(self.random(name + ".length"), longest - shortest + 1)
        words = np.empty((self.size, -(-longest // 8)), dtype=np.uint64)
        for i in range(words.shape[1]):
            words[:, i] = self.random(f"{name}.{i}")
        letters = np.frombuffer(words.tobytes().translate(_TO_LETTER), dtype=np.uint8).reshape(self.size, -1)
        data = letters[np.arange(letters.shape[1]) < lengths[:, None]]
        offsets = np.zeros(self.size + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return pa.StringArray.from_buffers(self.size, pa.py_buffer(offsets), pa.py_buffer(data))

    def extra(self, used_bytes: int, average_bytes: int) -> pa.Array:
        """Fills the row up to its average size, a fifth more or less."""
        average = average_bytes - used_bytes
        spread = average // 5
        return self.text("extra", average - spread, average + spread - 1)


def _key(seed: int, name: str) -> int:
    """One start of the counter per seed and column."""
    state = (seed * _GOLDEN + zlib.crc32(name.encode()) * 0xD1B54A32D192ED03) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    return ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK


def _mix(state: UInt64s) -> UInt64s:
    """The finaliser of splitmix64, in place."""
    shifted = state >> np.uint64(30)
    state ^= shifted
    state *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(state, np.uint64(27), out=shifted)
    state ^= shifted
    state *= np.uint64(0x94D049BB133111EB)
    np.right_shift(state, np.uint64(31), out=shifted)
    state ^= shifted
    return state


def _below(bits: UInt64s, bound: Int64s | int) -> Int64s:
    """Even over 0 to bound - 1 (bound under 2**31), from the upper 32 bits; the lower 16 stay free for `_is_hot`."""
    scaled: Int64s = (bits >> np.uint64(32)).view(np.int64) * bound
    return scaled >> 32


def _is_hot(bits: UInt64s, ratio: int) -> NDArray[np.bool_]:
    """True for all but one of `ratio`."""
    hot: NDArray[np.bool_] = (bits & np.uint64(0xFFFF)) * np.uint64(ratio) >= np.uint64(1 << 16)
    return hot


@cache
def _price_tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """10**(6u + 2) as coarse[upper 10 bits of u] * fine[next 10 bits], by repeated products: no libm, the same everywhere."""
    coarse, fine = [100.0], [1.0]
    for _ in range(1023):
        coarse.append(coarse[-1] * 1.0135831333340657)  # 10 ** (6 / 2**10)
        fine.append(fine[-1] * 1.0000131755843844)  # 10 ** (6 / 2**20)
    return np.array(coarse), np.array(fine)


@cache
def _channels(seed: int) -> tuple[pa.Array, pa.Array]:
    """All channels and their urls; the hot ones first."""
    size = len(HOT_CHANNELS) + COLD_CHANNELS
    rows = Rows(LAYOUTS["person"], 0, size, seed, 1)
    numbers = pa.array(np.arange(size) - len(HOT_CHANNELS)).cast(pa.string())
    cold = pc.binary_join_element_wise("channel-", numbers, "")
    names = pa.concat_arrays([pa.array(HOT_CHANNELS), cold.slice(len(HOT_CHANNELS))])
    parts = [rows.text(f"url.{i}", 3, 5) for i in range(3)]
    base = pc.binary_join_element_wise("https://www.nexmark.com", *parts, "item.htm?query=1", "/")
    channel_id = pa.array((rows.random("channel_id") >> np.uint64(33)).view(np.int64)).cast(pa.string())
    with_id = pc.binary_join_element_wise(base, "&channel_id=", channel_id, "")
    has_id = np.arange(size) % 10 != 0  # one url of ten names no channel
    has_id[: len(HOT_CHANNELS)] = False
    return names, pc.if_else(pa.array(has_id), with_id, base)


def _channel_index(rows: Rows) -> pa.Array:
    bits = rows.random("channel")
    cold = len(HOT_CHANNELS) + _below(bits, COLD_CHANNELS)
    return pa.array(np.where(_is_hot(bits, 2), _below(bits, len(HOT_CHANNELS)), cold))


def _credit_card(rows: Rows) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(10_000)).cast(pa.string()), 4, "0")
    return pc.binary_join_element_wise(*(rows.pick(f"credit_card.{i}", numbers) for i in range(4)), " ")


def _person_name(rows: Rows) -> pa.Array:
    return pc.binary_join_element_wise(rows.pick("first_name", pa.array(FIRST_NAMES)), rows.pick("last_name", pa.array(LAST_NAMES)), " ")


def _email(rows: Rows) -> pa.Array:
    return pc.binary_join_element_wise(rows.text("mailbox", 3, 7), "@", rows.text("domain", 3, 5), ".com", "")


def _expires(rows: Rows) -> Int64s:
    length_us = (rows.random("expires") >> np.uint64(1)).view(np.int64) % (2 * rows.auction_horizon_us())
    return rows.time() + 1000 + length_us


Column = Callable[[Rows], "pa.Array | Int64s"]

COLUMNS: dict[str, dict[str, tuple[pa.DataType, Column]]] = {
    "bid": {
        "auction": (pa.int64(), Rows.auction),
        "bidder": (pa.int64(), lambda rows: rows.person("bidder", HOT_BIDDER_RATIO, 1)),
        "price": (pa.int64(), lambda rows: rows.price("price")),
        "channel": (pa.string(), lambda rows: _channels(rows.seed)[0].take(_channel_index(rows))),
        "url": (pa.string(), lambda rows: _channels(rows.seed)[1].take(_channel_index(rows))),
        "date_time": (TIMESTAMP, Rows.time),
        "extra": (pa.string(), lambda rows: rows.extra(32, BID_BYTES)),
    },
    "auction": {
        "id": (pa.int64(), lambda rows: rows.epochs * LAYOUTS["auction"].count + rows.in_epoch + FIRST_ID),
        "item_name": (pa.string(), lambda rows: rows.text("item_name", 3, 20)),
        "description": (pa.string(), lambda rows: rows.text("description", 3, 100)),
        "initial_bid": (pa.int64(), lambda rows: rows.price("initial_bid")),
        "reserve": (pa.int64(), lambda rows: rows.price("initial_bid") + rows.price("reserve")),
        "date_time": (TIMESTAMP, Rows.time),
        "expires": (TIMESTAMP, _expires),
        "seller": (pa.int64(), lambda rows: rows.person("seller", HOT_SELLER_RATIO, 0)),
        "category": (pa.int64(), lambda rows: FIRST_CATEGORY + _below(rows.random("category"), CATEGORIES)),
        "extra": (pa.string(), lambda rows: rows.extra(110, AUCTION_BYTES)),
    },
    "person": {
        "id": (pa.int64(), lambda rows: rows.epochs + FIRST_ID),
        "name": (pa.string(), _person_name),
        "email_address": (pa.string(), _email),
        "credit_card": (pa.string(), _credit_card),
        "city": (pa.string(), lambda rows: rows.pick("city", pa.array(CITIES))),
        "state": (pa.string(), lambda rows: rows.pick("state", pa.array(STATES))),
        "date_time": (TIMESTAMP, Rows.time),
        "extra": (pa.string(), lambda rows: rows.extra(65, PERSON_BYTES)),
    },
}


def stream_schema(stream: str) -> pa.Schema:
    return pa.schema([(name, kind) for name, (kind, _) in COLUMNS[stream].items()])


def make_rows(stream: str, first: int, end: int, seed: int, interval_us: int, columns: tuple[str, ...]) -> pa.RecordBatch:
    """Rows `first` to `end` - 1 of the stream, with these columns only."""
    rows = Rows(LAYOUTS[stream], first, end, seed, interval_us)
    fields, arrays = [], []
    for name in columns:
        kind, make = COLUMNS[stream][name]
        made = make(rows)
        array = pa.array(made) if isinstance(made, np.ndarray) else made
        fields.append(pa.field(name, kind))
        arrays.append(array if array.type == kind else array.view(kind))
    if not fields:
        return pa.RecordBatch.from_struct_array(pa.StructArray.from_buffers(pa.struct([]), rows.size, [None]))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
