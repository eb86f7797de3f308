"""Hosts that are cut off from each other while they go on living: each of three "hosts" is a network namespace with a Ray node of its own.

Checkpoint storage is a folder that all of them see, also when they are cut off: what a deposed leader or TaskManager still writes there must
not count. Cut for longer than any timeout of ours, then healed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.chaos import hosts
from tests.chaos.hosts import Host, Network
from tests.chaos.remote_driver import RemoteJob, Status, ready

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

CUT_S = 20.0


@dataclass
class Cluster:
    network: Network
    address: str
    workers: list[Host]

    def host_of(self, process: dict[str, object]) -> Host:
        return next(host for host in self.workers if process["pid"] in host.pids())

    def others(self, host: Host) -> list[Host]:
        return [other for other in self.network.hosts if other is not host]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))  # short: it holds names of sockets
    for network in hosts.network(4):
        address = hosts.start_head(network.hosts[0], folder)
        for host, zone in zip(network.hosts[1:], "abc", strict=True):
            hosts.start_worker(host, address, 2, zone)
        yield Cluster(network, address, network.hosts[1:])
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RemoteJob]:
    job = RemoteJob(tmp_path, cluster.address, cluster.network.hosts[0].command(), parallelism=getattr(request, "param", 2))
    yield job
    job.end()


def active(status: Status) -> list[dict[str, object]]:
    return [tm for tm in status["task_managers"] if tm["role"] == "active"]


def told(job: RemoteJob, what: str, since: float) -> None:
    print(f"{what} {time.monotonic() - since:.2f} s after the cut")


def wait_and_heal(cluster: Cluster, since: float) -> None:
    time.sleep(max(0.0, CUT_S - (time.monotonic() - since)))
    cluster.network.heal()


def ends(pids: list[int]) -> None:
    """The processes of the old side end by themselves or are ended, once they can be reached."""
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, f"{left} live on"
        time.sleep(0.2)


def test_the_host_of_a_task_manager_is_cut_off(cluster: Cluster, job: RemoteJob) -> None:
    before = job.until(ready())
    leader = cluster.host_of(before["leader"])
    victim = next(tm for tm in active(before) if cluster.host_of(tm) is not leader)
    since = time.monotonic()
    cluster.network.cut_off(cluster.host_of(victim))
    status = job.until(lambda s: s["restarts"] >= 1 and s["status"] == "RUNNING")
    told(job, "running again", since)
    assert victim["pid"] not in [tm["pid"] for tm in active(status)]
    wait_and_heal(cluster, since)
    ends([victim["pid"]])
    result = job.finish()
    print(result, *job.ask("lines"), sep="\n")
    assert result["restarts"] == 1


@pytest.mark.parametrize("job", [2, 3], indirect=True, ids=["with the spare", "with a task"])
def test_the_leaders_host_is_cut_off(cluster: Cluster, job: RemoteJob) -> None:
    before = job.until(ready())
    host = cluster.host_of(before["leader"])
    on_it = [tm for tm in active(before) if cluster.host_of(tm) is host]
    since = time.monotonic()
    cluster.network.cut_off(host)
    job.until(lambda s: s["leader"]["pid"] != before["leader"]["pid"] and s["status"] == "RUNNING" and s["restarts"] == len(on_it))
    told(job, "led again and running", since)
    wait_and_heal(cluster, since)
    result = job.finish()
    print(result, *job.ask("lines"), sep="\n")
    assert result["restarts"] == len(on_it)
    assert len(result["journal"]) >= 2
    ends([before["leader"]["pid"]])  # with the job: the deposed leader stood by from then on


@pytest.mark.parametrize("direction", ["from it", "to it"])
def test_the_leaders_host_is_cut_off_in_one_direction(cluster: Cluster, job: RemoteJob, direction: str) -> None:
    before = job.until(ready())
    host = cluster.host_of(before["leader"])
    since = time.monotonic()
    if direction == "from it":
        cluster.network.cut([host], cluster.others(host))
    else:
        cluster.network.cut(cluster.others(host), [host])
    job.until(lambda s: s["leader"]["pid"] != before["leader"]["pid"] and s["status"] == "RUNNING")
    told(job, "led again and running", since)
    wait_and_heal(cluster, since)
    result = job.finish()
    print(result, *job.ask("lines"), sep="\n")
    assert result["restarts"] <= 1


def test_two_workers_are_cut_from_each_other_only(cluster: Cluster, job: RemoteJob) -> None:
    before = job.until(ready())
    pair = [cluster.host_of(tm) for tm in active(before)]
    assert pair[0] is not pair[1]
    since = time.monotonic()
    cluster.network.cut_both(pair[:1], pair[1:])
    status = job.until(
        lambda s: (
            s["restarts"] >= 1
            and s["status"] == "RUNNING"
            and len({cluster.host_of(tm).name for tm in active(s)} & {host.name for host in pair}) < 2
        )
    )
    told(job, f"running on other hosts, with {status['restarts']} restarts,", since)
    wait_and_heal(cluster, since)
    result = job.finish()
    print(result, *job.ask("lines"), sep="\n")
    assert result["journal"] == [1], "nobody but the workers noticed anything"
    assert result["restarts"] <= 3
