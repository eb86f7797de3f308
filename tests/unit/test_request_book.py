"""What a running job was asked for: answers that need storage wait until it is open."""

from __future__ import annotations

import time
from typing import Any

from flinkray.core.job_events import Settle
from flinkray.runtime.savepoints import Outcome, RequestBook


class Storage:
    """Opens when it is told to."""

    is_open = False

    def savepoint_document(self, name: str) -> dict[str, Any]:
        assert self.is_open, "asked for a savepoint before storage is open"
        return {"name": name, "state": "READY"}


def outcome(book: RequestBook, request: str) -> Outcome:
    deadline = time.monotonic() + 60
    while (found := book.ask(request, None)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_savepoint_that_the_last_leader_made_is_described_once_storage_is_open() -> None:
    """Found on Ray: the leader was killed just after the savepoint was READY, and the new one answered that storage was not open yet."""
    storage = Storage()
    book = RequestBook(storage, lambda event: None)  # type: ignore[arg-type]
    book.obey(Settle("r1", savepoint="s"))
    book.look_after()
    assert book.ask("r1", None) is None, "not known yet: whoever asks, asks again"
    storage.is_open = True
    book.look_after()
    assert outcome(book, "r1") == ({"name": "s", "state": "READY"}, None)
    book.close("the job has ended", ours=True)


def test_a_refusal_needs_no_storage() -> None:
    book = RequestBook(Storage(), lambda event: None)  # type: ignore[arg-type]
    book.obey(Settle("r1", error="the job is ending"))
    document, error = outcome(book, "r1")
    assert (document, str(error)) == (None, "the job is ending")
    book.close("the job has ended", ours=True)
