"""Loads all kernels into a process before it has work: a spare that takes over must not wait for a compiler."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module, util

_KERNELS = (
    "key_hash",
    "key_encoding",
    "index_kernels",
    "key_index",
    "accumulate",
    "layout",
    "grouping",
    "table",
    "session_kernels",
    "sessions",
    "timer_kernels",
    "timers",
)
_SLOW_S = 1.0


def warm_kernels(say: Callable[[str], None] | None = None) -> float:
    """Imports every module with kernels; those that are not in the cache folder are compiled (some 30 s on a fresh machine, else about
    a second). Tells `say` what takes long. Returns the seconds it took."""
    begun = time.perf_counter()
    for name in _KERNELS:
        module = f"flinkray.state.{name}"
        if util.find_spec(module) is None:
            continue
        started = time.perf_counter()
        import_module(module)
        took_s = time.perf_counter() - started
        if say is not None and took_s > _SLOW_S:
            say(f"compiled the kernels of {module} in {took_s:.1f} s")
    return time.perf_counter() - begun
