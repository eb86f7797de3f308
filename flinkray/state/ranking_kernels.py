"""The kernel that says which rows can be among the best of their group."""

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
