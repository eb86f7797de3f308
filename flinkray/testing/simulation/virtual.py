"""Virtual time and seeded entropy for the product's own code: while a simulation runs, `time.time`, `time.monotonic`, `time.sleep` and
`os.urandom` of its thread (and of no other) are the simulated process's."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flinkray.errors import UsageError
from flinkray.testing.simulation.world import EPOCH_S, World

_one_at_a_time = threading.Lock()


@contextmanager
def virtual_time(world: World) -> Iterator[None]:
    """Raises UsageError when a simulation runs in another thread already."""
    if not _one_at_a_time.acquire(blocking=False):
        raise UsageError("a simulation runs in this process already; run one after the other")
    main = threading.get_ident()
    entropy = world.random("entropy")

    def ours() -> bool:
        return threading.get_ident() == main

    def now() -> float:
        return world.current.clock() if world.current is not None else EPOCH_S + world.now

    def monotonic() -> float:
        return world.current.monotonic() if world.current is not None else 1_000.0 + world.now

    def sleep(seconds: float) -> None:
        if world.current is not None:
            world.current.sleep(seconds)

    virtual: dict[tuple[Any, str], Callable[..., Any]] = {
        (time, "time"): now,
        (time, "time_ns"): lambda: int(now() * 1e9),
        (time, "monotonic"): monotonic,
        (time, "sleep"): sleep,
        (os, "urandom"): entropy.randbytes,
    }
    real = {place: getattr(*place) for place in virtual}
    try:
        for (module, name), function in virtual.items():
            setattr(module, name, _either(ours, function, real[(module, name)]))
        yield
    finally:
        for (module, name), function in real.items():
            setattr(module, name, function)
        _one_at_a_time.release()


def _either(ours: Callable[[], bool], virtual: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return virtual(*arguments) if ours() else real(*arguments)

    return call
