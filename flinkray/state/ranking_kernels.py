"""Kernels that say which rows can be among the best of their group, and which are."""

from __future__ import annotations

from flinkray.state.jit import I8, I8_ROWS, RO_I8, U1, njit, types


@njit([types.void(I8, RO_I8, I8_ROWS, U1)], nogil=True, cache=True)
def mark_candidates(groups, codes, best, mask):  # type: ignore[no-untyped-def]
    """`mask[i]` = 1 where `codes[i]` is no larger than the n-th smallest code of group `groups[i]`.

    `best[g]` is a heap of n codes, the largest first; the caller has filled it with the largest int64."""
    n = best.shape[1]
    for i in range(codes.size):
        heap, code = best[groups[i]], codes[i]
        if code >= heap[0]:
            continue
        at = 0
        while True:
            child = 2 * at + 1
            if child >= n:
                break
            if child + 1 < n and heap[child + 1] > heap[child]:
                child += 1
            if heap[child] <= code:
                break
            heap[at] = heap[child]
            at = child
        heap[at] = code
    for i in range(codes.size):
        mask[i] = codes[i] <= best[groups[i], 0]


@njit([types.int64(RO_I8, I8_ROWS, types.int64, types.boolean, I8, I8, I8)], nogil=True, cache=True)
def best_of_groups(groups, codes, n, newest, starts, found, counts):  # type: ignore[no-untyped-def]
    """The at most n best rows of each group: `found[:returned]`, by group and the best first. Row i is better than row j when
    `codes[:, i]` is smaller, the first code deciding first, and of equal ones the first row is better, with `newest` the last.

    `starts[g + 1]`: the rows of group g, and zero before; `counts`: zeros by group. Each row is put into its place among the best of its
    group so far, so that n should be small."""
    for group in range(counts.size):
        starts[group + 1] = starts[group] + min(n, starts[group + 1])
    for i in range(groups.size):
        start, count = starts[groups[i]], counts[groups[i]]
        at = count
        while at > 0:
            other, better = found[start + at - 1], newest
            for code in range(codes.shape[0]):
                if codes[code, i] != codes[code, other]:
                    better = codes[code, i] < codes[code, other]
                    break
            if not better:
                break
            if at < n:
                found[start + at] = other
            at -= 1
        if at < n:
            found[start + at] = i
            counts[groups[i]] = min(n, count + 1)
    return starts[counts.size]
