"""The head lost: its GCS alone, with the leader, with everything on it; and the whole cluster. The GCS keeps its tables in RocksDB on a disk that
survives, or in a Redis on another host that writes them through (Debian's redis-server; skipped where it is not installed). Nothing of the job is
placed on the head, and the driver is on another host, too.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from tests.chaos import hosts
from tests.chaos.hosts import Network
from tests.chaos.remote_driver import RemoteJob, Status, ready

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

AWAY_S = 8.0
GOAL_S = 2.0
"""A leader is there so soon after the GCS's return."""
STALL_S = 5.0
"""Counts of rows come once a second, later on a machine that has much else to do."""

REDIS_PORT = 6399


@dataclass
class Cluster:
    network: Network
    folder: Path
    storage: Literal["rocksdb", "redis"]
    address: str = ""
    _redis: subprocess.Popen[bytes] | None = None
    _gcs: dict[str, Any] = field(default_factory=dict)
    _started: subprocess.Popen[bytes] | None = None

    @property
    def durable(self) -> dict[str, str]:
        if self.storage == "redis":
            return {"RAY_REDIS_ADDRESS": f"{self.network.hosts[2].address}:{REDIS_PORT}"}
        return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.folder / "gcs")}

    def start_redis(self) -> None:
        if self.storage != "redis":
            return
        host = self.network.hosts[2]
        through = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(self.folder)]
        server = host.command("redis-server", "--bind", host.address, "--port", str(REDIS_PORT), "--protected-mode", "no", *through)
        self._redis = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self) -> None:
        self.kill_head()
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()

    def start_head(self) -> None:
        (self.folder / "ray_current_cluster").unlink(missing_ok=True)  # else Ray takes the other hosts' processes for a head of this one
        self.address = hosts.start_head(self.network.hosts[0], self.folder, **self.durable)

    def start_workers(self) -> None:
        for host, zone in zip(self.network.hosts[1:], "ab", strict=True):
            hosts.start_worker(host, self.address, 2, zone)

    def kill_gcs(self) -> None:
        """The process alone; `start_gcs` starts it as it was."""
        gcs = next(one for one in map(psutil.Process, self.network.hosts[0].pids()) if one.name() == "gcs_server")
        self._gcs = {"args": self.network.hosts[0].command(*gcs.cmdline()), "env": gcs.environ(), "cwd": gcs.cwd()}
        gcs.kill()
        gcs.wait(10)

    def start_gcs(self) -> float:
        """Returns when it listens again."""
        self._started = subprocess.Popen(**self._gcs, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not any(one.name() == "gcs_server" and listens(one) for one in map(psutil.Process, self.network.hosts[0].pids())):
            assert time.monotonic() < deadline, "the GCS does not come back"
            time.sleep(0.02)
        return time.monotonic()

    def kill_head(self) -> None:
        self.network.hosts[0].kill()
        if self._started is not None:
            self._started.wait()


@pytest.fixture(params=["rocksdb", "redis"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "redis" and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))  # short: it holds names of sockets
    for network in hosts.network(3):
        cluster = Cluster(network, folder, request.param)
        cluster.start_redis()
        cluster.start_head()
        cluster.start_workers()
        yield cluster
        cluster.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path) -> Iterator[RemoteJob]:
    job = RemoteJob(tmp_path, cluster.address, cluster.network.hosts[1].command())
    yield job
    job.end()


def listens(process: psutil.Process) -> bool:
    """On the GCS's port, by the tables of its own namespace."""
    tables = "".join(Path(f"/proc/{process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
    return any(f":{hosts.GCS_PORT:04X} " in line and line.split()[3] == "0A" for line in tables.splitlines())


def pids(status: Status) -> set[int]:
    return {tm["pid"] for tm in status["task_managers"] if tm["role"] == "active"}


def stacks(status: Status) -> str:
    """What the threads of the job's processes are at: for a failure that is seen once in many runs."""
    if shutil.which("py-spy") is None:
        return "py-spy is not installed: no stacks"
    found = []
    for pid in [status["leader"]["pid"], *(tm["pid"] for tm in status["task_managers"])]:
        dump = subprocess.run(["py-spy", "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=30, check=False)
        found.append(f"--- {pid}\n{dump.stdout or dump.stderr}")
    return "\n".join(found)


def rows_flow(job: RemoteJob, while_s: float) -> None:
    """What is read grows all the while. The driver knows the leader, and needs no GCS to ask it."""
    until = time.monotonic() + while_s
    while time.monotonic() < until:
        rows = job.status()["records_in"]
        job.until(lambda s, rows=rows: s["records_in"] > rows, STALL_S)


def lead_s(job: RemoteJob) -> float:
    """When the new leader went on with the running tasks, on this process's monotonic clock."""
    line = next(line for line in job.ask("lines") if "goes on, nothing is restarted" in line)
    at = datetime.fromisoformat(line.split()[0]).timestamp()
    return at - time.time() + time.monotonic()


def nothing_was_restarted(job: RemoteJob, before: Status) -> dict[str, Any]:
    completed = job.status()["checkpoints"]["completed"]
    status = job.until(lambda s: s["checkpoints"]["completed"] >= completed + 2)
    assert (status["attempt"], pids(status)) == (before["attempt"], pids(before))
    result = job.finish()
    print(result, *job.ask("lines"), sep="\n")
    assert result["restarts"] == 0
    return result


def test_rows_flow_while_the_gcs_is_away(cluster: Cluster, job: RemoteJob) -> None:
    before = job.until(ready())
    cluster.kill_gcs()
    rows_flow(job, AWAY_S)
    away = job.status()["checkpoints"]["completed"]
    since = cluster.start_gcs()
    job.until(lambda s: s["checkpoints"]["completed"] > away)
    print(f"a checkpoint is complete {time.monotonic() - since:.2f} s after the GCS's return")
    nothing_was_restarted(job, before)


def test_the_gcs_and_the_leader_killed_together(cluster: Cluster, job: RemoteJob) -> None:
    before = job.until(ready())
    cluster.kill_gcs()
    psutil.Process(before["leader"]["pid"]).kill()
    written = job.probed()
    time.sleep(AWAY_S)
    assert job.probed() > written, f"no row arrives at the sink without GCS and leader\n{stacks(before)}"
    since = cluster.start_gcs()
    job.until(lambda s: s["status"] == "RUNNING" and s["leader"]["pid"] != before["leader"]["pid"])
    asked_s, led_s = time.monotonic() - since, lead_s(job) - since
    print(f"led again {led_s:.2f} s after the GCS's return by the leader's log, {asked_s:.2f} s asked from outside")
    nothing_was_restarted(job, before)
    assert led_s < GOAL_S


@pytest.mark.parametrize("with_leader", [False, True], ids=["alone", "and the leader"])
def test_the_whole_head_killed_and_restarted(cluster: Cluster, job: RemoteJob, with_leader: bool) -> None:
    before = job.until(ready())
    cluster.kill_head()
    written = job.probed()
    if with_leader:
        psutil.Process(before["leader"]["pid"]).kill()
    time.sleep(AWAY_S)
    assert job.probed() > written, f"no row arrives at the sink without a head\n{stacks(before)}"
    cluster.start_head()
    since = time.monotonic()
    completed = before["checkpoints"]["completed"]
    job.until(lambda s: s["checkpoints"]["completed"] > completed and (s["leader"]["pid"] != before["leader"]["pid"]) is with_leader)
    print(f"led, with a new checkpoint, {time.monotonic() - since:.2f} s after `ray start --head`")
    nothing_was_restarted(job, before)
