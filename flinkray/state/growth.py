"""Arrays that grow in place: in steps, so that no single growth takes long, and without a copy of what is there."""

from __future__ import annotations

import numpy as np


def grown(array: np.ndarray, size: int, step: int) -> np.ndarray:
    """The array with at least `size` rows (new ones zero), in steps of `step` rows or a sixteenth, whichever is more.

    `ndarray.resize` is a realloc, which for large arrays moves pages (mremap) and not bytes. It pulls the memory from under every view,
    so nobody keeps views of an array that grows; the array must own its memory.
    """
    if size <= len(array):
        return array
    step = max(step, len(array) // 16)
    array.resize((-(-size // step) * step, *array.shape[1:]), refcheck=False)
    return array
