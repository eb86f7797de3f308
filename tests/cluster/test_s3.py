"""Checkpoint storage on a real S3 server (SeaweedFS on loopback): the suite of all stores, refusals, lost answers, crashes."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flinkray.checkpoint.base import CreateOutcome, ObjectStore
from flinkray.checkpoint.log_base import CheckpointLog
from flinkray.checkpoint.log_store import open_log
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.s3_store import S3Store
from flinkray.checkpoint.store import check_reachable, open_store
from flinkray.checkpoint.sweep import sweep
from flinkray.checkpoint.verify import verify
from flinkray.core.storage_log import LogView
from flinkray.errors import StorageError
from flinkray.testing.store_suite import ObjectStoreSuite, StoreLocation
from tests.s3_proxy import Action, S3Proxy
from tests.seaweed import BUCKET, SeaweedServer
from tests.unit.checkpoint_fakes import manifest_of, provider, put_chunk

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

WITHIN_SECONDS = 20.0


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


def fresh_uri() -> str:
    return f"s3://{BUCKET}/{uuid4().hex}"


class TestS3Store(ObjectStoreSuite):
    @pytest.fixture
    def location(self, server: SeaweedServer) -> StoreLocation:
        return StoreLocation(fresh_uri(), server.options())

    @pytest.fixture
    def store(self, location: StoreLocation) -> ObjectStore:
        store = location.open()
        assert isinstance(store, S3Store)
        store.page_names = 20  # so that the suite's objects are more than a page
        return store


def test_a_large_object_goes_in_parts(server: SeaweedServer) -> None:
    store = open_store(fresh_uri(), "app", server.options())
    data = bytes(range(256)) * (70 << 12)  # 70 MiB
    store.put("data/large", data)
    assert store.get("data/large") == data
    assert store.get("data/large", 65 << 20, 100) == data[:100]


def test_an_upload_in_parts_is_there_as_a_whole_or_not_at_all(server: SeaweedServer) -> None:
    store = open_store(fresh_uri(), "app", server.options())
    piece = bytes(range(256)) * (8 << 12)  # 8 MiB

    def parts(whole: bool) -> Iterator[bytes]:
        yield from [piece] * 9
        if not whole:
            raise ValueError("the source of the parts has failed")

    store.put_parts("data/parts", parts(True))
    assert store.get("data/parts", (72 << 20) - 100) == piece[-100:]
    with pytest.raises(ValueError, match="the source of the parts"):
        store.put_parts("data/failed", parts(False))
    assert store.list("data/") == ["data/parts"]


def test_endpoint_and_credentials_may_come_from_the_environment(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    store = open_store(fresh_uri(), "app")
    check_reachable(store)
    assert store.create("log/1", b"x") is CreateOutcome.CREATED


def _use_after_fork(store: Any, results: Any) -> None:
    store.put("child", b"written by the child")
    results.put(store.get("parent"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_uses_connections_of_its_own(server: SeaweedServer) -> None:
    store = open_store(fresh_uri(), "app", server.options())
    store.put("parent", b"written by the parent")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_use_after_fork, args=(store, results))
    child.start()
    assert results.get(timeout=30) == b"written by the parent"
    child.join(30)
    assert store.get("child") == b"written by the child"


# -- what cannot work says so soon ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "change", "says"),
    [
        (fresh_uri(), {"secret": "wrong"}, r"refuses the credentials .*AWS_SECRET_ACCESS_KEY"),
        (fresh_uri(), {"key": "nobody"}, r"refuses the credentials .*AWS_ACCESS_KEY_ID"),
        ("s3://no-such-bucket/x", {}, r"bucket does not exist .*create it"),
        (fresh_uri(), {"endpoint_url": "http://127.0.0.1:1"}, r"http://127.0.0.1:1 does not answer .*endpoint_url"),
    ],
    ids=["secret", "key", "bucket", "endpoint"],
)
def test_storage_that_cannot_be_used_is_an_error_in_seconds_that_says_what_to_do(
    server: SeaweedServer, uri: str, change: dict[str, Any], says: str
) -> None:
    store = open_store(uri, "app", server.options(**change))
    for use in (lambda: check_reachable(store), lambda: store.list("log/"), lambda: open_log(store, "app", provider()).claim("token")):
        started = time.monotonic()
        with pytest.raises(StorageError, match=says):
            use()
        assert time.monotonic() - started < WITHIN_SECONDS


def test_missing_credentials_are_named(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = open_store(fresh_uri(), "app", {"endpoint_url": server.endpoint_url})
    with pytest.raises(StorageError, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
        check_reachable(store)


def test_a_server_that_is_no_s3_is_not_an_empty_log(server: SeaweedServer) -> None:
    """SeaweedFS's master answers on its own port, with 404 and HTML."""
    store = open_store(fresh_uri(), "app", server.options(endpoint_url=f"http://127.0.0.1:{server._ports['master']}"))
    with pytest.raises(StorageError):
        open_log(store, "app", provider()).read()
    with pytest.raises(StorageError):
        store.get("log/1")


# -- answers and requests that are lost -------------------------------------------------------------------------------


def claimed_log(server: SeaweedServer, proxy: S3Proxy) -> CheckpointLog:
    store = open_store(fresh_uri(), "app", server.options(endpoint_url=proxy.endpoint_url))
    log = open_log(store, "app", provider())
    log.claim("token")
    return log


def manifest_for(log: CheckpointLog, number: int) -> Manifest:
    return manifest_of(log.claim_number, number, (put_chunk(log.store, log.data_key, log.claim_number, number),))


def for_log_puts(*actions: Action) -> Callable[[str, str], Action]:
    """These happen to the next PUTs of log records, in order; the rest passes."""
    left = list(actions)
    return lambda method, path: left.pop(0) if method == "PUT" and "/log/" in path and left else "pass"


def checkpoints(view: LogView) -> list[int]:
    return [entry.header.checkpoint for entry in view.manifests if entry.header]


@pytest.mark.parametrize(
    ("actions", "complete"),
    [
        (["drop answer"], True),
        (["drop answer", "drop answer"], True),
        (["drop request"], True),
        (["drop request", "drop answer"], True),
        # more than one create has tries for (the HTTP client tries twice each time, too): the void decides
        (["drop request"] * 8, False),
        (["hold"] * 8, False),
        (["hold"] * 14, False),
    ],
)
def test_a_manifest_whose_put_is_lost_has_one_fate_and_is_counted_once(
    server: SeaweedServer, proxy: S3Proxy, actions: list[Action], complete: bool
) -> None:
    log = claimed_log(server, proxy)
    assert log.append_manifest(manifest_for(log, 1)).complete
    manifest = manifest_for(log, 2)
    proxy.rule = for_log_puts(*actions)
    appended = log.append_manifest(manifest)
    assert appended.complete is complete, appended.reason
    assert set(proxy.release()) <= {412}  # a late manifest finds its number occupied
    expected = [2, 1] if complete else [1]
    assert checkpoints(log.read()) == expected
    third = manifest_for(log, 3)
    assert log.append_manifest(third).number == 4
    view = log.read()
    assert checkpoints(view) == [3, *expected]
    assert verify(log.store, third, log.ring.get_all(third.data_keys)) == []
    assert sweep(log, 1, 3, {}).objects == 2


def test_an_answer_that_never_comes_is_waited_for_a_bounded_time(server: SeaweedServer, proxy: S3Proxy) -> None:
    options = server.options(endpoint_url=proxy.endpoint_url, config_kwargs={"read_timeout": 1.0})
    store = open_store(fresh_uri(), "app", options)
    assert store.conditional_create
    hang = threading.Event()

    def rule(method: str, path: str) -> Action:
        if "/slow" in path:
            hang.wait(60)
        return "pass"

    proxy.rule = rule
    started = time.monotonic()
    try:
        for use in (lambda: store.put("slow", b"x"), lambda: store.get("slow"), lambda: store.create("slow", b"x")):
            with pytest.raises(StorageError, match="does not answer"):
                use()
    finally:
        hang.set()
    assert time.monotonic() - started < 3 * WITHIN_SECONDS


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


def test_a_store_that_ignores_the_condition_is_found_out_and_served_without_fencing(server: SeaweedServer, unconditional: S3Proxy) -> None:
    store = open_store(fresh_uri(), "app", server.options(endpoint_url=unconditional.endpoint_url))
    assert not store.conditional_create
    with pytest.raises(StorageError, match="ignores If-None-Match"):
        store.create("log/1", b"x")
    log = open_log(store, "app", provider())
    assert not log.fenced
    log.claim("token")
    names = [log.append_manifest(manifest_for(log, number)).name for number in (1, 2)]
    assert checkpoints(open_log(store, "app", provider(), names).read()) == [2, 1]
    with pytest.raises(StorageError, match="Candidates"):
        open_log(store, "app", provider()).read()


def test_the_probe_is_asked_once(server: SeaweedServer, proxy: S3Proxy) -> None:
    store = open_store(fresh_uri(), "app", server.options(endpoint_url=proxy.endpoint_url))
    assert all(store.conditional_create for _ in range(3))
    store.create("log/1", b"x")
    puts = [path for method, path, _ in proxy.seen if method == "PUT"]
    assert sum("/probe/" in path for path in puts) == 2
    assert len(puts) == 3


# -- the server dies --------------------------------------------------------------------------------------------------


class Crash:
    """Kills the server at one moment of the next PUT of a log record, or right away."""

    def __init__(self, server: SeaweedServer, proxy: S3Proxy, moment: str) -> None:
        self._server = server
        self._moment = moment
        self.happened = threading.Event()
        proxy.rule = self._rule
        proxy.on_dropped = self._kill
        if moment == "before":
            self._kill()

    def _kill(self) -> None:
        self._server.kill()
        self.happened.set()

    def _rule(self, method: str, path: str) -> Action:
        if self.happened.is_set() or method != "PUT" or "/log/" not in path:
            return "pass"
        if self._moment == "after":
            return "drop answer"  # the record is stored; then the server dies and nobody has heard
        self._kill()  # the request is on its way, and nobody is there to take it
        return "pass"


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_server_killed_and_restarted_around_a_manifests_put_leaves_one_truth(tmp_path: Path, moment: str) -> None:
    server = SeaweedServer(tmp_path / "weed")
    server.start()
    try:
        with S3Proxy(server.port) as proxy:
            log = claimed_log(server, proxy)
            assert log.append_manifest(manifest_for(log, 1)).complete
            manifest, later = manifest_for(log, 2), manifest_of(log.claim_number, 3)
            crash = Crash(server, proxy, moment)
            with ThreadPoolExecutor(1) as pool:
                fate = pool.submit(log.append_manifest, manifest)
                assert crash.happened.wait(30)
                time.sleep(0.3)
                server.start()
                complete = fate.result(120).complete
            assert complete or moment != "after"
            assert log.append_manifest(later).complete
            view = open_log(log.store, "app", provider()).claim("next").view
            assert checkpoints(view) == ([3, 2, 1] if complete else [3, 1])
    finally:
        server.stop()
