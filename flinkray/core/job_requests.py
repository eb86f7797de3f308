"""Requests that change the run: journaled before their first step, and answered in the journal, so that a retry hears the same (rule 24). Pure."""

from __future__ import annotations

import json
from typing import Any, Literal

from flinkray.core.job_events import JobCommand, Settle, WriteJournal
from flinkray.core.job_state import HaltOrder, JobState, SavepointOrder
from flinkray.core.journal_records import Answered, Requested
from flinkray.core.journal_view import JournalView

SAVEPOINT, STOP, RESCALE, MIGRATE = "savepoint", "stop", "rescale", "migrate"
"""What `Requested` records say."""


_WHAT: dict[str, Literal["stop", "rescale", "migrate"]] = {STOP: "stop", RESCALE: "rescale", MIGRATE: "migrate"}


def accept(job: JobState, request: str, what: str, detail: dict[str, Any], out: list[JobCommand]) -> None:
    """From here on a new leader goes on with it, or answers that it failed."""
    job.requests.add(request)
    out.append(WriteJournal(Requested(request, what, json.dumps(detail, sort_keys=True))))


def refuse(request: str, reason: str, out: list[JobCommand]) -> None:
    """Nothing was begun; the journal need not know."""
    out.append(Settle(request, reason, usage=True))


def answer(request: str, error: str, out: list[JobCommand], usage: bool = False, savepoint: str = "") -> None:
    out.append(WriteJournal(Answered(request, error, usage)))
    out.append(Settle(request, error, usage, savepoint))


def take_over_requests(job: JobState, view: JournalView, out: list[JobCommand]) -> None:
    """What earlier leaders have answered is known, what they have not is gone on with."""
    job.requests = {request.request for request in view.requests if request.request}
    names = {request.request: _savepoint_name(request) for request in view.requests}
    for given in view.answers:
        out.append(Settle(given.request, given.error, given.usage, "" if given.error else names.get(given.request, "")))
    for request in view.open_requests:
        if request.what == SAVEPOINT:
            job.savepoints[request.request] = SavepointOrder(_savepoint_name(request))
        elif request.what in _WHAT and job.halt is None:
            job.halt = _halt_order(request, view)


def _halt_order(request: Requested, view: JournalView) -> HaltOrder:
    detail: dict[str, Any] = json.loads(request.detail)
    begun = [entry.checkpoint for entry in view.begun if entry.request == request.request]
    return HaltOrder(
        request.request,
        _WHAT[request.what],
        detail.get("savepoint", ""),
        detail.get("drain", False),
        detail.get("parallelism", 0),
        named=not detail.get("savepoint"),
        leaves=detail.get("instance", ""),
        before=view.parallelism,
        begun=bool(begun),
        checkpoint=max(begun, default=0) or None,
    )


def _savepoint_name(request: Requested) -> str:
    return str(json.loads(request.detail).get("savepoint", "")) if request.what in (SAVEPOINT, STOP) else ""
