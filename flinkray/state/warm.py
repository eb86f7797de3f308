"""Loads all kernels into a process before it has work: a spare that takes over must not wait for a compiler.

On a fresh machine compiling takes some 20 s. One process does it, under a lock, the others wait and load what it compiled; a marker in the
cache folder says that all is there, and is named after the kernels' sources.
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Callable
from importlib import import_module

from flinkray.state.cache import complete_marker

_KERNELS = (
    "flinkray.state.key_hash",
    "flinkray.state.key_encoding",
    "flinkray.state.index_kernels",
    "flinkray.state.key_index",
    "flinkray.state.accumulate",
    "flinkray.state.layout",
    "flinkray.state.grouping",
    "flinkray.state.table",
    "flinkray.state.session_kernels",
    "flinkray.state.sessions",
    "flinkray.state.timer_kernels",
    "flinkray.state.timers",
    "flinkray.state.ranking_kernels",
    "flinkray.state.window_kernels",
    "flinkray.connectors.csv_kernels",
)


def kernels_compiled() -> bool:
    """The cache folder holds every kernel of this version; loading them takes about a second."""
    return complete_marker().exists()


def warm_kernels(say: Callable[[str], None] | None = None) -> float:
    """Imports every module with kernels, compiling what is not in the cache folder. Tells `say` before it compiles. Returns the
    seconds it took."""
    begun = time.perf_counter()
    if kernels_compiled():
        _import_all()
        return time.perf_counter() - begun
    marker = complete_marker()
    with open(marker.parent / "lock", "w") as lock:
        if say is not None:
            say("compiling kernels into " + str(marker.parent) + " (once on this machine, some 20 s)")
        fcntl.flock(lock, fcntl.LOCK_EX)
        _import_all()
        marker.touch()
    took_s = time.perf_counter() - begun
    if say is not None:
        say(f"kernels are compiled ({took_s:.0f} s)")
    return took_s


def _import_all() -> None:
    for name in _KERNELS:
        import_module(name)


if __name__ == "__main__":
    warm_kernels(lambda text: print(f"flinkray: {text}", file=sys.stderr))
