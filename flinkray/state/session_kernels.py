"""Kernels of session windows: rows of a batch become sessions, these are placed among the open ones, and due ones are found.

An open session is a row of `sessions`, eight int64 words, one cache line; its id is the row's number. The sessions of a key are a list:
`heads[key slot]` is the first one's id + 1 (0: none), NEXT leads on. No two sessions of a key touch. Ids of closed sessions lie on a
stack and are given out again.
"""

from __future__ import annotations

import numpy as np

from flinkray.state.bits import prefetch
from flinkray.state.jit import I4, I8, I8_ROWS, RO_I8, inlined, njit, types

WORDS = 8
START, LAST, KEY, NEXT, STATE, TIMER, CHANGED, CREATED = range(WORDS)
"""Event times of the first and last row; key slot; next id + 1 of the key; FREE, OPEN or FIRED; time of its one timer that
counts; generation of the last change; generation since which (key, START) names it."""

FREE, OPEN, FIRED = 0, 1, 2

NO_TIMER = -(2**63)

_AHEAD = 12
"""Sessions are looked at in no order of memory: the lines of those that come so much later are asked for now."""
_SOON = 4
_SESSION_BYTES = 8 * WORDS

COUNTERS = 3
HIGH, LIVE, FREED = range(COUNTERS)
"""Of a session store: ids ever given out, sessions that are there, ids on the stack."""

LISTS = 8
OPENED, TIMED, ANSWERED, TARGET, MERGED, GONE_KEY, GONE_START, EMPTIED = range(LISTS)
"""What a kernel tells: `lists[name, :lengths[name]]`. New ids; ids whose timer must be registered; ids whose answer is due; ids merged
into, and merged away; (key slot, start) that name no session any more but did in a snapshot; key slots left without a session."""


@inlined
def _ask_for(ids, at, base):  # type: ignore[no-untyped-def]
    """The cache line of the session `_AHEAD` of `ids[at]`."""
    if at + _AHEAD < len(ids):
        prefetch(base + ids[at + _AHEAD] * _SESSION_BYTES)


@inlined
def _ask_for_head(keys, at, heads, base):  # type: ignore[no-untyped-def]
    """Of a key twice as far ahead: its head; of one as far ahead: its first session."""
    if at + 2 * _AHEAD < len(keys):
        prefetch(heads.ctypes.data + keys[at + 2 * _AHEAD] * 8)
    if at + _AHEAD < len(keys):
        head = heads[keys[at + _AHEAD]]
        if head > 0:
            prefetch(base + (head - 1) * _SESSION_BYTES)


@njit([types.int64(I8, I4, RO_I8, types.int64, I8, I8_ROWS)], nogil=True, cache=True)
def form_sessions(
    order: np.ndarray, slots: np.ndarray, times: np.ndarray, gap_us: int, session_of_row: np.ndarray, formed: np.ndarray
) -> int:
    """Sessions within a batch. `order` sorts its rows by (slot, time). Fills `formed[:count]` with (slot, first, last)."""
    count = 0
    for row in order:
        slot, time = slots[row], times[row]
        if count == 0 or formed[count - 1, 0] != slot or time - formed[count - 1, 2] > gap_us:
            formed[count, 0] = slot
            formed[count, 1] = time
            count += 1
        formed[count - 1, 2] = time
        session_of_row[row] = count - 1
    return count


@njit([types.int64(I8, I8)], nogil=True, cache=True)
def take_id(free: np.ndarray, counters: np.ndarray) -> int:
    """An unused id; the caller has made room."""
    counters[LIVE] += 1
    if counters[FREED] > 0:
        counters[FREED] -= 1
        return free[counters[FREED]]
    counters[HIGH] += 1
    return counters[HIGH] - 1


@njit([types.void(types.int64, I8_ROWS, I8, I8)], nogil=True, cache=True)
def unlink(session: int, sessions: np.ndarray, heads: np.ndarray, counters: np.ndarray) -> None:
    """Takes a session out of its key's list. Its id is not given back yet: its words may still be needed."""
    key = sessions[session, KEY]
    counters[LIVE] -= 1
    if heads[key] == session + 1:
        heads[key] = sessions[session, NEXT]
    else:
        before = heads[key] - 1
        while sessions[before, NEXT] != session + 1:
            before = sessions[before, NEXT] - 1
        sessions[before, NEXT] = sessions[session, NEXT]
    sessions[session, STATE] = FREE


@njit([types.int64(types.int64, types.int64, types.int64, types.int64, I8_ROWS, I8, I8, I8)], nogil=True, cache=True)
def open_session(
    key: int, first: int, last: int, generation: int, sessions: np.ndarray, heads: np.ndarray, free: np.ndarray, counters: np.ndarray
) -> int:
    session = take_id(free, counters)
    sessions[session, START] = first
    sessions[session, LAST] = last
    sessions[session, KEY] = key
    sessions[session, NEXT] = heads[key]
    sessions[session, STATE] = OPEN
    sessions[session, TIMER] = NO_TIMER
    sessions[session, CHANGED] = generation
    sessions[session, CREATED] = generation
    heads[key] = session + 1
    return session


@njit([types.int64(types.int64, types.int64, types.int64, types.int64, I8_ROWS, I8)], nogil=True, cache=True)
def first_touching(key: int, first: int, last: int, gap_us: int, sessions: np.ndarray, heads: np.ndarray) -> int:
    """The earliest of the key's sessions that [first, last] reaches within the gap; -1 when there is none."""
    found = -1
    at = heads[key]
    while at > 0:
        session = at - 1
        touches = sessions[session, START] - last <= gap_us and first - sessions[session, LAST] <= gap_us
        if touches and (found < 0 or sessions[session, START] < sessions[found, START]):
            found = session
        at = sessions[session, NEXT]
    return found


@njit([types.void(types.int64, types.int64, I8_ROWS, I8)], nogil=True, cache=True)
def tell(name: int, value: int, lists: np.ndarray, lengths: np.ndarray) -> None:
    lists[name, lengths[name]] = value
    lengths[name] += 1


@njit([types.void(types.int64, types.int64, I8_ROWS, I8_ROWS, I8)], nogil=True, cache=True)
def tell_gone(session: int, generation: int, sessions: np.ndarray, lists: np.ndarray, lengths: np.ndarray) -> None:
    """A snapshot may hold (key, START), which no longer names this session."""
    if sessions[session, CREATED] < generation:
        tell(GONE_KEY, sessions[session, KEY], lists, lengths)
        tell(GONE_START, sessions[session, START], lists, lengths)


@njit([types.void(*[types.int64] * 5, I8_ROWS, I8, I8, I8_ROWS, I8)], nogil=True, cache=True)
def extend(
    session: int, first: int, last: int, gap_us: int, generation: int,
    sessions: np.ndarray, heads: np.ndarray, counters: np.ndarray, lists: np.ndarray, lengths: np.ndarray,
) -> None:  # fmt: skip
    """The session takes in [first, last], and all other sessions of its key that this reaches."""
    at = heads[sessions[session, KEY]]
    start, end = min(first, sessions[session, START]), max(last, sessions[session, LAST])
    while at > 0:
        other = at - 1
        at = sessions[other, NEXT]
        if other != session and sessions[other, START] - last <= gap_us and first - sessions[other, LAST] <= gap_us:
            start, end = min(start, sessions[other, START]), max(end, sessions[other, LAST])
            tell_gone(other, generation, sessions, lists, lengths)
            tell(TARGET, session, lists, lengths)
            tell(MERGED, other, lists, lengths)
            unlink(other, sessions, heads, counters)
    if start != sessions[session, START]:
        tell_gone(session, generation, sessions, lists, lengths)
        sessions[session, START] = start
        sessions[session, CREATED] = generation
    sessions[session, LAST] = end
    sessions[session, CHANGED] = generation


@njit([types.void(*[types.int64] * 4, I8_ROWS, I8_ROWS, I8)], nogil=True, cache=True)
def set_timer(
    session: int, watermark: int, gap_us: int, lateness_us: int, sessions: np.ndarray, lists: np.ndarray, lengths: np.ndarray
) -> None:
    """After rows were added: the session waits for its end; past its end (late, but allowed) it answers at once, again maybe.

    A timer that is too early is put off when it fires (`due_sessions`), so that most sessions that grow cost nothing here.
    """
    end = sessions[session, LAST] + gap_us
    if end <= watermark:
        tell(ANSWERED, session, lists, lengths)
        if sessions[session, STATE] == FIRED:
            return
        sessions[session, STATE] = FIRED
        end += lateness_us
    elif sessions[session, STATE] == OPEN and sessions[session, TIMER] != NO_TIMER:
        return
    else:
        sessions[session, STATE] = OPEN
    sessions[session, TIMER] = end
    tell(TIMED, session, lists, lengths)


@njit([types.void(I8_ROWS, *[types.int64] * 4, I8_ROWS, I8, I8, I8, I8, I8_ROWS, I8)], nogil=True, cache=True)
def place_sessions(
    formed: np.ndarray, gap_us: int, lateness_us: int, watermark: int, generation: int,
    sessions: np.ndarray, heads: np.ndarray, free: np.ndarray, counters: np.ndarray,
    placed: np.ndarray, lists: np.ndarray, lengths: np.ndarray,
) -> None:  # fmt: skip
    """Opens or extends a session for each one formed in a batch: `placed` gets its id, -1 where the rows are late.

    Late: the session would be over for good, and reaches none that is there. Ids in MERGED are given back by `give_back`.
    """
    count, keys, base = len(placed), formed[: len(placed), 0], sessions.ctypes.data
    for i in range(count):
        _ask_for_head(keys, i, heads, base)
        if counters[FREED] >= _SOON:  # one that may be opened soon
            prefetch(base + free[counters[FREED] - _SOON] * _SESSION_BYTES)
        key, first, last = formed[i, 0], formed[i, 1], formed[i, 2]
        session = first_touching(key, first, last, gap_us, sessions, heads)
        if session >= 0:
            extend(session, first, last, gap_us, generation, sessions, heads, counters, lists, lengths)
        elif last + gap_us + lateness_us > watermark:
            session = open_session(key, first, last, generation, sessions, heads, free, counters)
            tell(OPENED, session, lists, lengths)
        if session >= 0:
            set_timer(session, watermark, gap_us, lateness_us, sessions, lists, lengths)
        placed[i] = session
        if heads[key] == 0 and (i + 1 == count or formed[i + 1, 0] != key):
            tell(EMPTIED, key, lists, lengths)


@njit([types.void(I8_ROWS, I8, I8)], nogil=True, cache=True)
def begin_rows(rows: np.ndarray, ids: np.ndarray, initial: np.ndarray) -> None:
    """`rows[ids] = initial`, for rows that are in no cache."""
    base, width = rows.ctypes.data, rows.shape[1]
    for i in range(len(ids)):
        if i + _AHEAD < len(ids):
            prefetch(base + ids[i + _AHEAD] * width * 8)
        for word in range(width):
            rows[ids[i], word] = initial[word]


@njit([types.void(I8, I8, I8)], nogil=True, cache=True)
def give_back(ids: np.ndarray, free: np.ndarray, counters: np.ndarray) -> None:
    for session in ids:
        free[counters[FREED]] = session
        counters[FREED] += 1


@njit([types.int64(I8, I8, *[types.int64] * 4, I8_ROWS, I8, I8_ROWS, I8)], nogil=True, cache=True)
def due_sessions(
    times: np.ndarray, ids: np.ndarray, watermark: int, gap_us: int, lateness_us: int, generation: int,
    sessions: np.ndarray, over: np.ndarray, lists: np.ndarray, lengths: np.ndarray,
) -> int:  # fmt: skip
    """Looks at sessions whose timers have fired: TIMED ones wait on, ANSWERED ones are at their end, `over[:result]` can be closed."""
    count, base = 0, sessions.ctypes.data
    for i in range(len(ids)):
        _ask_for(ids, i, base)
        session = ids[i]
        if sessions[session, STATE] == FREE or sessions[session, TIMER] != times[i]:
            continue  # not its timer any more
        end = sessions[session, LAST] + gap_us
        if sessions[session, STATE] == OPEN and end <= watermark:
            tell(ANSWERED, session, lists, lengths)
            sessions[session, STATE] = FIRED
            sessions[session, CHANGED] = generation
        if sessions[session, STATE] == FIRED:
            end += lateness_us
        if end <= watermark:
            over[count] = session
            count += 1
            sessions[session, TIMER] = NO_TIMER
        else:
            sessions[session, TIMER] = end
            tell(TIMED, session, lists, lengths)
    return count


@njit([types.void(I8, types.int64, I8_ROWS, I8, I8, I8_ROWS, I8)], nogil=True, cache=True)
def close_sessions(
    ids: np.ndarray, generation: int, sessions: np.ndarray, heads: np.ndarray, counters: np.ndarray,
    lists: np.ndarray, lengths: np.ndarray,
) -> None:  # fmt: skip
    """Takes sessions away, all but their ids (`give_back`)."""
    base, heads_at = sessions.ctypes.data, heads.ctypes.data
    for i in range(len(ids)):
        _ask_for(ids, i, base)
        if i + _AHEAD // 2 < len(ids):
            prefetch(heads_at + sessions[ids[i + _AHEAD // 2], KEY] * 8)
        session = ids[i]
        tell_gone(session, generation, sessions, lists, lengths)
        unlink(session, sessions, heads, counters)
        if heads[sessions[session, KEY]] == 0:
            tell(EMPTIED, sessions[session, KEY], lists, lengths)


@njit([types.int64(types.int64, I8_ROWS, I8, I8)], nogil=True, cache=True)
def changed_sessions(since: int, sessions: np.ndarray, counters: np.ndarray, ids: np.ndarray) -> int:
    """Ids of the sessions with a generation above `since`; returns their number."""
    count = 0
    for session in range(counters[HIGH]):
        if sessions[session, STATE] != FREE and sessions[session, CHANGED] > since:
            ids[count] = session
            count += 1
    return count


@njit([types.void(I8, I8_ROWS, I4, I8, I8, I8)], nogil=True, cache=True)
def copy_sessions(
    ids: np.ndarray, sessions: np.ndarray, keys: np.ndarray, starts: np.ndarray, lasts: np.ndarray, states: np.ndarray
) -> None:
    """Some sessions by column, in one pass over their cache lines."""
    base = sessions.ctypes.data
    for i in range(len(ids)):
        _ask_for(ids, i, base)
        session = ids[i]
        keys[i] = sessions[session, KEY]
        starts[i] = sessions[session, START]
        lasts[i] = sessions[session, LAST]
        states[i] = sessions[session, STATE]


@njit([types.int64(I4, RO_I8, I8_ROWS, I8, I8, I8, I8)], nogil=True, cache=True)
def forget_sessions(
    slots: np.ndarray, starts: np.ndarray, sessions: np.ndarray, heads: np.ndarray, free: np.ndarray, counters: np.ndarray,
    emptied: np.ndarray,
) -> int:  # fmt: skip
    """Restore: takes away the sessions named by (key slot or -1, start) as far as they are there; tells the keys it leaves empty."""
    count = 0
    for i in range(len(slots)):
        at = heads[slots[i]] if slots[i] >= 0 else 0
        while at > 0 and sessions[at - 1, START] != starts[i]:
            at = sessions[at - 1, NEXT]
        if at > 0:
            unlink(at - 1, sessions, heads, counters)
            free[counters[FREED]] = at - 1
            counters[FREED] += 1
            if heads[slots[i]] == 0:
                emptied[count] = slots[i]
                count += 1
    return count


@njit([types.void(I4, RO_I8, RO_I8, RO_I8, I8_ROWS, I8, I8, I8, I8)], nogil=True, cache=True)
def restore_sessions(
    slots: np.ndarray, starts: np.ndarray, lasts: np.ndarray, states: np.ndarray,
    sessions: np.ndarray, heads: np.ndarray, free: np.ndarray, counters: np.ndarray, ids: np.ndarray,
) -> None:  # fmt: skip
    """Restore: the session named by (key slot, start) becomes what a chunk says, whether it is there or not."""
    for i in range(len(slots)):
        at = heads[slots[i]]
        while at > 0 and sessions[at - 1, START] != starts[i]:
            at = sessions[at - 1, NEXT]
        session = at - 1
        if at == 0:
            session = open_session(slots[i], starts[i], lasts[i], 0, sessions, heads, free, counters)
        sessions[session, LAST] = lasts[i]
        sessions[session, STATE] = states[i]
        ids[i] = session
