"""`ray job submit` on a cluster of its own, with a job server: the answer is there, and stopping the Ray job cancels the streaming job."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from flinkray.connectors.nexmark import nexmark_table
from tests.cluster.command_line import environment, flinkray, in_cluster, processes_of, until, until_in_cluster
from tests.golden.oracle import hot_items, same

pytestmark = pytest.mark.cluster

JOBS = Path(__file__).parents[2] / "jobs"
ROWS = 60_000

STAYS = """
import time
from hot_items import main
main()
print("submitted", flush=True)
time.sleep(600)
"""
"""A driver that goes on after it has submitted a detached job."""


@dataclass(frozen=True)
class Cluster:
    address: str
    server: str
    home: str
    working_dir: str

    @property
    def environment(self) -> dict[str, str]:
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        return environment(FLINKRAY_HOME=self.home, PATH=path, RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")

    def job(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job ...`"""
        verb, *rest = arguments
        line = ["ray", "job", verb, "--address", self.server, *rest]
        return subprocess.run(line, cwd=self.working_dir, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def submit(self, *entrypoint: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        answer = self.job("submit", *options, "--working-dir", ".", "--", *entrypoint)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer

    def ray_status(self, submission: str) -> str:
        with urllib.request.urlopen(f"{self.server}/api/jobs/{submission}", timeout=5) as reply:
            return json.load(reply)["status"]

    def until_status(self, name: str, wanted: str) -> dict[str, Any]:
        return until_in_cluster(self.address, name, wanted)

    def actors(self) -> list[str]:
        """Processes of the jobs' actors."""
        return [line for line in processes_of(self.home) if "ray::JobManager" in line or "ray::TaskManager" in line]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Processes of its own, ended by their own ids: other clusters on this machine are none of its business."""
    with tempfile.TemporaryDirectory(prefix="fr-") as folder, ExitStack() as stack:
        shutil.copytree(JOBS, f"{folder}/work/jobs", ignore=shutil.ignore_patterns("__pycache__"))
        Path(f"{folder}/work/jobs/stays.py").write_text(STAYS)
        port, server, agent, client = free_ports(4)
        found = Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{server}", f"{folder}/home", f"{folder}/work")
        line = [
            "ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", port, "--num-cpus", "4",
            "--dashboard-host", "127.0.0.1", "--dashboard-port", server, "--dashboard-agent-listen-port", agent,
            "--ray-client-server-port", client, "--temp-dir", f"{folder}/ray", "--disable-usage-stats", "--object-store-memory", "200000000",
        ]  # fmt: skip
        with open(f"{folder}/log", "w") as log:
            process = subprocess.Popen(
                line, env=found.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        stack.callback(end, process)
        until(lambda: job_server_answers(found.server), "the job server", timeout_s=120)
        yield found


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def job_server_answers(server: str) -> bool:
    try:
        with urllib.request.urlopen(f"{server}/api/jobs/", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(3)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.wait()


def test_a_submitted_job_leaves_its_answer(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = cluster.submit(
        "python", "jobs/hot_items.py", "--rows", str(ROWS), "--out", str(out), "--storage", f"file://{tmp_path}/storage"
    )
    assert f"FINISHED: {ROWS:,} bids" in answer.stdout
    columns = ["auction", "window_start", "bids"]
    same(pq.read_table(out).select(columns), hot_items(nexmark_table("bid", ROWS, 0)).select(columns))
    assert cluster.until_status("hot-items", "FINISHED")["records_in"] == ROWS
    until(lambda: not cluster.actors(), f"the end of {cluster.actors()}", timeout_s=20)


def test_stopping_the_ray_job_cancels_the_streaming_job(cluster: Cluster, tmp_path: Path) -> None:
    slow = ("--rate", "2000", "--out", str(tmp_path / "out"), "--storage", f"file://{tmp_path}/storage")
    cluster.submit("python", "jobs/hot_items.py", *slow, options=("--no-wait", "--submission-id", "stopped"))
    cluster.until_status("hot-items", "RUNNING")
    stopped = cluster.job("stop", "stopped")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    cluster.until_status("hot-items", "CANCELLED")
    until(lambda: not cluster.actors(), f"the end of {cluster.actors()}", timeout_s=20)
    assert cluster.ray_status("stopped") == "STOPPED"


def test_stopping_the_ray_job_leaves_a_detached_job_alone(cluster: Cluster, tmp_path: Path) -> None:
    slow = ("--rate", "2000", "--out", str(tmp_path / "out"), "--storage", f"file://{tmp_path}/storage")
    line = ("flinkray", "run", "jobs/stays.py", "--name", "stays", "--detach", "--", *slow)
    cluster.submit(*line, options=("--no-wait", "--submission-id", "detached"))
    cluster.until_status("stays", "RUNNING")
    stopped = cluster.job("stop", "detached")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert cluster.ray_status("detached") == "STOPPED"
    before = cluster.until_status("stays", "RUNNING")["records_in"]
    until(lambda: in_cluster(cluster.address, "stays")["records_in"] > before, "it to go on without its driver", timeout_s=20)
    cancelled = flinkray("cancel", "stays", RAY_ADDRESS=cluster.address)
    assert (cancelled.stdout, cancelled.returncode) == ("job stays: CANCELLED\n", 0), cancelled.stderr
