"""What a cluster, and the jobs in it, would survive: facts in, a table out. Pure; `runtime/ray/survey.py` collects the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["survived", "lost", "unknown"]
Row = tuple[Verdict, str, str]
"""Whether it is survived, what is lost, and why, or what to do about it."""


@dataclass(frozen=True)
class NodeFacts:
    node_id: str
    zone: str
    cpus: float
    head: bool


@dataclass(frozen=True)
class GcsFacts:
    """How the GCS keeps its tables, from its own process."""

    storage: Literal["memory", "rocksdb", "redis", "unknown"]
    path: str = ""
    own_volume: bool = False
    """RocksDB: not on the head's root disk."""
    append_fsync: str = ""
    """Redis: its setting, empty when it does not tell."""


@dataclass(frozen=True)
class ClusterFacts:
    nodes: tuple[NodeFacts, ...]
    gcs: GcsFacts
    tls: bool
    auth: bool
    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Statuses of those that run, by name."""

    @property
    def head(self) -> NodeFacts | None:
        return next((node for node in self.nodes if node.head), None)

    @property
    def working(self) -> list[NodeFacts]:
        return [node for node in self.nodes if node.cpus > 0]


def survival(facts: ClusterFacts) -> Iterator[Row]:
    yield _gcs(facts.gcs)
    yield _head(facts)
    yield _node(facts)
    yield _zone(facts)
    yield _eavesdropping(facts)
    for name, status in sorted(facts.jobs.items()):
        yield from _job(name, status, facts)


def _gcs(gcs: GcsFacts) -> Row:
    what = "the GCS's process"
    if gcs.storage == "memory":
        return (
            "lost",
            what,
            "its tables are in memory: the cluster ends with it. On the head set RAY_gcs_storage=rocksdb and RAY_gcs_storage_path=/a/volume (cluster.yaml)",
        )
    if gcs.storage == "redis" and gcs.append_fsync != "always":
        said = f"appendfsync is {gcs.append_fsync}" if gcs.append_fsync else "it does not tell its appendfsync"
        return (
            "unknown",
            what,
            f"its tables are in Redis, and {said}: with less than `always` the journal may go back in time, and leaders with it",
        )
    if gcs.storage == "unknown":
        return "unknown", what, "its process on the head could not be looked at"
    return (
        "survived",
        what,
        f"its tables are in {gcs.storage}: rows flow while it is away, checkpoints wait; whatever restarts it must be there (systemd, KubeRay)",
    )


def _head(facts: ClusterFacts) -> Row:
    what, head = "the head's host", facts.head
    if head is None:
        return "unknown", what, "no node says that it is the head"
    if head.cpus > 0 and len(facts.working) > 1:
        return "lost", what, f"it has {head.cpus:g} CPUs, so slots and JobManagers may be there: start it with --num-cpus 0"
    if head.cpus > 0:
        return "lost", what, "it is the only node that works: start workers on other hosts, and the head with --num-cpus 0"
    if facts.gcs.storage == "rocksdb" and not facts.gcs.own_volume:
        return "lost", what, f"{facts.gcs.path} is on its root disk: put it on a volume that another host can take over"
    if facts.gcs.storage in ("rocksdb", "redis"):
        return "survived", what, "nothing of a job is on it, and its tables outlive it"
    return (
        "lost",
        what,
        "the GCS's tables go with it, and the cluster with them; a job goes on in another one with: flinkray run JOB.py --restore latest",
    )


def _node(facts: ClusterFacts) -> Row:
    what, working = "a worker node", facts.working
    if len(working) < 2:
        return "lost", what, f"{len(working)} node has CPUs for work: add one"
    smallest, total = min(node.cpus for node in working), sum(node.cpus for node in working)
    return (
        "survived",
        what,
        f"{len(working)} nodes of {smallest:g} CPUs or more; a job that uses more than {total - max(n.cpus for n in working):g} of {total:g} waits for a new one",
    )


def _zone(facts: ClusterFacts) -> Row:
    what = "a zone"
    zones = Counter(node.zone for node in facts.working if node.zone)
    if len(zones) < 2:
        names = f"one ({next(iter(zones))})" if zones else "none"
        return "lost", what, f"the working nodes name {names}: start nodes in others, with ray start --labels ray.io/availability-zone=NAME"
    unlabelled = sum(not node.zone for node in facts.working)
    note = f"; {unlabelled} without a label count as a zone of their own" if unlabelled else ""
    return "survived", what, f"{len(zones)}: " + ", ".join(f"{zone} ({count})" for zone, count in sorted(zones.items())) + note


def _eavesdropping(facts: ClusterFacts) -> Row:
    what = "secrecy on the network"
    if len(facts.nodes) < 2:
        return "survived", what, "one host: nothing travels"
    rows = "rows between hosts are encrypted by flinkray (CURVE), and keys are sealed"
    if facts.tls:
        return "survived", what, f"{rows}; Ray's own calls by TLS"
    joined = "" if facts.auth else ", and anybody who reaches the GCS's port can join and run code (RAY_AUTH_MODE=token)"
    return "lost", what, f"{rows}, but Ray's own calls are not: RAY_USE_TLS=1 on all nodes{joined}"


def _job(name: str, status: Mapping[str, Any], facts: ClusterFacts) -> Iterator[Row]:
    workers = status.get("task_managers", ())
    head = facts.head.node_id if facts.head else ""
    spares = sum(tm["role"] == "spare" for tm in workers)
    if spares:
        yield "survived", f"{name}: a TaskManager", f"{spares} warm spare(s) stand by"
    else:
        yield (
            "survived",
            f"{name}: a TaskManager",
            "there is no spare: a new process has to start first, some seconds (Resources(spare_task_managers=1))",
        )
    standbys = status.get("standbys", ())
    if standbys:
        yield (
            "survived",
            f"{name}: its leader",
            f"{len(standbys)} standby(s), in {', '.join(sorted({s['zone'] or 'no zone' for s in standbys}))}",
        )
    else:
        yield (
            "lost",
            f"{name}: its leader",
            "there is no standby: Ray restarts it, some seconds, where the job has no collect() (HighAvailability(standbys=1))",
        )
    there = [tm["id"] for tm in workers if tm["node_id"] == head] + ["its leader"] * (status.get("leader", {}).get("node_id") == head)
    if there and len(facts.nodes) > 1:
        yield "lost", f"{name}: the head without a restart", f"{', '.join(there)} on it"
    storage = status.get("storage", {})
    uri = str(storage.get("uri", ""))
    if uri.startswith(("file:", "memory:")) or not uri:
        yield (
            "lost",
            f"{name}: the whole cluster",
            f"checkpoints are in {uri or 'no storage'}: only object storage outlives it, --storage s3://BUCKET/PREFIX",
        )
    elif not storage.get("fenced", True):
        yield (
            "unknown",
            f"{name}: the whole cluster",
            f"{uri} cannot create if absent: another cluster cannot be kept out, and a restore has to name its checkpoint",
        )
    else:
        yield "survived", f"{name}: the whole cluster", f"from {uri} and the key: flinkray run JOB.py --restore latest"
