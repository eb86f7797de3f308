"""Jobs with checkpoints on a real S3 server (SeaweedFS on loopback) that refuses, dies, loses answers or ignores conditions: every checkpoint
has one fate, the job goes on, the output is DuckDB's."""

from __future__ import annotations

import base64
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.checkpoint.key_providers import resolve_provider
from flinkray.checkpoint.log_store import open_log
from flinkray.checkpoint.names import parse_candidate
from flinkray.checkpoint.store import open_store
from flinkray.connectors.nexmark import nexmark_table
from flinkray.core import job_endings
from flinkray.core.journal_records import CheckpointCompleted, decode_record
from flinkray.core.storage_log import LogView
from flinkray.errors import FlinkrayError, JobCancelledError, RestoreError, StorageError
from flinkray.runtime import job_storage, local
from flinkray.runtime.journal import MemorySlots
from jobs.hot_items import hot_items
from tests.cluster.command_line import flinkray, nothing_is_left_in_the_cluster, nothing_is_left_running
from tests.golden import oracle
from tests.s3_proxy import Action, S3Proxy
from tests.seaweed import BUCKET, SeaweedServer

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]

APPLICATION = "hot-items"
ROWS = 30_000
RATE = 15_000
SLOW = 8_000
TIMEOUT_S = 60.0
SOON_S = 60.0

Status = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(server: SeaweedServer) -> Iterator[S3Proxy]:
    with S3Proxy(server.port) as proxy:
        yield proxy


@dataclass
class Place:
    """Where one test's job keeps its checkpoints and its output."""

    server: SeaweedServer
    folder: Path
    uri: str

    def run(self, endpoint_url: str, rate: float | None = RATE, **settings: Any) -> fr.JobHandle:
        """Start the job. Other `settings`: runtime, restore, interval, options (of the storage)."""
        env = fr.StreamEnvironment(
            APPLICATION,
            parallelism=2,
            runtime=settings.get("runtime", "local"),
            checkpointing=fr.Checkpointing(
                interval=settings.get("interval", "100ms"),
                min_pause="20ms",
                retained=1000,
                storage=self.uri,
                key=self.key,
                storage_options=self.server.options(**{"endpoint_url": endpoint_url, **settings.get("options", {})}),
            ),
        )
        object.__setattr__(env.config, "restore", settings.get("restore", "latest"))
        bids = env.from_source(
            fr.sources.Nexmark("bid", rows=ROWS, rate=rate), watermark=fr.Watermarks.bounded("date_time", "1s"), uid="bids"
        )
        hot_items(bids).sink_to(fr.sinks.Parquet(str(self.folder / "out")), uid="out")
        return env.execute_async()

    @property
    def key(self) -> fr.KeyFile:
        path = self.folder / "key"
        path.write_text(base64.b64encode(bytes(range(32))).decode())
        return fr.KeyFile(str(path))

    def log(self) -> LogView:
        """As it stands on the server."""
        store = open_store(self.uri, APPLICATION, self.server.options())
        return open_log(store, APPLICATION, resolve_provider(self.key, self.uri)).read()

    def finish(self, job: fr.JobHandle, restarts: int = 0) -> Status:
        """Wait for the end; the answer must be DuckDB's, and every checkpoint that counts must stand in the log, once."""
        result = job.wait(TIMEOUT_S)
        assert (result.status, result.restarts, result.records_in) == ("FINISHED", restarts, ROWS)
        self.check_output()
        status, view = job.status(), self.log()
        standing = [entry.header.checkpoint for entry in view.manifests if entry.header]
        assert standing == sorted(set(standing), reverse=True)
        assert len(standing) == status["checkpoints"]["completed"]
        assert standing[0] == status["checkpoints"]["latest_id"]
        assert view.ended == "FINISHED"
        assert "trouble" not in status["storage"]
        return status

    def check_output(self) -> None:
        expected = oracle.hot_items(nexmark_table("bid", ROWS, 0))
        assert oracle.same(pq.read_table(self.folder / "out").select(expected.column_names), expected)


@pytest.fixture
def place(server: SeaweedServer, tmp_path: Path) -> Place:
    return Place(server, tmp_path, f"s3://{BUCKET}/{uuid4().hex}")


def until(job: fr.JobHandle, condition: Callable[[Status], bool]) -> Status:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition(status := job.status()):
        assert time.monotonic() < deadline, f"waited in vain; the last status is {status}"
        assert status["status"] not in ("FAILED", "FINISHED", "CANCELLED"), (status, said(job))
        time.sleep(0.005)
    return status


def has_checkpoints(count: int) -> Callable[[Status], bool]:
    return lambda status: status["checkpoints"]["completed"] >= count


def in_trouble(status: Status) -> bool:
    return "trouble" in status["storage"]


def said(job: fr.JobHandle) -> str:
    return "\n".join(line.text for line in job.lines(0))  # type: ignore[attr-defined]


def for_log_puts(*actions: Action) -> Callable[[str, str], Action]:
    """These happen to the next PUTs of log records, in order; the rest passes."""
    left = list(actions)
    return lambda method, path: left.pop(0) if method == "PUT" and "/log/" in path and left else "pass"


def no_thread_of_a_job_is_left(within_s: float = SOON_S) -> None:
    deadline = time.monotonic() + within_s
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("flinkray")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


# -- what cannot work says so soon, and leaves nothing ------------------------------------------------------------------


def test_wrong_credentials_are_an_error_in_seconds_with_exit_code_1(server: SeaweedServer, place: Place) -> None:
    arguments = ["--runtime", "local", "--storage", place.uri, "--", "--rows", "1000", "--out", str(place.folder / "out")]
    environment = {**server.environment(), "AWS_SECRET_ACCESS_KEY": "wrong", "FLINKRAY_KEY": place.key.path}
    started_at = time.monotonic()
    answer = flinkray("run", "jobs/hot_items.py", *arguments, **environment)
    assert answer.returncode == 1, answer
    assert time.monotonic() - started_at < SOON_S
    assert f"{server.endpoint_url} refuses the credentials" in answer.stderr
    assert "AWS_SECRET_ACCESS_KEY" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (place.folder / "out").exists()
    nothing_is_left_running()


@pytest.mark.parametrize(
    ("uri", "options", "says"),
    [
        (f"s3://{BUCKET}/x", {"secret": "wrong"}, "refuses the credentials"),
        (f"s3://{BUCKET}/x", {"endpoint_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1 does not answer .*endpoint_url"),
        ("s3://no-such-bucket/x", {}, "bucket does not exist .*create it"),
        ("file:///proc/flinkray", {}, "file:///proc/flinkray.*give another --storage"),
    ],
)
def test_storage_that_cannot_be_used_fails_the_job_in_seconds(place: Place, uri: str, options: dict[str, Any], says: str) -> None:
    place.uri = uri
    started_at = time.monotonic()
    job = place.run(place.server.endpoint_url, options=options)
    with pytest.raises(StorageError, match=says) as failure:
        job.wait(TIMEOUT_S)
    assert time.monotonic() - started_at < SOON_S
    assert failure.value.exit_code == 1
    assert job.status()["status"] == "FAILED"
    assert not (place.folder / "out").exists()
    no_thread_of_a_job_is_left()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("uri", "options", "says"),
    [(f"s3://{BUCKET}/x", {"key": "nobody"}, "refuses the credentials"), ("file:///proc/flinkray", {}, "/proc/flinkray")],
)
def test_on_ray_the_error_is_the_same(ray_cluster: None, place: Place, uri: str, options: dict[str, Any], says: str) -> None:
    place.uri = uri
    started_at = time.monotonic()
    with pytest.raises(StorageError, match=says):
        place.run(place.server.endpoint_url, runtime="ray", options=options).wait(TIMEOUT_S)
    assert time.monotonic() - started_at < SOON_S


# -- the server dies, answers are lost ----------------------------------------------------------------------------------


class Crash:
    """Kills the server at one moment of the next checkpoint: before, during or after the PUT of its manifest."""

    def __init__(self, server: SeaweedServer, proxy: S3Proxy, moment: str) -> None:
        self._server = server
        self._moment = moment
        self.happened = threading.Event()
        proxy.on_cut = proxy.on_dropped = self._kill
        proxy.rule = self._rule

    def _kill(self) -> None:
        if not self.happened.is_set():
            self._server.kill()
            self.happened.set()

    def _rule(self, method: str, path: str) -> Action:
        if self.happened.is_set() or method != "PUT":
            return "pass"
        if self._moment == "before" and "/data/" in path:
            self._kill()
        elif "/log/" in path and self._moment != "before":
            return "cut" if self._moment == "during" else "drop answer"
        return "pass"


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_server_killed_around_a_manifests_put_and_started_again(server: SeaweedServer, proxy: S3Proxy, place: Place, moment: str) -> None:
    job = place.run(proxy.endpoint_url, rate=SLOW)
    until(job, has_checkpoints(2))
    crash = Crash(server, proxy, moment)
    assert crash.happened.wait(TIMEOUT_S)
    away = until(job, in_trouble)
    assert away["status"] == "RUNNING"
    assert "does not answer" in away["storage"]["trouble"]
    until(job, lambda status: status["records_in"] > away["records_in"])  # the job goes on
    server.start()
    status = place.finish(job)
    failed, completed = status["checkpoints"]["failed"], status["checkpoints"]["completed"]
    assert failed == 0 if moment == "after" else failed >= 1, said(job)
    assert completed >= away["checkpoints"]["completed"] + (2 if moment == "after" else 1), said(job)


@pytest.mark.parametrize(
    ("actions", "failed"),
    [
        (["drop answer"], 0),
        (["drop answer"] * 8, 0),
        # more than one create has tries for: the void decides, a manifest that comes late finds its number occupied
        (["drop request"] * 8, 1),
        (["hold"] * 8, 1),
    ],
)
def test_a_manifest_whose_put_has_no_answer_has_one_fate(proxy: S3Proxy, place: Place, actions: list[Action], failed: int) -> None:
    job = place.run(proxy.endpoint_url)
    until(job, has_checkpoints(2))
    proxy.rule = for_log_puts(*actions)
    until(job, lambda status: status["checkpoints"]["failed"] == failed and status["checkpoints"]["completed"] >= 3)
    assert any(action == actions[0] for _, _, action in proxy.seen)
    assert set(proxy.release()) <= {412}
    status = place.finish(job)
    assert status["checkpoints"]["failed"] == failed, said(job)


def test_output_that_is_committed_is_not_written_again_when_the_end_could_not_be_recorded(
    proxy: S3Proxy, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_storage, "FINISHED_TIMEOUT_S", 0.5)
    proxy.rule = for_log_puts("pass", "pass", *["drop request"] * 100)  # the claim, the final manifest; then nothing
    job = place.run(proxy.endpoint_url, rate=None, interval=None)
    with pytest.raises(FlinkrayError, match="every row is committed, but that could not be recorded"):
        job.wait(TIMEOUT_S)
    place.check_output()
    proxy.rule = lambda method, path: "pass"
    assert place.run(proxy.endpoint_url, rate=None, interval=None).wait(TIMEOUT_S).status == "FINISHED"
    place.check_output()
    assert place.log().ended == "FINISHED"


# -- cancelling while storage is away -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop request", "hang"])
def test_a_job_is_cancelled_in_bounded_time_while_a_manifests_fate_is_open(
    proxy: S3Proxy, place: Place, how: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_endings, "CANCEL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(job_storage, "CANCELLED_TIMEOUT_S", 0.5)
    job = place.run(proxy.endpoint_url, options={"config_kwargs": {"read_timeout": 1.0}})
    until(job, has_checkpoints(2))
    reached = threading.Event()

    def rule(method: str, path: str) -> Action:
        if method == "PUT" and "/log/" in path:
            reached.set()
            return how
        return "pass"

    proxy.rule = rule
    assert reached.wait(TIMEOUT_S)
    started_at = time.monotonic()
    job.cancel()
    with pytest.raises(JobCancelledError):
        job.wait(TIMEOUT_S)
    assert time.monotonic() - started_at < 5.0
    assert "the end could not be recorded" in said(job) or "storage did not take the record of the end" in said(job)
    no_thread_of_a_job_is_left()
    if how == "drop request":  # what was left in doubt is nothing to the next run
        proxy.rule = lambda method, path: "pass"
        assert place.run(proxy.endpoint_url, rate=None).wait(TIMEOUT_S).records_in == ROWS
        place.check_output()


# -- a store without conditional create ---------------------------------------------------------------------------------


@pytest.fixture
def unconditional(server: SeaweedServer) -> Iterator[S3Proxy]:
    """An S3 server that overwrites in spite of If-None-Match."""
    client = server.client()

    def remove(path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            client.rm_file(path.partition("?")[0].strip("/"))

    with S3Proxy(server.port, remove) as proxy:
        proxy.rule = lambda method, path: "ignore condition"
        yield proxy


def test_a_store_that_cannot_create_if_absent_is_said_and_served_by_the_journal_alone(
    unconditional: S3Proxy, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = MemorySlots()
    monkeypatch.setattr(local, "MemorySlots", lambda: slots)
    job = place.run(unconditional.endpoint_url)
    until(job, has_checkpoints(4))
    job.cancel()
    with pytest.raises(JobCancelledError):
        job.wait(TIMEOUT_S)
    assert "cannot create if absent (it ignores If-None-Match)" in said(job)
    assert job.status()["storage"]["fenced"] is False
    entries = [decode_record(slots.get(slot) or b"").entry for slot in range(len(slots._slots))]
    names = [entry.name for entry in entries if isinstance(entry, CheckpointCompleted)]
    ids = [candidate.checkpoint for candidate in map(parse_candidate, names) if candidate is not None]
    assert ids == [checkpoint["id"] for checkpoint in job.checkpoints()]
    assert len(ids) >= 4

    monkeypatch.setattr(local, "MemorySlots", MemorySlots)  # later runs have journals of their own
    latest = place.run(unconditional.endpoint_url)
    with pytest.raises(StorageError, match="Choose one with --restore checkpoint:ID") as refusal:
        latest.wait(TIMEOUT_S)
    assert set(names) <= set(str(refusal.value).replace(",", " ").split())
    unknown = place.run(unconditional.endpoint_url, restore="checkpoint:999")
    with pytest.raises(RestoreError, match="there is no checkpoint 999"):
        unknown.wait(TIMEOUT_S)

    chosen = place.run(unconditional.endpoint_url, rate=None, restore=f"checkpoint:{ids[-1]}")
    assert chosen.wait(TIMEOUT_S).records_in == ROWS
    assert f"restoring checkpoint {ids[-1]} (asked for)" in said(chosen)
    place.check_output()


# -- on Ray -------------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
def test_on_ray_nothing_is_rolled_back_before_a_manifests_fate_is_known(
    ray_cluster: None, server: SeaweedServer, proxy: S3Proxy, place: Place
) -> None:
    """The server dies within a manifest's PUT, and so does a TaskManager: the restart waits for storage, and says so."""
    job = place.run(proxy.endpoint_url, rate=SLOW, runtime="ray")
    until(job, has_checkpoints(2))
    crash = Crash(server, proxy, "during")
    assert crash.happened.wait(TIMEOUT_S)
    away = until(job, in_trouble)
    os.kill(next(tm["pid"] for tm in away["task_managers"] if tm["role"] == "active"), signal.SIGKILL)
    waiting = until(job, lambda status: "manifest" in status["waiting_for"])
    assert waiting["status"] == "RESTARTING"
    assert waiting["checkpoints"]["completed"] == away["checkpoints"]["completed"]
    server.start()
    place.finish(job, restarts=1)
    del job
    gc.collect()  # nobody holds the handle now, not even a traceback of the S3 client: its JobManager goes
    nothing_is_left_in_the_cluster(APPLICATION)
