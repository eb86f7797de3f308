"""The sessions that are open, by key: which rows belong to which, which are due, and what a snapshot must tell of them.

What is aggregated lies elsewhere, in rows of the same ids. See `session_kernels` for the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.columns import MIN_WATERMARK
from flinkray.state import session_kernels as kernels
from flinkray.state.growth import grown
from flinkray.state.key_encoding import Keys
from flinkray.state.key_index import KeyCopy, KeyIndex
from flinkray.state.session_kernels import (
    ANSWERED,
    COUNTERS,
    EMPTIED,
    FIRED,
    GONE_KEY,
    GONE_START,
    HIGH,
    LAST,
    LISTS,
    LIVE,
    MERGED,
    OPENED,
    STATE,
    TARGET,
    TIMED,
    TIMER,
    WORDS,
)
from flinkray.state.timer_kernels import sorted_order
from flinkray.state.timers import TimerQueue

Int64Array = npt.NDArray[np.int64]

STEP_IDS = 1 << 14


@dataclass(frozen=True)
class Placement:
    """Where the rows of a batch went. First new sessions are cleared, then `merged[i]` goes into `targets[i]` in this order, then rows are
    added, then the `answered` answer, then `release(merged)`."""

    of_row: Int64Array
    """Session id of each row, -1 for late ones."""
    opened: Int64Array
    targets: Int64Array
    merged: Int64Array
    answered: Int64Array
    """Sessions past their end that were given rows, late but allowed."""


@dataclass(frozen=True)
class Due:
    """What the watermark brought: `answered` answer, then `release(over)`."""

    answered: Int64Array
    over: Int64Array


@dataclass(frozen=True)
class SessionKeys:
    """A copy of the keys of some sessions. A `KeyCopy` knows of one null key only, and several sessions may have it."""

    distinct: KeyCopy
    expand: Int64Array | None
    """Positions in `distinct`; None: the keys are as they are there."""

    @property
    def hashes(self) -> np.ndarray:
        return self.distinct.hashes if self.expand is None else self.distinct.hashes[self.expand]

    def columns(self, order: Int64Array | None = None) -> list[pa.Array]:
        """One array per key column, of all sessions or of those at `order`."""
        if self.expand is None:
            return self.distinct.columns(order)
        taken = pa.array(self.expand if order is None else self.expand[order])
        return [column.take(taken) for column in self.distinct.columns()]


@dataclass(frozen=True)
class Sessions:
    """A copy of some sessions, in the order of their ids."""

    keys: SessionKeys
    starts: Int64Array
    lasts: Int64Array
    states: Int64Array


@dataclass(frozen=True)
class Gone:
    """Names of sessions that are in a snapshot, and are no more since `generation`."""

    keys: SessionKeys
    starts: Int64Array
    generation: int


class SessionStore:
    """Sessions of one subtask. `generation` stamps what changes (see `operators/deltas.py`)."""

    def __init__(self, key_kinds: Sequence[pa.DataType], seed: int, gap_us: int, lateness_us: int) -> None:
        self.index = KeyIndex(key_kinds, seed)
        self.watermark = MIN_WATERMARK
        self.gone: list[Gone] = []
        self._gap_us, self._lateness_us = gap_us, lateness_us
        self._sessions = np.zeros((STEP_IDS, WORDS), np.int64)
        self._heads = np.zeros(STEP_IDS, np.int64)
        self._free = np.zeros(STEP_IDS, np.int64)
        self._counters = np.zeros(COUNTERS, np.int64)
        self._timers = TimerQueue()
        null = [pa.nulls(1, kind) for kind in self.index.codec.kinds]
        self._null_key = self.index.codec.encode(null, 1, seed)

    def __len__(self) -> int:
        return int(self._counters[LIVE])

    @property
    def high(self) -> int:
        """One above the highest id ever given out: what arrays by id must hold."""
        return int(self._counters[HIGH])

    @property
    def memory_bytes(self) -> int:
        arrays = self._sessions.nbytes + self._heads.nbytes + self._free.nbytes
        return arrays + self.index.memory_bytes + self._timers.memory_bytes

    # --- rows and time

    def place(self, keys: Keys, times: Int64Array, generation: int) -> Placement:
        """Finds, opens, extends and merges sessions for the rows of a batch."""
        slots = self.index.lookup_or_insert(keys)
        formed, of_row = np.empty((len(slots), 3), np.int64), np.empty(len(slots), np.int64)
        count = kernels.form_sessions(sorted_order(slots, times), slots, times, self._gap_us, of_row, formed)
        self._make_room(count)
        lists, lengths = self._lists(2 * count)
        placed = np.empty(count, np.int64)
        kernels.place_sessions(
            formed, self._gap_us, self._lateness_us, self.watermark, generation,
            self._sessions, self._heads, self._free, self._counters, placed, lists, lengths,
        )  # fmt: skip
        opened, targets, merged, answered = (_told(lists, lengths, name) for name in (OPENED, TARGET, MERGED, ANSWERED))
        self._settle(lists, lengths, generation)
        answered = np.unique(answered)
        past_end = self._sessions[answered, STATE] == FIRED  # one may have gone on with later rows of the same batch
        return Placement(placed[of_row], opened, targets, merged, answered[past_end])

    def advance(self, watermark_us: int, generation: int) -> Due:
        """Event time goes on: which sessions answer, and which are over for good. The latter are still there until `close`."""
        self.watermark = watermark_us
        times, ids = self._timers.pop_due(watermark_us)
        lists, lengths = self._lists(len(ids))
        over = np.empty(len(ids), np.int64)
        count = kernels.due_sessions(
            times, ids, watermark_us, self._gap_us, self._lateness_us, generation, self._sessions, over, lists, lengths
        )
        answered = _told(lists, lengths, ANSWERED)
        self._settle(lists, lengths, generation)
        return Due(answered, over[:count])

    def close(self, over: Int64Array, generation: int) -> None:
        """Sessions are taken away, with the keys that have no other."""
        lists, lengths = self._lists(len(over))
        kernels.close_sessions(over, generation, self._sessions, self._heads, self._counters, lists, lengths)
        self.release(over)
        self._settle(lists, lengths, generation)

    def release(self, ids: Int64Array) -> None:
        """The ids of sessions that are no more may be given out again."""
        kernels.give_back(ids, self._free, self._counters)

    # --- reading

    def copy(self, ids: Int64Array) -> Sessions:
        """What is known of these sessions, keys included."""
        keys = np.empty(len(ids), np.int32)
        starts, lasts, states = (np.empty(len(ids), np.int64) for _ in range(3))
        kernels.copy_sessions(ids, self._sessions, keys, starts, lasts, states)
        return Sessions(self._keys_of(keys), starts, lasts, states)

    def changed_since(self, generation: int | None) -> Int64Array:
        """Ids of the sessions that changed after that generation (None: of all)."""
        ids = np.empty(len(self), np.int64)
        since = -1 if generation is None else generation
        return ids[: kernels.changed_sessions(since, self._sessions, self._counters, ids)]

    # --- restore

    def forget(self, keys: Keys, starts: Int64Array) -> None:
        """Sessions of these names are no more, if there are any."""
        emptied = np.empty(len(keys), np.int64)
        slots = self.index.lookup(keys)
        count = kernels.forget_sessions(slots, starts, self._sessions, self._heads, self._free, self._counters, emptied)
        self.index.remove(emptied[:count])

    def restore(self, keys: Keys, starts: Int64Array, lasts: Int64Array, states: Int64Array) -> Int64Array:
        """Sessions become what a chunk says; returns their ids."""
        slots = self.index.lookup_or_insert(keys)
        self._make_room(len(slots))
        ids = np.empty(len(slots), np.int64)
        kernels.restore_sessions(slots, starts, lasts, states, self._sessions, self._heads, self._free, self._counters, ids)
        return ids

    def register_timers(self) -> None:
        """After a restore: every session gets its timer."""
        ids = self.changed_since(None)
        late = np.where(self._sessions[ids, STATE] == FIRED, self._lateness_us, 0)
        self._sessions[ids, TIMER] = self._sessions[ids, LAST] + self._gap_us + late
        self._timers.register(self._sessions[ids, TIMER], ids)

    # --- inside

    def _make_room(self, more: int) -> None:
        """For `more` new sessions, and for all key slots."""
        self._sessions = grown(self._sessions, self.high + more, STEP_IDS)
        self._free = grown(self._free, len(self._sessions), STEP_IDS)
        self._heads = grown(self._heads, self.index.high, STEP_IDS)

    def _keys_of(self, slots: np.ndarray) -> SessionKeys:
        null_slot = int(self.index.lookup(self._null_key)[0])
        nulls = np.flatnonzero(slots == null_slot) if null_slot >= 0 else slots[:0]
        if len(nulls) < 2:
            return SessionKeys(self.index.copy_keys(slots), None)
        kept = np.ones(len(slots), np.bool_)
        kept[nulls[1:]] = False
        expand = np.cumsum(kept) - 1
        expand[nulls] = expand[nulls[0]]
        return SessionKeys(self.index.copy_keys(slots[kept]), expand)

    def _lists(self, more: int) -> tuple[npt.NDArray[np.int64], Int64Array]:
        """Room for what a kernel may tell; memory that it does not touch costs nothing."""
        return np.empty((LISTS, len(self) + more), np.int64), np.zeros(LISTS, np.int64)

    def _settle(self, lists: npt.NDArray[np.int64], lengths: Int64Array, generation: int) -> None:
        """What a kernel told becomes timers, names that are gone, and keys that are forgotten, in this order."""
        timed = _told(lists, lengths, TIMED)
        self._timers.register(self._sessions[timed, TIMER], timed)
        if lengths[GONE_KEY]:
            keys = self._keys_of(_told(lists, lengths, GONE_KEY))
            self.gone.append(Gone(keys, _told(lists, lengths, GONE_START).copy(), generation))
        if lengths[EMPTIED]:
            self.index.remove(_told(lists, lengths, EMPTIED))


def _told(lists: npt.NDArray[np.int64], lengths: Int64Array, name: int) -> Int64Array:
    return lists[name, : lengths[name]]
