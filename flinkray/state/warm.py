"""Loads kernels into a process before it has work: a spare that takes over must not wait for a compiler.

On a fresh machine compiling takes some 10 s on two cores. One process sees to it, under a lock, the others wait and load what was compiled; a
marker in the cache folder says that all is there, and is named after the kernels' sources. Only what a job uses is compiled for it.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module

from flinkray.state.cache import complete_marker

KEYED, SESSIONS, CSV, PARQUET, JOINS, ROWS, PROCESS = "keyed", "sessions", "csv", "parquet", "joins", "rows", "process"

_ALONE = {
    KEYED: ("state.accumulate", "state.ranking_kernels", "expressions.text_kernels"),
    SESSIONS: ("state.session_kernels",),
    CSV: ("connectors.csv_kernels",),
    PARQUET: ("connectors.parquet_kernels", "connectors.parquet_text_kernels"),
    JOINS: ("state.join_kernels", "state.slot_groups"),
    ROWS: ("state.keyed_rows_kernels",),
    PROCESS: ("state.slot_groups",),
}
"""By group: modules that import no other kernels, compiled in a process of their own beside the rest."""
_REST = {
    KEYED: (
        "state.key_hash",
        "state.key_encoding",
        "state.index_kernels",
        "state.key_index",
        "state.grouping",
        "state.dense_grouping",
        "state.key_folding",
        "state.table",
        "state.window_kernels",
    ),
    SESSIONS: ("state.timer_kernels", "state.timers", "state.sessions"),
    CSV: (),
    PARQUET: (),
    JOINS: (),
    ROWS: (),
    PROCESS: ("state.timer_kernels",),
}
GROUPS = tuple(_REST)

Say = Callable[[str], None]


def kernels_compiled(groups: Sequence[str] = GROUPS) -> bool:
    """The cache folder holds every kernel of these groups in this version; loading them takes about a second."""
    return all(complete_marker(group).exists() for group in groups)


def compile_kernels(groups: Sequence[str] = GROUPS, say: Say | None = None) -> None:
    """Compiles what is not in the cache folder, in processes of its own; tells `say` before. Loads nothing into this process."""
    if kernels_compiled(groups):
        return
    folder = complete_marker(KEYED).parent
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [group for group in groups if not kernels_compiled([group])]
        if not missing:
            return
        started = time.perf_counter()
        if say is not None:
            say(f"compiling kernels into {folder} (once on this machine, some 10 s)")
        parts = [[module for group in missing for module in part[group]] for part in (_REST, _ALONE)]
        compilers = [subprocess.Popen([sys.executable, "-m", __name__, *modules]) for modules in parts if modules]
        codes = [compiler.wait() for compiler in compilers]
        if any(codes):
            return  # whoever imports them meets the reason
        for group in missing:
            complete_marker(group).touch()
        if say is not None:
            say(f"kernels are compiled ({time.perf_counter() - started:.0f} s)")


def warm_kernels(groups: Sequence[str] = GROUPS, say: Say | None = None) -> float:
    """Loads the kernels into this process, compiled first where need be. Returns the seconds it took."""
    begun = time.perf_counter()
    compile_kernels(groups, say)
    for group in groups:
        _import((*_ALONE[group], *_REST[group]))
    return time.perf_counter() - begun


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(f"flinkray.{module}")


if __name__ == "__main__":
    _import(sys.argv[1:])
