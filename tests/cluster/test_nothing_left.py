"""After its end nothing of a job is left, however it ended: no actor, reservation, process, file of a socket, shared memory, key of its journal."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._raylet import GcsClient

import flinkray as fr
from flinkray.connectors.memory import CollectSink
from flinkray.exchange import socket_folders
from flinkray.runtime.ray.backend import GROUPS
from flinkray.runtime.ray.names import KV_NAMESPACE, NAMESPACE, task_manager_name
from tests.cluster.command_line import environment, nothing_is_left_in_the_cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def job(name: str, tmp_path: Path) -> fr.JobHandle:
    """Of no end. A driver that is silent for four heartbeats is gone."""
    checkpointing = fr.Checkpointing(interval="300ms", storage=f"file://{tmp_path}")
    env = fr.StreamEnvironment(name, checkpointing=checkpointing)
    object.__setattr__(env.config, "heartbeat_timeout", "1500ms")
    bids = env.from_source(fr.sources.Nexmark("bid", rows=100_000_000, rate=5_000), uid="bids")
    bids.key_by("auction").aggregate(bids=fr.agg.count()).uid("count").sink_to(fr.sinks.Blackhole(), uid="out")
    return env.execute_async()


@dataclass
class Traces:
    """What jobs leave on a machine, apart from processes."""

    sockets: set[str]
    shared_memory: set[str]
    journals: set[bytes]

    @staticmethod
    def now() -> Traces:
        folder = socket_folders.parent()
        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        return Traces(
            set(os.listdir(folder)) if os.path.isdir(folder) else set(),
            set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set(),
            set(client.internal_kv_keys(b"journal/", namespace=KV_NAMESPACE, timeout=5)),
        )

    def beyond(self, before: Traces) -> list[set[Any]]:
        return [self.sockets - before.sockets, self.shared_memory - before.shared_memory, self.journals - before.journals]


@pytest.fixture
def before() -> Traces:
    socket_folders.sweep()
    return Traces.now()


def pids(status: dict[str, Any]) -> set[int]:
    return {process["pid"] for process in (status["leader"], *status["standbys"], *status["task_managers"])}


def ready(status: dict[str, Any]) -> bool:
    return bool(status["status"] == "RUNNING" and status["standbys"] and status["checkpoints"]["completed"] >= 1)


def until_status(running: fr.JobHandle, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status of which `condition` holds; the error says which one was seen last."""
    seen: list[dict[str, Any]] = []

    def found() -> bool:
        seen[:] = [running.status()]
        return condition(seen[0])

    try:
        until(found, "the job to run")
    except AssertionError as error:
        raise AssertionError(f"{error}; last seen: {seen}") from None
    return seen[0]


def nothing_is_left(name: str, processes: set[int], before: Traces) -> None:
    nothing_is_left_in_the_cluster(name)
    alive = [pid for pid in processes if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    until(lambda: not any(map(psutil.pid_exists, alive)), f"the end of processes {alive}", timeout_s=20)
    until(lambda: not any(Traces.now().beyond(before)), f"the end of {Traces.now().beyond(before)}", timeout_s=20)


def make_stranger(running: Any) -> int:
    """The pid of what stands for a TaskManager that a frozen leader made, and no journal knows."""

    class Stranger:
        def pid(self) -> int:
            return os.getpid()

        def leave(self, within_s: float) -> None:
            pass

    name = task_manager_name(running.name, running._leader._run, "tm-9", "f" * 32)
    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
    return ray.get(ray.remote(concurrency_groups=GROUPS)(Stranger).options(**options).remote().pid.remote())


@pytest.mark.parametrize("how", ["cancel", pytest.param("stop", marks=pytest.mark.slow)])
def test_after_cancel_and_stop(tmp_path: Path, before: Traces, how: str) -> None:
    running = job(f"left-{how}", tmp_path)
    processes = pids(until_status(running, ready))
    assert any(Traces.now().beyond(before)), "these traces would be seen"
    if how == "stop":
        assert running.stop(timeout=60).status == "STOPPED"
    else:
        running.cancel()
        with pytest.raises(fr.JobCancelledError):
            running.wait(60)
    del running
    gc.collect()  # nobody may ask for its results any more, nor does a traceback hold the handle
    nothing_is_left(f"left-{how}", processes, before)


def test_after_a_failure_of_a_job_that_had_lost_a_task_manager_and_its_leader(tmp_path: Path, before: Traces) -> None:
    """Killed processes delete nothing themselves. The next leader ends what the journal does not know."""
    flag = tmp_path / "fail"

    def fail_when_told(row: dict[str, Any]) -> dict[str, Any]:
        if flag.exists():
            raise ValueError("told to")
        return row

    env = fr.StreamEnvironment("left-failed", checkpointing=fr.Checkpointing(interval="300ms", storage=f"file://{tmp_path}/checkpoints"))
    bids = env.from_source(fr.sources.Nexmark("bid", rows=100_000_000, rate=100), uid="bids")
    bids.map(fail_when_told).uid("told").sink_to(fr.sinks.Blackhole(), uid="out")
    running = env.execute_async()
    status = until_status(running, ready)
    processes = pids(status)
    stranger = make_stranger(running)
    os.kill(next(tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"), signal.SIGKILL)
    os.kill(status["leader"]["pid"], signal.SIGKILL)
    processes |= pids(until_status(running, lambda s: s["restarts"] >= 1 and ready(s)))
    until(lambda: not psutil.pid_exists(stranger), "the end of a TaskManager that the journal does not know")
    flag.touch()
    with pytest.raises(fr.FlinkrayError, match="told to"):
        running.wait(60)
    del running
    gc.collect()  # nor does a traceback of the failure hold the handle
    nothing_is_left("left-failed", processes, before)


CRASHING = """
import sys, ray
from pathlib import Path
from tests.cluster.test_nothing_left import job, pids, ready, until_status
running = job("left-crashed", Path(sys.argv[1]))
print(*pids(until_status(running, ready)), flush=True)
sys.stdin.read()
"""


def test_after_the_crash_of_its_driver(tmp_path: Path, before: Traces) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", CRASHING, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(RAY_ADDRESS=address)
    ) as driver:
        assert driver.stdout is not None
        processes = {int(pid) for pid in next(line for line in driver.stdout if line[:1].isdigit()).split()}
        driver.kill()
        driver.wait(30)
    until(lambda: not any(map(psutil.pid_exists, processes)), "the job to notice", timeout_s=60)
    nothing_is_left("left-crashed", processes, before)


@pytest.mark.slow
def test_after_the_loss_of_a_leader_that_nobody_follows(tmp_path: Path, before: Traces) -> None:
    """A job whose rows its leader collects has no other: its TaskManagers find out that nobody is left."""
    env = fr.StreamEnvironment("left-alone", checkpointing=fr.Checkpointing(interval="300ms", storage=f"file://{tmp_path}/checkpoints"))
    bids = env.from_source(fr.sources.Nexmark("bid", rows=100_000_000, rate=100), uid="bids")
    bids.key_by("auction").aggregate(bids=fr.agg.count()).uid("count").sink_to(CollectSink(), uid="out")
    running = env.execute_async()
    status = until_status(running, lambda s: s["status"] == "RUNNING" and s["checkpoints"]["completed"] >= 1)
    processes = pids(status)
    os.kill(status["leader"]["pid"], signal.SIGKILL)
    with pytest.raises(fr.FlinkrayError):
        running.wait(60)
    del running
    gc.collect()
    until(lambda: not any(map(psutil.pid_exists, processes)), "the TaskManagers to notice", timeout_s=60)
