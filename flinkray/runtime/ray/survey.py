"""Facts about a Ray cluster for `flinkray doctor`: its nodes, how its GCS keeps its tables, the jobs in it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flinkray.config import HighAvailability
from flinkray.runtime.ray.status_copy import read_copies
from flinkray.runtime.ray.submit import connect
from flinkray.runtime.record import ENDED
from flinkray.survival import ClusterFacts, GcsFacts, NodeFacts

HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head."""
LOOK_S = 20.0
REDIS_PORT = 6379


def survey() -> ClusterFacts:
    """Of the cluster at RAY_ADDRESS. ResourceError when it does not answer."""
    connect()
    nodes = tuple(
        NodeFacts(
            node["NodeID"],
            node.get("Labels", {}).get(HighAvailability.zone_label, ""),
            node.get("Resources", {}).get("CPU", 0.0),
            HEAD in node.get("Resources", {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    )
    auth = os.environ.get("RAY_AUTH_MODE", "")
    jobs = {
        name: record["status"]
        for name, record in read_copies(ray.get_runtime_context().gcs_address, auth).items()
        if record["status"]["status"] not in ENDED
    }
    tls = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    return ClusterFacts(nodes, _gcs(nodes), tls, auth == "token", jobs)


def _gcs(nodes: tuple[NodeFacts, ...]) -> GcsFacts:
    head = next((node for node in nodes if node.head), None)
    if head is None:
        return GcsFacts("unknown")
    strategy = NodeAffinitySchedulingStrategy(head.node_id, soft=False)
    look = ray.remote(num_cpus=0, max_retries=0)(_look).options(scheduling_strategy=strategy).remote()
    try:
        return GcsFacts(**ray.get(look, timeout=LOOK_S))
    except (GetTimeoutError, RayError):
        return GcsFacts("unknown")


def _look() -> dict[str, Any]:
    """On the head: what the process of the GCS was started with."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and (process / "comm").read_text().strip() == "gcs_server":
                command = (process / "cmdline").read_text().split("\0")
                pairs = (entry.partition("=") for entry in (process / "environ").read_text().split("\0"))
                return asdict(gcs_facts(command, {name: value for name, _, value in pairs}))
    return asdict(GcsFacts("unknown"))


def gcs_facts(command: list[str], environment: dict[str, str]) -> GcsFacts:
    redis = next((argument.partition("=")[2] for argument in command if argument.startswith("--redis_address=")), "")
    if redis:
        return GcsFacts("redis", append_fsync=_append_fsync(redis, environment.get("RAY_REDIS_PASSWORD", "")))
    if environment.get("RAY_gcs_storage") != "rocksdb":
        return GcsFacts("memory")
    path = environment.get("RAY_gcs_storage_path", "")
    own = False
    with suppress(OSError):
        own = os.stat(path).st_dev != os.stat("/").st_dev
    return GcsFacts("rocksdb", path, own)


def _append_fsync(address: str, password: str) -> str:
    """What Redis says of itself; empty when it says nothing (managed ones refuse CONFIG)."""
    host, _, port = address.removeprefix("redis://").rpartition(":")
    with suppress(OSError, ValueError), socket.create_connection((host, int(port or REDIS_PORT)), 2.0) as connection:
        if password:
            connection.sendall(_redis("AUTH", password))
            connection.recv(1024)
        connection.sendall(_redis("CONFIG", "GET", "appendfsync"))
        words = connection.recv(4096).decode().split("\r\n")
        return words[4] if words[0] == "*2" and len(words) > 4 else ""
    return ""


def _redis(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word.encode())}\r\n{word}\r\n".encode() for word in words)
