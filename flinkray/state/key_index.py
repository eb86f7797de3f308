"""Keys to dense slots: an open-addressing hash index that looks up a batch at a time and grows in steps.

A bucket is the key's 64-bit hash and its slot side by side, so that a lookup is one cache miss. The hash of a word key is a bijection of
the word: equal hashes are equal keys, and the key is had back from its hash. Bytes keys are compared in full. No batch waits for a
whole rehash: a twice larger table is begun when this one is half full, every batch touches some of its memory (first touches cost more
than the moving), and once it is in use every batch moves a share of the old buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flinkray.state.arrow_buffers import ALL_VALID, Bitmap
from flinkray.state.bytes_by_slot import compacted, pieces_of, touch_pieces
from flinkray.state.extents import extent_of
from flinkray.state.frozen import StillPieces, StillRows
from flinkray.state.growth import BufferedCopy, CopyBuffers, grown
from flinkray.state.index_kernels import (
    ARENA,
    BLOCK,
    FREE,
    GARBAGE,
    HIGH,
    KEYS,
    MOVED,
    NULL_SLOT,
    compact,
    hashes_to_words,
    insert,
    is_full,
    lookup,
    move,
    remove,
)
from flinkray.state.key_encoding import NO_OFFSETS, NO_WORDS, KeyCodec, Keys, gathered
from flinkray.state.key_hash import spread
from flinkray.state.memory import copied, touch, zeros

MIN_BUCKETS = 256
STEP_SLOTS = 1 << 16
STEP_BYTES = 1 << 21
NO_BYTES = np.empty(0, np.uint8)
MOVE_BUCKETS = 4096
"""Buckets of the old table that every batch moves at least; four for each new key come on top."""
TOUCH_BUCKETS = 16
"""Buckets of the next table touched for each new key: from half full to 5/8 full is time enough for all."""


class KeyIndex:
    """Slots are dense from 0, stable while their key stays, and used again after `remove`."""

    def __init__(self, kinds: Sequence[pa.DataType] | KeyCodec, seed: int, expected: int = 0) -> None:
        """`expected`: keys to make room for at once."""
        self.codec = kinds if isinstance(kinds, KeyCodec) else KeyCodec(kinds)
        self.seed = seed
        self._counters = np.zeros(8, np.int64)
        self._counters[NULL_SLOT] = -1
        buckets = max(MIN_BUCKETS, 1 << (2 * expected).bit_length())
        self._buckets = zeros((buckets, 2), np.int64)
        self._old = np.zeros((0, 2), np.int64)
        self._next = np.zeros((0, 2), np.int64)
        self._touched = 0
        self._free = np.zeros(0, np.int32)
        self._copies = CopyBuffers()
        self._hashes = zeros(max(MIN_BUCKETS, expected), np.uint64)
        self._entries = zeros((0 if self.codec.by_words else len(self._hashes), 3), np.int64)  # start, length, room
        self._arena = zeros(0 if self.codec.by_words else 16 * MIN_BUCKETS, np.uint8)

    def __len__(self) -> int:
        """Keys in the index."""
        return int(self._counters[KEYS])

    @property
    def high(self) -> int:
        """One above the highest slot ever used: what arrays by slot must hold."""
        return int(self._counters[HIGH])

    @property
    def memory_bytes(self) -> int:
        tables = self._buckets.nbytes + self._old.nbytes + self._next.nbytes
        return tables + self._free.nbytes + self._hashes.nbytes + self._entries.nbytes + self._arena.nbytes

    @property
    def null_slot(self) -> int:
        """Slot of the null key, -1 when it is not there."""
        return int(self._counters[NULL_SLOT])

    def addresses(self) -> tuple[int, int, int]:
        """Where hashes, entries (start, length, room) and bytes of the slots lie; good until this index changes."""
        return self._hashes.ctypes.data, self._entries.ctypes.data, self._arena.ctypes.data

    def clear(self) -> None:
        """Forgets all keys; memory stays for others."""
        self._entries[: self.high] = 0
        self._counters[:] = 0
        self._counters[NULL_SLOT] = -1
        self._buckets[:] = 0
        self._old, self._next, self._touched = np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), 0

    def keys(self, batch: pa.RecordBatch, columns: Sequence[str]) -> Keys:
        """The keys of a batch as this index takes them."""
        return self.codec.keys(batch, columns, self.seed)

    def in_order(self, keys: Keys) -> np.ndarray:
        """int64[n]: positions of the keys in the order in which they are looked up in memory; equal keys stay as they are."""
        return np.argsort(keys.hashes & np.uint64(len(self._buckets) - 1), kind="stable")

    def lookup_or_insert(self, keys: Keys) -> np.ndarray:
        """int32[n]: the slot of each key; unknown keys get new slots (at or above the `high` before, or freed ones)."""
        slots = np.empty(len(keys), np.int32)
        self.insert(keys, 0, len(keys), slots)
        return slots

    def insert(self, keys: Keys, start: int, stop: int, slots: np.ndarray) -> None:
        """The same for keys from `start` to `stop`, into the same places of `slots`."""
        known, done, hashes = len(self), start, keys.hashes[:stop]
        if extent_of(self._buckets) is not None:
            self._touch(hashes[start:])
        while (done := self._insert(keys, hashes, done, slots)) < stop:
            self._make_room(keys, done, stop)
        new = max(0, len(self) - known)
        if len(self._old):
            self._move(MOVE_BUCKETS + 4 * new)
        elif new and 2 * len(self) > len(self._buckets):
            self._prepare(TOUCH_BUCKETS * new)

    def lookup(self, keys: Keys) -> np.ndarray:
        """int32[n]: the slot of each key, -1 where it is not known."""
        slots = np.empty(len(keys), np.int32)
        if extent_of(self._buckets) is not None:
            self._touch(keys.hashes)
        lookup(
            keys.hashes, keys.offsets, keys.data, keys.bitmap.bits, keys.bitmap.offset, self.codec.by_words,
            self._buckets, self._old, self._entries, self._arena, self._counters, slots,
        )  # fmt: skip
        return slots

    def remove(self, slots: np.ndarray) -> None:
        """Forgets the keys of these slots (each in use, none twice); the slots may be given to other keys."""
        self._free = grown(self._free, int(self._counters[FREE]) + len(slots), MIN_BUCKETS)
        slots = np.ascontiguousarray(slots, np.int32)
        self._touch_slots(slots)  # other keys may be written there
        remove(slots, self._hashes, self._buckets, self._old, self._free, self._counters)

    def all_keys(self) -> Keys:
        """The keys of all slots below `high`, as another index takes them; good until this index changes."""
        null = int(self._counters[NULL_SLOT])
        offsets, data = NO_OFFSETS, self._arena
        if not self.codec.by_words:
            offsets, data = pieces_of(self._entries, self._arena, slice(0, self.high))
        return Keys(self._hashes[: self.high], _all_but(null, self.high), NO_WORDS, offsets, data)

    def copy_keys(self, slots: np.ndarray | None = None) -> KeyCopy:
        """A copy of the keys of these slots (None: of all below `high`, freed ones too) that later changes leave alone."""
        null = int(self._counters[NULL_SLOT])
        if slots is not None:
            null = int(np.argmax(slots == null)) if null >= 0 and np.any(slots == null) else -1
        held = self._copies.copy(self._hashes[: self.high]) if slots is None else None
        hashes = held.array if held is not None else copied(self._hashes, slots) if slots is not None else self._hashes[:0]
        if self.codec.by_words:
            return KeyCopy(self.codec, self.seed, hashes, NO_OFFSETS, self._arena[:0], null, held)
        offsets, data = pieces_of(self._entries, self._arena, slice(0, self.high) if slots is None else slots)
        return KeyCopy(self.codec, self.seed, hashes, offsets, data, null, held)

    def still_keys(self, slots: np.ndarray | None = None) -> StillKeys:
        """The same, where state has a budget of memory: nothing is read now. `slots` ascend."""
        null = int(self._counters[NULL_SLOT])
        if slots is not None:
            null = int(np.argmax(slots == null)) if null >= 0 and np.any(slots == null) else -1
        hashes = StillRows(self._hashes[: self.high], slots)
        pieces = None if self.codec.by_words else StillPieces(StillRows(self._entries[: self.high], slots), self._arena)
        return StillKeys(self.codec, self.seed, hashes, pieces, null)

    def _touch_slots(self, slots: np.ndarray) -> None:
        touch(self._hashes, slots)
        if not self.codec.by_words:
            touch(self._entries, slots)
            touch_pieces(self._arena, self._entries[slots])

    def _touch(self, hashes: np.ndarray) -> None:
        """What looking up these keys will probably read is asked for at once, where it may not be in memory."""
        at = (hashes & np.uint64(len(self._buckets) - 1)).astype(np.int64)
        touch(self._buckets, at)
        if len(self._old):
            touch(self._old, (hashes & np.uint64(len(self._old) - 1)).astype(np.int64))
        if not self.codec.by_words:
            slots = self._buckets[at, 1]
            slots = slots[slots > 0] - 1
            touch(self._entries, slots)
            touch_pieces(self._arena, self._entries[slots])

    def _insert(self, keys: Keys, hashes: np.ndarray, start: int, slots: np.ndarray) -> int:
        return insert(
            hashes, keys.offsets, keys.data, keys.bitmap.bits, keys.bitmap.offset, self.codec.by_words, start, self._buckets,
            self._old, self._hashes, self._entries, self._arena, self._free, self._counters, slots,
        )  # fmt: skip

    def _make_room(self, keys: Keys, done: int, stop: int) -> None:
        """The kernel stopped before the block at `done`, because buckets, slots or bytes may not be enough for it."""
        rows = min(BLOCK, stop - done)
        if is_full(len(self) + rows, len(self._buckets)):
            self._move(len(self._old))
            self._prepare(0)
            self._old, self._buckets = self._buckets, self._next
            self._next, self._touched = np.zeros((0, 2), np.int64), 0
            self._counters[MOVED] = 0
        self._hashes = grown(self._hashes, self.high + rows, STEP_SLOTS)
        if self.codec.by_words:
            return
        self._entries = grown(self._entries, len(self._hashes), STEP_SLOTS)
        used, needed = int(self._counters[ARENA]), int(keys.offsets[done + rows] - keys.offsets[done]) + 8 * rows
        if used + needed > len(self._arena) and 2 * self._counters[GARBAGE] > used:
            self._compact()
        self._arena = grown(self._arena, int(self._counters[ARENA]) + needed, STEP_BYTES)

    def _compact(self) -> None:
        if extent_of(self._arena) is None:
            self._arena = compact(self._arena, self._entries, self._counters)
            return
        self._arena = compacted(self._entries, self._arena, self.high)
        self._counters[ARENA], self._counters[GARBAGE] = len(self._arena), 0

    def _prepare(self, buckets: int) -> None:
        if not len(self._next):
            self._next = zeros((2 * len(self._buckets), 2), np.int64)
            if extent_of(self._next) is not None:
                self._touched = len(self._next)  # pages of a file cost nothing before they are written
        self._next[self._touched : self._touched + buckets] = 0
        self._touched += buckets

    def _move(self, buckets: int) -> None:
        if len(self._old):
            move(self._old, buckets, self._buckets, self._counters)
            if self._counters[MOVED] == len(self._old):
                self._old = np.zeros((0, 2), np.int64)


def _all_but(null_at: int, rows: int) -> Bitmap:
    """A bitmap in which one row is null, or none (-1)."""
    if null_at < 0:
        return ALL_VALID
    valid = np.ones(rows, np.bool_)
    valid[null_at] = False
    return Bitmap(np.packbits(valid, bitorder="little"), 0)


@dataclass(slots=True)
class KeyCopy:
    """Keys by themselves, as taken from an index: decoded when somebody asks (on an upload thread)."""

    codec: KeyCodec
    seed: int
    hashes: np.ndarray
    offsets: np.ndarray
    data: np.ndarray
    null_at: int
    held: BufferedCopy | None = None
    """Whose memory `hashes` is."""

    def as_keys(self) -> Keys:
        """The same keys as another index takes them; good as long as this copy."""
        return Keys(self.hashes, _all_but(self.null_at, len(self.hashes)), NO_WORDS, self.offsets, self.data)

    def part(self, start: int, stop: int) -> KeyCopy:
        """The keys from `start` to `stop`; good as long as this copy."""
        null_at = self.null_at - start if start <= self.null_at < stop else -1
        offsets, data = self.offsets, self.data
        if not self.codec.by_words:
            data = data[offsets[start] : offsets[stop]]
            offsets = offsets[start : stop + 1] - offsets[start]
        return KeyCopy(self.codec, self.seed, self.hashes[start:stop], offsets, data, null_at, self.held)

    def columns(self, order: np.ndarray | None = None) -> list[pa.Array]:
        """One Arrow array per key column, of all keys or of those in `order` (positions, int64)."""
        null_at, hashes, offsets, data = self.null_at, self.hashes, self.offsets, self.data
        if order is not None:
            null_at = int(np.argmax(order == null_at)) if null_at >= 0 and np.any(order == null_at) else -1
            hashes = hashes[order]
        nulls = np.array([null_at] if null_at >= 0 else [], np.int64)
        if self.codec.by_words:
            words = np.empty(len(hashes), np.int64)
            hashes_to_words(hashes, np.uint64(spread(self.seed)), words)
            return self.codec.decode_words(words, nulls)
        if order is not None:
            offsets, data = gathered(self.data, offsets[:-1][order], np.diff(offsets)[order])
        return self.codec.decode_bytes(offsets, data, nulls)


@dataclass(slots=True)
class StillKeys:
    """Keys of an index within a budget of memory, as they were; read part by part (on an upload thread)."""

    codec: KeyCodec
    seed: int
    hashes: StillRows
    pieces: StillPieces | None
    null_at: int

    def part(self, start: int, stop: int) -> KeyCopy:
        """The keys from `start` to `stop`; each part once, in order."""
        null_at = self.null_at - start if start <= self.null_at < stop else -1
        offsets, data = (NO_OFFSETS, NO_BYTES) if self.pieces is None else self.pieces.part(start, stop)
        return KeyCopy(self.codec, self.seed, self.hashes.part(start, stop), offsets, data, null_at)
