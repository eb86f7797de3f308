"""Which operator is which after a change of the program: uids, and the digest of what a restore must fit."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flinkray.errors import PlanError
from flinkray.graph.logical import LogicalNode, RebalanceNode, SideOutputNode, SinkNode, SourceNode

USER_UID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def check_uid(uid: str) -> str:
    """What a user may call an operator: it becomes part of names of objects and files."""
    if not isinstance(uid, str) or not USER_UID.fullmatch(uid):
        raise PlanError(f"uid {uid!r}: use 1 to 128 of A-Z a-z 0-9 _ . : -")
    return uid


def assign_uids(nodes: Sequence[LogicalNode]) -> dict[int, str]:
    """The uid of every node by its serial: the user's, else a hash of kind, upstream uids and ordinal among equals.

    Never of parallelism, paths, rates or arguments, nor of chaining and pre-aggregation, so that those may change between a
    checkpoint and its restore.
    """
    uids: dict[int, str] = {}
    ordinals: dict[str, int] = defaultdict(int)
    for node in nodes:
        upstream = [uids[stream.serial] for stream in node.inputs]
        if isinstance(node, SideOutputNode):
            uids[node.serial] = f"{upstream[0]}#{node.tag}"
        elif isinstance(node, RebalanceNode):
            uids[node.serial] = upstream[0]
        else:
            origin = json.dumps([node.kind, upstream])
            digest = hashlib.sha256(f"{origin}{ordinals[origin]}".encode()).hexdigest()
            ordinals[origin] += 1
            uids[node.serial] = node.label.uid or f"{node.kind}-{digest[:12]}"
    _check_unique(nodes)
    return uids


def _check_unique(nodes: Iterable[LogicalNode]) -> None:
    taken: dict[str, LogicalNode] = {}
    for node in nodes:
        if node.label.uid is None:
            continue
        if node.label.uid in taken:
            other = taken[node.label.uid]
            raise PlanError(f"uid {node.label.uid!r} is given to two operators, {other.kind} and {node.kind}; a uid names one")
        taken[node.label.uid] = node


def _shown(node: LogicalNode) -> str:
    match node:
        case SourceNode():
            return f"{node.display_name} {node.source.describe()}"
        case SinkNode():
            return f"{node.display_name} {node.sink.describe()}"
        case _:
            return node.display_name


def fingerprint(states: Mapping[str, tuple[str, Any]], max_parallelism: int) -> str:
    """Digest of `{uid: (kind, JSON-able description of its state)}`, in any order."""
    text = json.dumps([max_parallelism, sorted((uid, *state) for uid, state in states.items())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def uid_warnings(nodes: Iterable[LogicalNode]) -> tuple[str, ...]:
    """Operators whose state a restore finds only as long as the program keeps its shape."""
    return tuple(
        f"{_shown(node)} has state and no uid: a restore may miss it after the program has changed; give it .uid(...)"
        for node in nodes
        if node.label.uid is None and (node.stateful or (isinstance(node, SinkNode) and node.sink.transactional))
    )
