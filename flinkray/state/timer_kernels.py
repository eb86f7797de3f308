"""Kernels over pairs of int64 arrays that are ordered by (time, payload): sort, merge, remove repetitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from flinkray.state.jit import njit

_PAIRS = "Tuple((int64[::1], int64[::1]))"
_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS
_SMALL = 48


@njit(["boolean(int64[::1], int64[::1])"], nogil=True, cache=True)
def is_sorted(times: np.ndarray, payloads: np.ndarray) -> bool:
    for i in range(1, len(times)):  # noqa: SIM110 (numba has no generators)
        if times[i] < times[i - 1] or (times[i] == times[i - 1] and payloads[i] < payloads[i - 1]):
            return False
    return True


@njit(["void(int64[::1], int64[::1])"], nogil=True, cache=True)
def insertion_sort(times: np.ndarray, payloads: np.ndarray) -> None:
    for i in range(1, len(times)):
        time, payload = times[i], payloads[i]
        j = i - 1
        while j >= 0 and (times[j] > time or (times[j] == time and payloads[j] > payload)):
            times[j + 1], payloads[j + 1] = times[j], payloads[j]
            j -= 1
        times[j + 1], payloads[j + 1] = time, payload


@njit(["void(int64[::1], int64[::1], int64[::1], int64[::1])"], nogil=True, cache=True)
def radix_sort_by_first(first: np.ndarray, second: np.ndarray, first_out: np.ndarray, second_out: np.ndarray) -> None:
    """Stable sort of pairs by `first` alone, in place; the `_out` arrays are room to work in.

    Only the digits in which the values differ at all cost a pass. The distance to the smallest value, as uint64, spans
    the whole range of int64.
    """
    smallest, largest = first.min(), first.max()
    spread = np.uint64(largest) - np.uint64(smallest)
    count = len(first)
    ends = np.empty(_DIGITS, np.int64)
    shift: Any = np.uint64(0)
    moved = False
    while shift < 64 and (spread >> shift) > 0:
        ends[:] = 0
        source, source_second = (first_out, second_out) if moved else (first, second)
        target, target_second = (first, second) if moved else (first_out, second_out)
        for i in range(count):
            ends[((np.uint64(source[i]) - np.uint64(smallest)) >> shift) & np.uint64(_DIGITS - 1)] += 1
        total = 0
        for digit in range(_DIGITS):
            total, ends[digit] = total + ends[digit], total
        for i in range(count):
            digit = ((np.uint64(source[i]) - np.uint64(smallest)) >> shift) & np.uint64(_DIGITS - 1)
            target[ends[digit]] = source[i]
            target_second[ends[digit]] = source_second[i]
            ends[digit] += 1
        moved = not moved
        shift += np.uint64(_DIGIT_BITS)
    if moved:
        first[:] = first_out
        second[:] = second_out


@njit(["void(int64[::1], int64[::1])"], nogil=True, cache=True)
def sort_pairs(times: np.ndarray, payloads: np.ndarray) -> None:
    """Sort in place by (time, payload)."""
    if is_sorted(times, payloads):
        return
    if len(times) <= _SMALL:
        insertion_sort(times, payloads)
        return
    room, other_room = np.empty_like(times), np.empty_like(times)
    radix_sort_by_first(payloads, times, room, other_room)
    radix_sort_by_first(times, payloads, room, other_room)


@njit([f"{_PAIRS}(int64[::1], int64[::1], int64[::1], int64[::1])"], nogil=True, cache=True)
def merge_pairs(
    times: np.ndarray, payloads: np.ndarray, other_times: np.ndarray, other_payloads: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted runs become one."""
    count, other_count = len(times), len(other_times)
    merged_times = np.empty(count + other_count, np.int64)
    merged_payloads = np.empty(count + other_count, np.int64)
    i = j = k = 0
    while i < count and j < other_count:
        if times[i] < other_times[j] or (times[i] == other_times[j] and payloads[i] <= other_payloads[j]):
            merged_times[k], merged_payloads[k] = times[i], payloads[i]
            i += 1
        else:
            merged_times[k], merged_payloads[k] = other_times[j], other_payloads[j]
            j += 1
        k += 1
    for rest in range(i, count):
        merged_times[k], merged_payloads[k] = times[rest], payloads[rest]
        k += 1
    for rest in range(j, other_count):
        merged_times[k], merged_payloads[k] = other_times[rest], other_payloads[rest]
        k += 1
    return merged_times, merged_payloads


@njit(["int64(int64[::1], int64[::1])"], nogil=True, cache=True)
def drop_repetitions(times: np.ndarray, payloads: np.ndarray) -> int:
    """Move the distinct pairs of a sorted run to its front, in place; returns how many they are."""
    kept = 0
    for i in range(len(times)):
        if kept == 0 or times[i] != times[kept - 1] or payloads[i] != payloads[kept - 1]:
            times[kept], payloads[kept] = times[i], payloads[i]
            kept += 1
    return kept


def sorted_order(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64[n]: positions that sort by (first, second), equal ones as they came. Any integers up to 64 bits."""
    order = np.arange(len(first))
    if not len(first):
        return order
    room, other_room = np.empty_like(order), np.empty_like(order)
    if np.any(second[1:] < second[:-1]):
        radix_sort_by_first(second.astype(np.int64), order, room, other_room)
    radix_sort_by_first(first[order].astype(np.int64), order, room, other_room)
    return order
