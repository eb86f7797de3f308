"""A cluster that is lost or frozen as a whole, and another one on the same bucket: exact output, one owner."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.chaos.remote_driver import RemoteJob, ready
from tests.s3_proxy import S3Proxy
from tests.seaweed import BUCKET, SeaweedServer

pytestmark = [pytest.mark.cluster, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(400)]

RETAINED = 3
"""The default."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


class Clusters:
    """Each is one Ray on this machine with a driver, a home and processes of its own. They share the bucket, the key and the output."""

    def __init__(self, folder: Path, server: SeaweedServer) -> None:
        self._folder = folder
        self._server = server
        self._jobs: list[RemoteJob] = []
        key = folder / "the-key"
        key.write_text(base64.b64encode(bytes(range(32))).decode())
        self._settings: dict[str, Any] = {"storage": f"s3://{BUCKET}/{uuid4().hex}", "key": str(key), "name": "owned"}

    def start(self, name: str, endpoint_url: str = "") -> RemoteJob:
        options = self._server.options(**({"endpoint_url": endpoint_url} if endpoint_url else {}))
        home = self._folder / f"home-{name}"
        job = RemoteJob(self._folder, "local", storage_options=options, home=str(home), **self._settings)
        self._jobs.append(job)
        return job

    def end(self) -> None:
        for job in self._jobs:
            kill(processes(job), signal.SIGKILL)
            job.end()


@pytest.fixture
def clusters(tmp_path: Path, server: SeaweedServer) -> Iterator[Clusters]:
    clusters = Clusters(tmp_path, server)
    yield clusters
    clusters.end()


def processes(job: RemoteJob) -> list[psutil.Process]:
    """The driver, its Ray, and all that runs in it."""
    driver = psutil.Process(job.pid)
    return [driver, *driver.children(recursive=True)]


def kill(them: list[psutil.Process], number: int) -> None:
    for process in them:
        with suppress(psutil.NoSuchProcess):
            os.kill(process.pid, number)


def test_a_whole_cluster_is_lost_and_the_job_goes_on_in_another_from_object_storage_alone(clusters: Clusters) -> None:
    first = clusters.start("a")
    before = first.until(ready(3))
    kill(processes(first), signal.SIGKILL)
    since = time.monotonic()
    second = clusters.start("b")
    status = second.until(lambda s: s["status"] == "RUNNING" and s["checkpoints"]["completed"] >= 1)
    print(f"goes on, with a checkpoint, {time.monotonic() - since:.1f} s after the loss of the cluster")
    assert status["checkpoints"]["latest_id"] > before["checkpoints"]["latest_id"]
    assert status["leader"]["claim"] > before["leader"]["claim"]
    print(second.finish(), *second.ask("lines"), sep="\n")


def test_a_frozen_cluster_that_wakes_up_after_another_took_its_job_over_commits_nothing(clusters: Clusters, server: SeaweedServer) -> None:
    """All of A stops while the PUT of a manifest is on its way; it arrives when B has written, and deleted, what came after."""
    with S3Proxy(server.port) as proxy:
        first = clusters.start("a", proxy.endpoint_url)
        before = first.until(ready(2))
        proxy.rule = lambda method, path: "hold" if method == "PUT" and "/log/" in path else "pass"
        first.until(lambda s: any(action == "hold" for _, _, action in proxy.seen))
        frozen = processes(first)
        kill(frozen, signal.SIGSTOP)
        second = clusters.start("b")
        completed = RETAINED + 2
        second.until(lambda s: s["checkpoints"]["completed"] >= completed)
        proxy.rule = lambda method, path: "pass"
        print("late PUTs:", proxy.release())
        kill(frozen, signal.SIGCONT)
        ended = first.ask("wait")
        print(ended, *first.ask("lines"), sep="\n")
        assert ended["status"] == "FAILED"
        assert "ownership lost" in ended["error"]
        assert before["leader"]["claim"] == 1
        print(second.finish(), *second.ask("lines"), sep="\n")
