"""A host that is worn out: a TaskManager that is heard late now and then, or is far slower than its peers, is reported, and left for a spare on
another host at a checkpoint. The output is exact, and no row is read twice.

Hosts are network namespaces; the process is slowed with SIGSTOP and SIGCONT, as an overloaded machine would slow it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos import hosts
from tests.chaos.remote_driver import RemoteJob, Status, ready

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

STUTTERS = (2.3, 4.0)
"""Seconds stopped, seconds between: late (1.75 s), and not silent for so long that it counts as lost (3.5 s)."""
CRAWLS = (0.45, 0.05)
"""A tenth of its speed. Threads of Python take turns every 5 ms: it runs for several of them at a time."""


class Slowed:
    """The process stops and goes on, again and again."""

    def __init__(self, pid: int, stopped_s: float, running_s: float) -> None:
        self._pid, self._stopped_s, self._running_s = pid, stopped_s, running_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(ProcessLookupError):  # it was left, and ended
            while not self._over.is_set():
                os.kill(self._pid, signal.SIGSTOP)
                self._over.wait(self._stopped_s)
                os.kill(self._pid, signal.SIGCONT)
                self._over.wait(self._running_s)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """Of a cluster of three hosts and a head, and how to run a driver on the head."""
    folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))  # short: it holds names of sockets
    for network in hosts.network(4):
        address = hosts.start_head(network.hosts[0], folder)
        for host, zone in zip(network.hosts[1:], "abc", strict=True):
            hosts.start_worker(host, address, 2, zone)
        yield address, network.hosts[0].command()
    shutil.rmtree(folder, ignore_errors=True)


def active(status: Status) -> list[Status]:
    return [tm for tm in status["task_managers"] if tm["role"] == "active"]


@pytest.mark.parametrize(
    ("times", "settings", "why"),
    [
        pytest.param(STUTTERS, {"rows": 1_200_000, "rate": 20_000}, "heard late", id="heard late now and then"),
        pytest.param(CRAWLS, {"rows": 1_200_000, "rate": 20_000, "row_us": 30}, "times as long for its rows", id="slower than its peers"),
    ],
)
def test_a_degraded_host_is_left(
    address: tuple[str, list[str]], tmp_path: Path, times: tuple[float, float], settings: dict[str, int], why: str
) -> None:
    job = RemoteJob(tmp_path, *address, degraded="migrate", parallelism=3, **settings)
    try:
        before = job.until(ready())
        spare_nodes = {tm["node_id"] for tm in before["task_managers"] if tm["role"] == "spare"}
        victim = next(tm for tm in active(before) if tm["node_id"] not in spare_nodes)
        slowed, since = Slowed(victim["pid"], *times), time.monotonic()
        try:
            status = job.until(lambda s: s["migrations"] == 1 and s["status"] == "RUNNING")
        finally:
            slowed.end()
        print(f"moved {time.monotonic() - since:.1f} s after it began to be slow")
        lines = job.ask("lines")
        assert any("is degraded" in line and why in line for line in lines), lines
        assert {tm["node_id"] for tm in active(status)} <= {tm["node_id"] for tm in before["task_managers"]} - {victim["node_id"]}, status
        result = job.finish()
        print(result, *job.ask("lines"), sep="\n")
        assert result["restarts"] == 0
        assert job.read() == settings["rows"], "no row is read again"
    finally:
        job.end()
