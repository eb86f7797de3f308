"""numba, with its compiled code kept where it can be written and found again (`cache.py`). Kernels import `njit` from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flinkray.state.cache import use_cache_folder

use_cache_folder()  # before numba is first imported

import numba  # noqa: E402
import numba.extending  # noqa: E402
from numba import types  # noqa: E402

__all__ = [
    "F8",
    "I4",
    "I4_ROWS",
    "I8",
    "I8_ROWS",
    "RO_I4",
    "RO_I8",
    "RO_U1",
    "RO_U2",
    "RO_U8",
    "U1",
    "U2",
    "U8",
    "inlined",
    "intrinsic",
    "njit",
    "types",
]

Kernel = Callable[..., Any]

I8, U8, F8 = types.int64[::1], types.uint64[::1], types.float64[::1]
I4, U2, U1 = types.int32[::1], types.uint16[::1], types.uint8[::1]
I8_ROWS, I4_ROWS = types.int64[:, ::1], types.int32[:, ::1]
RO_I8 = types.Array(types.int64, 1, "C", readonly=True)
RO_U8 = types.Array(types.uint64, 1, "C", readonly=True)
RO_U1 = types.Array(types.uint8, 1, "C", readonly=True)
RO_U2 = types.Array(types.uint16, 1, "C", readonly=True)
RO_I4 = types.Array(types.int32, 1, "C", readonly=True)
"""Types of kernel arguments: `RO_` takes read-only views of Arrow buffers as well as arrays of one's own."""


def njit(*args: Any, **options: Any) -> Callable[[Kernel], Kernel]:
    """`numba.njit` with a type: `@njit([signature, ...], nogil=True, cache=True)`."""
    decorate: Callable[[Kernel], Kernel] = numba.njit(*args, **options)
    return decorate


intrinsic: Callable[[Kernel], Kernel] = numba.extending.intrinsic
"""For operations written in LLVM's own terms (`bits.py`)."""


inlined: Callable[[Kernel], Kernel] = numba.njit(forceinline=True)
"""For the small functions of `bits.py`: compiled into each kernel that calls them."""
