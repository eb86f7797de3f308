"""Memory that is used again: the kernel clears every fresh page, and between decoding one column chunk and the next that is a seventh of the time."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

import numpy as np

_SMALLEST_BYTES = 1 << 16
_LARGEST_BYTES = 32 << 20
"""Larger buffers are not kept."""
_KEPT = 16
_KEPT_BYTES = 128 << 20
"""Buffers kept at most, and their bytes; what is given back above that is forgotten, the oldest first."""

_kept: deque[np.ndarray] = deque(maxlen=_KEPT)


def borrow(size_bytes: int) -> np.ndarray:
    """uint8[at least `size_bytes`], of any content. Threads may borrow at the same time."""
    size_bytes = max(_SMALLEST_BYTES, 1 << (size_bytes - 1).bit_length())
    for _ in range(len(_kept)):
        try:
            buffer = _kept.popleft()
        except IndexError:  # another thread was faster
            break
        if len(buffer) == size_bytes:
            return buffer
        _kept.append(buffer)
    return np.empty(size_bytes, np.uint8)


def give_back(buffer: np.ndarray) -> None:
    """Nobody may look at it any longer."""
    if _SMALLEST_BYTES <= len(buffer) <= _LARGEST_BYTES:
        _kept.append(buffer)
        with suppress(IndexError):  # another thread was faster
            while sum(map(len, tuple(_kept))) > _KEPT_BYTES:
                _kept.popleft()
