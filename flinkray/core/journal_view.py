"""What the records of a journal mean together: `fold`, and the snapshot of it that replaces the slots below. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flinkray.core.journal_records import (
    Answered,
    AttemptBegun,
    Begun,
    CheckpointCompleted,
    Elected,
    JournalEntry,
    JournalFormatError,
    JournalRecord,
    Requested,
    RunEnded,
    StorageClaimed,
    WorkerAdded,
    WorkerGone,
)
from flinkray.core.messages import Counters

MANIFESTS_LIMIT = 1000
"""Names of the newest manifests that are kept: `retained` can be no more on a store where only the journal orders them."""

REQUESTS_LIMIT = 256


@dataclass(frozen=True)
class JournalView:
    """The journal up to slot `slots` (exclusive)."""

    slots: int = 0
    kept_from: int = field(default=0, compare=False)
    """Slots below are deleted; bookkeeping of compaction, and no part of what the records mean."""
    election: int = 0
    leader: str = ""
    token: str = ""
    """Of the newest election; a record of any other counts for nothing."""
    claim: int | None = None
    hash_seed: int = 0
    data_key: str = ""
    chosen: tuple[int, ...] = ()
    chosen_names: tuple[str, ...] = ()
    workers: tuple[tuple[str, int], ...] = ()
    """Instance and number of every TaskManager that was to be made and is not given up."""
    next_worker: int = 0
    attempt: int = 0
    attempt_workers: tuple[str, ...] = ()
    restored: int | None = None
    restarts: int = 0
    counters: Counters = field(default_factory=Counters)
    passed_over: tuple[int, ...] = ()
    manifests: tuple[tuple[int, str], ...] = ()
    """Checkpoint and object name of those that this run has completed, oldest first."""
    requests: tuple[Requested, ...] = ()
    begun: tuple[Begun, ...] = ()
    answers: tuple[Answered, ...] = ()
    parallelism: int = 0
    ended: str = ""

    @property
    def checkpoint(self) -> int:
        """The newest one that this run has completed, as the journal knows; 0 for none."""
        return self.manifests[-1][0] if self.manifests else 0

    def after(self, record: JournalRecord) -> JournalView:
        """With the record of the next slot."""
        return replace(self._with(record.token, record.entry), slots=self.slots + 1)

    def _with(self, token: str, entry: JournalEntry) -> JournalView:
        if isinstance(entry, Elected):
            return self if entry.election <= self.election else replace(self, election=entry.election, leader=entry.leader, token=token)
        if token != self.token:
            return self
        if isinstance(entry, WorkerAdded | WorkerGone):
            return self._with_worker(entry)
        if isinstance(entry, StorageClaimed):
            return replace(
                self,
                claim=entry.claim,
                hash_seed=entry.hash_seed,
                data_key=entry.data_key,
                chosen=entry.chosen,
                chosen_names=entry.chosen_names,
            )
        if isinstance(entry, AttemptBegun):
            return replace(
                self,
                attempt=entry.attempt,
                attempt_workers=entry.workers,
                restored=entry.restored,
                restarts=entry.restarts,
                counters=entry.counters,
                passed_over=entry.passed_over,
                parallelism=entry.parallelism,
            )
        if isinstance(entry, CheckpointCompleted):
            return replace(self, manifests=(*self.manifests, (entry.checkpoint, entry.name))[-MANIFESTS_LIMIT:])
        if isinstance(entry, Requested):
            return replace(self, requests=(*self.requests, entry)[-REQUESTS_LIMIT:])
        if isinstance(entry, Begun):
            return replace(self, begun=(*self.begun, entry)[-REQUESTS_LIMIT:])
        if isinstance(entry, Answered):
            return replace(self, answers=(*self.answers, entry)[-REQUESTS_LIMIT:])
        return self._with_end(entry)

    @property
    def open_requests(self) -> tuple[Requested, ...]:
        """Without an answer, oldest first."""
        answered = {answer.request for answer in self.answers}
        return tuple(request for request in self.requests if request.request not in answered)

    def _with_worker(self, entry: WorkerAdded | WorkerGone) -> JournalView:
        if isinstance(entry, WorkerGone):
            return replace(self, workers=tuple(worker for worker in self.workers if worker[0] != entry.instance))
        workers = (*self.workers, (entry.instance, entry.number))
        return replace(self, workers=workers, next_worker=max(self.next_worker, entry.number + 1))

    def _with_end(self, entry: RunEnded) -> JournalView:
        return replace(self, ended=entry.status)


def fold(records: Iterable[JournalRecord], snapshot: JournalView | None = None) -> JournalView:
    """A snapshot (or nothing) and the records of the slots after it, in order."""
    view = snapshot if snapshot is not None else JournalView()
    for record in records:
        view = view.after(record)
    return view


def encode_view(view: JournalView) -> bytes:
    return json.dumps(asdict(view), sort_keys=True, separators=(",", ":")).encode()


def decode_view(value: bytes) -> JournalView:
    """Raises JournalFormatError."""
    try:
        values: dict[str, Any] = json.loads(value)
        values["counters"] = Counters(**values["counters"])
        kinds: dict[str, type] = {"requests": Requested, "begun": Begun, "answers": Answered}
        for name, kind in kinds.items():
            values[name] = tuple(kind(**fields) for fields in values[name])
        for name in ("workers", "manifests"):
            values[name] = tuple((first, second) for first, second in values[name])
        for name in ("attempt_workers", "passed_over", "chosen", "chosen_names"):
            values[name] = tuple(values[name])
        return JournalView(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise JournalFormatError(f"it is no snapshot of a journal: {error!r}") from error
