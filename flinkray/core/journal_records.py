"""What a run's journal says, record by record, and the bytes of a record. Pure.

The journal holds what a new leader must know and can learn neither from the storage log nor from the TaskManagers: who leads, who owns the
storage, which processes there are, what the current attempt is, what was asked for. Every record carries its writer's token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flinkray.core.messages import Counters

# -- entries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elected:
    """The writer leads from here on (rule 8)."""

    election: int
    leader: str
    """How the others reach it: the instance of its process."""


@dataclass(frozen=True)
class StorageClaimed:
    """The run owns the application in storage; before any attempt."""

    claim: int
    hash_seed: int
    data_key: str = ""
    """Id of the key that seals what this claim writes."""
    chosen: tuple[int, ...] = ()
    """Complete checkpoints of earlier runs that this one may restore, newest first: the one it began with, and those before it."""
    chosen_names: tuple[str, ...] = ()
    """The objects that are their manifests."""


@dataclass(frozen=True)
class WorkerAdded:
    """A TaskManager process is about to be made."""

    instance: str
    number: int
    """tm-<number>."""


@dataclass(frozen=True)
class WorkerGone:
    """It is given up, and about to be killed where it lives."""

    instance: str


@dataclass(frozen=True)
class AttemptBegun:
    """Before the first Deploy of an attempt."""

    attempt: int
    workers: tuple[str, ...]
    """Instances, by slot."""
    restored: int | None
    """The checkpoint that it starts from."""
    restarts: int
    """Of the job so far, this one included."""
    counters: Counters = field(default_factory=Counters)
    """Rows up to the restored checkpoint."""
    passed_over: tuple[int, ...] = ()
    """Checkpoints newer than the restored one that were found damaged, and are never restored (rule 20)."""
    parallelism: int = 0
    """Of the graph, where the job was rescaled; 0: as it was submitted."""


@dataclass(frozen=True)
class CheckpointCompleted:
    """Its manifest stands in storage under `name` (an index of the storage log; where storage cannot order manifests, the truth)."""

    checkpoint: int
    name: str


@dataclass(frozen=True)
class Requested:
    """Somebody wants something that changes the run; before the first step of it (rule 24)."""

    request: str
    """Its id, from the client."""
    what: str
    detail: str = ""


@dataclass(frozen=True)
class Begun:
    """What `request` wanted is begun, and the sources stand still: `checkpoint` decides it (0: they are being drained, it comes later)."""

    request: str
    checkpoint: int


@dataclass(frozen=True)
class Answered:
    """How it went: a retry of the request hears the same (rule 24)."""

    request: str
    error: str = ""
    """Empty: it is done."""
    usage: bool = False
    """The request was wrong; nothing was tried."""


@dataclass(frozen=True)
class RunEnded:
    """Nothing follows: standbys leave."""

    status: str
    reason: str = ""


JournalEntry = (
    Elected | StorageClaimed | WorkerAdded | WorkerGone | AttemptBegun | CheckpointCompleted | Requested | Begun | Answered | RunEnded
)

_KINDS: dict[str, type] = {
    "elected": Elected,
    "claimed": StorageClaimed,
    "worker": WorkerAdded,
    "gone": WorkerGone,
    "attempt": AttemptBegun,
    "checkpoint": CheckpointCompleted,
    "requested": Requested,
    "begun": Begun,
    "answered": Answered,
    "ended": RunEnded,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class JournalRecord:
    """One slot's content."""

    token: str
    """Of the candidacy that wrote it."""
    entry: JournalEntry


class JournalFormatError(ValueError):
    """Bytes that are no record or snapshot of a journal."""


def encode_record(record: JournalRecord) -> bytes:
    """The same bytes for equal records."""
    values = {"token": record.token, "kind": _NAMES[type(record.entry)], "entry": asdict(record.entry)}
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def decode_record(value: bytes) -> JournalRecord:
    """Raises JournalFormatError."""
    try:
        values: dict[str, Any] = json.loads(value)
        return JournalRecord(str(values["token"]), _entry(values["kind"], values["entry"]))
    except (ValueError, TypeError, KeyError) as error:
        raise JournalFormatError(f"it is no record of a journal: {error!r}") from error


def _entry(kind: str, fields: Mapping[str, Any]) -> Any:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if "counters" in values:
        values["counters"] = Counters(**values["counters"])
    return _KINDS[kind](**values)
