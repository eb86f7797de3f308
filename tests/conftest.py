"""Every test has a home of its own, and leaves no job behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
"""The same examples in every run; others with HYPOTHESIS_PROFILE=explore."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with `&` by a script: the jobs that tests start would never hear of Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

KERNELS = os.environ.setdefault("NUMBA_CACHE_DIR", str(Path.home() / ".flinkray" / "kernels"))
"""Compiled once for all tests, and for the TaskManagers that they start."""


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FLINKRAY_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests of a session that need one; four logical CPUs."""
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", namespace="flinkray")
    try:
        yield
    finally:
        ray.shutdown()
