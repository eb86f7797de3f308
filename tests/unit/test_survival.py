"""`flinkray doctor`: what a cluster would survive, row by row, from facts about it."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from flinkray.runtime.ray.survey import gcs_facts
from flinkray.survival import ClusterFacts, GcsFacts, NodeFacts, survival

ROCKSDB = GcsFacts("rocksdb", "/gcs", own_volume=True)
HEAD = NodeFacts("h", "", 0, True)
ZONES = tuple(NodeFacts(f"n{zone}", zone, 4, False) for zone in "abc")


def rows(**change: Any) -> dict[str, tuple[str, str]]:
    facts = {"nodes": (HEAD, *ZONES), "gcs": ROCKSDB, "tls": True, "auth": True, **change}
    return {what: (verdict, why) for verdict, what, why in survival(ClusterFacts(**facts))}


def job(**change: Any) -> dict[str, Any]:
    worker = {"id": "tm-0", "role": "active", "node_id": "na", "zone": "a"}
    return {
        "leader": {"node_id": "nb", "zone": "b"},
        "standbys": [{"node_id": "nc", "zone": "c"}],
        "task_managers": [worker, {**worker, "id": "tm-1", "role": "spare"}],
        "storage": {"uri": "s3://bucket/app", "fenced": True},
        **change,
    }


def test_a_cluster_as_it_should_be_survives_everything() -> None:
    table = rows(jobs={"j": job()})
    assert {verdict for verdict, _ in table.values()} == {"survived"}
    assert {"the GCS's process", "the head's host", "a worker node", "a zone", "secrecy on the network", "j: the whole cluster"} <= set(
        table
    )


@pytest.mark.parametrize(
    ("what", "change", "verdict", "says"),
    [
        ("the GCS's process", {"gcs": GcsFacts("memory")}, "lost", "RAY_gcs_storage=rocksdb"),
        ("the GCS's process", {"gcs": GcsFacts("redis", append_fsync="everysec")}, "unknown", "appendfsync is everysec"),
        ("the GCS's process", {"gcs": GcsFacts("redis")}, "unknown", "does not tell"),
        ("the GCS's process", {"gcs": GcsFacts("redis", append_fsync="always")}, "survived", "redis"),
        ("the head's host", {"gcs": GcsFacts("rocksdb", "/tmp/gcs")}, "lost", "/tmp/gcs is on its root disk"),
        ("the head's host", {"nodes": (NodeFacts("h", "", 8, True), *ZONES)}, "lost", "--num-cpus 0"),
        ("the head's host", {"gcs": GcsFacts("memory")}, "lost", "--restore latest"),
        ("a worker node", {"nodes": (HEAD, ZONES[0])}, "lost", "add one"),
        ("a zone", {"nodes": (HEAD, ZONES[0], ZONES[0])}, "lost", "one (a)"),
        ("a zone", {"nodes": (HEAD, NodeFacts("x", "", 4, False))}, "lost", "--labels ray.io/availability-zone"),
        ("secrecy on the network", {"tls": False}, "lost", "RAY_USE_TLS=1"),
        ("secrecy on the network", {"tls": False, "auth": False}, "lost", "RAY_AUTH_MODE=token"),
        ("j: a TaskManager", {"jobs": {"j": job(task_managers=[])}}, "survived", "there is no spare"),
        ("j: its leader", {"jobs": {"j": job(standbys=[])}}, "lost", "no standby"),
        ("j: the head without a restart", {"jobs": {"j": job(leader={"node_id": "h", "zone": ""})}}, "lost", "its leader on it"),
        ("j: the whole cluster", {"jobs": {"j": job(storage={"uri": "file:///c"})}}, "lost", "only object storage"),
        ("j: the whole cluster", {"jobs": {"j": job(storage={"uri": "s3://b", "fenced": False})}}, "unknown", "cannot create if absent"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(what: str, change: dict[str, Any], verdict: str, says: str) -> None:
    found = rows(**change)[what]
    assert found[0] == verdict
    assert says in found[1]


def test_the_gcs_is_known_by_what_it_was_started_with(tmp_path: Any) -> None:
    assert gcs_facts(["gcs_server"], {}) == GcsFacts("memory")
    assert gcs_facts(["gcs_server"], {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": "/"}) == GcsFacts("rocksdb", "/")


@pytest.mark.parametrize(("password", "setting"), [("", "always"), ("secret", "everysec")])
def test_redis_is_asked_for_its_appendfsync(password: str, setting: str) -> None:
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            if password:
                heard.append(connection.recv(1024))
                connection.sendall(b"+OK\r\n")
            heard.append(connection.recv(1024))
            connection.sendall(f"*2\r\n$11\r\nappendfsync\r\n${len(setting)}\r\n{setting}\r\n".encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        address = f"--redis_address=127.0.0.1:{listener.getsockname()[1]}"
        assert gcs_facts(["gcs_server", address], {"RAY_REDIS_PASSWORD": password}) == GcsFacts("redis", append_fsync=setting)
        thread.join(10)
    assert heard[-1] == b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$11\r\nappendfsync\r\n"


def test_a_redis_that_is_not_there_tells_nothing() -> None:
    assert gcs_facts(["gcs_server", "--redis_address=127.0.0.1:1"], {}) == GcsFacts("redis")
